-- Everything at once, and at fixed times.

-- What a comparison that cannot even begin leaves behind, so that no other is lost with it.
CREATE FUNCTION sync._reconcile_one(system text, object text, period daterange, mode text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run bigint;
    said text;
BEGIN
    RETURN sync.reconcile($1, $2, $3, $4);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS said = MESSAGE_TEXT;
    INSERT INTO sync.reconciliation AS r (source, kind, system_id, object_id, mode, period, state, error, finished_at)
    SELECT format('record:%s:%s', $1, $2), 'record', y.id, o.id, $4, $3, 'failed', said, clock_timestamp()
      FROM sync.system y, sync.object o WHERE y.name = $1 AND o.name = $2
    RETURNING r.id INTO run;
    RETURN run;
END
$$;
COMMENT ON FUNCTION sync._reconcile_one(text, text, daterange, text) IS 'As reconcile(); an error is a failed run';

-- What everything is: each object with each system that it is pulled from or sent to, then each rule. What is only pushed cannot
-- be listed, so it is compared as far as it is known.
CREATE FUNCTION sync._reconcile_steps(period daterange, mode text)
RETURNS TABLE (system text, object text, mode_there text, rule text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF $2 IS NULL OR $2 NOT IN ('mirror', 'delta', 'full') THEN
        RAISE EXCEPTION 'invalid mode "%"', $2
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'mirror compares with what is known of each system, full with what it lists now, delta what changed since the last time.';
    ELSIF isempty($1) THEN
        RAISE EXCEPTION 'the period is empty' USING ERRCODE = 'invalid_parameter_value', HINT = 'For example daterange(''2026-10-01'', ''2026-11-01'').';
    END IF;
    RETURN QUERY
    SELECT f.system, f.object, CASE WHEN $2 = 'full' AND NOT coalesce(sync._manifest(f.system) -> 'objects' -> f.object -> 'pull' ? 'list', false) THEN 'mirror' ELSE $2 END, NULL
      FROM (SELECT y.name AS system, o.name AS object
              FROM (SELECT t.system_id, t.object_id FROM sync.stream t WHERE t.state = 'active'
                    UNION SELECT r.system_id, r.object_id FROM sync.route r WHERE r.state <> 'dropped') f
              JOIN sync.system y ON y.id = f.system_id JOIN sync.object o ON o.id = f.object_id
             ORDER BY 1, 2) f;
    RETURN QUERY SELECT NULL, NULL, NULL, s.name FROM sync._rules() s WHERE s.enabled AND s.lacks IS NULL ORDER BY s.name COLLATE "C";
END
$$;
COMMENT ON FUNCTION sync._reconcile_steps(daterange, text) IS 'What reconcile_all() and reconcile_each() do, one after the other';

CREATE FUNCTION sync._reconcile_step(system text, object text, period daterange, mode text, rule text)
RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN $5 IS NULL THEN sync._reconcile_one($1, $2, $3, $4) ELSE (SELECT r.reconciliation FROM sync.run_rules($3, ARRAY[$5]) r) END
$$;
COMMENT ON FUNCTION sync._reconcile_step(text, text, daterange, text, text) IS 'Does one of them; an error is a failed run. Returns the run';

CREATE FUNCTION sync.reconcile_all(period daterange DEFAULT NULL, mode text DEFAULT 'mirror')
RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT sync._reconcile_step(s.system, s.object, $1, s.mode_there, s.rule) FROM sync._reconcile_steps($1, $2) s;
END
$$;
COMMENT ON FUNCTION sync.reconcile_all(daterange, text) IS
    'Compares each object with each system that it is pulled from or sent to, then runs every rule; returns the runs'' ids. In mode full some go on as jobs. One transaction: reconcile_each() is the same in many';

-- To be called by the procedure itself, not by a function of it.
CREATE FUNCTION sync._check_can_commit(procedure text, instead text)
RETURNS void
LANGUAGE c VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_check_can_commit';
COMMENT ON FUNCTION sync._check_can_commit(text, text) IS 'An error when the procedure that asks could not commit';

-- The same, each run a transaction of its own: what was found stands when the next one is cancelled or the server dies, and no
-- lock or snapshot is held longer than a comparison. A procedure that commits has neither SET nor another's rights, so
-- nothing in it depends on the search path.
CREATE PROCEDURE sync.reconcile_each(period daterange DEFAULT NULL, mode text DEFAULT 'mirror')
LANGUAGE plpgsql
AS $$
DECLARE
    step pg_catalog.record;
BEGIN
    PERFORM sync._check_can_commit('sync.reconcile_each()', 'sync.reconcile_all() does the same in one transaction.');
    FOR step IN SELECT s.system, s.object, s.mode_there, s.rule FROM sync._reconcile_steps($1, $2) s LOOP
        PERFORM sync._reconcile_step(step.system, step.object, $1, step.mode_there, step.rule);
        COMMIT;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE sync.reconcile_each(daterange, text) IS
    'As reconcile_all(), each comparison and rule in a transaction of its own; not inside a transaction block';

-- Schema of pg_cron's functions; an error when they are not in this database.
CREATE FUNCTION sync._cron_schema()
RETURNS name
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_in name;
BEGIN
    SELECT n.nspname INTO found_in
      FROM pg_extension e
      JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
      JOIN pg_proc p ON p.oid = d.objid AND p.proname = 'schedule_in_database'
      JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE e.extname = 'pg_cron' LIMIT 1;
    IF found_in IS NULL THEN
        RAISE EXCEPTION 'schedules need the extension pg_cron'
            USING ERRCODE = 'feature_not_supported', DETAIL = 'pg_cron 1.4 or later is not installed in this database.',
                  HINT = 'Install it here; or have another scheduler, or the pg_cron of another database, call sync.reconcile_all().';
    END IF;
    RETURN found_in;
END
$$;
COMMENT ON FUNCTION sync._cron_schema() IS 'Schema of pg_cron; an error when it is not installed';

-- By pg_cron and not by the hub: a comparison takes seconds, and all that time the hub would send nothing.
CREATE FUNCTION sync.schedule_reconciliation(name text, schedule text, system text DEFAULT NULL, object text DEFAULT NULL, mode text DEFAULT 'mirror',
                                             months integer DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    cron name := sync._cron_schema();
BEGIN
    IF $1 IS NULL OR $1 !~ '^[a-z][a-z0-9_]{0,62}$' THEN
        RAISE EXCEPTION 'invalid name "%" of a schedule', $1 USING ERRCODE = 'invalid_name', HINT = 'Small letters, digits and underscores, for example nightly.';
    ELSIF $2 IS NULL OR $5 IS NULL OR $5 NOT IN ('mirror', 'delta', 'full') OR $6 < 1 OR ($3 IS NULL) <> ($4 IS NULL) THEN
        RAISE EXCEPTION 'invalid schedule'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a line of cron such as ''15 3 * * *''; system and object, or neither for all; mode mirror, delta or full; how many months up to now, or NULL for all.';
    ELSIF EXISTS (SELECT FROM sync.reconciliation_schedule s WHERE s.name = $1) THEN
        RAISE EXCEPTION 'schedule "%" exists already', $1 USING ERRCODE = 'duplicate_object', HINT = 'Take it back first with sync.unschedule_reconciliation().';
    END IF;
    INSERT INTO sync.reconciliation_schedule (name, schedule, system_id, object_id, mode, months)
    VALUES ($1, $2, CASE WHEN $3 IS NOT NULL THEN sync._system_id($3) END, CASE WHEN $4 IS NOT NULL THEN sync._object_id($4) END, $5, $6);
    EXECUTE format('SELECT %I.schedule_in_database($1, $2, $3, $4)', cron)
      USING format('sync_ext %s reconciliation %s', current_database(), $1), $2, format('CALL sync._scheduled(%L)', $1), current_database()::text;
    PERFORM sync._audit('reconciliation.scheduled', $4, NULL, $3, jsonb_strip_nulls(jsonb_build_object('name', $1, 'schedule', $2, 'mode', $5, 'months', $6)));
END
$$;
COMMENT ON FUNCTION sync.schedule_reconciliation(text, text, text, text, text, integer) IS
    'Has pg_cron compare an object with a system at fixed times, or everything; months: this one and those before it, NULL: all';

-- What pg_cron calls. A copy of this database has other names, and other work.
CREATE FUNCTION sync._scheduled_steps(name text)
RETURNS TABLE (system text, object text, period daterange, mode text, rule text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    WITH due AS (
        SELECT s.*, CASE WHEN s.months IS NOT NULL THEN
                   daterange((date_trunc('month', now()) - (s.months - 1) * interval '1 month')::date, (date_trunc('month', now()) + interval '1 month')::date) END AS period
          FROM sync.reconciliation_schedule s WHERE s.name = $1)
    SELECT y.name, o.name, d.period, d.mode, NULL FROM due d JOIN sync.system y ON y.id = d.system_id JOIN sync.object o ON o.id = d.object_id
    UNION ALL
    SELECT t.system, t.object, d.period, t.mode_there, t.rule FROM due d CROSS JOIN LATERAL sync._reconcile_steps(d.period, d.mode) t WHERE d.system_id IS NULL
$$;
COMMENT ON FUNCTION sync._scheduled_steps(text) IS 'What a schedule says; nothing when it is not there';

CREATE PROCEDURE sync._scheduled(name text)
LANGUAGE plpgsql
AS $$
DECLARE
    step pg_catalog.record;
BEGIN
    PERFORM sync._check_can_commit('what is scheduled', 'sync.reconcile_all() compares everything in one transaction.');
    FOR step IN SELECT s.system, s.object, s.period, s.mode, s.rule FROM sync._scheduled_steps($1) s LOOP
        PERFORM sync._reconcile_step(step.system, step.object, step.period, step.mode, step.rule);
        COMMIT;
    END LOOP;
    UPDATE sync.reconciliation_schedule t SET last_run_at = pg_catalog.clock_timestamp() WHERE t.name OPERATOR(pg_catalog.=) $1;
END
$$;
COMMENT ON PROCEDURE sync._scheduled(text) IS 'Does what a schedule says, each run in a transaction of its own';

CREATE FUNCTION sync.unschedule_reconciliation(name text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    s sync.reconciliation_schedule;
BEGIN
    DELETE FROM sync.reconciliation_schedule t WHERE t.name = $1 RETURNING t.* INTO s;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no schedule "%"', $1 USING ERRCODE = 'undefined_object', HINT = 'Table sync.reconciliation_schedule lists them.';
    END IF;
    -- pg_cron may be gone, or have forgotten.
    IF to_regclass('cron.job') IS NOT NULL AND EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_cron') THEN
        EXECUTE 'SELECT cron.unschedule(j.jobid) FROM cron.job j WHERE j.jobname = $1' USING format('sync_ext %s reconciliation %s', current_database(), s.name);
    END IF;
    PERFORM sync._audit('reconciliation.unscheduled', detail => jsonb_build_object('name', s.name, 'schedule', s.schedule));
END
$$;
COMMENT ON FUNCTION sync.unschedule_reconciliation(text) IS 'Takes a schedule back';
