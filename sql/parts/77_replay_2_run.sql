-- Replay, outbound: asking for it, and doing it.

CREATE FUNCTION sync._preview_events(system text, object text, events jsonb)
RETURNS TABLE (event integer, step text, state text, method text, target text, body text, message text)
LANGUAGE c VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_preview_events';
COMMENT ON FUNCTION sync._preview_events(text, text, jsonb) IS
    'The first request with an effect that each of an array of events would cause now. Needs SELECT on the object''s table';

-- A request body by its members, to tell what differs: JSON objects, forms, or a text as a whole.
CREATE FUNCTION sync._request_members(method text, target text, body text)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    members jsonb := '{}';
BEGIN
    IF left(body, 1) = '{' THEN
        members := body::jsonb;
    ELSIF body ~ '^[^=&\s]+=' THEN
        SELECT jsonb_object_agg(split_part(m, '=', 1), split_part(m, '=', 2)) INTO members FROM regexp_split_to_table(body, '&') m;
    ELSIF body <> '' THEN
        members := jsonb_build_object('(body)', body);
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object('(method)', method, '(target)', target)) || members;
EXCEPTION WHEN invalid_text_representation OR untranslatable_character THEN
    RETURN jsonb_strip_nulls(jsonb_build_object('(method)', method, '(target)', target, '(body)', body));
END
$$;
COMMENT ON FUNCTION sync._request_members(text, text, text) IS 'A request as an object of its members';

CREATE FUNCTION sync._differing(before jsonb, after jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_object_agg(d.field, jsonb_build_array(d.current, d.candidate)) FROM sync._differences($1, $2) d
$$;
COMMENT ON FUNCTION sync._differing(jsonb, jsonb) IS 'Members in which two objects differ: {name: [before, after]}; NULL: none';

-- '20/s', '600/min', '1000/h': as a server's rate_limit.
CREATE FUNCTION sync._per_second(rate text)
RETURNS numeric
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    part text[] := regexp_match(rate, '^\s*([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*/\s*(s|min|h)\s*$');
    per numeric := part[1]::numeric / CASE part[2] WHEN 's' THEN 1 WHEN 'min' THEN 60 ELSE 3600 END;
BEGIN
    IF per IS NULL OR per = 0 OR per > 10000 THEN
        RAISE EXCEPTION 'invalid rate "%"', rate
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Write N/s, N/min or N/h, at most 10000/s: 20/s.';
    END IF;
    RETURN trim_scale(per);
END
$$;
COMMENT ON FUNCTION sync._per_second(text) IS 'A rate as a number a second';

-- ---- the list ----

CREATE FUNCTION sync._replay_period(since timestamptz, until timestamptz)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF since IS NULL OR until IS NULL OR NOT isfinite(since) OR NOT isfinite(until) OR since >= until THEN
        RAISE EXCEPTION 'a replay needs a period'
            USING ERRCODE = 'SE085', DETAIL = format('It would be from %s to %s.', coalesce(since::text, 'NULL'), coalesce(until::text, 'NULL')),
                  HINT = 'since is the first instant of it, until the first one after it.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._replay_period(timestamptz, timestamptz) IS 'An error unless the two make a period';

-- The route whose deliveries are meant. Events that the log no longer holds cannot be sent again, and a list
-- that leaves them out in silence would be taken for all there was.
CREATE FUNCTION sync._replay_route(system text, object text, since timestamptz)
RETURNS integer
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.route;
    floor timestamptz;
    lost timestamptz;
BEGIN
    SELECT t.* INTO r FROM sync.route t
     WHERE t.system_id = sync._system_id($1) AND t.object_id = sync._object_id($2) AND t.state <> 'dropped';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'object "%" has no route to system "%"', object, system
            USING ERRCODE = 'SE085', DETAIL = 'A replay issues a route''s deliveries again.',
                  HINT = 'Make a route with sync.create_route(), and send what is there with sync.backfill().';
    END IF;
    SELECT min(p.lower_bound) INTO floor FROM sync._partitions('sync.outbox') p;
    SELECT min(c.event_at) INTO lost FROM sync.claim c
     WHERE c.route_id = r.id AND c.event_at >= since AND c.event_at < floor
       AND NOT EXISTS (SELECT FROM sync.outbox e WHERE e.seq = c.seq AND e.at = c.event_at);
    IF lost IS NOT NULL THEN
        RAISE EXCEPTION 'events since % are gone from the outbox', date_trunc('second', since)
            USING ERRCODE = 'SE085', DETAIL = format('It begins at %s; one that was sent was captured at %s.', floor, date_trunc('second', lost)),
                  HINT = format('Replay since %L, and send the records as they are now with sync.backfill(%L, %L).', floor, system, object);
    END IF;
    RETURN r.id;
END
$$;
COMMENT ON FUNCTION sync._replay_route(text, text, timestamptz) IS 'The route that a replay is about, or an error; also where events of the period are gone';

-- Some hundred records at a time, in the order of their newest events. Who asks needs SELECT on the table.
CREATE FUNCTION sync._replay_records(route integer, since timestamptz, until timestamptz)
RETURNS SETOF jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_agg(jsonb_build_object('n', d.n, 'record_id', d.record_id, 'seq', d.seqs[1], 'op', d.op, 'at', d.at, 'seqs', d.seqs, 'first_at', d.first_at)
                     ORDER BY d.n)
      FROM (SELECT g.*, row_number() OVER (ORDER BY g.seqs[1]) AS n
              FROM (SELECT e.record_id, array_agg(e.seq ORDER BY e.seq DESC) AS seqs, (array_agg(e.op ORDER BY e.seq DESC))[1] AS op,
                           (array_agg(e.at ORDER BY e.seq DESC))[1] AS at, min(e.at) AS first_at
                      FROM sync._replay_event e
                     WHERE e.route_id = $1 AND e.at >= $2 AND e.at < $3 AND e.op <> 'T'
                       -- What the route did not want has neither.
                       AND (EXISTS (SELECT FROM sync.outcome f WHERE f.route_id = $1 AND f.seq = e.seq AND f.final AND f.at >= e.at)
                            OR EXISTS (SELECT FROM sync.pending p WHERE p.route_id = $1 AND p.seq = e.seq AND p.event_at = e.at))
                     GROUP BY e.record_id) g) d
     GROUP BY (d.n - 1) / 200 ORDER BY (d.n - 1) / 200
$$;
COMMENT ON FUNCTION sync._replay_records(integer, timestamptz, timestamptz) IS 'Records that a route sent events of in a period: the newest event of each, and which others there are';

-- With the caller's rights, who wrote the filter.
CREATE FUNCTION sync._replay_filtered(object_id integer, filter text, items jsonb, events jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = on
AS $$
DECLARE
    kept jsonb;
    message text;
    state text;
BEGIN
    IF filter IS NULL OR items IS NULL THEN
        RETURN items;
    END IF;
    EXECUTE format('SELECT jsonb_agg(i.value ORDER BY i.n) FROM jsonb_array_elements($4) WITH ORDINALITY i (value, n)
                      JOIN (SELECT f.kept, row_number() OVER () AS n FROM (%s) f (kept)) f ON f.n = i.n WHERE f.kept',
                   sync._condition_sql(object_id, filter, current_user))
       INTO kept
      USING ARRAY(SELECT e.value -> 'body' FROM jsonb_array_elements(events) WITH ORDINALITY e (value, n) ORDER BY e.n),
            ARRAY(SELECT CASE e.value ->> 'op' WHEN 'I' THEN 'insert' WHEN 'D' THEN 'delete' ELSE 'update' END
                    FROM jsonb_array_elements(events) WITH ORDINALITY e (value, n) ORDER BY e.n),
            ARRAY(SELECT nullif(e.value -> 'old', 'null') FROM jsonb_array_elements(events) WITH ORDINALITY e (value, n) ORDER BY e.n), items;
    RETURN kept;
EXCEPTION WHEN data_exception THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, state = RETURNED_SQLSTATE;
    RAISE EXCEPTION 'the filter fails for a record: %', message
        USING ERRCODE = state, DETAIL = format('Filter: %s', left(filter, 500)),
              HINT = 'Nothing is replayed. Write it so that it holds for every record, for example with nullif(column, 0) where it divides.';
END
$$;
COMMENT ON FUNCTION sync._replay_filtered(integer, text, jsonb, jsonb) IS 'Those of the items whose record fulfils a condition';

-- A piece of the list with its events, the filter applied.
CREATE FUNCTION sync._replay_pieces(route integer, object text, since timestamptz, until timestamptz, filter text, merge boolean)
RETURNS TABLE (items jsonb, events jsonb)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    piece jsonb;
BEGIN
    IF NOT sync._reads(sync._object_id(object)) THEN
        RAISE EXCEPTION 'permission denied for the records of object "%"', object
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'A replay shows what it would send, and its filter sees the records.',
                  HINT = 'It takes SELECT on the object''s table, and on that of its lines, without row security.';
    END IF;
    IF filter IS NOT NULL THEN
        PERFORM sync._condition_check(object, filter);
    END IF;
    FOR piece IN SELECT * FROM sync._replay_records(route, since, until) LOOP
        SELECT jsonb_agg(to_jsonb(m) ORDER BY m.n) INTO events FROM sync._replay_merged(route, piece, merge) m;
        items := sync._replay_filtered(sync._object_id(object), filter, piece, events);
        SELECT jsonb_agg(e.value ORDER BY (e.value ->> 'n')::integer) INTO events FROM jsonb_array_elements(events) e
         WHERE items @> jsonb_build_array(jsonb_build_object('n', e.value -> 'n'));
        IF items IS NOT NULL THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._replay_pieces(integer, text, timestamptz, timestamptz, text, boolean) IS 'The records of a replay and their events, some hundred at a time';

-- ---- what it would do ----

CREATE FUNCTION sync._replay_shown(system text, object text, route integer, items jsonb, events jsonb, keys text)
RETURNS TABLE (n integer, action text, why text, step text, method text, target text, request text, sent text, request_differs jsonb,
               mirror_differs jsonb, idempotency_key text)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH e AS MATERIALIZED (SELECT x.value, x.i, (x.value ->> 'n')::integer AS n FROM jsonb_array_elements(events) WITH ORDINALITY x (value, i)),
    c AS MATERIALIZED (SELECT * FROM sync._replay_check(route, items, keys)),
    p AS MATERIALIZED (SELECT * FROM sync._preview_events(system, object, events))
    SELECT c.n, c.action,
           coalesce(c.why, CASE WHEN c.action = 'issue' THEN coalesce(p.message, CASE WHEN p.state = 'skipped' THEN 'there is nothing to send' END) END),
           CASE WHEN c.action IN ('repeat', 'look_up') THEN c.step ELSE p.step END,
           CASE WHEN c.action IN ('repeat', 'look_up') THEN k.method ELSE p.method END,
           CASE WHEN c.action IN ('repeat', 'look_up') THEN k.target ELSE p.target END,
           CASE WHEN c.action IN ('repeat', 'look_up') THEN k.request ELSE p.body END,
           k.request, CASE WHEN k.attempt_id IS NOT NULL AND p.state = 'ready'
                           THEN sync._differing(sync._request_members(k.method, k.target, k.request), sync._request_members(p.method, p.target, p.body)) END,
           (SELECT jsonb_object_agg(f.key, jsonb_build_array(f.value, e.value #> ARRAY['body', f.key]))
              FROM jsonb_each(m.fields) f
             WHERE e.value -> 'body' ? f.key AND f.value <> e.value #> ARRAY['body', f.key]
               AND f.value #>> '{}' IS DISTINCT FROM e.value #>> ARRAY['body', f.key]),
           CASE WHEN c.action = 'repeat' THEN c.key END
      FROM c
      JOIN e ON e.n = c.n
      LEFT JOIN p ON p.event = e.i
      LEFT JOIN sync._replay_claim k ON k.route_id = $3 AND k.seq = (e.value ->> 'seq')::bigint AND k.attempt_id = c.attempt
      LEFT JOIN sync.route r ON r.id = $3
      LEFT JOIN sync._replay_mirror m ON m.system_id = r.system_id AND m.object_id = r.object_id AND m.record_id = e.value ->> 'record_id'
     ORDER BY c.n
$$;
COMMENT ON FUNCTION sync._replay_shown(text, text, integer, jsonb, jsonb, text) IS 'What a replay would send of some records, beside what was sent and what is known of the other side';

-- ---- asking for it ----

CREATE FUNCTION sync._replay_begin(direction text, system text, object text, since timestamptz, until timestamptz, filter text, keys text, rate text, reason text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made bigint;
BEGIN
    PERFORM sync._check_reason(reason);
    INSERT INTO sync.replay_run AS r (direction, system_id, object_id, route_id, since, until, filter, keys, per_second, reason)
    VALUES ($1, sync._system_id($2), sync._object_id($3), CASE WHEN $1 = 'out' THEN sync._replay_route($2, $3, $4) END, $4, $5, $6, $7,
            sync._per_second($8), $9)
    RETURNING r.id INTO made;
    RETURN made;
END
$$;
COMMENT ON FUNCTION sync._replay_begin(text, text, text, timestamptz, timestamptz, text, text, text, text) IS 'A replay whose list is being made';

CREATE FUNCTION sync._replay_planning(replay bigint)
RETURNS sync.replay_run
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run sync.replay_run;
BEGIN
    SELECT r.* INTO run FROM sync.replay_run r
     WHERE r.id = replay AND r.state = 'planning' AND r.xid = pg_current_xact_id() AND r.requested_by = session_user FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'replay % is not being planned', replay
            USING ERRCODE = 'SE085', HINT = 'Ask for another with sync.replay() or sync.replay_inbound().';
    END IF;
    RETURN run;
END
$$;
COMMENT ON FUNCTION sync._replay_planning(bigint) IS 'A replay whose list this transaction makes, or an error';

CREATE FUNCTION sync._replay_add(replay bigint, items jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run sync.replay_run := sync._replay_planning(replay);
    added bigint;
BEGIN
    PERFORM sync._check_caller_reads((SELECT o.name FROM sync.object o WHERE o.id = run.object_id), 'A replay sends what the records were.');
    IF run.direction = 'in' THEN
        INSERT INTO sync.replay_item (replay_id, n, record_id, action)
        SELECT run.id, run.items + row_number() OVER (ORDER BY i.n), i.record_id, i.action
          FROM jsonb_to_recordset(items) i (n integer, record_id text, action text);
    ELSE
        -- The event alone is the caller's word: it says which record it is of, which is then looked at for what stands against it.
        INSERT INTO sync.replay_item (replay_id, n, record_id, seq, at, seqs, first_at, action)
        SELECT run.id, run.items + row_number() OVER (ORDER BY i.n), e.record_id, e.seq, e.at, g.seqs, g.first_at, i.action
          FROM jsonb_to_recordset(items) i (n integer, seq bigint, at timestamptz, action text)
          JOIN sync.outbox e ON e.seq = i.seq AND e.at = i.at AND e.object_id = run.object_id
         CROSS JOIN LATERAL (SELECT array_agg(p.seq ORDER BY p.seq DESC) AS seqs, min(p.at) AS first_at FROM sync.outbox p
                              WHERE p.object_id = run.object_id AND p.record_id = e.record_id AND p.seq <= e.seq AND p.at >= run.since AND p.at < run.until AND p.op <> 'T'
                                AND (EXISTS (SELECT FROM sync.outcome f WHERE f.route_id = run.route_id AND f.seq = p.seq AND f.final AND f.at >= p.at)
                                     OR EXISTS (SELECT FROM sync.pending d WHERE d.route_id = run.route_id AND d.seq = p.seq AND d.event_at = p.at))) g
         WHERE g.seqs[1] = e.seq;
    END IF;
    GET DIAGNOSTICS added = ROW_COUNT;
    IF added <> jsonb_array_length(items) THEN
        RAISE EXCEPTION 'replay % cannot have events that its route did not handle in its period', run.id
            USING ERRCODE = 'SE085', HINT = 'Ask for another with sync.replay().';
    END IF;
    UPDATE sync.replay_run r SET items = run.items + jsonb_array_length(_replay_add.items) WHERE r.id = run.id;
END
$$;
COMMENT ON FUNCTION sync._replay_add(bigint, jsonb) IS 'Adds records to the list of a replay';

-- What is at stake: the sum, where it is in one currency.
CREATE FUNCTION sync._replay_amount(run sync.replay_run, OUT amount numeric, OUT currency text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN count(DISTINCT a.currency) = 1 THEN sum(a.amount) END, CASE WHEN count(DISTINCT a.currency) = 1 THEN min(a.currency) END
      FROM sync.replay_item i
      JOIN sync.outbox e ON e.seq = i.seq AND e.at = i.at
     CROSS JOIN LATERAL sync._amount(e.body) a
     WHERE i.replay_id = run.id
$$;
COMMENT ON FUNCTION sync._replay_amount(sync.replay_run) IS 'The amount that a replay is about; NULL with several currencies';

-- Ends the list: a job begins, or the replay waits for approval.
CREATE FUNCTION sync._replay_go(replay bigint, OUT job bigint, OUT approval bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run sync.replay_run := sync._replay_planning(replay);
    object text;
    system text;
    hash text;
    call jsonb;
    money record;
BEGIN
    SELECT o.name INTO object FROM sync.object o WHERE o.id = run.object_id;
    SELECT y.name INTO system FROM sync.system y WHERE y.id = run.system_id;
    SELECT encode(sha256(convert_to(string_agg(i.record_id || ' ' || coalesce(i.seqs::text, ''), E'\n' ORDER BY i.n), 'UTF8')), 'hex') INTO hash
      FROM sync.replay_item i WHERE i.replay_id = run.id;
    money := sync._replay_amount(run);
    call := jsonb_strip_nulls(jsonb_build_object('replay', run.id, 'direction', run.direction, 'system', system, 'object', object, 'since', run.since,
                'until', run.until, 'filter', run.filter, 'keys', run.keys, 'per_second', run.per_second, 'records', run.items, 'list_sha256', hash));
    UPDATE sync.replay_run r SET items_hash = hash, state = 'waiting' WHERE r.id = run.id;
    PERFORM sync._audit('replay.requested', object, NULL, system, call, run.reason);
    approval := sync._approval('replay', object, NULL, money.amount, money.currency, call, run.reason);
    IF approval IS NOT NULL THEN
        UPDATE sync.replay_run r SET approval_id = approval WHERE r.id = run.id;
        RAISE NOTICE 'replay % waits for approval %', run.id, approval
            USING HINT = format('A member of sync_approver who is not you calls sync.approve(%s, reason).', approval);
    ELSE
        job := (sync._approved_replay(call, NULL) ->> 'job')::bigint;
    END IF;
END
$$;
COMMENT ON FUNCTION sync._replay_go(bigint) IS 'Starts a replay whose list is complete, or asks for its approval';

CREATE FUNCTION sync._approved_replay(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run sync.replay_run;
    made bigint;
BEGIN
    SELECT r.* INTO run FROM sync.replay_run r WHERE r.id = (args ->> 'replay')::bigint FOR UPDATE;
    IF run.state IS DISTINCT FROM 'waiting' OR run.approval_id IS DISTINCT FROM approval OR run.items_hash IS DISTINCT FROM args ->> 'list_sha256' THEN
        RAISE EXCEPTION 'replay % does not wait for approval any more', args ->> 'replay'
            USING ERRCODE = 'SE067', HINT = 'Reject this request.';
    END IF;
    made := sync._job_start('replay' || CASE run.direction WHEN 'in' THEN '_inbound' ELSE '' END, run.system_id, run.object_id, args, run.reason, run.items);
    UPDATE sync.job j SET requested_by = run.requested_by WHERE j.id = made;
    UPDATE sync.replay_run r SET state = 'started', job_id = made WHERE r.id = run.id;
    RETURN jsonb_build_object('replay', run.id, 'job', made);
END
$$;
COMMENT ON FUNCTION sync._approved_replay(jsonb, bigint) IS 'Starts the job of a replay; an approval lets it happen where one is needed';

CREATE FUNCTION sync.replay(system text, object text, since timestamptz, until timestamptz, filter text DEFAULT NULL, dry_run boolean DEFAULT true,
                            keys text DEFAULT 'same', rate text DEFAULT '20/s', reason text DEFAULT NULL)
RETURNS TABLE (delivery text, event_at timestamptz, operation text, record_id text, record_number text, events integer, action text, why text,
               step text, method text, target text, request text, sent text, request_differs jsonb, mirror_differs jsonb, idempotency_key text,
               job bigint, approval bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    route integer;
    run bigint;
    piece record;
    total bigint := 0;
BEGIN
    PERFORM sync._replay_period(replay.since, replay.until);
    IF keys IS NULL OR keys NOT IN ('same', 'new') THEN
        RAISE EXCEPTION 'there are no keys "%"', keys
            USING ERRCODE = 'SE085', HINT = 'same repeats requests under their idempotency keys; new issues them anew, as a second request.';
    END IF;
    PERFORM sync._per_second(rate);
    route := sync._replay_route(replay.system, replay.object, replay.since);
    IF NOT dry_run THEN
        run := sync._replay_begin('out', replay.system, replay.object, replay.since, replay.until, filter, keys, rate, reason);
    END IF;
    FOR piece IN SELECT * FROM sync._replay_pieces(route, replay.object, replay.since, replay.until, filter, keys = 'new') LOOP
        total := total + jsonb_array_length(piece.items);
        IF run IS NOT NULL THEN
            PERFORM sync._replay_add(run, piece.items);
            CONTINUE;
        END IF;
        RETURN QUERY
        SELECT route || '/' || i.seq, i.at, CASE i.op WHEN 'I' THEN 'insert' WHEN 'U' THEN 'update' WHEN 'D' THEN 'delete' ELSE 'key only' END,
               i.record_id, sync._record_number(sync._object_id(replay.object), i.record_id), cardinality(i.seqs), s.action, s.why, s.step, s.method,
               s.target, s.request, s.sent, s.request_differs, s.mirror_differs, s.idempotency_key, NULL::bigint, NULL::bigint
          FROM sync._replay_shown(replay.system, replay.object, route, piece.items, piece.events, keys) s
          JOIN jsonb_to_recordset(piece.items) i (n integer, seq bigint, at timestamptz, op text, record_id text, seqs bigint[]) ON i.n = s.n
         ORDER BY i.n;
    END LOOP;
    IF run IS NULL THEN
        RETURN;
    ELSIF total = 0 THEN
        RAISE EXCEPTION 'there is nothing to replay'
            USING ERRCODE = 'SE085', DETAIL = 'No delivery of the period fits.', HINT = 'Call it with dry_run => true, and without filter, to see what there is.';
    END IF;
    RETURN QUERY
    SELECT NULL::text, NULL::timestamptz, NULL::text, NULL::text, NULL::text, total::integer, CASE WHEN g.job IS NULL THEN 'approval' ELSE 'job' END,
           CASE WHEN g.job IS NULL THEN format('waits for approval %s', g.approval) ELSE format('view sync.progress shows job %s', g.job) END,
           NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, NULL::jsonb, NULL::jsonb, NULL::text, g.job, g.approval
      FROM sync._replay_go(run) g;
END
$$;
COMMENT ON FUNCTION sync.replay(text, text, timestamptz, timestamptz, text, boolean, text, text, text) IS
    'Issues deliveries of a period again: dry_run shows what would be sent and how it differs from what was sent and from the other side; else a job does it';

-- ---- doing it ----

-- Live traffic goes first: nothing is issued while events of the system wait for more than a second.
CREATE FUNCTION sync._live_waits(system_id integer)
RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM sync.route r, sync._backlog(r.id) b
                    WHERE r.system_id = $1 AND r.state = 'active' AND b.queued > 0 AND b.oldest < clock_timestamp() - interval '1 s')
$$;
COMMENT ON FUNCTION sync._live_waits(integer) IS 'Whether changes of applications wait for a system';

-- A repeated request stands as it was sent, under its number; what is made anew has the next one. Either is a row
-- of sync.pending like any other: later changes of the record go behind it.
CREATE FUNCTION sync._replay_issue(run sync.replay_run, items jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WITH t AS MATERIALIZED (
        SELECT i.n, CASE WHEN m.seq IS NULL THEN 'skip' ELSE c.action END AS action,
               CASE WHEN m.seq IS NULL THEN 'the event is gone from the outbox: sync.backfill() sends the record as it is' ELSE c.why END AS why, c.issue,
               c.attempt, c.last_attempt, c.first_at, c.step, m.seq, m.at, m.incarnation, m.object_id, m.record_id, m.op, m.origin, m.body, m.old, m.context
          FROM jsonb_to_recordset(items) i (n integer)
          JOIN sync._replay_check(run.route_id, items, run.keys) c ON c.n = i.n
          LEFT JOIN sync._replay_merged(run.route_id, items, run.keys = 'new') m ON m.n = i.n),
    made AS (
        INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, old, context, state, issue, attempts, step,
                                  next_attempt_at, last_attempt_id, first_claim_at, frozen, code)
        SELECT run.route_id, t.seq, t.incarnation, t.at, t.object_id, t.record_id, t.op, t.origin, t.body, t.old, t.context,
               CASE t.action WHEN 'issue' THEN 'retry' ELSE 'ambiguous' END, t.issue, CASE t.action WHEN 'issue' THEN 0 ELSE 1 END,
               CASE WHEN t.action <> 'issue' THEN t.step END, clock_timestamp(), t.last_attempt, CASE WHEN t.action <> 'issue' THEN t.first_at END,
               CASE WHEN t.action <> 'issue'
                    THEN jsonb_strip_nulls(jsonb_build_object('step', k.step, 'method', k.method, 'target', k.target, 'request', k.request,
                             'request_hash', k.request_hash, 'connector_id', k.connector_id, 'repeats', true))
                         || CASE WHEN k.idempotency_key IS NULL THEN '{"unkeyed": true}' ELSE '{}' END::jsonb END,
               'replayed'
          FROM t
          LEFT JOIN sync.claim k ON k.route_id = run.route_id AND k.seq = t.seq AND k.attempt_id = t.attempt
         WHERE t.action <> 'skip')
    UPDATE sync.replay_item i
       SET state = CASE t.action WHEN 'skip' THEN 'skipped' ELSE 'issued' END, action = t.action, why = t.why, issue = t.issue, acted_at = clock_timestamp()
      FROM t WHERE i.replay_id = run.id AND i.n = t.n;
    PERFORM sync._change();
END
$$;
COMMENT ON FUNCTION sync._replay_issue(sync.replay_run, jsonb) IS 'Issues some deliveries of a replay again, those that may be';

-- Those of a replay that have not ended, and move by themselves.
CREATE FUNCTION sync._replay_moving(run sync.replay_run)
RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(*) FROM sync.pending p
      JOIN sync.replay_item i ON i.replay_id = run.id AND i.seq = p.seq AND i.state = 'issued'
     WHERE p.route_id = run.route_id AND p.state IN ('retry', 'ambiguous', 'waiting')
$$;
COMMENT ON FUNCTION sync._replay_moving(sync.replay_run) IS 'How many deliveries of a replay are on their way';

CREATE FUNCTION sync._replay_counts(run sync.replay_run)
RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object('replay', run.id, 'issued', count(*) FILTER (WHERE i.state = 'issued'),
               'skipped', count(*) FILTER (WHERE i.state = 'skipped'),
               'held', nullif((SELECT count(*) FROM sync.pending p JOIN sync.replay_item h ON h.replay_id = run.id AND h.seq = p.seq AND h.state = 'issued'
                                WHERE p.route_id = run.route_id AND p.state IN ('dead', 'conflict', 'held')), 0)))
      FROM sync.replay_item i WHERE i.replay_id = run.id
$$;
COMMENT ON FUNCTION sync._replay_counts(sync.replay_run) IS 'What has become of a replay so far';

-- A quarter of a second's worth a step. No more than that may be on its way when the next step comes, so a
-- system that is slower than the rate is not flooded, and a change of an application never stands behind more.
CREATE FUNCTION sync._replay_share(run sync.replay_run)
RETURNS integer
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT least(greatest(ceil(run.per_second / 4), 1), 200)::integer
$$;
COMMENT ON FUNCTION sync._replay_share(sync.replay_run) IS 'How many records a step of a replay issues, and how many may be on their way';

CREATE FUNCTION sync._replay_next(run sync.replay_run)
RETURNS SETOF sync.replay_item
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.* FROM sync.replay_item t
     WHERE t.replay_id = run.id AND t.n > coalesce((SELECT (j.cursor ->> 'n')::integer FROM sync.job j WHERE j.id = run.job_id), 0)
     ORDER BY t.n LIMIT sync._replay_share(run)
$$;
COMMENT ON FUNCTION sync._replay_next(sync.replay_run) IS 'The items of a replay''s next step';

-- Ends a step: items, if there were any, were issued; else the replay waits for those that move, or is done.
CREATE FUNCTION sync._replay_stepped(run sync.replay_run, items jsonb, moving bigint, added jsonb DEFAULT '{}')
RETURNS interval
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE sync.job j
       SET phase = CASE WHEN items IS NOT NULL THEN 'issuing' WHEN moving > 0 THEN 'waits for answers' ELSE 'done' END,
           done = j.done + coalesce(jsonb_array_length(items), 0), result = sync._replay_counts(run) || added,
           cursor = CASE WHEN items IS NULL THEN j.cursor
                         ELSE jsonb_build_object('n', (SELECT max((e.value ->> 'n')::integer) FROM jsonb_array_elements(items) e)) END
     WHERE j.id = run.job_id;
    RETURN CASE WHEN items IS NOT NULL THEN make_interval(secs => (jsonb_array_length(items) / run.per_second)::double precision)
                WHEN moving > 0 THEN sync._replay_idle() END;
END
$$;
COMMENT ON FUNCTION sync._replay_stepped(sync.replay_run, jsonb, bigint, jsonb) IS 'Keeps how far a replay is; when its next step is due, NULL: it is done';

CREATE FUNCTION sync._replay_idle()
RETURNS interval
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT interval '250 ms' $$;
COMMENT ON FUNCTION sync._replay_idle() IS 'How long a replay that may not issue waits until it looks again';

CREATE FUNCTION sync._job_replay(id bigint)
RETURNS interval
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run sync.replay_run;
    moving bigint;
    items jsonb;
BEGIN
    SELECT r.* INTO STRICT run FROM sync.replay_run r WHERE r.job_id = _job_replay.id;
    IF NOT EXISTS (SELECT FROM sync.route r WHERE r.id = run.route_id AND r.state <> 'dropped') THEN
        RAISE EXCEPTION 'the route of replay % was dropped', run.id USING ERRCODE = 'SE085', HINT = 'Stop its job with sync.stop_job().';
    END IF;
    moving := sync._replay_moving(run);
    IF moving >= sync._replay_share(run) THEN
        UPDATE sync.job j SET phase = 'waits for answers' WHERE j.id = _job_replay.id;
        RETURN sync._replay_idle();
    ELSIF sync._live_waits(run.system_id) THEN
        UPDATE sync.job j SET phase = 'lets live traffic pass' WHERE j.id = _job_replay.id;
        RETURN sync._replay_idle();
    END IF;
    SELECT jsonb_agg(jsonb_build_object('n', i.n, 'record_id', i.record_id, 'seq', i.seq, 'at', i.at, 'seqs', i.seqs, 'first_at', i.first_at,
                                        'op', (SELECT e.op FROM sync.outbox e WHERE e.seq = i.seq AND e.at = i.at)))
      INTO items FROM sync._replay_next(run) i;
    IF items IS NOT NULL THEN
        PERFORM sync._replay_issue(run, items);
    END IF;
    RETURN sync._replay_stepped(run, items, moving);
END
$$;
COMMENT ON FUNCTION sync._job_replay(bigint) IS 'A step of an outbound replay';
