/* Canonical model: from the rows of 50_canonical_1 to 6 to tables. */

CREATE FUNCTION sync._canonical_columns()
RETURNS TABLE (tbl text, col text, def text, refs text, note text, place bigint)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $columns$
WITH own AS (
    SELECT a.* FROM sync._canonical_parties() a
    UNION ALL SELECT a.* FROM sync._canonical_contracts() a
    UNION ALL SELECT a.* FROM sync._canonical_billing() a
    UNION ALL SELECT a.* FROM sync._canonical_accounting() a
    UNION ALL SELECT a.* FROM sync._canonical_service() a
), numbered AS (
    SELECT own.*, row_number() OVER () AS place FROM own
)
-- currency is the one table that is looked up by a code and has no id.
SELECT c.* FROM (VALUES
    ('currency', '', NULL, NULL, 'ISO 4217: currencies and the decimals that their amounts are held at', -3::bigint),
    ('currency', 'code', 'char(3) PRIMARY KEY CHECK (%2$I ~ ''^[A-Z]{3}$'')', NULL, 'Alphabetic code', -2),
    ('currency', 'minor_units', 'smallint NOT NULL CHECK (%2$I = %1$I.minor_units(code))', NULL, 'Decimals of an amount: 2 for EUR, 0 for JPY, 3 for KWD', -1)
) c (tbl, col, def, refs, note, place)
UNION ALL
SELECT n.* FROM numbered n
UNION ALL
SELECT n.tbl, common.col, common.def, NULL, common.note, CASE common.col WHEN 'id' THEN n.place ELSE 1000000 END
FROM numbered n, (VALUES
    ('id', 'uuid PRIMARY KEY DEFAULT gen_random_uuid()', 'Id of the record in this database'),
    ('attrs', 'jsonb NOT NULL DEFAULT ''{}'' CHECK (jsonb_typeof(%2$I) = ''object'')', 'Further attributes that have no column of their own, an object'),
    ('created_at', 'timestamptz NOT NULL DEFAULT now()', 'Instant at which the row was inserted'),
    ('updated_at', 'timestamptz NOT NULL DEFAULT now()', 'Instant of the last change, kept by a trigger; not itself a change')
) common (col, def, note)
WHERE n.col = ''
$columns$;

/* One column as CREATE TABLE wants it, with the words of the dictionary spelt out. */
CREATE FUNCTION sync._canonical_column_sql(schema_name name, tbl text, col text, def text)
RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $column$
DECLARE
    word text := substring(def FROM '^\w+');
    type text := word;
    rest text := substr(def, length(word) + 1);
    constraint_name text;
    condition text;
BEGIN
    IF word = 'enum' THEN
        type := 'text';
        rest := substring(def FROM '\)(.*)$');
        constraint_name := tbl || '_' || col || '_check';
        SELECT format('%I IN (%s)', col, string_agg(quote_literal(v), ', ')) INTO condition
        FROM unnest(string_to_array(substring(def FROM '\(([^)]*)\)'), ' ')) v;
    ELSIF word = 'amount' THEN
        type := 'numeric';
        constraint_name := tbl || '_' || col || '_minor_units';
        condition := format('%I.fits_currency(%I, currency)', schema_name, col);
    ELSIF word = 'decimal' THEN
        type := 'numeric';
        constraint_name := tbl || '_' || col || '_finite';
        condition := format('abs(%I) < ''Infinity''', col);
    END IF;
    RETURN format('%I ', col) || type || format(rest, schema_name, col)
           || CASE WHEN condition IS NULL THEN '' ELSE format(' CONSTRAINT %I CHECK (%s)', constraint_name, condition) END;
END
$column$;

/*
 * Adds what is missing of the model to the schema, and tells what that was.
 * Foreign keys come after all tables, so the order of tables does not matter.
 */
CREATE FUNCTION sync._canonical_build(schema_name name)
RETURNS TABLE (change text, object text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $build$
DECLARE
    has_tables text[];
    has_columns text[];
    item record;
BEGIN
    SELECT coalesce(array_agg(DISTINCT c.relname), '{}'), coalesce(array_agg(c.relname || '.' || a.attname), '{}')
        INTO has_tables, has_columns
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = schema_name)
        AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped;

    PERFORM sync._canonical_money_functions(schema_name);
    PERFORM sync._canonical_trigger_functions(schema_name);

    FOR item IN
        SELECT m.tbl, max(m.note) FILTER (WHERE m.col = '') AS note,
               string_agg(sync._canonical_column_sql(schema_name, m.tbl, m.col, m.def), E',\n  '
                          ORDER BY m.place, m.col = 'id' DESC, array_position('{attrs,created_at,updated_at}', m.col))
                 FILTER (WHERE m.col <> '') AS columns
        FROM sync._canonical_columns() m
        WHERE m.tbl <> ALL (has_tables)
        GROUP BY m.tbl ORDER BY min(m.place)
    LOOP
        EXECUTE format(E'CREATE TABLE %I.%I (\n  %s\n)', schema_name, item.tbl, item.columns);
        EXECUTE format('COMMENT ON TABLE %I.%I IS %L', schema_name, item.tbl, item.note);
        change := 'table created';
        object := format('%I.%I', schema_name, item.tbl);
        RETURN NEXT;
    END LOOP;

    FOR item IN
        SELECT m.* FROM sync._canonical_columns() m
        WHERE m.col <> '' AND m.tbl || '.' || m.col <> ALL (has_columns)
        ORDER BY m.tbl = ANY (has_tables), m.place
    LOOP
        IF item.tbl = ANY (has_tables) THEN
            EXECUTE format('ALTER TABLE %I.%I ADD COLUMN ', schema_name, item.tbl)
                    || sync._canonical_column_sql(schema_name, item.tbl, item.col, item.def);
            change := 'column added';
            object := format('%I.%I.%I', schema_name, item.tbl, item.col);
            RETURN NEXT;
        END IF;
        EXECUTE format('COMMENT ON COLUMN %I.%I.%I IS %L', schema_name, item.tbl, item.col, item.note);
    END LOOP;

    FOR item IN
        SELECT r.*, upper(r.kind) AS word
        FROM sync._canonical_rules() r WHERE r.tbl <> ALL (has_tables)
        UNION ALL
        SELECT m.tbl, 'trigger', 'touch_updated_at',
               'BEFORE UPDATE ON %1$I.%2$I FOR EACH ROW EXECUTE FUNCTION %1$I.touch_updated_at()', 'TRIGGER'
        FROM sync._canonical_columns() m WHERE m.col = 'updated_at' AND m.tbl <> ALL (has_tables)
    LOOP
        EXECUTE CASE
            WHEN item.kind = 'constraint' THEN
                format('ALTER TABLE %I.%I ADD CONSTRAINT %I ', schema_name, item.tbl, item.name) || item.def
            WHEN item.kind LIKE '%index' THEN
                format('CREATE %s %I ON %I.%I %s', item.word, item.name, schema_name, item.tbl, item.def)
            ELSE
                format('CREATE %s %I ', item.word, item.name) || format(item.def, schema_name, item.tbl)
        END;
    END LOOP;

    PERFORM sync._canonical_references(schema_name, has_columns);
    PERFORM sync._canonical_currencies(schema_name);
    PERFORM sync._canonical_grants(schema_name, has_tables);
END
$build$;

/* Foreign keys of new columns, each with an index unless a key begins with the column. */
CREATE FUNCTION sync._canonical_references(schema_name name, has_columns text[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $references$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT m.tbl, m.col, split_part(m.refs, ' ', 1) AS target, m.refs LIKE '% CASCADE' AS cascades
        FROM sync._canonical_columns() m
        WHERE m.refs IS NOT NULL AND m.tbl || '.' || m.col <> ALL (has_columns)
        ORDER BY m.place
    LOOP
        EXECUTE format('ALTER TABLE %1$I.%2$I ADD CONSTRAINT %3$I FOREIGN KEY (%4$I) REFERENCES %1$I.%5$I %6$s',
                       schema_name, item.tbl, item.tbl || '_' || item.col || '_fkey', item.col, item.target,
                       CASE WHEN item.cascades THEN 'ON DELETE CASCADE' ELSE '' END);
        IF NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
                       WHERE i.indrelid = format('%I.%I', schema_name, item.tbl)::regclass
                         AND a.attname = item.col AND i.indkey[0] = a.attnum AND i.indpred IS NULL) THEN
            EXECUTE format('CREATE INDEX %I ON %I.%I (%I)',
                           item.tbl || '_' || item.col || '_idx', schema_name, item.tbl, item.col);
        END IF;
    END LOOP;
END
$references$;

/*
 * The active codes of ISO 4217, funds codes included, metals and test codes
 * left out because they have no minor units; and the codes withdrawn since
 * 2021 (ANG BGN CUC HRK SLL ZWL), which books of those years still hold.
 */
CREATE FUNCTION sync._canonical_currencies(schema_name name)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $currencies$
BEGIN
    EXECUTE format('INSERT INTO %1$I.currency (code, minor_units)
                    SELECT code, %1$I.minor_units(code)
                    FROM regexp_split_to_table($1, ''\s+'') code
                    ON CONFLICT DO NOTHING', schema_name)
    USING 'AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN
           BZD CAD CDF CHE CHF CHW CLF CLP CNY COP COU CRC CUC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD
           FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HRK HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS
           KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN
           MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR
           SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD
           USN UYI UYU UYW UZS VED VES VND VUV WST XAD XAF XCD XCG XOF XPF YER ZAR ZMW ZWG ZWL';
END
$currencies$;

/* Nothing to PUBLIC; analysts read, apps write. New tables only: what the owner has changed since is left alone. */
CREATE FUNCTION sync._canonical_grants(schema_name name, has_tables text[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $grants$
DECLARE
    item record;
BEGIN
    IF 'currency' <> ALL (has_tables) THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO sync_analyst, sync_app', schema_name);
    END IF;
    FOR item IN SELECT DISTINCT m.tbl FROM sync._canonical_columns() m WHERE m.tbl <> ALL (has_tables)
    LOOP
        EXECUTE format('REVOKE ALL ON %I.%I FROM PUBLIC', schema_name, item.tbl);
        EXECUTE format('GRANT SELECT ON %I.%I TO sync_analyst', schema_name, item.tbl);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I.%I TO sync_app', schema_name, item.tbl);
    END LOOP;

    -- Who writes an amount needs the functions of its check.
    FOR item IN
        SELECT p.oid::regprocedure AS signature, p.proname IN ('minor_units', 'fits_currency') AS in_checks
        FROM pg_proc p
        WHERE p.pronamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = schema_name)
            AND (p.proname IN ('minor_units', 'fits_currency', 'touch_updated_at', 'keep_closed')
                 OR p.proname ~ '^(guard_posted|check_(gl_entry|revenue_schedule|payment_allocation)_)')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', item.signature);
        IF item.in_checks THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO sync_analyst, sync_app', item.signature);
        END IF;
    END LOOP;
END
$grants$;

/*
 * Whoever owns the schema, or a function of ours in it, could replace what the checks and triggers of
 * the new tables call, and so run code as everybody who writes to them.
 */
CREATE FUNCTION sync._canonical_check_owner(schema_name name)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $check$
DECLARE
    stranger name;
BEGIN
    SELECT o.rolname INTO stranger
      FROM (SELECT n.nspowner AS owner FROM pg_namespace n WHERE n.nspname = schema_name
            UNION ALL
            SELECT p.proowner FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = schema_name
             WHERE p.proname IN ('minor_units', 'fits_currency', 'touch_updated_at', 'keep_closed')
                OR p.proname ~ '^(guard_posted|check_(gl_entry|revenue_schedule|payment_allocation)_)') s
      JOIN pg_roles o ON o.oid = s.owner
     WHERE NOT o.rolsuper AND o.rolname <> current_user
       AND NOT (pg_has_role(o.oid, 'USAGE') AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user))
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'schema "%" or a function in it belongs to role "%"', schema_name, stranger
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'That role could have the checks and triggers of the canonical tables do as it likes.',
                  HINT = 'Let that role make the model, or name another schema.';
    END IF;
END
$check$;
COMMENT ON FUNCTION sync._canonical_check_owner(name) IS 'Refuses a schema whose owner would hold the canonical tables in hand';

CREATE FUNCTION sync.create_canonical_model(schema_name name DEFAULT 'canonical')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $create$
DECLARE
    taken text;
BEGIN
    IF schema_name IS NULL OR schema_name IN ('', 'sync') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = CASE WHEN schema_name IS NULL THEN 'schema name must not be null' WHEN schema_name = '' THEN 'schema name must not be empty'
                           ELSE 'the canonical model cannot be created in schema "sync"' END,
            DETAIL = 'Canonical tables are ordinary tables that outlive the extension.',
            HINT = 'Name a schema of your own, for instance canonical.';
    END IF;
    PERFORM sync._canonical_check_owner(schema_name);
    SELECT string_agg(DISTINCT c.relname, ', ') INTO taken
    FROM pg_class c JOIN sync._canonical_columns() m ON m.tbl = c.relname AND m.col = ''
    WHERE c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = schema_name);
    IF taken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_table',
            MESSAGE = format('schema "%s" already holds tables of the canonical model', schema_name),
            DETAIL = format('Existing: %s.', taken),
            HINT = format('To bring an older model up to date, call sync.upgrade_canonical_model(%L); '
                          'for a second model, name another schema.', schema_name);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = schema_name) THEN
        EXECUTE format('CREATE SCHEMA %I', schema_name);
        EXECUTE format('COMMENT ON SCHEMA %I IS %L', schema_name, 'Canonical model: the business tables that apps write to');
    END IF;
    PERFORM FROM sync._canonical_build(schema_name);
END
$create$;
COMMENT ON FUNCTION sync.create_canonical_model(name) IS
    'Creates the canonical business tables as ordinary tables of the caller';

CREATE FUNCTION sync.upgrade_canonical_model(schema_name name DEFAULT 'canonical')
RETURNS TABLE (change text, object text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $upgrade$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = schema_name AND c.relname = 'currency' AND c.relkind = 'r') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_table',
            MESSAGE = format('schema "%s" holds no canonical model', schema_name),
            HINT = format('Create it with sync.create_canonical_model(%L).', schema_name);
    END IF;
    PERFORM sync._canonical_check_owner(schema_name);
    RETURN QUERY SELECT b.change, b.object FROM sync._canonical_build(schema_name) b;
END
$upgrade$;
COMMENT ON FUNCTION sync.upgrade_canonical_model(name) IS
    'Adds the tables and columns that an older canonical model lacks, and tells which';

DO $$
DECLARE
    signature regprocedure;
BEGIN
    FOR signature IN
        SELECT p.oid FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'sync'::regnamespace
            AND (p.proname LIKE '\_canonical\_%' OR p.proname LIKE '%\_canonical\_model')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO sync_admin', signature);
    END LOOP;
END
$$;
