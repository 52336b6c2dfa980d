-- What a delivery passes before its first request: guards, closed periods, policies. The hub asks for
-- deliveries of routes that one of these is about, and for no others.

-- Whether anything holds deliveries of an object.
CREATE FUNCTION sync._gated_routes()
RETURNS SETOF integer
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.id FROM sync.route r JOIN sync.object o ON o.id = r.object_id
     WHERE r.state = 'active'
       AND (EXISTS (SELECT FROM sync.approval_policy p WHERE p.state = 'active' AND p.operation = 'deliver' AND coalesce(p.object, o.name) = o.name)
            OR EXISTS (SELECT FROM sync.guard g WHERE g.state = 'active' AND g.kind = 'route' AND g.object = o.name)
            OR EXISTS (SELECT FROM sync.period_policy p WHERE p.object = o.name)
            -- what was held by something that is gone
            OR EXISTS (SELECT FROM sync.approval_request a WHERE a.object_id = o.id AND a.route_id = r.id AND a.state = 'open'))
$$;
COMMENT ON FUNCTION sync._gated_routes() IS 'Routes whose deliveries a policy, a guard or a period may hold';

-- The first route guard that is not fulfilled. Young ones are looked at soon, old ones more rarely, so
-- that a hundred thousand that wait cost little.
CREATE FUNCTION sync._gate_guard(o sync.object, system text, body jsonb, op text, old jsonb, since timestamptz,
                                 OUT message text, OUT due timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    g sync.guard;
    answer record;
BEGIN
    FOR g IN SELECT * FROM sync.guard t
              WHERE t.state = 'active' AND t.kind = 'route' AND t.object = o.name AND coalesce(t.system, $2) = $2 ORDER BY t.name
    LOOP
        answer := sync._holds(o.id, g.applies, g.run_as, body, op, old);
        CONTINUE WHEN answer.error IS NULL AND answer.holds IS NOT TRUE;
        answer := sync._holds(o.id, g.condition, g.run_as, body, op, old);
        CONTINUE WHEN answer.error IS NULL AND answer.holds;
        message := g.message || coalesce(': its condition failed: ' || answer.error, '');
        due := clock_timestamp() + greatest(g.recheck, least((clock_timestamp() - since) / 10, interval '10 min'));
        RETURN;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._gate_guard(sync.object, text, jsonb, text, jsonb, timestamptz) IS 'What holds a delivery, in the words of its guard; NULL: nothing';

-- Who made the change, and who made those before it that were not approved: their changes are in it.
CREATE FUNCTION sync._authors(route integer, object_id integer, record_id text, context jsonb)
RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(DISTINCT who ORDER BY who) FILTER (WHERE who <> ''), '{}')
      FROM (SELECT lower(btrim(context ->> k)) FROM unnest('{user,login,actor}'::text[]) k
            UNION ALL
            SELECT unnest(a.requesters) FROM sync.approval_request a
             WHERE a.object_id = $2 AND a.record_id = $3 AND a.route_id = $1
               AND a.id > coalesce((SELECT max(b.id) FROM sync.approval_request b
                                     WHERE b.object_id = $2 AND b.record_id = $3 AND b.route_id = $1 AND b.state = 'approved'), 0)) w (who)
$$;
COMMENT ON FUNCTION sync._authors(integer, integer, text, jsonb) IS 'Everybody who may not approve a delivery';

-- One question of the gate: what is asked for a delivery, and how far that has come.
CREATE TYPE sync._gate_question AS (
    operation text, object_id integer, route_id integer, seq bigint, event_at timestamptz, record_id text,
    amount numeric, currency text, policy text, approvers name[], expires interval, hash text, call jsonb, context jsonb);
COMMENT ON TYPE sync._gate_question IS 'What the gate asks approval for';

CREATE FUNCTION sync._gate_ask(q sync._gate_question)
RETURNS sync.approval_request
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made sync.approval_request;
BEGIN
    INSERT INTO sync.approval_request AS a (operation, object_id, record_id, amount, currency, policy, approvers, call, reason, payload_hash,
                                            route_id, seq, event_at, requested_by, requesters, expires_at)
    VALUES (q.operation, q.object_id, q.record_id, q.amount, q.currency, q.policy, coalesce(q.approvers, '{}'), coalesce(q.call, '{}'),
            q.context ->> 'reason', q.hash, q.route_id, q.seq, q.event_at, coalesce(q.context ->> 'user', 'unknown'),
            sync._authors(q.route_id, q.object_id, q.record_id, q.context), clock_timestamp() + q.expires)
    RETURNING a.* INTO made;
    PERFORM sync._audit('approval.requested', o.name, q.record_id, y.name, sync._describe(made), q.context ->> 'reason')
       FROM sync.route r JOIN sync.system y ON y.id = r.system_id JOIN sync.object o ON o.id = r.object_id WHERE r.id = q.route_id;
    RETURN made;
END
$$;
COMMENT ON FUNCTION sync._gate_ask(sync._gate_question) IS 'Asks for the approval of a delivery';

-- pass, hold until `due`, or dead. A request that somebody is deciding about right now is not waited for.
CREATE FUNCTION sync._gate_request(q sync._gate_question, parked text, OUT verdict text, OUT message text, OUT due timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.approval_request;
    latest bigint;
BEGIN
    SELECT max(a.id) INTO latest FROM sync.approval_request a
     WHERE a.route_id = q.route_id AND a.seq = q.seq AND a.event_at = q.event_at AND a.operation = q.operation;
    IF latest IS NOT NULL THEN
        SELECT * INTO r FROM sync.approval_request a WHERE a.id = latest FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            verdict := 'hold';
            message := format('approval %s is being decided', latest);
            due := clock_timestamp() + interval '1 s';
            RETURN;
        END IF;
    END IF;
    IF r.state IN ('open', 'approved') AND r.payload_hash <> q.hash THEN
        PERFORM sync._lapse(r.id, 'another request would be sent now');
        r := NULL;
    ELSIF r.state = 'open' AND r.expires_at <= clock_timestamp() THEN
        PERFORM sync._expire(r);
        r.state := 'expired';
        parked := 'held';
    END IF;
    -- A person who retried what had expired, or was refused, asks once more.
    IF r.id IS NULL OR r.state = 'lapsed' OR r.state IN ('expired', 'rejected') AND parked IS DISTINCT FROM 'held' THEN
        r := sync._gate_ask(q);
    END IF;
    verdict := CASE r.state WHEN 'approved' THEN 'pass' WHEN 'expired' THEN 'dead' ELSE 'hold' END;
    message := CASE r.state WHEN 'open' THEN format('waits for approval %s: %s', r.id, r.policy)
                            WHEN 'rejected' THEN format('approval %s was rejected: %s', r.id, r.decision_reason)
                            WHEN 'expired' THEN format('approval %s was waited for in vain until %s', r.id, date_trunc('second', r.expires_at)) END;
    due := CASE r.state WHEN 'open' THEN r.expires_at ELSE clock_timestamp() + interval '10 min' END;
END
$$;
COMMENT ON FUNCTION sync._gate_request(sync._gate_question, text) IS 'What has become of an approval that a delivery needs; asks for it when nobody has';

-- Closed and soft-closed periods. need: approval is demanded for q.operation; else held with the message.
CREATE FUNCTION sync._gate_period(o sync.object, body jsonb, q sync._gate_question,
                                  OUT message text, OUT moved jsonb, OUT asks sync._gate_question, OUT soft text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    policy constant text := (SELECT p.policy FROM sync.period_policy p WHERE p.object = o.name);
    dated record;
    period record;
    target record;
BEGIN
    IF policy IS NULL THEN
        RETURN;
    END IF;
    dated := sync._accounting_date(o, body);
    IF dated.day IS NULL THEN
        RETURN; -- the system that posts it gives it its date
    END IF;
    IF dated.entity IS NULL THEN
        message := format('is dated %s, and its legal entity is not known', dated.day);
        RETURN;
    END IF;
    SELECT sync._moved_fields(m.posted_date, m.posted_period) INTO moved FROM sync.period_move m
     WHERE m.object_id = o.id AND m.record_id = q.record_id AND m.original_date = dated.day AND m.posted_date <> dated.day;
    IF moved IS NOT NULL THEN
        RETURN;
    END IF;
    period := sync._accounting_period(o, dated.entity, dated.day, false);
    IF period.status = 'soft_closed' THEN
        soft := format('the period from %s to %s is soft-closed', period.first, period.last);
    ELSIF period.status = 'closed' THEN
        message := format('the period from %s to %s is closed', period.first, period.last);
        target := sync._accounting_period(o, dated.entity, dated.day, true);
        IF policy = 'next_open' AND target.first IS NOT NULL THEN
            asks := q;
            asks.operation := 'post_in_next_period';
            asks.policy := format('%s; it would be posted on %s', message, target.first);
            asks.expires := interval '30 days';
            asks.approvers := '{}';
            asks.call := jsonb_build_object('entity', dated.entity, 'original_date', dated.day, 'original_period', period.first,
                                            'posted_date', target.first, 'posted_period', target.first);
        ELSIF policy = 'next_open' THEN
            message := message || ', and no later one is open';
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION sync._gate_period(sync.object, jsonb, sync._gate_question) IS 'What a document''s accounting period means for its delivery';

-- Verdicts: pass; hold until due, with code and message; dead; move: the body with `patch` put over it is
-- what is asked about next.
CREATE FUNCTION sync._gate(route integer, seq bigint, event_at timestamptz, record_id text, op text, body jsonb, old jsonb, context jsonb,
                           connector integer, parked text,
                           OUT verdict text, OUT code text, OUT message text, OUT due timestamptz, OUT patch jsonb)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    system text;
    since timestamptz;
    guard record;
    period record;
    need record;
    answer record;
    q sync._gate_question;
BEGIN
    SELECT t.* INTO STRICT o FROM sync.route r JOIN sync.object t ON t.id = r.object_id WHERE r.id = $1;
    SELECT y.name INTO system FROM sync.route r JOIN sync.system y ON y.id = r.system_id WHERE r.id = $1;
    SELECT p.created_at INTO since FROM sync.pending p WHERE p.route_id = $1 AND p.seq = $2;
    q.object_id := o.id; q.route_id := $1; q.seq := $2; q.event_at := $3; q.record_id := $4; q.context := $8;
    q.hash := encode(sha256(convert_to(concat_ws(' ', $9, $5, $6::text), 'UTF8')), 'hex');
    SELECT a.amount, a.currency INTO q.amount, q.currency FROM sync._amount($6) a;

    guard := sync._gate_guard(o, system, $6, $5, $7, coalesce(since, clock_timestamp()));
    IF guard.message IS NOT NULL THEN
        verdict := 'hold'; code := 'guard'; message := guard.message; due := guard.due;
        RETURN;
    END IF;

    period := sync._gate_period(o, $6, q);
    IF period.moved IS NOT NULL THEN
        verdict := 'move'; patch := period.moved;
        RETURN;
    ELSIF period.message IS NOT NULL THEN
        verdict := 'hold'; code := 'period_closed'; message := period.message;
        due := clock_timestamp() + greatest(interval '30 s', least((clock_timestamp() - since) / 10, interval '10 min'));
        IF (period.asks).operation IS NOT NULL THEN
            answer := sync._gate_request(period.asks, parked);
            -- It may be opened again before anybody decides.
            verdict := replace(answer.verdict, 'pass', 'hold'); message := answer.message;
            due := least(answer.due, due);
            code := CASE verdict WHEN 'dead' THEN 'approval_expired' ELSE code END;
        END IF;
        RETURN;
    END IF;

    SELECT concat_ws('; ', period.soft, string_agg(d.policy, '; ')) AS policy,
           array_agg(DISTINCT d.approvers) FILTER (WHERE d.approvers IS NOT NULL) AS approvers,
           coalesce(min(d.expires), interval '7 days') AS expires
      INTO need FROM sync._demands('deliver', o.id, q.amount, q.currency, $6, $5, $7) d;
    IF need.policy = '' THEN
        PERFORM sync._lapse_delivery($1, $2, 'nothing demands it any more');
        verdict := 'pass';
        RETURN;
    END IF;
    q.operation := 'deliver'; q.policy := need.policy; q.approvers := need.approvers; q.expires := need.expires;
    answer := sync._gate_request(q, parked);
    verdict := answer.verdict; message := answer.message; due := answer.due;
    code := CASE verdict WHEN 'dead' THEN 'approval_expired' ELSE 'approval' END;
END
$$;
COMMENT ON FUNCTION sync._gate(integer, bigint, timestamptz, text, text, jsonb, jsonb, jsonb, integer, text) IS
    'Whether a delivery may be sent, has to wait, or waited in vain; asked by the hub before its first request';
