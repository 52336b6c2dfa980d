-- For applications and scripts: what became of my record?

CREATE FUNCTION sync.remote_id(object text, id text, system text)
RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bound text;
    the_object integer;
    whole_id text;
BEGIN
    SELECT x.remote_id INTO bound
      FROM sync.external_id x
      JOIN sync.system y ON y.id = x.system_id
      JOIN sync.object o ON o.id = x.object_id
     WHERE x.record_id = remote_id.id AND y.name = remote_id.system AND o.name = remote_id.object;
    IF NOT FOUND THEN
        -- Distinguish 'not bound yet' from a misspelt name, and from another spelling of the id.
        the_object := sync._object_id(remote_id.object);
        IF NOT EXISTS (SELECT FROM sync._server s WHERE s.name = remote_id.system) THEN
            RAISE EXCEPTION 'system "%" does not exist', system USING ERRCODE = 'SE010',
                HINT = 'View sync.system_status lists the systems.';
        END IF;
        IF remote_id.id IS NOT NULL THEN
            whole_id := sync._record_id(the_object, remote_id.id);
        END IF;
        IF whole_id <> remote_id.id THEN
            SELECT x.remote_id INTO bound FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id
             WHERE x.object_id = the_object AND x.record_id = whole_id AND y.name = remote_id.system;
        END IF;
    END IF;
    RETURN bound;
END
$$;
COMMENT ON FUNCTION sync.remote_id(text, text, text) IS 'Id that a system knows a record by; NULL when it is not bound there';

-- Each look needs a snapshot of its own, which only READ COMMITTED gives. And what this transaction
-- wrote is sent after its commit only; captured events are still in this session's memory, so any
-- write counts.
CREATE FUNCTION sync._check_can_wait(timeout interval)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Without an end, a call would hold its snapshot for ever.
    IF timeout IS NULL OR timeout > interval '1 day' THEN
        RAISE EXCEPTION 'a time-out of at most one day is required'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For instance: ''30 s''.';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'cannot wait in a transaction with isolation %', current_setting('transaction_isolation')
            USING ERRCODE = 'active_sql_transaction',
                  DETAIL = 'Its snapshot never shows what the workers do meanwhile.',
                  HINT = 'Wait in a READ COMMITTED transaction.';
    END IF;
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'cannot wait in a transaction that has written'
            USING ERRCODE = 'active_sql_transaction',
                  DETAIL = 'Its changes are sent after it has committed.',
                  HINT = 'COMMIT first, then wait.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_can_wait(interval) IS 'An error when waiting in this transaction could never end';

-- A look beside a busy hub may take as long as many deliveries: who waits must not take the processor
-- from what he waits for.
CREATE FUNCTION sync._pause_between_looks(looks integer, began timestamptz, deadline timestamptz)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    took_s double precision := extract(epoch FROM clock_timestamp() - began);
    left_s double precision := extract(epoch FROM deadline - clock_timestamp());
BEGIN
    PERFORM pg_sleep(greatest(0, least(greatest(least(0.01 * 1.5 ^ least(looks, 10), 0.1), least(took_s * 10, 2)), left_s)));
END
$$;
COMMENT ON FUNCTION sync._pause_between_looks(integer, timestamptz, timestamptz) IS
    'Sleeps after the look that began then, so many looks after the first: 10 to 100 ms, at least ten times what it took, not beyond the deadline';

-- The hub commits asynchronously: what is seen here might be gone after a crash, and be settled once more.
CREATE FUNCTION sync._flush()
RETURNS void
LANGUAGE c STRICT
AS 'MODULE_PATHNAME', 'se_flush';
COMMENT ON FUNCTION sync._flush() IS 'Waits until all that has committed is on disk, whatever synchronous_commit says';

CREATE FUNCTION sync.wait_for(object text, id text, system text, timeout interval DEFAULT '30 s')
RETURNS TABLE (outcome text, remote_id text, code text, message text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    the_object integer;
    the_system integer;
    the_route integer;
    the_record text;
    target bigint;
    first record;
    held sync.pending;
    deadline timestamptz;
    began timestamptz := clock_timestamp();
    looks integer := 0;
BEGIN
    PERFORM sync._check_can_wait(timeout);
    deadline := clock_timestamp() + greatest(timeout, interval '0');
    the_object := sync._object_id(wait_for.object);
    the_system := sync._system_id(wait_for.system);
    SELECT r.id INTO the_route FROM sync.route r
     WHERE r.state <> 'dropped' AND r.system_id = the_system AND r.object_id = the_object;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'object "%" has no route to system "%"', wait_for.object, wait_for.system
            USING ERRCODE = 'undefined_object', HINT = 'Create one with sync.create_route().';
    END IF;
    the_record := sync._record_id(the_object, wait_for.id);

    -- What is unfinished now is waited for; later changes of the record do not prolong the wait.
    SELECT max(u.seq) INTO target
      FROM (SELECT b.seq, b.route_id, b.record_id FROM sync._unfinished b
            UNION ALL SELECT b.seq, b.route_id, b.record_id FROM sync._returning b) u
     WHERE u.route_id = the_route AND u.record_id = the_record;
    WHILE target IS NOT NULL LOOP
        SELECT u.seq, u.state, u.pending_id INTO first
          FROM (TABLE sync._unfinished UNION ALL TABLE sync._returning) u
         WHERE u.route_id = the_route AND u.record_id = the_record AND u.seq <= target
         ORDER BY u.seq LIMIT 1;
        EXIT WHEN NOT FOUND;
        SELECT p.* INTO held FROM sync.pending p WHERE p.id = first.pending_id;
        IF held.state IN ('dead', 'conflict') THEN
            RETURN QUERY SELECT held.state, sync.remote_id(wait_for.object, the_record, wait_for.system),
                                held.code, held.message;
            RETURN;
        END IF;
        IF clock_timestamp() >= deadline THEN
            RETURN QUERY
            SELECT 'timeout', sync.remote_id(wait_for.object, the_record, wait_for.system), 'SE051',
                   concat_ws('; ',
                       format('after %s the delivery %s/%s is %s', wait_for.timeout, the_route, first.seq, first.state),
                       (SELECT format('it waits for %s %s', o.name, held.wait_record_id)
                          FROM sync.object o WHERE held.state = 'waiting' AND o.id = held.wait_object_id),
                       CASE held.state WHEN 'held' THEN 'it is held: ' || held.message ELSE 'last error: ' || held.message END,
                       (SELECT format('system "%s" is paused', y.name) || coalesce(': ' || y.paused_reason, '')
                          FROM sync.system y WHERE y.id = the_system AND y.paused),
                       (SELECT 'the system''s mode is paused'
                         WHERE sync._system_options(wait_for.system) ->> 'mode' = 'paused'),
                       (SELECT 'the hub does not speak: ' || s.reason FROM sync.hub_status() s WHERE NOT s.speaks),
                       CASE WHEN NOT sync._preloaded() THEN 'no workers: sync_ext is not preloaded' END);
            RETURN;
        END IF;
        PERFORM sync._pause_between_looks(looks, began, deadline);
        looks := looks + 1;
        began := clock_timestamp();
    END LOOP;
    PERFORM sync._flush();

    RETURN QUERY
    SELECT f.state, sync.remote_id(wait_for.object, the_record, wait_for.system), f.code, f.message
      FROM sync.claim c
      JOIN sync.outcome f ON f.route_id = c.route_id AND f.seq = c.seq AND f.final
     WHERE c.record_id = the_record AND c.object_id = the_object AND c.route_id = the_route
     ORDER BY c.seq DESC, f.at DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN QUERY
        SELECT CASE WHEN b.remote IS NULL THEN 'unsynced' ELSE 'done' END, b.remote, NULL::text,
               CASE WHEN b.remote IS NULL THEN 'no change of this record was ever sent along the route'
                    ELSE 'nothing of this record is on its way' END
          FROM (SELECT sync.remote_id(wait_for.object, the_record, wait_for.system) AS remote) b;
    END IF;
END
$$;
COMMENT ON FUNCTION sync.wait_for(text, text, text, interval) IS 'Waits until the committed changes of a record have reached a system, or need a person; outcome timeout explains what it waits for';

-- Traffic that moves by itself: what is paused, dead or waits for a person does not count. What costs more
-- to find stands last and is looked for only when nothing before it is there.
CREATE FUNCTION sync._busy()
RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    WITH live AS (
        SELECT y.id, y.name FROM sync.system y
          JOIN sync._server s ON s.name = y.name
         WHERE NOT y.paused AND coalesce(s.options ->> 'mode', 'live') <> 'paused'),
    kept AS NOT MATERIALIZED (
        SELECT p.*, r.name AS route, r.system_id
          FROM sync.pending p
          JOIN sync.route r ON r.id = p.route_id AND r.state = 'active'
          JOIN live ON live.id = r.system_id),
    named AS MATERIALIZED (
        SELECT w.system_id, w.wait_object_id, (SELECT max(e.bound_at) FROM sync.external_id e
                                                WHERE e.system_id = w.system_id AND e.object_id = w.wait_object_id) AS bound_at
          FROM (SELECT DISTINCT k.system_id, k.wait_object_id FROM kept k WHERE k.state = 'waiting' AND strpos(k.wait_record_id, '=') > 0) w)
    SELECT b.what FROM (
        SELECT format('event %s for route "%s" is %s', u.seq, r.name, u.state) AS what
          FROM sync._unfinished u
          JOIN sync.route r ON r.id = u.route_id AND r.state = 'active'
          JOIN live ON live.id = u.system_id
         WHERE u.state IN ('queued', 'in_flight', 'retry', 'ambiguous')
        UNION ALL
        SELECT format('API call %s to system "%s" is %s', a.id, live.name, a.state)
          FROM sync.api_call a JOIN live ON live.id = a.system_id
         WHERE a.state IN ('queued', 'sent')
        UNION ALL
        SELECT format('job %s, %s, is %s', j.id, j.kind, concat_ws(': ', j.state, j.phase))
          FROM sync.job j
         WHERE j.state IN ('queued', 'running') AND (j.system_id IS NULL OR j.system_id IN (SELECT live.id FROM live))
        UNION ALL
        SELECT format('object "%s" was asked for from system "%s"', o.name, live.name)
          FROM sync.stream_cursor k
          JOIN sync.stream t ON t.id = k.stream_id AND t.state = 'active'
          JOIN sync.object o ON o.id = t.object_id
          JOIN live ON live.id = t.system_id
         WHERE k.requested_at IS NOT NULL
           AND (k.started_at IS NULL OR k.started_at < k.requested_at
                OR k.finished_at IS NULL OR k.finished_at < k.started_at)
        UNION ALL
        -- Due once: one whose read failed comes again after a pause, like a dead system.
        SELECT format('%s "%s" is read again from system "%s"', o.name, i.remote_id, live.name)
          FROM sync.inbox i
          JOIN sync.stream t ON t.system_id = i.system_id AND t.object_id = i.object_id AND t.state = 'active'
          JOIN sync.object o ON o.id = i.object_id
          JOIN live ON live.id = i.system_id
         WHERE i.item = 'null' AND i.retry_at <= clock_timestamp()
        UNION ALL
        -- Looked at now, or already between two of its steps. A hub that speaks to the system looks at once; one
        -- that does not, for want of a login, say, would be waited for without end.
        SELECT format('event %s for route "%s" is %s and due', k.seq, k.route, k.state)
          FROM kept k
         WHERE k.state IN ('waiting', 'held') AND k.next_attempt_at BETWEEN clock_timestamp() - interval '5 s' AND clock_timestamp()
        UNION ALL
        -- What it waited for is there: bound in one transaction of the hub, let go in another.
        SELECT format('event %s for route "%s" waited for what is there now', k.seq, k.route)
          FROM kept k
         WHERE k.state = 'waiting' AND strpos(k.wait_record_id, '=') = 0
           AND EXISTS (SELECT FROM sync.external_id e
                         LEFT JOIN sync.mirror m USING (system_id, object_id, remote_id)
                        WHERE e.system_id = k.system_id AND e.object_id = k.wait_object_id AND e.record_id = k.wait_record_id
                          AND (k.wait_state IS NULL OR m.seen_at > k.created_at))
        UNION ALL
        -- The one before it went when somebody had this one locked.
        SELECT format('event %s for route "%s" is first of its record now', k.seq, k.route)
          FROM kept k
         WHERE k.state = 'behind'
           AND NOT EXISTS (SELECT FROM sync.pending q WHERE q.route_id = k.route_id AND q.record_id = k.record_id AND q.seq < k.seq)
        UNION ALL
        SELECT format('event %s for route "%s" goes back to where it came from', u.seq, r.name)
          FROM sync._returning u
          JOIN sync.route r ON r.id = u.route_id
          JOIN live ON live.id = u.system_id
        UNION ALL
        -- Which record the column names, only the hub can tell; it asks again when any has been bound since.
        SELECT format('event %s for route "%s" may wait for what is there now', k.seq, k.route)
          FROM kept k
          JOIN named n ON n.system_id = k.system_id AND n.wait_object_id = k.wait_object_id AND n.bound_at > k.created_at
         WHERE k.state = 'waiting' AND strpos(k.wait_record_id, '=') > 0) b
     LIMIT 1
$$;
COMMENT ON FUNCTION sync._busy() IS 'Something that is still on its way; NULL when the hub is idle';

-- What the hub counts costs nothing to ask for; to look beside a busy hub takes a good part of a core.
CREATE FUNCTION sync._under_way()
RETURNS integer
LANGUAGE c STRICT
AS 'MODULE_PATHNAME', 'se_under_way';
COMMENT ON FUNCTION sync._under_way() IS 'How many writing requests to systems that are not paused have no answer yet; 0 does not mean that nothing is on its way';

CREATE FUNCTION sync.wait_idle(timeout interval DEFAULT '60 s')
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    deadline timestamptz;
    began timestamptz;
    looks integer := 0;
    busy text;
BEGIN
    PERFORM sync._check_can_wait(timeout);
    deadline := clock_timestamp() + greatest(timeout, interval '0');
    LOOP
        began := clock_timestamp();
        IF sync._under_way() = 0 OR began >= deadline THEN
            busy := sync._busy();
            IF busy IS NULL THEN
                PERFORM sync._flush();
                RETURN true;
            END IF;
            IF clock_timestamp() >= deadline THEN
                RAISE NOTICE 'not idle after %: %', timeout, busy;
                RETURN false;
            END IF;
        END IF;
        PERFORM sync._pause_between_looks(looks, began, deadline);
        looks := looks + 1;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.wait_idle(interval) IS
    'Waits until nothing that has committed moves by itself any more, and its end is on disk: no delivery is queued, retried, under way, ambiguous or about to be let go, and no call, job, asked-for pull or due read is left. Paused systems, scheduled pulls and what waits for an absent record, a person or a later time do not count. false, with a notice that names what still moves, at the time-out';
