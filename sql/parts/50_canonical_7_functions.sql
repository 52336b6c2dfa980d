/*
 * The functions that stand in the canonical schema itself. They belong to the
 * caller like the tables, so that pg_dump carries them and the tables go on
 * working when the extension is gone.
 */

/*
 * Money helpers. A check constraint cannot look into another table, and a
 * trigger would be paid by every row, so the ISO 4217 list of currencies that
 * have other than two decimals stands in an immutable function. Both bodies
 * are standard SQL: bound when created, hence free of search_path, and
 * inlined into the checks. A user who adds a currency replaces minor_units(),
 * which is why an upgrade leaves an existing one alone.
 */
CREATE FUNCTION sync._canonical_money_functions(schema_name name)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $money$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                   WHERE n.nspname = schema_name AND p.proname = 'minor_units') THEN
        EXECUTE format($ddl$
            CREATE FUNCTION %1$I.minor_units(currency bpchar) RETURNS integer
            LANGUAGE sql IMMUTABLE PARALLEL SAFE
            RETURN CASE
                WHEN currency IN ('BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG',
                                  'RWF', 'UGX', 'UYI', 'VND', 'VUV', 'XAF', 'XOF', 'XPF') THEN 0
                WHEN currency IN ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') THEN 3
                WHEN currency IN ('CLF', 'UYW') THEN 4
                ELSE 2
            END $ddl$, schema_name);
    END IF;

    -- The difference, not an equality: NaN and infinity less themselves are
    -- NaN, which is not 0, while NaN = NaN would pass.
    EXECUTE format($ddl$
        CREATE OR REPLACE FUNCTION %1$I.fits_currency(amount numeric, currency bpchar) RETURNS boolean
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN amount - round(amount, %1$I.minor_units(currency)) = 0 $ddl$, schema_name);

    EXECUTE format('COMMENT ON FUNCTION %I.minor_units(bpchar) IS %L', schema_name,
                   'Decimals of a currency (ISO 4217 minor units); replace it to add a currency of your own');
    EXECUTE format('COMMENT ON FUNCTION %I.fits_currency(numeric, bpchar) IS %L', schema_name,
                   'Is the amount finite and held at the minor units of the currency?');
END
$money$;

CREATE FUNCTION sync._canonical_check_due(relation oid, document uuid)
RETURNS boolean
LANGUAGE c VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_check_due';
COMMENT ON FUNCTION sync._canonical_check_due(oid, uuid) IS
    'For the table''s owner: whether a document has to be checked, false when it was after the table''s last change in this transaction';

/*
 * Trigger functions. "Is a pull being applied?" is asked of sync.is_applying()
 * only once something is about to be refused, and only if the extension is
 * there and the user may ask. Whether a sum was checked already is asked in
 * the same way; without the extension it is checked for each line.
 *
 * The checks of sums run with their owner's rights: they must see all lines,
 * whatever the writer may read.
 */
CREATE FUNCTION sync._canonical_trigger_functions(schema_name name)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $triggers$
DECLARE
    return_if_applying constant text := $part$
          IF EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                     WHERE n.nspname = 'sync' AND p.proname = 'is_applying' AND p.pronargs = 0
                       AND has_schema_privilege(n.oid, 'USAGE')
                       AND has_function_privilege(p.oid, 'EXECUTE')) THEN
            IF sync.is_applying() THEN
              RETURN coalesce(NEW, OLD);
            END IF;
          END IF;$part$;
    keep_due constant text := $part$
            IF EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                       WHERE n.nspname = 'sync' AND p.proname = '_canonical_check_due' AND p.pronargs = 2
                         AND has_schema_privilege(n.oid, 'USAGE')
                         AND has_function_privilege(p.oid, 'EXECUTE')) THEN
                ids := ARRAY(SELECT i FROM unnest(ids) i WHERE sync._canonical_check_due(TG_RELID, i));
                IF ids = '{}' THEN
                    RETURN NULL;
                END IF;
            END IF;$part$;
    document record;
    checker text;
BEGIN
    -- The comparison is in the body: a WHEN clause over the whole row would
    -- keep a dump from being restored once a user adds a generated column.
    EXECUTE format($ddl$
        CREATE OR REPLACE FUNCTION %1$I.touch_updated_at() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $fn$
        BEGIN
            IF NEW IS DISTINCT FROM OLD THEN
                NEW.updated_at := now();
            END IF;
            RETURN NEW;
        END $fn$ $ddl$, schema_name);

    -- The clock, and not the transaction's time: who closes a period may have waited for somebody who posted
    -- into it, and the row is locked by now.
    EXECUTE format($ddl$
        CREATE OR REPLACE FUNCTION %1$I.keep_closed() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $fn$
        BEGIN
            IF NEW.status = 'closed' THEN
                IF TG_OP = 'INSERT' OR OLD.status <> 'closed' AND NEW.closed_at IS NOT DISTINCT FROM OLD.closed_at OR NEW.closed_at IS NULL THEN
                    NEW.closed_at := CASE WHEN TG_OP = 'INSERT' THEN coalesce(NEW.closed_at, clock_timestamp()) WHEN OLD.status = 'closed' THEN OLD.closed_at ELSE clock_timestamp() END;
                END IF;
            ELSE
                IF TG_OP = 'UPDATE' AND OLD.closed_at < clock_timestamp() THEN
                    NEW.was_closed := OLD.was_closed + tstzmultirange(tstzrange(OLD.closed_at, clock_timestamp()));
                END IF;
                NEW.closed_at := NULL;
            END IF;
            RETURN NEW;
        END $fn$ $ddl$, schema_name);

    -- Called for posted documents only (the trigger's WHEN). A document that
    -- was itself inserted in this transaction is not yet closed: created_at is
    -- then the transaction's own time, and it closes with the document.
    EXECUTE format($ddl$
        CREATE OR REPLACE FUNCTION %1$I.guard_posted() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $fn$
        DECLARE
            before jsonb := to_jsonb(OLD);
            after jsonb := to_jsonb(NEW);
            touched text;
        BEGIN
            IF OLD.created_at = now() THEN
                RETURN coalesce(NEW, OLD);
            END IF;
            IF TG_OP = 'UPDATE' THEN
                SELECT string_agg(c.name, ', ' ORDER BY c.place) INTO touched
                FROM (SELECT a.name, a.place FROM unnest(TG_ARGV) WITH ORDINALITY a (name, place)
                      WHERE before -> a.name IS DISTINCT FROM after -> a.name
                      UNION ALL
                      SELECT 'status', 100
                      WHERE after ->> 'status' IN ('draft', 'pending') AND before ->> 'status' <> after ->> 'status'
                         OR after ->> 'status' = 'open' AND before ->> 'status' NOT IN ('draft', 'open')
                      UNION ALL
                      SELECT 'posting_status', 101
                      WHERE before ->> 'posting_status' IN ('posted', 'reversed')
                        AND after ->> 'posting_status' IN ('none', 'draft')) c;
                IF touched IS NULL THEN
                    RETURN NEW;
                END IF;
            END IF;%2$s
            RAISE EXCEPTION USING
                ERRCODE = 'restrict_violation',
                MESSAGE = format('%%s %%s is posted and cannot be %%s', TG_TABLE_NAME,
                                 coalesce(before ->> 'number', before ->> 'id'),
                                 CASE TG_OP WHEN 'DELETE' THEN 'deleted' ELSE 'changed' END),
                DETAIL = coalesce('Closed columns: ' || touched || '.', 'Posted financial documents are kept.'),
                HINT = 'Void it, or correct it by a credit note or a reversing entry.',
                SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
        END $fn$ $ddl$, schema_name, return_if_applying);

    -- One guard for each kind of line, so that its header look-up is planned
    -- once a session. The lock makes posting and a concurrent change of lines
    -- wait for each other; without it a line could slip in under the posting.
    FOR document IN
        VALUES ('invoice', $c$h.status NOT IN ('draft', 'open') OR h.posting_status IN ('posted', 'reversed')$c$),
               ('credit_note', $c$h.status <> 'draft'$c$),
               ('gl_entry', $c$h.status IN ('posted', 'reversed')$c$)
    LOOP
        EXECUTE format($ddl$
            CREATE OR REPLACE FUNCTION %1$I.%2$I() RETURNS trigger
            LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $fn$
            DECLARE
                header record;
                closed text;
            BEGIN
                FOR header IN
                    SELECT coalesce(h.number, h.id::text) AS name, h.created_at, %5$s AS posted
                    FROM %1$I.%3$I h
                    WHERE h.id = ANY (ARRAY[OLD.%4$I, NEW.%4$I])
                    ORDER BY h.id
                    FOR NO KEY UPDATE
                LOOP
                    IF header.posted AND header.created_at <> now() THEN
                        closed := header.name;
                    END IF;
                END LOOP;
                IF closed IS NULL THEN
                    RETURN coalesce(NEW, OLD);
                END IF;
                IF TG_OP = 'UPDATE' AND NOT EXISTS (
                     SELECT FROM unnest(TG_ARGV) a (name)
                     WHERE to_jsonb(OLD) -> a.name IS DISTINCT FROM to_jsonb(NEW) -> a.name) THEN
                    RETURN NEW;
                END IF;%6$s
                RAISE EXCEPTION USING
                    ERRCODE = 'restrict_violation',
                    MESSAGE = format('%3$s %%s is posted, its lines cannot be changed', closed),
                    HINT = 'Write the lines before the document is posted; correct it by a credit note or a reversing entry.',
                    SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
            END $fn$ $ddl$,
            schema_name, 'guard_posted_' || document.column1 || '_line', document.column1,
            document.column1 || '_id', document.column2, return_if_applying);
    END LOOP;

    EXECUTE format($ddl$
        CREATE OR REPLACE FUNCTION %1$I.check_gl_entry_balance() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $fn$
        DECLARE
            ids uuid[] := ARRAY[OLD.gl_entry_id, NEW.gl_entry_id];
            entry record;
        BEGIN%2$s
            SELECT l.gl_entry_id AS id, sum(l.debit) AS debits, sum(l.credit) AS credits INTO entry
            FROM %1$I.gl_entry_line l
            WHERE l.gl_entry_id = ANY (ids)
            GROUP BY l.gl_entry_id
            HAVING sum(l.debit) <> sum(l.credit)
            LIMIT 1;
            IF FOUND THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'check_violation',
                    MESSAGE = format('gl_entry %%s does not balance: debits %%s, credits %%s',
                                     coalesce((SELECT e.number FROM %1$I.gl_entry e WHERE e.id = entry.id), entry.id::text),
                                     entry.debits, entry.credits),
                    HINT = 'Write all lines of a journal entry in one transaction.',
                    SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = 'gl_entry_balance';
            END IF;
            RETURN NULL;
        END $fn$ $ddl$, schema_name, keep_due);

    -- A schedule without lines is allowed: the header of a pulled document is
    -- checked before its lines arrive. For the same reason a pull that changes
    -- total_amount is held to it by the lines that follow.
    EXECUTE format($ddl$
        CREATE OR REPLACE FUNCTION %1$I.check_revenue_schedule_sum() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $fn$
        DECLARE
            ids uuid[];
            schedule record;
        BEGIN
            IF TG_TABLE_NAME = 'revenue_schedule' THEN%2$s
                ids := ARRAY[NEW.id];
            ELSE
                ids := ARRAY[OLD.schedule_id, NEW.schedule_id];
            END IF;%3$s
            SELECT s.id, s.total_amount, sum(l.amount) AS lines INTO schedule
            FROM %1$I.revenue_schedule s JOIN %1$I.revenue_schedule_line l ON l.schedule_id = s.id
            WHERE s.id = ANY (ids)
            GROUP BY s.id
            HAVING sum(l.amount) <> s.total_amount
            LIMIT 1;
            IF FOUND THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'check_violation',
                    MESSAGE = format('lines of revenue_schedule %%s sum to %%s, not to its total of %%s',
                                     schedule.id, schedule.lines, schedule.total_amount),
                    HINT = 'Write all lines of a schedule in one transaction.',
                    SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = 'revenue_schedule_sum';
            END IF;
            RETURN NULL;
        END $fn$ $ddl$, schema_name, return_if_applying, keep_due);

    -- The payment is locked so that two transactions cannot both use its rest.
    EXECUTE format($ddl$
        CREATE OR REPLACE FUNCTION %1$I.check_payment_allocation_sum() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $fn$
        DECLARE
            ids uuid[] := ARRAY[NEW.payment_id];
            available numeric;
            used numeric;
        BEGIN%2$s
            SELECT p.amount INTO available
            FROM %1$I.payment p WHERE p.id = NEW.payment_id
            FOR NO KEY UPDATE;
            SELECT sum(a.amount) INTO used
            FROM %1$I.payment_allocation a WHERE a.payment_id = NEW.payment_id;
            IF used > available THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'check_violation',
                    MESSAGE = format('allocations of payment %%s are %%s, more than its amount of %%s',
                                     NEW.payment_id, used, available),
                    HINT = 'Reduce or delete an allocation of this payment.',
                    SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = 'payment_allocation_sum';
            END IF;
            RETURN NULL;
        END $fn$ $ddl$, schema_name, keep_due);

    -- Nobody else's trigger may borrow the owner's rights.
    FOREACH checker IN ARRAY ARRAY['check_gl_entry_balance', 'check_revenue_schedule_sum', 'check_payment_allocation_sum'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %I.%I() FROM PUBLIC', schema_name, checker);
    END LOOP;

    FOR document IN
        VALUES ('touch_updated_at', 'Keeps updated_at: the time of the transaction that last changed the row'),
               ('keep_closed', 'Keeps since when a period is closed, and when it was'),
               ('guard_posted', 'Refuses changes of a posted document; the arguments are the closed columns'),
               ('guard_posted_invoice_line', 'Refuses changes of the lines of a posted invoice'),
               ('guard_posted_credit_note_line', 'Refuses changes of the lines of a posted credit note'),
               ('guard_posted_gl_entry_line', 'Refuses changes of the lines of a posted journal entry'),
               ('check_gl_entry_balance', 'Debits equal credits in every journal entry'),
               ('check_revenue_schedule_sum', 'The lines of a revenue schedule sum to its total'),
               ('check_payment_allocation_sum', 'A payment is not allocated beyond its amount')
    LOOP
        EXECUTE format('COMMENT ON FUNCTION %I.%I() IS %L', schema_name, document.column1, document.column2);
    END LOOP;
END
$triggers$;
