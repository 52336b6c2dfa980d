-- Routes and streams: what flows where.

-- ---- conditions ----

CREATE FUNCTION sync._check_expression(expression text)
RETURNS void
LANGUAGE c STRICT
AS 'MODULE_PATHNAME', 'se_check_expression';
COMMENT ON FUNCTION sync._check_expression(text) IS 'An error unless the text is one SQL expression';

-- The type that a column has in a condition. A condition runs with the rights of the role that made
-- the route, and the table's owner may give a column any type at any time: a domain's check, or a
-- cast, would be the owner's code with that role's rights. So only types of superusers and of that
-- role itself are used as they are; a domain becomes what it is made of, others become texts.
CREATE FUNCTION sync._condition_type(type oid, typmod integer, run_as name)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t pg_type;
    trusted boolean;
BEGIN
    SELECT y.* INTO t FROM pg_type y WHERE y.oid = type;
    IF t.typcategory = 'A' AND t.typelem <> 0 AND t.typlen = -1 THEN
        RETURN sync._condition_type(t.typelem, typmod, run_as) || '[]';
    END IF;
    -- The schema's owner, too, could put another type in this one's place.
    SELECT bool_and(o.rolsuper OR o.rolname = run_as) INTO trusted
      FROM pg_namespace n JOIN pg_roles o ON o.oid IN (t.typowner, n.nspowner)
     WHERE n.oid = t.typnamespace;
    IF trusted THEN
        -- What it is made of must be as good.
        SELECT NOT EXISTS (SELECT FROM (SELECT t.typbasetype, t.typtypmod WHERE t.typtype = 'd'
                                        UNION ALL SELECT a.atttypid, a.atttypmod FROM pg_attribute a
                                                   WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
                                        UNION ALL SELECT r.rngsubtype, -1 FROM pg_range r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid) p (oid, typmod)
                            WHERE sync._condition_type(p.oid, p.typmod, run_as) <> format_type(p.oid, p.typmod)) INTO trusted;
    END IF;
    RETURN CASE WHEN trusted THEN format_type(type, typmod)
                WHEN t.typtype = 'd' THEN sync._condition_type(t.typbasetype, t.typtypmod, run_as)
                WHEN t.typtype = 'c' THEN 'jsonb'
                ELSE 'text' END;
END
$$;
COMMENT ON FUNCTION sync._condition_type(oid, integer, name) IS 'Type that a column has in a condition that runs as a role';

-- The query that a hub prepares under the route's role: $1 bodies jsonb[], $2 operations text[],
-- $3 old values jsonb[]; one boolean per event, in order. What an expression sees: the record's
-- columns, and op, old, changed and lines of the event. Names resolve in pg_catalog only, so that
-- nobody's search_path changes what a condition means.
CREATE FUNCTION sync._condition_sql(object_id integer, condition text, run_as name DEFAULT current_user)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('SELECT (%s' || E'\n' || ') IS TRUE
  FROM (SELECT e.n, e.body, e.op, e.old,
               ARRAY(SELECT k FROM pg_catalog.jsonb_object_keys(e.old) k) AS changed, e.body -> ''lines'' AS lines
          FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.jsonb[]), pg_catalog.unnest($2::pg_catalog.text[]),
                          pg_catalog.unnest($3::pg_catalog.jsonb[])) WITH ORDINALITY e (body, op, old, n)) AS event (_n, _body, op, old, changed, lines)
 CROSS JOIN LATERAL pg_catalog.jsonb_to_record(event._body) AS record (%s)
 ORDER BY event._n',
                  condition,
                  (SELECT string_agg(format('%I %s', a.attname, sync._condition_type(a.atttypid, a.atttypmod, run_as)), ', ' ORDER BY a.attnum)
                     FROM pg_attribute a
                    WHERE a.attrelid = (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                         WHERE n.nspname = o.schema_name AND c.relname = o.table_name) AND a.attnum > 0 AND NOT a.attisdropped))
      FROM sync.object o
     WHERE o.id = _condition_sql.object_id
$$;
COMMENT ON FUNCTION sync._condition_sql(integer, text, name) IS 'Query that evaluates a route''s condition over a batch of events';

-- Compiles a condition with the caller's rights, as a hub will with the route's.
CREATE FUNCTION sync._condition_check(object text, condition text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = on
AS $$
DECLARE
    message text;
    state text;
BEGIN
    PERFORM sync._check_expression(condition);
    -- Who may not even name the table has no business with its columns.
    EXECUTE (SELECT format('EXPLAIN SELECT NULL::%I.%I', o.schema_name, o.table_name) FROM sync.object o WHERE o.name = object);
    EXECUTE 'EXPLAIN ' || replace(replace(replace(sync._condition_sql(sync._object_id(object), condition),
                          '$1::', '''{}''::'), '$2::', '''{}''::'), '$3::', '''{}''::');
EXCEPTION
    WHEN insufficient_privilege OR undefined_table OR undefined_column OR undefined_function OR datatype_mismatch
         OR ambiguous_column OR syntax_error OR wrong_object_type OR undefined_object OR data_exception
         OR grouping_error OR windowing_error OR cannot_coerce OR ambiguous_function THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, state = RETURNED_SQLSTATE;
        RAISE EXCEPTION 'invalid condition: %', message
            USING ERRCODE = state,
                  DETAIL = format('Condition: %s', left(condition, 500)),
                  HINT = 'It is a boolean expression over the columns of the object''s table, and op (insert, update, delete), old (jsonb), changed (text[]) and lines (jsonb); functions outside pg_catalog need their schema. A column of one of these names is written record.name, and what it hides event.name.';
END
$$;
COMMENT ON FUNCTION sync._condition_check(text, text) IS 'An error, with the reason, when a condition cannot be evaluated by the caller';

-- Whoever may insert a route need not come through create_route(). A hub reads strings as the
-- standard says, so the same setting decides here where a string ends.
CREATE FUNCTION sync._route_check()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = on
AS $$
DECLARE
    wrong text;
BEGIN
    IF NEW.condition IS NOT NULL THEN
        PERFORM sync._check_expression(NEW.condition);
    END IF;
    IF btrim(NEW.name) = '' OR length(NEW.name) > 200 OR NEW.name ~ '[[:cntrl:]]' THEN
        RAISE EXCEPTION 'invalid name of a route'
            USING ERRCODE = 'invalid_name', HINT = 'A name has 1 to 200 characters, no control characters among them.';
    END IF;
    SELECT w INTO wrong FROM unnest(NEW.operations) w WHERE w <> ALL ('{insert,update,delete}') OR w IS NULL LIMIT 1;
    IF FOUND OR cardinality(NEW.operations) = 0 THEN
        RAISE EXCEPTION 'invalid operations for a route'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = CASE WHEN wrong IS NULL THEN 'The list is empty or holds NULL.' ELSE format('"%s" is not an operation.', wrong) END,
                  HINT = 'Operations are insert, update and delete.';
    END IF;
    -- Beyond these bounds, arithmetic on time would fail for all routes together.
    IF NEW.max_lag NOT BETWEEN interval '1 minute' AND interval '10 years' THEN
        RAISE EXCEPTION 'max_lag must be between a minute and ten years'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A route further behind than max_lag stops and needs a backfill.';
    END IF;
    IF NEW.start_at NOT BETWEEN '0001-01-02 00:00+00' AND '9999-12-31 00:00+00' OR NEW.cutover_date NOT BETWEEN '0001-01-02' AND '9999-12-31' THEN
        RAISE EXCEPTION 'start and cut-over date must lie in the years 1 to 9999'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Start is now, all, or an instant such as 2026-01-31 00:00+00; cut-over is the first day whose documents this hub sends.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION sync._route_check() IS 'Refuses a route whose condition is not a single expression, or whose bounds are out of range';

CREATE TRIGGER condition BEFORE INSERT OR UPDATE OF condition, name, operations, max_lag, start_at, cutover_date ON sync.route
    FOR EACH ROW EXECUTE FUNCTION sync._route_check();
COMMENT ON TRIGGER condition ON sync.route IS 'Refuses a route that a hub could not evaluate';

-- Whoever declares routes may also insert the row, so the row is what is watched. A restore brings rows of
-- before, and those are no act.
CREATE FUNCTION sync._audit_route()
RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    object text := (SELECT o.name FROM sync.object o WHERE o.id = NEW.object_id);
    system text := (SELECT y.name FROM sync.system y WHERE y.id = NEW.system_id);
BEGIN
    IF TG_OP = 'UPDATE' THEN
        PERFORM sync._audit(CASE WHEN NEW.state = 'dropped' THEN 'route.dropped' ELSE 'route.changed' END, object, NULL, system,
                            jsonb_build_object('route', NEW.name) || sync._audit_change(to_jsonb(OLD), to_jsonb(NEW)));
    ELSIF NEW.created_at >= transaction_timestamp() THEN
        PERFORM sync._audit('route.created', object, NULL, system, sync._audit_change(NULL, to_jsonb(NEW)));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._audit_route() IS 'Writes the audit rows of routes';
CREATE TRIGGER audit_insert AFTER INSERT ON sync.route FOR EACH ROW EXECUTE FUNCTION sync._audit_route();
COMMENT ON TRIGGER audit_insert ON sync.route IS 'Writes an audit row for a new route';
CREATE TRIGGER audit_update AFTER UPDATE ON sync.route FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION sync._audit_route();
COMMENT ON TRIGGER audit_update ON sync.route IS 'Writes an audit row for a changed or dropped route';

-- ---- routes ----

-- The first cursor. Events of the transaction that creates the route belong to it: its own id counts
-- as running. finished_seq is that of an earlier cursor, or 0, because a transaction that runs now
-- may hold an id beyond the snapshot's xmax and have drawn its numbers before: the last value of the
-- sequence would be too high a bound.
CREATE FUNCTION sync._first_checkpoint(route integer, anew boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kind text;
    seen pg_snapshot;
    own xid8 := pg_current_xact_id();
    running xid8[];
    bound bigint := 0;
    epoch integer := sync._incarnation();
BEGIN
    SELECT r.start_kind INTO STRICT kind FROM sync.route r WHERE r.id = route;
    IF anew THEN
        kind := 'now';
    ELSIF EXISTS (SELECT FROM sync.checkpoint c WHERE c.route_id = route) THEN
        RAISE EXCEPTION 'route % has a cursor already', route USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    seen := '3:3:';
    IF kind = 'now' THEN
        seen := pg_current_snapshot();
        IF own < pg_snapshot_xmax(seen) THEN
            running := ARRAY(SELECT x FROM pg_snapshot_xip(seen) x UNION SELECT own ORDER BY 1);
            seen := format('%s:%s:%s', running[1], pg_snapshot_xmax(seen), array_to_string(running, ','));
        END IF;
        SELECT coalesce(max(c.finished_seq), 0) INTO bound
          FROM sync.checkpoint c
         WHERE c.incarnation = epoch AND pg_snapshot_xmax(c.finished) <= pg_snapshot_xmax(seen);
    END IF;
    INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, window_end, window_end_seq, position)
    VALUES (route, epoch, seen, bound, seen, bound, bound);
END
$$;
COMMENT ON FUNCTION sync._first_checkpoint(integer, boolean) IS 'Writes the cursor that a new route starts from; anew: one that starts now again, whatever its cursor was';

-- What was before a route or a stream is sent or fetched only when it is known what it is: identity is
-- decided, and of documents it is said from which day on they are the hub's.
CREATE FUNCTION sync._check_history(system text, object text, undated boolean, instead text)
RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM sync.stream t WHERE t.system_id = sync._system_id($1) AND t.object_id = sync._object_id($2)
                                           AND t.state = 'active' AND t.deciding_since IS NOT NULL) THEN
        RAISE EXCEPTION 'identity of object "%" in system "%" is not decided', object, system
            USING ERRCODE = 'SE063',
                  DETAIL = 'Records that the system holds already would be created a second time.',
                  HINT = format('Look at sync.match_preview() and decide with sync.accept_matches(); or %s.', instead);
    END IF;
    IF undated AND ((SELECT o.financial FROM sync.object o WHERE o.name = $2)
                    OR coalesce((sync._manifest($1) -> 'objects' -> $2 ->> 'financial')::boolean, false)) THEN
        RAISE EXCEPTION 'object "%" is financial: its past is not sent without a cut-over date', object
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'Documents of the time before may stand in the other system already, under identities that are not known here.',
                  HINT = format('Decide from which day on this hub is the one that sends, and give cutover_date => that day; or %s.', instead);
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_history(text, text, boolean, text) IS
    'An error while identity is not decided, or for financial objects without a cut-over date; instead: what else can be done';

-- Runs with the caller's rights: the role that declares a route is the role its condition runs as,
-- and run_as is the column's default because nobody may write it.
CREATE FUNCTION sync.create_route(system text, object text, condition text DEFAULT NULL, start text DEFAULT 'now',
                                  name text DEFAULT NULL, operations text[] DEFAULT NULL,
                                  max_lag interval DEFAULT '7 days', cutover_date date DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_system integer := sync._system_id(create_route.system);
    the_object integer := sync._object_id(create_route.object);
    o sync.object;
    kind text;
    begin_at timestamptz;
    wrong text;
    made integer;
BEGIN
    PERFORM sync._manifest_object(create_route.system, create_route.object, 'push');
    SELECT t.* INTO o FROM sync.object t WHERE t.id = the_object;
    IF NOT o.captured THEN
        RAISE EXCEPTION 'changes of object "%" are not captured', object
            USING ERRCODE = 'SE011', HINT = 'Track its table with capture on: a route needs its events.';
    END IF;
    SELECT r.name INTO wrong FROM sync.route r
     WHERE r.state <> 'dropped' AND r.system_id = the_system AND r.object_id = the_object;
    IF FOUND THEN
        RAISE EXCEPTION 'object "%" already has a route to system "%"', object, system
            USING ERRCODE = 'duplicate_object',
                  DETAIL = format('Route "%s" sends it; two routes would send a record twice.', wrong),
                  HINT = 'Join the conditions with OR, or drop that route first.';
    END IF;

    IF max_lag IS NULL THEN
        RAISE EXCEPTION 'max_lag must be between a minute and ten years'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A route further behind than max_lag stops and needs a backfill.';
    END IF;
    IF cutover_date NOT BETWEEN '0001-01-02' AND '9999-12-31' THEN
        RAISE EXCEPTION 'a cut-over date must lie in the years 1 to 9999'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is the first day whose documents this hub sends.';
    END IF;
    IF condition IS NOT NULL THEN
        PERFORM sync._condition_check(object, condition);
    END IF;

    kind := CASE WHEN start IN ('now', 'all') THEN start ELSE 'timestamp' END;
    IF kind = 'timestamp' THEN
        BEGIN
            begin_at := start::timestamptz;
        EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow THEN
            NULL;
        END;
        IF begin_at IS NULL OR NOT isfinite(begin_at) THEN
            RAISE EXCEPTION 'invalid start "%"', start
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Start is now, all, or an instant such as 2026-01-31 00:00+00.';
        END IF;
    END IF;
    IF kind <> 'now' THEN
        PERFORM sync._check_history(create_route.system, create_route.object, cutover_date IS NULL AND (kind = 'all' OR begin_at < clock_timestamp()),
                                    'use start => ''now''');
    END IF;
    IF cutover_date IS NOT NULL AND kind <> 'now' THEN
        begin_at := greatest(begin_at, cutover_date::timestamp AT TIME ZONE 'UTC');
    END IF;

    INSERT INTO sync.route AS r (system_id, object_id, name, condition, operations, start_kind, start_at, cutover_date, max_lag)
    VALUES (the_system, the_object, coalesce(create_route.name, create_route.object || '_to_' || create_route.system),
            create_route.condition, coalesce(create_route.operations, '{insert,update,delete}'), kind, begin_at,
            create_route.cutover_date, create_route.max_lag)
    RETURNING r.id INTO made;
    PERFORM sync._first_checkpoint(made);
    RETURN made;
END
$$;
COMMENT ON FUNCTION sync.create_route(text, text, text, text, text, text[], interval, date) IS 'Sends the events of an object to a system from now on, or from an earlier start; returns the route''s id';

CREATE FUNCTION sync._route_id(route text)
RETURNS integer
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_id integer;
BEGIN
    SELECT r.id INTO found_id FROM sync.route r WHERE r.state <> 'dropped' AND r.name = route;
    IF NOT FOUND AND route ~ '^[0-9]{1,9}$' THEN
        SELECT r.id INTO found_id FROM sync.route r WHERE r.id = route::integer;
    END IF;
    IF found_id IS NULL THEN
        RAISE EXCEPTION 'route "%" does not exist', route
            USING ERRCODE = 'undefined_object',
                  DETAIL = coalesce('Routes are: ' || (SELECT string_agg(r.name, ', ' ORDER BY r.name) FROM sync.route r
                                                        WHERE r.state <> 'dropped') || '.', 'There are none.'),
                  HINT = 'Give a route''s name or id as view sync.route_status shows them.';
    END IF;
    RETURN found_id;
END
$$;
COMMENT ON FUNCTION sync._route_id(text) IS 'Id of a route by name, or by id as text';

-- ---- streams ----

-- What pg_cron calls: by id, so that a renamed system goes on being pulled.
CREATE FUNCTION sync._pull(stream integer)
RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE sync.stream_cursor c SET requested_at = clock_timestamp() WHERE c.stream_id = stream;
    SELECT sync._change();
$$;
COMMENT ON FUNCTION sync._pull(integer) IS 'Has the hub read a stream, given by id';

CREATE FUNCTION sync.create_stream(system text, object text, schedule text DEFAULT NULL, since timestamptz DEFAULT NULL,
                                   identity text DEFAULT 'match')
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_system integer := sync._system_id(create_stream.system);
    the_object integer := sync._object_id(create_stream.object);
    period interval;
    cron_line text;
    cron_schema name;
    made integer;
BEGIN
    PERFORM sync._manifest_object(create_stream.system, create_stream.object, 'pull');
    IF identity IS NULL OR identity NOT IN ('match', 'decide') THEN
        RAISE EXCEPTION 'invalid identity "%"', identity
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'match: what no record of ours fits is created; decide: nothing is bound or created before sync.accept_matches().';
    END IF;
    IF NOT isfinite(since) THEN
        RAISE EXCEPTION 'since must be finite'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out to read everything that the system lists.';
    END IF;
    IF EXISTS (SELECT FROM sync.stream t WHERE t.system_id = the_system AND t.object_id = the_object AND t.state = 'active') THEN
        RAISE EXCEPTION 'object "%" is already pulled from system "%"', object, system
            USING ERRCODE = 'duplicate_object', HINT = 'Drop that stream first with sync.drop_stream().';
    END IF;
    IF schedule ~ '^\s*(\S+\s+){4}\S+\s*$' AND schedule ~ '^[-0-9A-Za-z*,/\s$]+$' AND schedule !~* '(day|hour|min|sec)' THEN
        cron_line := trim(schedule);
        SELECT n.nspname INTO cron_schema
          FROM pg_extension e
          JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
                          AND d.classid = 'pg_proc'::regclass
          JOIN pg_proc p ON p.oid = d.objid AND p.proname = 'schedule_in_database'
          JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE e.extname = 'pg_cron' LIMIT 1;
        IF cron_schema IS NULL THEN
            RAISE EXCEPTION 'a cron schedule needs the extension pg_cron'
                USING ERRCODE = 'feature_not_supported',
                      DETAIL = 'pg_cron 1.4 or later is not installed in this database.',
                      HINT = 'Give an interval such as ''30 s'' instead, which the hub itself keeps, or let pg_cron call sync.request_pull() from the database it is in.';
        END IF;
    ELSIF schedule IS NOT NULL THEN
        BEGIN
            period := schedule::interval;
        EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow OR interval_field_overflow THEN
            NULL;
        END;
        IF period IS NULL OR period NOT BETWEEN interval '1 second' AND interval '1 year' THEN
            RAISE EXCEPTION 'invalid schedule "%"', schedule
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'A schedule is an interval between a second and a year (''30 s'', ''5 min''), or with pg_cron a line of five fields (''*/5 * * * *'').';
        END IF;
    END IF;

    INSERT INTO sync.stream AS t (system_id, object_id, every, schedule, since, deciding_since)
    VALUES (the_system, the_object, period, cron_line, create_stream.since, CASE identity WHEN 'decide' THEN clock_timestamp() END)
    RETURNING t.id INTO made;
    PERFORM sync._audit('stream.created', create_stream.object, NULL, create_stream.system,
                        jsonb_strip_nulls(jsonb_build_object('schedule', create_stream.schedule, 'since', create_stream.since)));
    INSERT INTO sync.stream_cursor (stream_id, incarnation, requested_at)
    VALUES (made, sync._incarnation(), CASE WHEN create_stream.schedule IS NOT NULL THEN clock_timestamp() END);
    IF cron_line IS NOT NULL THEN
        EXECUTE format('SELECT %I.schedule_in_database($1, $2, $3, $4)', cron_schema)
          USING format('sync_ext %s stream %s', current_database(), made), cron_line,
                format('SELECT sync._pull(%s)', made),
                current_database()::text;
    END IF;
    RETURN made;
END
$$;
COMMENT ON FUNCTION sync.create_stream(text, text, text, timestamptz, text) IS 'Pulls an object from a system, by interval, by pg_cron, or (without schedule) on request only; returns the stream''s id';

CREATE FUNCTION sync.drop_stream(system text, object text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gone sync.stream;
BEGIN
    UPDATE sync.stream t SET state = 'dropped'
      FROM sync.system y, sync.object o
     WHERE y.id = t.system_id AND y.name = drop_stream.system AND o.id = t.object_id AND o.name = drop_stream.object
       AND t.state = 'active'
    RETURNING t.* INTO gone;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'object "%" is not pulled from system "%"', object, system
            USING ERRCODE = 'undefined_object', HINT = 'View sync.stream_status lists the streams.';
    END IF;
    PERFORM sync._audit('stream.dropped', drop_stream.object, NULL, drop_stream.system);
    DELETE FROM sync.stream_cursor c WHERE c.stream_id = gone.id;
    IF gone.schedule IS NOT NULL AND to_regclass('cron.job') IS NOT NULL
       AND EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_cron') THEN
        EXECUTE 'SELECT cron.unschedule(j.jobid) FROM cron.job j WHERE j.jobname = $1'
          USING format('sync_ext %s stream %s', current_database(), gone.id);
    END IF;
END
$$;
COMMENT ON FUNCTION sync.drop_stream(text, text) IS 'Stops pulling an object from a system; what was pulled stays';

CREATE FUNCTION sync.request_pull(system text, object text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE sync.stream_cursor c SET requested_at = clock_timestamp()
      FROM sync.stream t
      JOIN sync.system y ON y.id = t.system_id
      JOIN sync.object o ON o.id = t.object_id
     WHERE c.stream_id = t.id AND t.state = 'active' AND y.name = request_pull.system AND o.name = request_pull.object;
    IF NOT FOUND THEN
        PERFORM sync._system_id(request_pull.system), sync._object_id(request_pull.object);
        RAISE EXCEPTION 'object "%" is not pulled from system "%"', object, system
            USING ERRCODE = 'undefined_object', HINT = 'Create the stream first with sync.create_stream().';
    END IF;
    PERFORM sync._wake();
END
$$;
COMMENT ON FUNCTION sync.request_pull(text, text) IS 'Has the hub read a stream as soon as this transaction has committed';
