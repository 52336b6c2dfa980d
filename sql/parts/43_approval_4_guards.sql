-- Guards: a change, or a delivery, demands a condition and says a message where it does not hold.

CREATE FUNCTION sync.change_guard()
RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'se_change_guard';
COMMENT ON FUNCTION sync.change_guard() IS 'Trigger of a table whose changes a guard holds to a condition; made by sync.set_guard()';

CREATE FUNCTION sync._check_guard(object text, "on" text, system text, field text, recheck interval, message text)
RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_object integer := sync._object_id(object);
BEGIN
    IF "on" IS NULL OR "on" NOT IN ('route', 'change') THEN
        RAISE EXCEPTION 'a guard is on a route or on a change, not on "%"', "on"
            USING ERRCODE = 'invalid_parameter_value', HINT = 'change refuses writes; route holds deliveries until the condition is true.';
    END IF;
    IF system IS NOT NULL AND "on" <> 'route' THEN
        RAISE EXCEPTION 'a guard on changes is about every writer'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave out the system.';
    ELSIF system IS NOT NULL THEN
        PERFORM sync._system_id(system);
    END IF;
    IF field IS NOT NULL AND NOT EXISTS (SELECT FROM sync.object o JOIN pg_attribute a ON a.attrelid = o.table_oid
                                          WHERE o.id = the_object AND a.attname = field AND a.attnum > 0 AND NOT a.attisdropped) THEN
        RAISE EXCEPTION 'object "%" has no field "%"', object, field
            USING ERRCODE = 'undefined_column', HINT = 'It is the column that errors of the guard name.';
    END IF;
    IF recheck IS NULL OR recheck NOT BETWEEN interval '1 second' AND interval '1 day' THEN
        RAISE EXCEPTION 'invalid interval of a guard'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'What waits is looked at again after a second to a day.';
    END IF;
    IF length(btrim(coalesce(message, ''))) NOT BETWEEN 1 AND 500 THEN
        RAISE EXCEPTION 'a guard needs a message'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It tells, in at most 500 characters, what is missing: ''the invoice is not paid''.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_guard(text, text, text, text, interval, text) IS 'An error, with the reason, when a guard would make no sense';

-- Runs with the caller's rights: the conditions are his, and on a change the table must be, too.
CREATE FUNCTION sync.set_guard(name text, object text, condition text, message text, "on" text DEFAULT 'change', applies text DEFAULT NULL,
                               system text DEFAULT NULL, field text DEFAULT NULL, recheck interval DEFAULT '30 s', reason text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass;
    made integer;
BEGIN
    PERFORM sync._check_reason(reason);
    IF name IS NULL OR name !~ '^[[:alnum:]_ .:-]{1,100}$' THEN
        RAISE EXCEPTION 'invalid name "%" of a guard', name
            USING ERRCODE = 'invalid_name', HINT = 'At most 100 letters, digits, spaces and _ . : -, for example paid before shipped.';
    END IF;
    PERFORM sync._check_guard(object, "on", system, field, recheck, message);
    PERFORM sync._condition_check(object, condition);
    IF applies IS NOT NULL THEN
        PERFORM sync._condition_check(object, applies);
    END IF;
    IF "on" = 'change' THEN
        SELECT to_regclass(format('%I.%I', o.schema_name, o.table_name)) INTO relation FROM sync.object o WHERE o.name = set_guard.object;
        PERFORM sync._set_trigger(relation, 'sync_demand', 'AFTER INSERT OR UPDATE ON TABLE FOR EACH ROW', 'sync.change_guard'::regproc, object, false);
    END IF;
    INSERT INTO sync.guard AS g (name, object, kind, system, applies, condition, message, field, recheck, reason)
    VALUES ($1, $2, "on", set_guard.system, set_guard.applies, $3, $4, set_guard.field, set_guard.recheck, set_guard.reason)
    RETURNING g.id INTO made;
    RETURN sync._propose_guard(made);
END
$$;
COMMENT ON FUNCTION sync.set_guard(text, text, text, text, text, text, text, text, interval, text) IS
    'Makes or replaces a guard: changes are refused, or deliveries wait, where the condition is not true; NULL, or the approval it waits for';

CREATE FUNCTION sync._propose_guard(guard integer)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    new sync.guard;
    old sync.guard;
    call jsonb;
    waits bigint;
BEGIN
    SELECT * INTO STRICT new FROM sync.guard g WHERE g.id = guard AND g.state = 'proposed';
    PERFORM sync._check_expression(new.condition), sync._check_expression(new.applies);
    SELECT * INTO old FROM sync.guard g WHERE g.name = new.name AND g.state = 'active' FOR UPDATE;
    call := jsonb_build_object('guard', new.id, 'name', new.name, 'replaces', old.id, 'to', to_jsonb(new) - '{id,state,set_at,ended_at}'::text[]);
    waits := sync._approval('set_guard', new.object, NULL, NULL, NULL, call, new.reason);
    IF waits IS NULL THEN
        PERFORM sync._approved_set_guard(call, NULL);
        RETURN NULL;
    END IF;
    RAISE NOTICE 'guard "%" waits for approval %', new.name, waits
        USING HINT = sync._approve_hint(waits);
    RETURN waits;
END
$$;
COMMENT ON FUNCTION sync._propose_guard(integer) IS 'Puts a proposed guard into force, or asks for approval';

CREATE FUNCTION sync._approved_set_guard(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    new sync.guard;
    old sync.guard;
BEGIN
    SELECT * INTO new FROM sync.guard g WHERE g.id = (args ->> 'guard')::integer AND g.state = 'proposed' FOR UPDATE;
    SELECT * INTO old FROM sync.guard g WHERE g.name = args ->> 'name' AND g.state = 'active' FOR UPDATE;
    IF new.id IS NULL OR old.id IS DISTINCT FROM (args ->> 'replaces')::integer THEN
        RAISE EXCEPTION 'guard "%" was changed meanwhile', args ->> 'name'
            USING ERRCODE = 'SE067', HINT = 'Reject this request, and set the guard again.';
    END IF;
    UPDATE sync.guard g SET state = 'replaced', ended_at = clock_timestamp() WHERE g.id = old.id;
    UPDATE sync.guard g SET state = 'active', set_at = clock_timestamp() WHERE g.id = new.id;
    PERFORM sync._audit('guard.set', new.object, NULL, new.system,
                        jsonb_build_object('guard', to_jsonb(new) - '{state,ended_at}'::text[], 'before', CASE WHEN old.id IS NOT NULL THEN to_jsonb(old) END,
                                           'approval', approval), new.reason);
    PERFORM sync._look_at_held(new.object), sync._look_at_held(old.object);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._approved_set_guard(jsonb, bigint) IS 'Puts a guard into force';

CREATE FUNCTION sync.drop_guard(name text, reason text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old sync.guard;
    call jsonb;
    waits bigint;
BEGIN
    PERFORM sync._check_reason(reason);
    SELECT * INTO old FROM sync.guard g WHERE g.name = drop_guard.name AND g.state = 'active';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'guard "%" does not exist', name
            USING ERRCODE = 'undefined_object', HINT = 'Those in force stand in sync.guard, with state active.';
    END IF;
    call := jsonb_build_object('guard', old.id, 'name', old.name, 'reason', reason);
    waits := sync._approval('drop_guard', old.object, NULL, NULL, NULL, call, reason);
    IF waits IS NULL THEN
        PERFORM sync._approved_drop_guard(call, NULL);
    ELSE
        RAISE NOTICE 'removal of guard "%" waits for approval %', old.name, waits
            USING HINT = sync._approve_hint(waits) || ' Until then it holds.';
    END IF;
    RETURN waits;
END
$$;
COMMENT ON FUNCTION sync.drop_guard(text, text) IS 'Takes a guard out of force; NULL, or the approval it waits for. Its trigger stays on the table, without effect';

CREATE FUNCTION sync._approved_drop_guard(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old sync.guard;
BEGIN
    UPDATE sync.guard g SET state = 'dropped', ended_at = clock_timestamp()
     WHERE g.id = (args ->> 'guard')::integer AND g.state = 'active'
    RETURNING g.* INTO old;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'guard "%" was changed meanwhile', args ->> 'name'
            USING ERRCODE = 'SE067', HINT = 'Reject this request.';
    END IF;
    PERFORM sync._audit('guard.dropped', old.object, NULL, old.system, jsonb_build_object('guard', to_jsonb(old), 'approval', approval), args ->> 'reason');
    PERFORM sync._look_at_held(old.object);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._approved_drop_guard(jsonb, bigint) IS 'Takes a guard out of force';

-- ---- guards on changes ----

-- Approved for this record as it was before the change, once. The row lock makes two changes take turns.
CREATE FUNCTION sync._use_approval(o sync.object, record_id text, old jsonb)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.approval_request;
BEGIN
    SELECT * INTO r FROM sync.approval_request a
     WHERE a.operation = 'state_change' AND a.object_id = o.id AND a.record_id = $2 AND a.state = 'approved'
       AND a.used_at IS NULL AND a.expires_at > clock_timestamp()
     ORDER BY a.id DESC LIMIT 1 FOR UPDATE;
    IF NOT FOUND OR r.call ->> 'before' IS DISTINCT FROM sync._payload_hash(old, o.volatile_columns)
       -- The trigger does not see the lines of a document.
       OR o.line_table IS NOT NULL AND r.call ->> 'lines' IS DISTINCT FROM sync._lines_hash(sync._record_now(o.id, record_id)) THEN
        RETURN false;
    END IF;
    UPDATE sync.approval_request a SET used_at = clock_timestamp() WHERE a.id = r.id;
    PERFORM sync._audit('approval.used', o.name, record_id, NULL, jsonb_build_object('approval', r.id, 'operation', r.operation), r.reason);
    RETURN true;
END
$$;
COMMENT ON FUNCTION sync._use_approval(sync.object, text, jsonb) IS 'Takes the approval of a change of state, when there is one';

CREATE FUNCTION sync._guard_change(object text, record_id text, new jsonb, old jsonb, relation oid)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    g sync.guard;
    broken sync.guard;
    answer record;
    error text;
    op constant text := CASE WHEN old IS NULL THEN 'insert' ELSE 'update' END;
    changed jsonb;
BEGIN
    SELECT * INTO o FROM sync.object t WHERE t.name = $1;
    IF old IS NOT NULL THEN
        SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') INTO changed FROM jsonb_each(old) e WHERE new -> e.key IS DISTINCT FROM e.value;
    END IF;
    FOR g IN SELECT * FROM sync.guard t WHERE t.state = 'active' AND t.kind = 'change' AND t.object = $1 ORDER BY t.name LOOP
        IF new IS NULL THEN
            broken := g;
            error := 'the record is too large to be judged';
            EXIT;
        END IF;
        IF g.applies IS NOT NULL THEN
            answer := sync._holds(o.id, g.applies, g.run_as, new, op, changed);
            CONTINUE WHEN answer.error IS NULL AND answer.holds IS NOT TRUE;
            IF answer.error IS NULL AND old IS NOT NULL THEN
                answer := sync._holds(o.id, g.applies, g.run_as, old, op, changed);
                CONTINUE WHEN answer.holds;
            END IF;
        END IF;
        answer := sync._holds(o.id, g.condition, g.run_as, new, op, changed);
        CONTINUE WHEN answer.error IS NULL AND answer.holds;
        broken := g;
        error := 'its condition failed: ' || answer.error;
        EXIT;
    END LOOP;
    IF broken.id IS NULL OR old IS NOT NULL AND new IS NOT NULL AND sync._use_approval(o, record_id, old) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION '%', broken.message
        USING ERRCODE = 'SE066', SCHEMA = o.schema_name, TABLE = o.table_name, COLUMN = coalesce(broken.field, ''), CONSTRAINT = broken.name,
              DETAIL = concat_ws('; ', format('Guard "%s" holds %s %s', broken.name, $1, record_id), error) || '.',
              HINT = CASE WHEN old IS NULL THEN 'Write it in a state that the guard lets pass, or see to what is missing.'
                          ELSE format('See to what is missing, or ask for approval: SELECT sync.request_approval(''state_change'', %L, %L, ''reason'').', $1, record_id) END;
END
$$;
COMMENT ON FUNCTION sync._guard_change(text, text, jsonb, jsonb, oid) IS 'An error when a guard does not let a change pass';

REVOKE ALL ON FUNCTION sync.change_guard() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.change_guard() TO sync_admin;
