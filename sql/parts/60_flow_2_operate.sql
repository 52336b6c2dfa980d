-- What is unfinished, and what a person does about it.

-- Events of active routes beyond their cursor that are neither finished nor kept in sync.pending.
-- An event of a newer incarnation than the cursor's is beyond it; one of an older is not: the first
-- cursor of an incarnation is written when all that was left of the one before is finished or kept.
CREATE VIEW sync._beyond AS
SELECT r.id AS route_id, r.system_id, r.object_id, e.seq, e.record_id, e.at, e.op, e.origin, e.incarnation, e.xid
  FROM sync.route r
 CROSS JOIN LATERAL (SELECT k.incarnation, k.finished, k.window_end, k.position
                       FROM sync.checkpoint k WHERE k.route_id = r.id ORDER BY k.id DESC LIMIT 1) k
 CROSS JOIN LATERAL (
       -- The upper bound says nothing, but without one the planner takes the lower for a third of the log.
       SELECT e.seq, e.record_id, e.at, e.op, e.origin, e.incarnation, e.xid
         FROM sync.outbox e
        WHERE e.xid >= pg_catalog.pg_snapshot_xmin(k.finished) AND e.xid < '18446744073709551615'
          AND e.incarnation = k.incarnation AND e.object_id = r.object_id
          AND NOT pg_catalog.pg_visible_in_snapshot(e.xid, k.finished)
          AND NOT (e.seq <= k.position AND pg_catalog.pg_visible_in_snapshot(e.xid, k.window_end))
       UNION ALL
       SELECT e.seq, e.record_id, e.at, e.op, e.origin, e.incarnation, e.xid
         FROM sync.outbox e
        WHERE k.incarnation < (SELECT h.incarnation FROM sync.hub h)
          AND e.incarnation > k.incarnation AND e.object_id = r.object_id
       OFFSET 0) e
 WHERE r.state = 'active'
   AND (e.origin >= 0 OR e.origin = -r.system_id)
   AND (r.start_at IS NULL OR e.at >= r.start_at)
   AND CASE e.op WHEN 'I' THEN 'insert' = ANY (r.operations)
                 WHEN 'U' THEN 'update' = ANY (r.operations)
                 WHEN 'D' THEN 'delete' = ANY (r.operations)
                 ELSE true END
   AND NOT EXISTS (SELECT FROM sync.pending p WHERE p.route_id = r.id AND p.seq = e.seq)
   AND NOT EXISTS (SELECT FROM sync.outcome f WHERE f.route_id = r.id AND f.seq = e.seq AND f.final AND f.at >= e.at);
COMMENT ON VIEW sync._beyond IS 'Events of routes that no cursor has passed, without what is finished or kept; conditions are not looked at, that is the hub''s';

CREATE VIEW sync._queue AS
SELECT b.* FROM sync._beyond b WHERE b.origin <> b.system_id;
COMMENT ON VIEW sync._queue IS 'Events on their way to a route''s claim; conditions are not looked at, that is the hub''s';

CREATE FUNCTION sync._queued(route integer)
RETURNS TABLE (seq bigint, record_id text, at timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT q.seq, q.record_id, q.at FROM sync._queue q WHERE q.route_id = route
$$;
COMMENT ON FUNCTION sync._queued(integer) IS 'Events on their way to a route';

-- in_flight: a request was claimed and has no outcome; it is under way, or died with its hub.
CREATE VIEW sync._kept AS
SELECT p.route_id, r.system_id, p.object_id, p.seq, p.record_id, p.event_at, p.id AS pending_id,
       -- One that waited, or was held, is sent from there when its time has come, and keeps its state.
       CASE WHEN (p.state = 'retry' OR p.state IN ('waiting', 'held') AND p.next_attempt_at <= clock_timestamp())
             AND EXISTS (SELECT FROM sync.claim c
                          WHERE c.route_id = p.route_id AND c.seq = p.seq AND c.at >= p.event_at
                            AND NOT EXISTS (SELECT FROM sync.outcome f
                                             WHERE f.route_id = p.route_id AND f.seq = p.seq
                                               AND f.attempt_id = c.attempt_id AND f.at >= p.event_at))
            THEN 'in_flight' ELSE p.state END AS state
  FROM sync.pending p
  JOIN sync.route r ON r.id = p.route_id;
COMMENT ON VIEW sync._kept IS 'Deliveries kept in sync.pending with their state';

CREATE VIEW sync._unfinished AS
SELECT q.route_id, q.system_id, q.object_id, q.seq, q.record_id, q.at AS event_at, NULL::bigint AS pending_id,
       CASE WHEN EXISTS (SELECT FROM sync.claim c
                          WHERE c.route_id = q.route_id AND c.seq = q.seq AND c.at >= q.at
                            AND NOT EXISTS (SELECT FROM sync.outcome f
                                             WHERE f.route_id = q.route_id AND f.seq = q.seq
                                               AND f.attempt_id = c.attempt_id AND f.at >= q.at))
            THEN 'in_flight' ELSE 'queued' END AS state
  FROM sync._queue q
UNION ALL
SELECT h.route_id, h.system_id, h.object_id, h.seq, h.record_id, h.event_at, h.pending_id, h.state
  FROM sync._kept h;
COMMENT ON VIEW sync._unfinished IS 'Every unfinished delivery with its state';

-- What a system changed itself goes back to it when an older change of ours was unfinished at that moment,
-- for that one may have overwritten it there: the rule of src/push/scan.c. What is under way for more than a day
-- has a row in sync.pending; the bound keeps the look into history to partitions of late.
CREATE VIEW sync._returning AS
SELECT b.route_id, b.system_id, b.object_id, b.seq, b.record_id, b.at AS event_at, NULL::bigint AS pending_id, 'queued'::text AS state
  FROM sync._beyond b
 WHERE b.origin = b.system_id
   AND (EXISTS (SELECT FROM sync.pending p WHERE p.route_id = b.route_id AND p.record_id = b.record_id AND p.seq < b.seq)
        OR EXISTS (SELECT FROM sync.claim c
                    WHERE c.record_id = b.record_id AND c.object_id = b.object_id AND c.route_id = b.route_id AND c.seq < b.seq
                      AND c.at >= b.at - interval '1 day'
                      AND NOT EXISTS (SELECT FROM sync.outcome f
                                       WHERE f.route_id = c.route_id AND f.seq = c.seq AND f.final AND f.at >= c.at AND f.at < b.at))
        -- The older one ended without a request, and this one's is under way.
        OR EXISTS (SELECT FROM sync.claim c WHERE c.route_id = b.route_id AND c.seq = b.seq AND c.at >= b.at));
COMMENT ON VIEW sync._returning IS 'Changes of a system on their way back to it, behind an older one of ours that met them';

CREATE FUNCTION sync._open_claim(route integer, seq bigint, since timestamptz)
RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (SELECT FROM sync.claim c
                    WHERE c.route_id = $1 AND c.seq = $2 AND c.at >= $3
                      AND NOT EXISTS (SELECT FROM sync.outcome f
                                       WHERE f.route_id = $1 AND f.seq = $2 AND f.attempt_id = c.attempt_id
                                         AND f.at >= $3))
$$;
COMMENT ON FUNCTION sync._open_claim(integer, bigint, timestamptz) IS 'Whether an attempt of a delivery has no outcome yet';

-- How many events are on their way to a route, without a look at each of a million. The log is read from
-- its old end, so the oldest are among the first thousand; how many come behind these is taken from how
-- densely the thousand stand in the numbers that were drawn since. Up to a thousand it is exact.
CREATE FUNCTION sync._backlog(route integer, OUT queued bigint, OUT in_flight bigint, OUT oldest timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
    SELECT CASE WHEN h.n < 1000 THEN h.n
                ELSE greatest(h.n, h.n * (s.last_value - h.low + 1) / (h.high - h.low + 1)) END - h.flying,
           h.flying, h.oldest
      FROM (SELECT count(*) AS n, count(*) FILTER (WHERE q.flying) AS flying, min(q.at) AS oldest, min(q.seq) AS low, max(q.seq) AS high
              FROM (SELECT q.seq, q.at, sync._open_claim($1, q.seq, q.at) AS flying
                      FROM sync._queue q WHERE q.route_id = $1 LIMIT 1000) q) h
     CROSS JOIN sync.outbox_seq s
$$;
COMMENT ON FUNCTION sync._backlog(integer) IS 'Events on their way to a route: how many, an estimate beyond a thousand; how many of these have a request out; since when';

-- ---- systems ----

CREATE FUNCTION sync.pause(system text, reason text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_system integer := sync._system_id(pause.system);
BEGIN
    UPDATE sync.system y
       SET paused = true, paused_reason = pause.reason, paused_by = session_user, paused_at = clock_timestamp()
     WHERE y.id = the_system;
    PERFORM sync._audit('system.paused', NULL, NULL, pause.system, '{}', pause.reason);
END
$$;
COMMENT ON FUNCTION sync.pause(text, text) IS 'Stops all traffic with a system; what is in flight ends, the rest waits for resume()';

CREATE FUNCTION sync.resume(system text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_system integer := sync._system_id(resume.system);
BEGIN
    UPDATE sync.system y
       SET paused = false, paused_reason = NULL, paused_by = NULL, paused_at = NULL
     WHERE y.id = the_system;
    PERFORM sync._audit('system.resumed', NULL, NULL, resume.system);
    IF sync._system_options(resume.system) ->> 'mode' = 'paused' THEN
        RAISE NOTICE 'system "%" stays paused by its option mode', system
            USING HINT = format('ALTER SERVER %I OPTIONS (SET mode ''live'');', system);
    END IF;
END
$$;
COMMENT ON FUNCTION sync.resume(text) IS 'Lets traffic with a paused system go on';

CREATE FUNCTION sync.call(system text, operation text, params jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_system integer := sync._system_id(call.system);
    manifest jsonb := sync._manifest(call.system);
    object_name text := split_part(call.operation, '.', 1);
    made bigint;
BEGIN
    IF manifest IS NULL THEN
        RAISE EXCEPTION 'connector "%" of system "%" is not registered', sync._system_options(system) ->> 'connector', system
            USING ERRCODE = 'SE012', HINT = 'Register its manifest with sync.register_connector().';
    END IF;
    IF jsonb_typeof(params) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'parameters of a call are a JSON object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For instance: {"id": "cus_1"}.';
    END IF;
    IF call.operation !~ '^[^.]+\.[^.]+$' OR manifest -> 'objects' -> object_name IS NULL THEN
        RAISE EXCEPTION 'connector of system "%" has no operation "%"', system, operation
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('Its objects are: %s.', (SELECT string_agg(k, ', ' ORDER BY k)
                                                             FROM sync._connector_names(manifest -> 'objects') k)),
                  HINT = 'Write object.operation, with names from the connector''s manifest.';
    END IF;
    INSERT INTO sync.api_call AS a (system_id, kind, object_id, operation, params)
    VALUES (the_system, 'call', (SELECT o.id FROM sync.object o WHERE o.name = object_name), call.operation, call.params)
    RETURNING a.id INTO made;
    -- Parameters may be anything; the call itself keeps them.
    PERFORM sync._audit('call.requested', object_name, NULL, call.system, jsonb_build_object(
        'call', made, 'operation', call.operation, 'params_sha256', encode(sha256(convert_to(params::text, 'UTF8')), 'hex')));
    PERFORM sync._wake();
    RETURN made;
END
$$;
COMMENT ON FUNCTION sync.call(text, text, jsonb) IS 'Asks for one API call, sent after commit; returns the id of its row in sync.api_call, where the answer comes';

-- Asks the hub through shared memory, because limits, breaker and session are the hub's and a row
-- of this transaction would be seen by nobody. Answers the record as the system sends it.
CREATE FUNCTION sync._fetch_now(system text, object text, remote_id text, timeout_ms integer)
RETURNS jsonb
LANGUAGE c STRICT
AS 'MODULE_PATHNAME', 'se_fetch_now';
COMMENT ON FUNCTION sync._fetch_now(text, text, text, integer) IS 'Reads one remote record now, through the hub';

-- fetch is a reserved word, so it cannot qualify the parameters.
CREATE FUNCTION sync.fetch(system text, object text, id text, wait interval DEFAULT '10 s')
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_system integer := sync._system_id($1);
    the_object integer := sync._object_id($2);
    remote text;
BEGIN
    PERFORM sync._manifest_object($1, $2, 'pull');
    IF $3 IS NULL OR wait IS NULL OR wait <= interval '0' OR wait > interval '5 min' THEN
        RAISE EXCEPTION 'fetch needs an id, and a wait of at most five minutes'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For instance: sync.fetch(''erp'', ''customer'', id::text, ''10 s'').';
    END IF;
    SELECT x.remote_id INTO remote FROM sync.external_id x
     WHERE x.system_id = the_system AND x.object_id = the_object AND x.record_id IN ($3, sync._record_id(the_object, $3, false));
    RETURN sync._fetch_now($1, $2, coalesce(remote, $3), ceil(extract(epoch FROM wait) * 1000)::integer);
END
$$;
COMMENT ON FUNCTION sync.fetch(text, text, text, interval) IS 'Reads a record from a system now, by our id or the remote one; changes nothing';

-- ---- deliveries ----

CREATE FUNCTION sync._pending_id(delivery text)
RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    part text[] := regexp_match(delivery, '^(.+)/([0-9]{1,18})$');
    found_id bigint;
    ended text;
BEGIN
    IF part IS NULL THEN
        RAISE EXCEPTION 'invalid delivery "%"', delivery
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Write route/seq, as column delivery of view sync.delivery shows it: 3/1042.';
    END IF;
    SELECT p.id INTO found_id FROM sync.pending p
     WHERE p.route_id = sync._route_id(part[1]) AND p.seq = part[2]::bigint;
    IF NOT FOUND THEN
        SELECT f.state INTO ended FROM sync.outcome f
         WHERE f.route_id = sync._route_id(part[1]) AND f.seq = part[2]::bigint AND f.final
         ORDER BY f.at DESC LIMIT 1;
        RAISE EXCEPTION 'delivery "%" is not held', delivery
            USING ERRCODE = 'undefined_object',
                  DETAIL = coalesce('It has ended: ' || ended || '.', 'It is queued, in flight, or does not exist.'),
                  HINT = 'Views sync.dead_letter and sync.delivery list what is held.';
    END IF;
    RETURN found_id;
END
$$;
COMMENT ON FUNCTION sync._pending_id(text) IS 'Row of sync.pending of a delivery given as route/seq';

CREATE FUNCTION sync._locked_pending(id bigint)
RETURNS sync.pending
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p sync.pending;
BEGIN
    SELECT t.* INTO p FROM sync.pending t WHERE t.id = _locked_pending.id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no held delivery with id %', id
            USING ERRCODE = 'undefined_object', HINT = 'Views sync.dead_letter and sync.delivery list what is held.';
    END IF;
    RETURN p;
END
$$;
COMMENT ON FUNCTION sync._locked_pending(bigint) IS 'A held delivery, locked, or an error';

CREATE FUNCTION sync._audit_delivery(action text, p sync.pending, detail jsonb, reason text DEFAULT NULL)
RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._audit($1, o.name, p.record_id, y.name,
                       jsonb_build_object('delivery', p.route_id || '/' || p.seq, 'state', p.state)
                       || jsonb_strip_nulls(jsonb_build_object('code', p.code, 'number', p.body -> o.number_column::text)) || $3, $4)
      FROM sync.route r
      JOIN sync.object o ON o.id = r.object_id
      JOIN sync.system y ON y.id = r.system_id
     WHERE r.id = p.route_id
$$;
COMMENT ON FUNCTION sync._audit_delivery(text, sync.pending, jsonb, text) IS 'Writes the audit row of what a person does with a held delivery';

CREATE FUNCTION sync._unsure(p sync.pending)
RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.state = 'ambiguous'
        OR p.state <> 'retry' AND sync._open_claim(p.route_id, p.seq, p.event_at)
        OR EXISTS (SELECT FROM sync.outcome f WHERE f.route_id = p.route_id AND f.seq = p.seq
                      AND f.attempt_id = p.last_attempt_id AND f.outcome = 'ambiguous')
$$;
COMMENT ON FUNCTION sync._unsure(sync.pending) IS 'Whether a held delivery''s last attempt may have taken effect';

CREATE FUNCTION sync.retry(id bigint, fresh boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p sync.pending := sync._locked_pending(retry.id);
    unsure boolean;
BEGIN
    IF p.state NOT IN ('dead', 'conflict', 'retry', 'ambiguous', 'held') THEN
        RAISE EXCEPTION 'delivery %/% is %', p.route_id, p.seq, p.state
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = CASE p.state WHEN 'behind' THEN 'An earlier delivery of the same record is unfinished.'
                                        ELSE 'It waits for another record.' END,
                  HINT = CASE p.state WHEN 'behind' THEN 'Retry or discard that one; this one then goes by itself.'
                                      ELSE 'Send the record that it waits for; this one then goes by itself.' END;
    END IF;
    -- An attempt whose effect is unknown is looked up before anything is sent again.
    unsure := sync._unsure(p);
    IF fresh AND (unsure OR p.state = 'retry' AND sync._open_claim(p.route_id, p.seq, p.event_at)) THEN
        RAISE EXCEPTION 'delivery %/% cannot be issued afresh: its last attempt may have taken effect', p.route_id, p.seq
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'A new request has a new idempotency key, so the other system could not tell that it is the same.',
                  HINT = 'Retry it without fresh: it is repeated under its key, or looked up first.';
    END IF;
    UPDATE sync.pending t
       SET state = CASE WHEN unsure THEN 'ambiguous' ELSE 'retry' END,
           next_attempt_at = clock_timestamp(),
           attempts = CASE WHEN t.state IN ('dead', 'conflict') THEN 0 ELSE t.attempts END,
           -- The hub counts up by itself where a request that had no effect came out otherwise.
           issue = CASE WHEN fresh THEN 1 + greatest(t.issue, (SELECT max(c.issue) FROM sync.claim c
                                                                WHERE c.route_id = t.route_id AND c.seq = t.seq AND c.at >= t.event_at))
                        ELSE t.issue END,
           step = CASE WHEN fresh THEN NULL ELSE t.step END,
           frozen = CASE WHEN fresh THEN NULL ELSE t.frozen END
     WHERE t.id = p.id;
    PERFORM sync._audit_delivery('delivery.retried', p, jsonb_build_object('fresh', fresh));
    PERFORM sync._change();
END
$$;
COMMENT ON FUNCTION sync.retry(bigint, boolean) IS 'Sends a held delivery again now: the same request, or (fresh) one made anew under a new idempotency key';

CREATE FUNCTION sync.retry(delivery text, fresh boolean DEFAULT false)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync.retry(sync._pending_id(delivery), fresh)
$$;
COMMENT ON FUNCTION sync.retry(text, boolean) IS 'Sends a held delivery, given as route/seq, again now';

-- The next delivery of the record may go when this one, its head, is gone.
CREATE FUNCTION sync._release_behind(route integer, record text)
RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE sync.pending p SET state = 'retry', next_attempt_at = clock_timestamp()
     WHERE p.state = 'behind'
       AND p.id = (SELECT n.id FROM sync.pending n
                    WHERE n.route_id = route AND n.record_id = record ORDER BY n.seq LIMIT 1)
$$;
COMMENT ON FUNCTION sync._release_behind(integer, text) IS 'Lets the earliest delivery of a record go when it stood behind another';

CREATE FUNCTION sync.discard(id bigint, reason text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p sync.pending := sync._locked_pending(discard.id);
BEGIN
    IF p.state IN ('retry', 'ambiguous')
       AND sync._open_claim(p.route_id, p.seq, greatest(p.event_at, clock_timestamp() - interval '10 min')) THEN
        RAISE EXCEPTION 'a request of delivery %/% may be under way', p.route_id, p.seq
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'Its answer would find the delivery gone.',
                  HINT = 'Pause the system and try again when the answer, or the time-out, has been recorded.';
    END IF;
    INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state, code, message)
    VALUES (0, clock_timestamp(), p.route_id, p.seq, true, 'discarded', 'discarded', p.code,
            concat_ws(': ', format('discarded by %s while %s', session_user, p.state), discard.reason));
    DELETE FROM sync.pending t WHERE t.id = p.id;
    PERFORM sync._lapse_delivery(p.route_id, p.seq, 'the delivery was discarded');
    PERFORM sync._audit_delivery('delivery.discarded', p, '{}', discard.reason);
    PERFORM sync._release_behind(p.route_id, p.record_id);
    PERFORM sync._change();
END
$$;
COMMENT ON FUNCTION sync.discard(bigint, text) IS 'Ends a held delivery without sending it, and lets the record''s next one go';

CREATE FUNCTION sync.discard(delivery text, reason text DEFAULT NULL)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync.discard(sync._pending_id(delivery), reason)
$$;
COMMENT ON FUNCTION sync.discard(text, text) IS 'Ends a held delivery, given as route/seq, without sending it';

CREATE FUNCTION sync.drop_route(route text, force boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.route;
    held bigint;
    flying bigint;
    queued bigint;
BEGIN
    SELECT t.* INTO r FROM sync.route t WHERE t.id = sync._route_id(drop_route.route) FOR UPDATE;
    IF r.state = 'dropped' THEN
        RETURN;
    END IF;
    SELECT count(*) FILTER (WHERE u.state NOT IN ('queued', 'in_flight')),
           count(*) FILTER (WHERE u.state = 'in_flight'), count(*) FILTER (WHERE u.state = 'queued')
      INTO held, flying, queued FROM sync._unfinished u WHERE u.route_id = r.id;
    IF held + flying + queued > 0 AND NOT coalesce(force, false) THEN
        RAISE EXCEPTION 'route "%" has unfinished deliveries', r.name
            USING ERRCODE = 'SE013',
                  DETAIL = format('Held: %s, in flight: %s, queued: %s.', held, flying, queued),
                  HINT = 'Wait (sync.wait_idle), settle what is held (sync.retry, sync.discard), or give force => true to discard it.';
    END IF;
    -- Of money each delivery has its row; of others it is enough how many there were.
    IF (SELECT o.financial FROM sync.object o WHERE o.id = r.object_id) THEN
        PERFORM sync._audit_delivery('delivery.discarded', p, jsonb_build_object('with_route', r.name)) FROM sync.pending p WHERE p.route_id = r.id;
    ELSIF held + flying + queued > 0 THEN
        PERFORM sync._audit('delivery.discarded', o.name, NULL, y.name, jsonb_build_object(
                    'with_route', r.name, 'held', held, 'in_flight', flying, 'queued', queued))
           FROM sync.object o, sync.system y WHERE o.id = r.object_id AND y.id = r.system_id;
    END IF;
    INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state, code, message)
    SELECT 0, clock_timestamp(), p.route_id, p.seq, true, 'discarded', 'discarded', p.code,
           format('discarded by %s with its route', session_user)
      FROM sync.pending p WHERE p.route_id = r.id;
    PERFORM sync._lapse_delivery(p.route_id, p.seq, 'the route was dropped') FROM sync.pending p WHERE p.route_id = r.id;
    DELETE FROM sync.pending p WHERE p.route_id = r.id;
    UPDATE sync.route t SET state = 'dropped' WHERE t.id = r.id;
END
$$;
COMMENT ON FUNCTION sync.drop_route(text, boolean) IS 'Stops sending along a route; (force) discards what is unfinished. Its history stays';

CREATE FUNCTION sync.drop_route(id integer, force boolean DEFAULT false)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync.drop_route(id::text, force)
$$;
COMMENT ON FUNCTION sync.drop_route(integer, boolean) IS 'Stops sending along a route, given by id';
