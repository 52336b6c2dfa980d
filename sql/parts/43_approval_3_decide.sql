-- The second person: approve, reject, let expire.

-- Only what this extension made may be run for an approver: by its name, its arguments and its owner.
CREATE FUNCTION sync._approved_function(operation text)
RETURNS regprocedure
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.oid::regprocedure
      FROM pg_extension e
      JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
      JOIN pg_proc p ON p.oid = d.objid AND p.proowner = e.extowner
     WHERE e.extname = 'sync_ext' AND operation ~ '^[a-z_]+$' AND p.pronamespace = 'sync'::regnamespace
       AND p.proname = '_approved_' || operation AND p.pronargs = 2 AND p.proargtypes[0] = 'jsonb'::regtype AND p.proargtypes[1] = 'bigint'::regtype
       AND p.prorettype = 'jsonb'::regtype
$$;
COMMENT ON FUNCTION sync._approved_function(text) IS 'The function that does an approved act; NULL: there is none';

CREATE FUNCTION sync._refuse_decided(r sync.approval_request)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF r.state <> 'open' THEN
        RAISE EXCEPTION 'approval % is %', r.id, r.state
            USING ERRCODE = 'SE067',
                  DETAIL = concat_ws(' ', format('It was %s at %s', r.state, r.decided_at), 'by ' || r.decided_by::text, '(' || r.decision_reason || ')') || '.',
                  HINT = 'View sync.approval lists what is open.';
    ELSIF r.expires_at <= clock_timestamp() THEN
        RAISE EXCEPTION 'approval % has expired', r.id
            USING ERRCODE = 'SE067', DETAIL = format('It could be decided until %s.', r.expires_at),
                  HINT = 'Whoever wants the act asks for it again; a delivery is a dead letter, and sync.retry() asks anew.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._refuse_decided(sync.approval_request) IS 'An error when there is nothing left to decide';

-- Locked: whoever decides at the same moment waits here, and then sees what was decided.
CREATE FUNCTION sync._decide(approval bigint, reason text)
RETURNS sync.approval_request
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.approval_request;
    missing name;
BEGIN
    PERFORM sync._check_reason(reason);
    SELECT * INTO r FROM sync.approval_request a WHERE a.id = approval FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no approval %', approval
            USING ERRCODE = 'undefined_object', HINT = 'View sync.approval lists what is open.';
    END IF;
    PERFORM sync._refuse_decided(r);
    SELECT a INTO missing FROM unnest('sync_approver'::name || r.approvers) a
     WHERE NOT EXISTS (SELECT FROM pg_roles g WHERE g.rolname = a AND pg_has_role(session_user, g.oid, 'MEMBER')) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'approval % is for members of role "%" to decide', r.id, missing
            USING ERRCODE = 'insufficient_privilege', DETAIL = format('Role "%s" is not one.', session_user),
                  HINT = format('Policy: %s.', r.policy);
    END IF;
    RETURN r;
END
$$;
COMMENT ON FUNCTION sync._decide(bigint, text) IS 'An open request, locked, that the session''s user may decide about; or an error';

CREATE FUNCTION sync._describe(r sync.approval_request)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object('approval', r.id, 'operation', r.operation, 'policy', r.policy, 'requested_by', r.requested_by,
        'requesters', r.requesters, 'amount', r.amount, 'currency', r.currency, 'call', r.call,
        'delivery', CASE WHEN r.route_id IS NOT NULL THEN r.route_id || '/' || r.seq END))
$$;
COMMENT ON FUNCTION sync._describe(sync.approval_request) IS 'A request as its audit rows tell it';

-- What was shown is what is approved. Where it is no longer, the same is asked for what there is now.
CREATE FUNCTION sync._renew(r sync.approval_request, hash text, why text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made sync.approval_request;
BEGIN
    PERFORM sync._lapse(r.id, why);
    IF hash IS NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO sync.approval_request AS a (operation, object_id, record_id, amount, currency, policy, approvers, call, reason, payload_hash,
                                            requested_by, requesters, expires_at)
    SELECT r.operation, r.object_id, r.record_id, m.amount, m.currency, r.policy, r.approvers, r.call, r.reason, hash, r.requested_by, r.requesters,
           clock_timestamp() + (r.expires_at - r.requested_at)
      FROM sync._amount(sync._record_or_null(r.object_id, r.record_id)) m
    RETURNING a.* INTO made;
    PERFORM sync._audit('approval.requested', (SELECT o.name FROM sync.object o WHERE o.id = r.object_id), r.record_id, NULL,
                        sync._describe(made) || jsonb_build_object('instead_of', r.id), r.reason);
    RETURN made.id;
END
$$;
COMMENT ON FUNCTION sync._renew(sync.approval_request, text, text) IS 'Lets a request lapse and asks the same for the record as it is now; NULL when it is gone';

CREATE FUNCTION sync.approve(id bigint, reason text)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.approval_request := sync._decide(approve.id, reason);
    same text[];
    hash text;
    renewed bigint;
    done jsonb;
BEGIN
    same := ARRAY(SELECT i FROM unnest(sync._identities()) i WHERE i = ANY (r.requesters));
    IF cardinality(same) > 0 THEN
        RAISE EXCEPTION 'who asked for approval % cannot grant it', r.id
            USING ERRCODE = 'SE065',
                  DETAIL = format('"%s" asked for it, or made the change. Roles, superuser rights and SET SESSION AUTHORIZATION do not matter.',
                                  array_to_string(same, '", "')),
                  HINT = 'Another member of sync_approver decides, under a login of his own.';
    END IF;
    IF r.payload_hash IS NOT NULL AND r.route_id IS NULL THEN
        SELECT sync._payload_hash(sync._record_or_null(r.object_id, r.record_id), o.volatile_columns) INTO hash
          FROM sync.object o WHERE o.id = r.object_id;
        IF hash IS DISTINCT FROM r.payload_hash THEN
            renewed := sync._renew(r, hash, 'the record has changed since approval was asked for');
            RAISE WARNING 'approval % has lapsed: the record has changed since', r.id
                USING HINT = coalesce(format('Nothing was done. Look at approval %s, which was asked for instead.', renewed), 'The record is gone.');
            RETURN jsonb_build_object('approval', r.id, 'state', 'lapsed', 'instead', renewed);
        END IF;
    END IF;
    UPDATE sync.approval_request a
       SET state = 'approved', decided_by = session_user, decided_at = clock_timestamp(), decision_reason = approve.reason
     WHERE a.id = r.id;
    PERFORM sync._audit('approval.granted', (SELECT o.name FROM sync.object o WHERE o.id = r.object_id), r.record_id, NULL, sync._describe(r), reason);
    IF r.call IS NOT NULL THEN
        IF sync._approved_function(r.operation) IS NULL THEN
            RAISE EXCEPTION 'there is nothing that does an approved "%"', r.operation
                USING ERRCODE = 'undefined_function', HINT = 'Extension sync_ext is damaged; update or restore it.';
        END IF;
        EXECUTE format('SELECT sync.%I($1, $2)', '_approved_' || r.operation) INTO done USING r.call, r.id;
        UPDATE sync.approval_request a SET result = done WHERE a.id = r.id AND done IS NOT NULL;
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object('approval', r.id, 'state', 'approved', 'result', done));
END
$$;
COMMENT ON FUNCTION sync.approve(bigint, text) IS 'Grants an approval and does what waited for it; never for who asked';

-- Who asked may reject, too: that is how he withdraws.
CREATE FUNCTION sync.reject(id bigint, reason text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.approval_request := sync._decide(reject.id, reason);
BEGIN
    UPDATE sync.approval_request a
       SET state = 'rejected', decided_by = session_user, decided_at = clock_timestamp(), decision_reason = reject.reason
     WHERE a.id = r.id;
    PERFORM sync._audit('approval.rejected', (SELECT o.name FROM sync.object o WHERE o.id = r.object_id), r.record_id, NULL, sync._describe(r), reason);
    IF r.operation = 'deliver' THEN
        PERFORM sync.discard(p.id, format('approval %s was rejected: %s', r.id, reason))
           FROM sync.pending p WHERE p.route_id = r.route_id AND p.seq = r.seq AND p.event_at = r.event_at;
    ELSIF r.route_id IS NOT NULL THEN
        PERFORM sync._change();
    END IF;
END
$$;
COMMENT ON FUNCTION sync.reject(bigint, text) IS 'Refuses an approval; a delivery that waits for it is discarded, and later ones of its record go on';

-- Deliveries that wait are told by the hub when their time is over; everything else is marked here.
CREATE FUNCTION sync._expire_approvals()
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.approval_request;
    n integer := 0;
BEGIN
    FOR r IN SELECT * FROM sync.approval_request a
              WHERE a.state = 'open' AND a.expires_at <= clock_timestamp()
                AND NOT EXISTS (SELECT FROM sync.pending p WHERE p.route_id = a.route_id AND p.seq = a.seq AND p.event_at = a.event_at)
              ORDER BY a.id FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM sync._expire(r);
        n := n + 1;
    END LOOP;
    DELETE FROM sync.task_assignment t
     WHERE t.assigned_at < clock_timestamp() - interval '1 hour' AND NOT EXISTS (SELECT FROM sync._task k WHERE k.kind = t.kind AND k.id = t.id);
    RETURN n;
END
$$;
COMMENT ON FUNCTION sync._expire_approvals() IS 'Marks what was not decided in time, and forgets who cared for tasks that are done; run by the hub every ten minutes';

CREATE FUNCTION sync._expire(r sync.approval_request)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE sync.approval_request a SET state = 'expired', decided_at = clock_timestamp(), decision_reason = 'nobody decided in time' WHERE a.id = r.id;
    PERFORM sync._audit('approval.expired', (SELECT o.name FROM sync.object o WHERE o.id = r.object_id), r.record_id, NULL, sync._describe(r),
                        'nobody decided in time');
END
$$;
COMMENT ON FUNCTION sync._expire(sync.approval_request) IS 'Marks a request that was not decided in time';

-- ---- changes of state ----

CREATE FUNCTION sync.request_approval(operation text, object text, record_id text, reason text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    body jsonb;
    guards text;
    made sync.approval_request;
    whole_id text;
BEGIN
    PERFORM sync._check_reason(reason);
    IF operation IS DISTINCT FROM 'state_change' THEN
        RAISE EXCEPTION 'approval of "%" is not asked for by itself', operation
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Only state_change is; other acts ask when somebody does them.';
    END IF;
    SELECT t.* INTO o FROM sync.object t WHERE t.id = sync._object_id(request_approval.object);
    SELECT string_agg(g.name, ', ' ORDER BY g.name) INTO guards FROM sync.guard g
     WHERE g.state = 'active' AND g.kind = 'change' AND g.object = o.name;
    IF guards IS NULL THEN
        RAISE EXCEPTION 'no guard holds changes of object "%"', o.name
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Make the change: nobody needs to approve it.';
    END IF;
    whole_id := sync._record_id(o.id, request_approval.record_id);
    body := sync._record_or_null(o.id, whole_id);
    IF body IS NULL THEN
        RAISE EXCEPTION 'record "%" of object "%" does not exist', record_id, o.name
            USING ERRCODE = 'no_data_found', HINT = 'Write it in a state that the guard lets pass, then ask for the change of state.';
    END IF;
    SELECT a.* INTO made FROM sync.approval_request a
     WHERE a.operation = 'state_change' AND a.object_id = o.id AND a.record_id = whole_id AND a.used_at IS NULL
       AND a.state IN ('open', 'approved') AND a.expires_at > clock_timestamp();
    IF FOUND AND made.payload_hash = sync._payload_hash(body, o.volatile_columns) THEN
        RETURN made.id;
    ELSIF FOUND THEN
        PERFORM sync._lapse(made.id, 'the record has changed since');
    END IF;
    INSERT INTO sync.approval_request AS a (operation, object_id, record_id, amount, currency, policy, call, reason, payload_hash, requesters, expires_at)
    SELECT 'state_change', o.id, whole_id, m.amount, m.currency, 'guard: ' || guards,
           jsonb_build_object('object', o.name, 'record_id', whole_id,
                              'before', sync._payload_hash(body - 'lines', o.volatile_columns), 'lines', sync._lines_hash(body)), request_approval.reason,
           sync._payload_hash(body, o.volatile_columns), sync._identities(), clock_timestamp() + interval '7 days'
      FROM sync._amount(body) m
    RETURNING a.* INTO made;
    PERFORM sync._audit('approval.requested', o.name, made.record_id, NULL, sync._describe(made), reason);
    RETURN made.id;
END
$$;
COMMENT ON FUNCTION sync.request_approval(text, text, text, text) IS
    'Asks for the approval of a change of state that a guard refuses; the approval holds for one change of the record as it is now';

-- The change itself is made by whoever wanted it, but for what came in from a system: that is tried again.
CREATE FUNCTION sync._approved_state_change(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n integer;
BEGIN
    UPDATE sync.inbox i SET retry_at = clock_timestamp()
      FROM sync.object o, sync.external_id x
     WHERE o.name = args ->> 'object' AND x.object_id = o.id AND x.record_id = args ->> 'record_id'
       AND i.system_id = x.system_id AND i.object_id = x.object_id AND i.remote_id = x.remote_id AND i.sqlstate = 'SE066';
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM sync._wake();
    RETURN jsonb_build_object('inbox', n);
END
$$;
COMMENT ON FUNCTION sync._approved_state_change(jsonb, bigint) IS 'Has what a guard kept in the inbox tried again; an application makes its change itself';
