-- Drift: who is told when a run opens or closes breaks. An audit row and a notification for whoever listens; and
-- where somebody has made a table for it, a record in it, whose insert is a business event like any other: in the
-- outbox, in the run's transaction, for routes with conditions and for triggers of his own.
--
-- The table is an ordinary one and not the extension's, as the canonical tables are, and for the same reasons.

CREATE FUNCTION sync.create_drift_events(schema_name name DEFAULT 'canonical')
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regnamespace(quote_ident(schema_name)) IS NULL THEN
        RAISE EXCEPTION 'there is no schema "%"', schema_name
            USING ERRCODE = 'invalid_schema_name', HINT = 'Name the one that the table is to be made in; the canonical model stands in its own (sync.create_canonical_model()).';
    ELSIF to_regclass(format('%I.drift_detected', schema_name)) IS NOT NULL THEN
        RAISE EXCEPTION 'there is a table %.drift_detected already', quote_ident(schema_name)
            USING ERRCODE = 'duplicate_table', HINT = format('If it is the one: SELECT sync.track(%L, volatile_columns => ''{}'').', format('%I.drift_detected', schema_name));
    END IF;
    EXECUTE format($ddl$
        CREATE TABLE %1$I.drift_detected (
            id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            detected_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
            reconciliation  bigint NOT NULL,
            source          text NOT NULL,
            system          text,
            other_system    text,
            object          text,
            rule            text,
            mode            text,
            found           bigint NOT NULL,
            opened          bigint NOT NULL,
            closed          bigint NOT NULL,
            errors          bigint NOT NULL,
            entities        text[] NOT NULL DEFAULT '{}',
            periods         date[] NOT NULL DEFAULT '{}',
            at_risk         jsonb NOT NULL DEFAULT '{}',
            breaks          bigint[] NOT NULL DEFAULT '{}')
    $ddl$, schema_name);
    EXECUTE format('COMMENT ON TABLE %I.drift_detected IS %L', schema_name, 'A run of a reconciliation that opened breaks; its insert is the event drift_detected');
    EXECUTE (SELECT string_agg(format('COMMENT ON COLUMN %I.drift_detected.%I IS %L', schema_name, c.col, c.note), '; ')
               FROM (VALUES ('reconciliation', 'The run: sync.reconciliation_run'), ('source', 'What was compared, in one word'), ('rule', 'The rule that was run'),
                            ('found', 'Breaks that the run found'), ('opened', 'Of these, breaks that are new'), ('closed', 'Breaks of earlier runs that occur no longer'),
                            ('errors', 'New breaks of severity error'), ('entities', 'Codes of the legal entities of the new breaks'), ('periods', 'First days of their accounting months'),
                            ('at_risk', 'Amount at risk in the new breaks, by currency'), ('breaks', 'Ids of the new breaks, at most 20: sync.reconciliation_break')) c (col, note));
    EXECUTE format('GRANT SELECT ON %I.drift_detected TO sync_analyst', schema_name);
    RETURN sync.track(format('%I.drift_detected', schema_name)::regclass, object => 'drift_detected', volatile_columns => '{}');
END
$$;
COMMENT ON FUNCTION sync.create_drift_events(name) IS
    'Makes table drift_detected, the caller''s own, and tracks it: each run that opens breaks is a row of it, and so an event that routes can send';

-- What the record says. The table is its owner's: columns that he took away are left out.
CREATE FUNCTION sync._drift_record(run sync.reconciliation)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object(
               'reconciliation', run.id, 'source', run.source, 'mode', run.mode, 'found', run.found, 'opened', run.opened, 'closed', run.closed,
               'system', (SELECT y.name FROM sync.system y WHERE y.id = run.system_id), 'other_system', (SELECT y.name FROM sync.system y WHERE y.id = run.other_system_id),
               'object', (SELECT o.name FROM sync.object o WHERE o.id = run.object_id), 'rule', (SELECT q.name FROM sync.reconciliation_rule q WHERE q.id = run.rule_id),
               'errors', count(*) FILTER (WHERE b.severity = 'error'), 'entities', coalesce(to_jsonb(array_agg(DISTINCT b.entity) FILTER (WHERE b.entity IS NOT NULL)), '[]'),
               'periods', coalesce(to_jsonb(array_agg(DISTINCT b.period) FILTER (WHERE b.period IS NOT NULL)), '[]'),
               'breaks', coalesce(to_jsonb((array_agg(b.id ORDER BY b.id))[1:20]), '[]'),
               'at_risk', (SELECT coalesce(jsonb_object_agg(r.currency, r.amount), '{}')
                             FROM (SELECT a.currency, sum(a.at_risk) AS amount FROM sync.break_entry a
                                    WHERE a.source = run.source AND a.first_run = run.id AND a.status = 'open' AND a.currency IS NOT NULL AND a.at_risk IS NOT NULL GROUP BY 1) r))
      FROM sync.break_entry b WHERE b.source = run.source AND b.first_run = run.id AND b.status = 'open'
$$;
COMMENT ON FUNCTION sync._drift_record(sync.reconciliation) IS 'Record drift_detected of a run';

-- With the rights of the table's owner, whose triggers and checks it meets. They may refuse the record: that is told,
-- and the run goes on.
CREATE FUNCTION sync._record_drift(run sync.reconciliation)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass;
    columns text;
    said text;
BEGIN
    SELECT o.table_oid, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO relation, columns
      FROM sync.object o
      JOIN pg_attribute a ON a.attrelid = o.table_oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname IN (SELECT jsonb_object_keys(sync._drift_record(run)))
     WHERE o.name = 'drift_detected' AND o.captured GROUP BY o.table_oid;
    IF relation IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        IF EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = relation AND g.tgdeferrable) THEN
            PERFORM sync._fire_deferred();
        END IF;
        PERFORM sync._as_owner(relation, format('INSERT INTO %s (%s) SELECT %2$s FROM jsonb_populate_record(NULL::%1$s, $1)', relation, columns), sync._drift_record(run));
        DELETE FROM sync.notice n WHERE n.key = 'drift_detected';
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS said = MESSAGE_TEXT;
        INSERT INTO sync.notice AS n (key, severity, message, hint)
        VALUES ('drift_detected', 'warning', format('event drift_detected of reconciliation %s could not be written: %s', run.id, said),
                format('Its breaks are there all the same: sync.reconciliation_break. Look at the triggers and checks of table %s.', relation))
        ON CONFLICT (key) DO UPDATE SET message = excluded.message, hint = excluded.hint, last_at = clock_timestamp(), count = n.count + 1;
    END;
END
$$;
COMMENT ON FUNCTION sync._record_drift(sync.reconciliation) IS 'Writes the record drift_detected of a run, if there is a table for it';

CREATE FUNCTION sync._breaks_told(reconciliation bigint, newest jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run sync.reconciliation;
BEGIN
    SELECT r.* INTO STRICT run FROM sync.reconciliation r WHERE r.id = reconciliation;
    IF run.opened = 0 AND run.closed = 0 THEN
        RETURN;
    END IF;
    PERFORM sync._audit('reconciliation.differs', (SELECT o.name FROM sync.object o WHERE o.id = run.object_id), NULL,
                        (SELECT y.name FROM sync.system y WHERE y.id = run.system_id),
                        jsonb_build_object('reconciliation', run.id, 'source', run.source, 'found', run.found, 'opened', run.opened,
                                           'closed', run.closed, 'newest', newest));
    PERFORM pg_notify('sync_drift', jsonb_build_object('type', 'drift_detected', 'reconciliation', run.id, 'source', run.source,
                                                       'found', run.found, 'opened', run.opened, 'closed', run.closed)::text);
    IF run.opened > 0 THEN
        PERFORM sync._record_drift(run);
    END IF;
END
$$;
COMMENT ON FUNCTION sync._breaks_told(bigint, jsonb) IS 'Tells of a run that opened or closed breaks: audit row, notification, and the event drift_detected';
