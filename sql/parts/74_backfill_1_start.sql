-- Backfill: history into a system, or out of it. Asking for one.

CREATE FUNCTION sync._job_filter_check()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A restore brings the rows of before.
    IF EXISTS (SELECT FROM sync.job j WHERE j.id = NEW.job_id AND (j.requested_by <> session_user OR j.state <> 'queued'))
       AND NOT pg_has_role(session_user, (SELECT e.extowner FROM pg_extension e WHERE e.extname = 'sync_ext'), 'USAGE') THEN
        RAISE EXCEPTION 'job % is not one that you have just asked for', NEW.job_id USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM sync._check_expression(NEW.filter);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION sync._job_filter_check() IS 'Refuses a filter for somebody else''s job, or one that is no expression';
CREATE TRIGGER filter_check BEFORE INSERT ON sync.job_filter FOR EACH ROW EXECUTE FUNCTION sync._job_filter_check();
COMMENT ON TRIGGER filter_check ON sync.job_filter IS 'Refuses a filter for somebody else''s job, or one that is no expression';

-- A route that fell behind starts again from now on; what it missed is what the backfill brings.
CREATE FUNCTION sync._heal_route(route sync.route)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF route.state <> 'needs_backfill' THEN
        RETURN false;
    END IF;
    PERFORM sync._first_checkpoint(route.id, true);
    UPDATE sync.route r SET state = 'active' WHERE r.id = route.id;
    DELETE FROM sync.notice n WHERE n.key = 'lag:' || route.name;
    RETURN true;
END
$$;
COMMENT ON FUNCTION sync._heal_route(sync.route) IS 'Has a route that needs a backfill start again from now on; whether it did';

-- What both directions demand; the cut-over date that counts.
CREATE FUNCTION sync._check_backfill(system text, object text, direction text, since timestamptz, until timestamptz, filter text, rate integer, reason text,
                                     cutover_date date)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    busy bigint;
BEGIN
    IF direction IS NULL OR direction NOT IN ('push', 'pull') THEN
        RAISE EXCEPTION 'invalid direction "%"', direction
            USING ERRCODE = 'invalid_parameter_value', HINT = 'push sends what the system does not have yet, pull fetches what it has.';
    ELSIF NOT isfinite(since) OR NOT isfinite(until) OR since > until THEN
        RAISE EXCEPTION 'invalid window for a backfill'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It would go from %s to %s.', coalesce(since::text, 'the beginning'), coalesce(until::text, 'the end')),
                  HINT = 'Both ends are finite, or left out, and since is before until.';
    ELSIF cutover_date NOT BETWEEN '0001-01-02' AND '9999-12-31' THEN
        RAISE EXCEPTION 'a cut-over date must lie in the years 1 to 9999'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is the first day whose documents this hub sends.';
    ELSIF rate NOT BETWEEN 1 AND 100000 THEN
        RAISE EXCEPTION 'invalid rate %', rate
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is records a second, at most 100000; left out, only the system''s own limits count.';
    ELSIF direction = 'pull' AND filter IS NOT NULL THEN
        RAISE EXCEPTION 'a backfill from a system takes no filter'
            USING ERRCODE = 'feature_not_supported', DETAIL = 'What a record is is known when it has been fetched.',
                  HINT = 'Give since and until instead; the connector''s mapping leaves out what is none of yours.';
    END IF;
    PERFORM sync._system_id(system), sync._object_id(object), sync._manifest_object(system, object, direction);
    SELECT j.id INTO busy FROM sync.job j
     WHERE j.kind = 'backfill_' || direction AND j.system_id = sync._system_id($1) AND j.object_id = sync._object_id($2)
       AND j.state IN ('queued', 'running', 'paused');
    IF FOUND THEN
        RAISE EXCEPTION 'a backfill of object "%" with system "%" is under way', object, system
            USING ERRCODE = 'SE081', DETAIL = format('Job %s does it.', busy),
                  HINT = format('Wait for it (sync.progress), or end it: SELECT sync.stop_job(%s, ''reason'').', busy);
    END IF;
    IF (SELECT o.financial FROM sync.object o WHERE o.name = $2) THEN
        PERFORM sync._check_reason(reason);
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_backfill(text, text, text, timestamptz, timestamptz, text, integer, text, date) IS 'An error when such a backfill cannot be';

CREATE FUNCTION sync._backfill_start(system text, object text, direction text, since timestamptz, until timestamptz, filter text, rate integer, reason text,
                                     cutover_date date)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    route sync.route;
    relation regclass;
    cutover date := cutover_date;
    healed boolean := false;
    params jsonb;
BEGIN
    -- Before the look for one that is under way: two sessions that ask for the same would both find none.
    PERFORM pg_advisory_xact_lock(hashtextextended(format('sync_ext backfill %s %s %s', system, object, direction), 0));
    PERFORM sync._check_backfill(system, object, direction, since, until, filter, rate, reason, cutover_date);
    SELECT r.* INTO route FROM sync.route r
     WHERE r.system_id = sync._system_id($1) AND r.object_id = sync._object_id($2) AND r.state <> 'dropped' FOR UPDATE;
    cutover := coalesce(cutover_date, route.cutover_date);
    PERFORM sync._check_history(system, object, cutover IS NULL, 'leave the past to the systems as they are');
    IF direction = 'push' THEN
        IF route.id IS NULL THEN
            RAISE EXCEPTION 'object "%" has no route to system "%"', object, system
                USING ERRCODE = 'undefined_object', DETAIL = 'A backfill sends along a route, under its condition.',
                      HINT = 'Make one with sync.create_route().';
        END IF;
        IF route.start_at > clock_timestamp() THEN
            RAISE EXCEPTION 'route "%" has not begun', route.name
                USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It sends what is told from %s on.', route.start_at),
                      HINT = 'Ask again then, or make the route anew with an earlier start.';
        END IF;
        relation := (sync._identity_table(route.object_id)).relation;
        IF (since IS NOT NULL OR until IS NOT NULL)
           AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation AND NOT a.attisdropped AND a.attname IN ('updated_at', 'created_at')) THEN
            RAISE EXCEPTION 'table % has no column that tells when a record changed', relation
                USING ERRCODE = 'SE081', DETAIL = 'since and until are compared with updated_at, else with created_at.',
                      HINT = 'Say which records with filter instead.';
        END IF;
        IF cutover_date IS DISTINCT FROM route.cutover_date AND cutover_date IS NOT NULL THEN
            UPDATE sync.route r SET cutover_date = _backfill_start.cutover_date WHERE r.id = route.id;
        END IF;
        healed := sync._heal_route(route);
    ELSIF NOT EXISTS (SELECT FROM sync.stream t WHERE t.system_id = sync._system_id($1) AND t.object_id = sync._object_id($2) AND t.state = 'active') THEN
        RAISE EXCEPTION 'object "%" is not pulled from system "%"', object, system
            USING ERRCODE = 'undefined_object', DETAIL = 'A backfill applies records as the stream does.',
                  HINT = 'Make one with sync.create_stream().';
    END IF;
    params := jsonb_strip_nulls(jsonb_build_object(
                  'since', CASE direction WHEN 'pull' THEN greatest(since, cutover::timestamp AT TIME ZONE 'UTC') ELSE since END,
                  'until', until, 'rate', rate, 'filter', filter, 'cutover_date', cutover, 'healed', nullif(healed, false)));
    RETURN sync._job_start('backfill_' || direction, sync._system_id($1), sync._object_id($2), params, reason);
END
$$;
COMMENT ON FUNCTION sync._backfill_start(text, text, text, timestamptz, timestamptz, text, integer, text, date) IS 'Checks and queues a backfill; returns its job';

-- Runs with the caller's rights, and so does the filter.
CREATE FUNCTION sync.backfill(system text, object text, direction text DEFAULT 'push', since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
                              filter text DEFAULT NULL, rate integer DEFAULT NULL, reason text DEFAULT NULL, cutover_date date DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    job bigint;
    relation regclass;
BEGIN
    IF filter IS NOT NULL AND direction = 'push' THEN
        PERFORM sync._condition_check(object, filter);
        -- How many a filter leaves out tells what the records hold.
        SELECT (sync._identity_table(o.id)).relation INTO relation FROM sync.object o WHERE o.name = backfill.object;
        IF NOT has_table_privilege(relation, 'SELECT') THEN
            RAISE EXCEPTION 'permission denied for table %', relation
                USING ERRCODE = 'insufficient_privilege', HINT = 'A filter is for who may read the table. Leave it out, or have SELECT granted.';
        END IF;
    END IF;
    job := sync._backfill_start(system, object, direction, since, until, filter, rate, reason, cutover_date);
    IF filter IS NOT NULL THEN
        INSERT INTO sync.job_filter (job_id, filter) VALUES (job, backfill.filter);
    END IF;
    RETURN job;
END
$$;
COMMENT ON FUNCTION sync.backfill(text, text, text, timestamptz, timestamptz, text, integer, text, date) IS
    'Sends the records that a system does not have yet, or (pull) fetches all that it has, below live traffic; returns the job, seen in sync.progress';
