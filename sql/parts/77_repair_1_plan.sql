-- Repair: what is done about a break. A remedy is a plan of acts, each of which the hub would also do by
-- itself: an event for one system, a read by id, a field written as the system's change, a binding. The plan
-- is made anew when it is carried out; where somebody has to approve it, it must still be the one he saw.

-- What a shipped rule has before what can be done about any break; '': nothing by default.
CREATE FUNCTION sync._own_remedies(kind text)
RETURNS text[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN kind = 'voided_after_posting' THEN '{credit_note}'
                WHEN kind = 'amendment_arrived' THEN '{}'
                WHEN kind IN ('schedules_complete', 'recognized_plus_deferred', 'recognized_in_time') THEN '{reschedule}'
                WHEN kind = 'journals_balance' THEN '{restore}'
                WHEN kind = 'committed_tax' THEN '{correct_tax}'
                WHEN kind = 'entitlement_paid' THEN '{suspend}'
                WHEN kind = 'canceled_revoked' THEN '{revoke}'
                WHEN kind = 'failure_collected' THEN '{open_case}'
                ELSE '{""}' END::text[]
$$;
COMMENT ON FUNCTION sync._own_remedies(text) IS 'Remedies of a shipped rule alone';

-- The first one is what is done unless another is asked for; '': somebody has to choose.
CREATE FUNCTION sync._remedies(kind text)
RETURNS text[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN kind = 'missing_there' THEN '{push_again,bind,unbind}'
        WHEN kind = 'missing_here' THEN '{pull_again,bind,push_again,delete_there,call_there}'
        WHEN kind = 'field_differs' THEN '{correct,push_again,pull_again,call_there}'
        WHEN kind = 'amount_differs' THEN '{correct,push_again,pull_again,call_there,credit_note,adjustment}'
        WHEN kind = 'duplicate' THEN '{"",delete_there,pull_again,unbind,bind,call_there,credit_note,adjustment}'
        WHEN kind = 'orphan' THEN '{unbind,delete_there,bind,pull_again,call_there}'
        WHEN kind = 'stale' THEN '{pull_again,push_again}'
        ELSE sync._own_remedies(kind) || '{push_again,pull_again,correct,bind,unbind,delete_there,call_there,adjustment}'
             || CASE kind WHEN 'voided_after_posting' THEN '{}' ELSE '{credit_note}' END::text[] END::text[]
$$;
COMMENT ON FUNCTION sync._remedies(text) IS 'What can be done about a kind of break, what is done by default first';

CREATE FUNCTION sync._no_repair(break_id bigint, why text, hint text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'break % cannot be repaired so', break_id USING ERRCODE = 'SE086', DETAIL = why, HINT = hint;
END
$$;
COMMENT ON FUNCTION sync._no_repair(bigint, text, text) IS 'The error of a repair that cannot be made';

CREATE TYPE sync._break_subject AS (
    break_id bigint, kind text, field text, theirs jsonb, difference numeric, currency text,
    object_id integer, object text, financial boolean, record_id text, number text, remote_id text, bound_to text, bound_remote text,
    system_id integer, system text, other_id integer, other text);
COMMENT ON TYPE sync._break_subject IS 'What a break is about, with what is bound now';

-- A rule may name no system: then it is the one that was said, or the only one that knows the record.
CREATE FUNCTION sync._break_subject(break_id bigint, options jsonb DEFAULT '{}')
RETURNS sync._break_subject
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    b sync.break_entry;
    o sync.object;
    s sync._break_subject;
BEGIN
    SELECT t.* INTO b FROM sync.break_entry t WHERE t.id = _break_subject.break_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no break %', break_id
            USING ERRCODE = 'undefined_object', HINT = 'View sync.reconciliation_break lists them.';
    ELSIF b.status = 'resolved' THEN
        PERFORM sync._no_repair(b.id, format('It is resolved since %s.', date_trunc('second', b.resolved_at)), 'If it occurs again, the next run opens another one.');
    END IF;
    -- An amendment is never sent: its subscription is.
    IF b.kind = 'amendment_arrived' AND b.object = 'amendment' THEN
        b.object := 'subscription';
        b.record_id := sync._look_up(sync._canonical_schema(), 'amendment', 'subscription_id', b.record_id);
    END IF;
    SELECT t.* INTO o FROM sync.object t WHERE t.name = b.object;
    s.break_id := b.id; s.kind := b.kind; s.field := b.field; s.theirs := b.theirs; s.difference := b.difference; s.currency := b.currency;
    s.object_id := o.id; s.object := b.object; s.financial := o.financial; s.number := b.record_number;
    s.other := b.other_system;
    s.system := coalesce(b.system, options ->> 'system',
                         (SELECT min(y.name) FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id
                           WHERE x.object_id = o.id AND x.record_id = b.record_id HAVING count(*) = 1));
    SELECT y.id INTO s.system_id FROM sync.system y WHERE y.name = s.system;
    SELECT y.id INTO s.other_id FROM sync.system y WHERE y.name = b.other_system;
    SELECT x.remote_id INTO s.bound_remote FROM sync.external_id x
     WHERE x.system_id = s.system_id AND x.object_id = o.id AND x.record_id = b.record_id;
    SELECT x.record_id INTO s.bound_to FROM sync.external_id x
     WHERE x.system_id = s.system_id AND x.object_id = o.id AND x.remote_id = b.remote_id;
    s.record_id := coalesce(b.record_id, s.bound_to);
    s.remote_id := coalesce(b.remote_id, s.bound_remote);
    RETURN s;
END
$$;
COMMENT ON FUNCTION sync._break_subject(bigint, jsonb) IS 'What an open break is about';

-- Of two systems the first is the system of the break, and `here`. Between hub and system, here is the hub.
CREATE FUNCTION sync._lacking(s sync._break_subject)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE s.kind WHEN 'missing_there' THEN coalesce(s.other, s.system) WHEN 'missing_here' THEN CASE WHEN s.other IS NOT NULL THEN s.system END END
$$;
COMMENT ON FUNCTION sync._lacking(sync._break_subject) IS 'The system that lacks the record; NULL: none does';

-- ---- acts ----

CREATE FUNCTION sync._act(act text, system text DEFAULT NULL, detail text DEFAULT NULL, more jsonb DEFAULT '{}')
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object('act', $1, 'system', $2, 'detail', $3)) || $4
$$;
COMMENT ON FUNCTION sync._act(text, text, text, jsonb) IS 'An act of a repair''s plan';

-- An ERP that numbers in the order of days takes no document that is older than its last one of the month: the day on
-- which it is posted there may be another than that of its issue.
CREATE FUNCTION sync._plan_day(s sync._break_subject, to_system text, body jsonb, options jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    day date;
BEGIN
    IF NOT options ? 'day' THEN
        RETURN '[]';
    ELSIF NOT body ? 'posting_date' THEN
        PERFORM sync._no_repair(s.break_id, format('Object "%s" has no posting_date.', s.object), 'Leave the day out: it is made anew on its own.');
    END IF;
    SELECT sync._document_day(s, d.entity, options ->> 'day') INTO day FROM sync.object o CROSS JOIN LATERAL sync._accounting_date(o, body) d WHERE o.id = s.object_id;
    RETURN jsonb_build_array(sync._act('date', to_system, format('its accounting day there is %s', to_char(day, 'YYYY-MM-DD')), jsonb_build_object('set', jsonb_build_object('posting_date', day))));
END
$$;
COMMENT ON FUNCTION sync._plan_day(sync._break_subject, text, jsonb, jsonb) IS 'The act that says on which day a document is posted over there';

-- The record as it stands, told to one system: by its delivery that is held, or an event of its own. `field`:
-- that field alone counts as changed. A record that the system has lost is made anew there, and so is a document
-- that it has taken back: what was posted is never changed, but reversed and entered once more.
CREATE FUNCTION sync._plan_push(s sync._break_subject, to_system text, field text, options jsonb DEFAULT '{}')
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.route;
    held record;
    body jsonb;
    bound text;
    lost boolean;
    reversed boolean;
    dated jsonb;
    answer record;
BEGIN
    SELECT t.* INTO r FROM sync.route t JOIN sync.system y ON y.id = t.system_id
     WHERE y.name = to_system AND t.object_id = s.object_id AND t.state = 'active';
    IF NOT FOUND THEN
        PERFORM sync._no_repair(s.break_id, format('No route sends object "%s" to system "%s".', s.object, coalesce(to_system, 'NULL')),
                                'Make one with sync.create_route(), or choose another remedy.');
    END IF;
    body := sync._record_or_null(s.object_id, s.record_id);
    IF body IS NULL THEN
        PERFORM sync._no_repair(s.break_id, format('There is no record "%s" of object "%s".', coalesce(s.record_id, 'NULL'), s.object), 'What is not here cannot be sent.');
    END IF;
    SELECT u.state, u.route_id || '/' || u.seq AS delivery, u.pending_id INTO held
      FROM sync._unfinished u WHERE u.route_id = r.id AND u.record_id = s.record_id ORDER BY u.seq LIMIT 1;
    IF held.state IN ('dead', 'conflict') THEN
        RETURN jsonb_build_array(sync._act('retry', to_system, format('delivery %s is %s', held.delivery, held.state), jsonb_build_object('delivery', held.delivery)));
    ELSIF held.state IS NOT NULL THEN
        RETURN jsonb_build_array(sync._act('wait', to_system, format('delivery %s is %s: it goes by itself', held.delivery, held.state)));
    END IF;
    IF r.condition IS NOT NULL THEN
        answer := sync._holds(s.object_id, r.condition, r.run_as, body, 'update', NULL);
        IF answer.holds IS NOT TRUE THEN
            PERFORM sync._no_repair(s.break_id, format('The condition of route "%s" does not want the record: %s.', r.name, coalesce(answer.error, r.condition)),
                                    'Change the record, or the route.');
        END IF;
    END IF;
    SELECT x.remote_id INTO bound FROM sync.external_id x WHERE x.system_id = r.system_id AND x.object_id = s.object_id AND x.record_id = s.record_id;
    lost := bound IS NOT NULL AND to_system IS NOT DISTINCT FROM sync._lacking(s);
    reversed := field IS NULL AND NOT lost AND s.financial AND 'insert' = ANY (r.operations)
                AND EXISTS (SELECT FROM sync.mirror m WHERE m.system_id = r.system_id AND m.object_id = s.object_id AND m.remote_id = bound
                                                        AND m.fields ->> 'posting_status' = 'reversed');
    dated := CASE WHEN reversed THEN sync._plan_day(s, to_system, body, options) END;
    RETURN CASE WHEN lost THEN jsonb_build_array(sync._act('unbind', to_system, format('remote record %s is gone there', bound), jsonb_build_object('remote_id', bound, 'gone', true)))
                WHEN reversed THEN jsonb_build_array(sync._act('unbind', to_system, format('remote record %s was reversed there', bound), jsonb_build_object('remote_id', bound)),
                                                     sync._act('alias', to_system, format('remote record %s stays known as an earlier one of it', bound), jsonb_build_object('remote_id', bound)))
                     || dated
                ELSE '[]' END
           || jsonb_build_array(sync._act('send', to_system, CASE WHEN lost OR reversed THEN 'it is made anew there' WHEN bound IS NULL THEN 'it is made there' END,
                  jsonb_strip_nulls(jsonb_build_object('field', field, 'unbound', nullif(lost OR reversed, false),
                      'with', CASE WHEN reversed THEN dated #> '{0,set}' END,
                      'op', CASE WHEN bound IS NOT NULL AND NOT lost AND NOT reversed AND 'update' = ANY (r.operations) THEN 'U'
                                 WHEN 'insert' = ANY (r.operations) THEN 'I' ELSE 'U' END))));
END
$$;
COMMENT ON FUNCTION sync._plan_push(sync._break_subject, text, text, jsonb) IS 'Acts that tell a system a record as it stands';

-- A record that the hub has lost comes back under its own id; what it was bound to ends before, because a
-- system's news about a record that is gone here are lost.
CREATE FUNCTION sync._plan_restore(s sync._break_subject, from_system text, remote text, target text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_array(
        sync._act('unbind', from_system, format('record %s is gone here', s.record_id), jsonb_build_object('remote_id', remote)),
        sync._act('read', from_system, 'it comes back under its own id', jsonb_build_object('remote_id', remote, 'target', target, 'restore_id', s.record_id)))
$$;
COMMENT ON FUNCTION sync._plan_restore(sync._break_subject, text, text, text) IS 'Acts that bring a lost record back from a system';

-- The remote record, read anew. A field of which the mirror says already what the system says would not be
-- taken for news, so it is written.
CREATE FUNCTION sync._plan_pull(s sync._break_subject, from_system text, field text, only_owned boolean)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    path text;
    remote text;
    m sync.mirror;
    fields text[];
BEGIN
    PERFORM FROM sync.stream t JOIN sync.system y ON y.id = t.system_id WHERE y.name = from_system AND t.object_id = s.object_id AND t.state = 'active';
    IF NOT FOUND THEN
        PERFORM sync._no_repair(s.break_id, format('No stream reads object "%s" from system "%s".', s.object, coalesce(from_system, 'NULL')),
                                'Make one with sync.create_stream(), or choose another remedy.');
    END IF;
    path := sync._manifest(from_system) #>> ARRAY['objects', s.object, 'pull', 'fetch', 'path'];
    SELECT x.remote_id INTO remote FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id
     WHERE y.name = from_system AND x.object_id = s.object_id AND x.record_id = s.record_id;
    remote := coalesce(remote, CASE WHEN from_system = s.system THEN s.remote_id END);
    IF path IS NULL OR remote IS NULL THEN
        PERFORM sync._no_repair(s.break_id, CASE WHEN path IS NULL THEN format('The connector of system "%s" cannot read object "%s" by id.', from_system, s.object)
                                                 ELSE format('It is not known which record of system "%s" it is.', from_system) END,
                                CASE WHEN path IS NULL THEN 'Pull all of it with sync.request_pull().' ELSE 'Bind it: remedy => ''bind'', options => ''{"remote_id": "…"}''.' END);
    END IF;
    IF s.record_id IS NOT NULL AND sync._record_or_null(s.object_id, s.record_id) IS NULL
       AND EXISTS (SELECT FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id
                    WHERE y.name = from_system AND x.object_id = s.object_id AND x.record_id = s.record_id AND x.remote_id = remote) THEN
        RETURN sync._plan_restore(s, from_system, remote, replace(path, '${id}', remote));
    END IF;
    SELECT t.* INTO m FROM sync.mirror t JOIN sync.system y ON y.id = t.system_id
     WHERE y.name = from_system AND t.object_id = s.object_id AND t.remote_id = remote AND t.record_id = s.record_id;
    -- All that is known to differ of the record goes at once: checks may be about several fields. Where the
    -- break names none, all that differs does, but for what somebody else owns.
    SELECT array_agg(DISTINCT f ORDER BY f) INTO fields
      FROM (SELECT $3 UNION
            SELECT b.field FROM sync.break_entry b
             WHERE $3 IS NOT NULL AND b.object = s.object AND b.record_id = s.record_id AND b.status <> 'resolved' AND b.field IS NOT NULL
               AND (b.other_system IS NULL AND b.system = from_system OR b.id = s.break_id)
               AND (NOT only_owned OR EXISTS (SELECT FROM sync.ownership w WHERE w.object = s.object AND w.field = b.field AND w.owner = from_system))) u (f)
     WHERE m.fields ? f;
    IF $3 IS NULL AND m.fields IS NOT NULL THEN
        SELECT array_agg(k ORDER BY k) INTO fields
          FROM jsonb_object_keys((sync._fields_differing(s.object_id, sync._resolution_ms(m.system_id, s.object_id),
                                                         ARRAY[sync._record_or_null(s.object_id, s.record_id)], ARRAY[m.fields]))[1]) k
         WHERE NOT EXISTS (SELECT FROM sync.ownership w WHERE w.object = s.object AND w.field = k AND w.owner <> from_system);
    END IF;
    RETURN CASE WHEN fields IS NOT NULL
                THEN jsonb_build_array(sync._act('write', from_system, format('%s as the system says it', array_to_string(fields, ', ')),
                         jsonb_build_object('fields', fields, 'remote_id', remote))) ELSE '[]' END
           || jsonb_build_array(sync._act('read', from_system, 'what it answers is applied as ownership says',
                  jsonb_build_object('remote_id', remote, 'target', replace(path, '${id}', remote))));
END
$$;
COMMENT ON FUNCTION sync._plan_pull(sync._break_subject, text, text, boolean) IS 'Acts that take over what a system says of a record';

CREATE FUNCTION sync._plan_unbind(s sync._break_subject)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    x sync.external_id;
BEGIN
    SELECT t.* INTO x FROM sync.external_id t
     WHERE t.system_id = s.system_id AND t.object_id = s.object_id AND (t.remote_id = s.remote_id OR t.record_id = s.record_id)
     ORDER BY t.remote_id = s.remote_id DESC NULLS LAST LIMIT 1;
    IF NOT FOUND THEN
        PERFORM sync._no_repair(s.break_id, 'Nothing is bound.', 'See sync.external_id for what is.');
    END IF;
    RETURN jsonb_build_array(sync._act('unbind', s.system, format('remote record %s and record %s are no longer the same', x.remote_id, x.record_id),
                                       jsonb_build_object('remote_id', x.remote_id)));
END
$$;
COMMENT ON FUNCTION sync._plan_unbind(sync._break_subject) IS 'Acts that end a binding';

-- What makes, changes or reads a record needs the record; these need no more than its id.
CREATE FUNCTION sync._id_operations(system text, object text)
RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(o.key ORDER BY o.key), '{}')
      FROM jsonb_each(sync._manifest(system) #> ARRAY['objects', object, 'push', 'operations']) o
     WHERE coalesce(o.value ->> 'kind', o.key) NOT IN ('create', 'upsert', 'update', 'lookup', 'verify', 'read')
$$;
COMMENT ON FUNCTION sync._id_operations(text, text) IS 'Operations of a connector that can be called for a remote record, known by its id alone';

-- One API call about a remote record, with the request as it will be sent.
CREATE FUNCTION sync._call_act(s sync._break_subject, system text, remote text, operation text)
RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    manifest constant jsonb := sync._manifest(system);
    known constant text[] := sync._id_operations(system, s.object);
    rendered jsonb;
BEGIN
    IF operation IS NULL OR operation <> ALL (known) THEN
        PERFORM sync._no_repair(s.break_id, CASE WHEN operation IS NULL THEN 'It was not said what the system should do.'
                                                 ELSE format('The connector of system "%s" has no operation "%s" that needs no more than the id of object "%s".', system, operation, s.object) END,
                                coalesce('Name one: options => ''{"operation": "…"}''. It has: ' || nullif(array_to_string(known, ', '), '') || '.', 'Have it done there.'));
    ELSIF remote IS NULL THEN
        PERFORM sync._no_repair(s.break_id, 'It is not known which remote record is meant.', 'Say it: options => ''{"remote_id": "…"}''.');
    END IF;
    rendered := sync.test_render(manifest, s.object, operation, jsonb_build_object('new', jsonb_build_object('remote_id', remote), 'remote', jsonb_build_object('id', remote),
                                                                                   'param', sync._system_options(system) -> 'param'));
    IF rendered ->> 'status' IS DISTINCT FROM 'ok' THEN
        PERFORM sync._no_repair(s.break_id, format('Operation "%s" cannot be called with no more than a remote id: %s.', operation, coalesce(rendered ->> 'message', rendered ->> 'code', rendered ->> 'status')),
                                'Call it by sync.call(), with what it needs.');
    END IF;
    RETURN sync._act('call', system, format('%s of remote record %s', operation, remote), jsonb_strip_nulls(jsonb_build_object('remote_id', remote,
               'operation', s.object || '.' || operation, 'method', rendered ->> 'method', 'target', rendered ->> 'target', 'request', rendered -> 'body')));
END
$$;
COMMENT ON FUNCTION sync._call_act(sync._break_subject, text, text, text) IS 'The act that calls an operation of a connector for a remote record';

-- What a system does with its own document: post, void, reverse. The binding stays, and the record is read afterwards.
CREATE FUNCTION sync._plan_call(s sync._break_subject, options jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    which constant text := coalesce(options ->> 'system', s.system);
    bound text;
BEGIN
    IF which IS NULL OR which <> ALL (array_remove(ARRAY[s.system, s.other], NULL)) THEN
        PERFORM sync._no_repair(s.break_id, format('It is about %s.', coalesce(nullif(concat_ws(' and ', s.system, s.other), ''), 'no system')),
                                'Say which one is meant: options => ''{"system": "…"}''.');
    END IF;
    SELECT x.remote_id INTO bound FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id
     WHERE y.name = which AND x.object_id = s.object_id AND x.record_id = s.record_id;
    RETURN jsonb_build_array(sync._call_act(s, which, coalesce(options ->> 'remote_id', CASE WHEN which = s.system THEN s.remote_id END, bound), options ->> 'operation'));
END
$$;
COMMENT ON FUNCTION sync._plan_call(sync._break_subject, jsonb) IS 'Acts that have a system do something with its record';

-- A remote record that should not be there. What else than a delete takes it away, the connector may have as
-- an operation of its own: void, archive. What is only void goes on standing there, and is known as what it was.
CREATE FUNCTION sync._plan_delete(s sync._break_subject, options jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    operations constant jsonb := sync._manifest(s.system) #> ARRAY['objects', s.object, 'push', 'operations'];
    remote constant text := coalesce(options ->> 'remote_id', s.remote_id);
    operation text := options ->> 'operation';
    bound_here boolean;
BEGIN
    IF operation IS NULL THEN
        SELECT k.key INTO operation FROM jsonb_each(operations) k WHERE coalesce(k.value ->> 'kind', k.key) = 'delete' ORDER BY k.key LIMIT 1;
    END IF;
    IF operation IS NULL THEN
        PERFORM sync._no_repair(s.break_id, format('The connector of system "%s" has no operation that takes a record of object "%s" away.', s.system, s.object),
                                coalesce('Name one: options => ''{"operation": "…"}''. It has: ' || nullif(array_to_string(sync._id_operations(s.system, s.object), ', '), '') || '.',
                                         'Have it done there.'));
    END IF;
    bound_here := EXISTS (SELECT FROM sync.external_id x WHERE x.system_id = s.system_id AND x.object_id = s.object_id AND x.remote_id = remote);
    RETURN CASE WHEN bound_here THEN jsonb_build_array(sync._act('unbind', s.system, format('remote record %s is nobody''s here', remote), jsonb_build_object('remote_id', remote))) ELSE '[]' END
           || jsonb_build_array(sync._call_act(s, s.system, remote, operation))
           || CASE WHEN s.kind = 'duplicate' AND s.record_id IS NOT NULL AND coalesce(operations #>> ARRAY[operation, 'kind'], operation) <> 'delete'
                   THEN jsonb_build_array(sync._act('alias', s.system, format('remote record %s stays known as a second one of %s', remote, coalesce(s.number, s.record_id)),
                                                    jsonb_build_object('remote_id', remote))) ELSE '[]' END;
END
$$;
COMMENT ON FUNCTION sync._plan_delete(sync._break_subject, jsonb) IS 'Acts that take a remote record away';

CREATE FUNCTION sync._plan_bind(s sync._break_subject, options jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted constant text := coalesce(options ->> 'record_id', s.record_id);
    remote constant text := coalesce(options ->> 'remote_id', s.remote_id);
    record text;
    taken text;
    instead text;
BEGIN
    IF wanted IS NULL OR remote IS NULL THEN
        PERFORM sync._no_repair(s.break_id, 'Two sides make a binding, and one is not known.',
                                'Say which: options => ''{"record_id": "…", "remote_id": "…"}''.');
    END IF;
    -- As the row has it: a key may be written in many ways, a binding is known by one.
    record := CASE WHEN sync._record_or_null(s.object_id, wanted) IS NOT NULL THEN sync._record_row(s.object_id, wanted) ->> '__id' END;
    IF record IS NULL THEN
        PERFORM sync._no_repair(s.break_id, format('There is no record "%s" of object "%s".', wanted, s.object), 'Give the id of one that there is.');
    END IF;
    -- The one too many takes the place of the other.
    IF s.kind = 'duplicate' THEN
        SELECT x.remote_id INTO instead FROM sync.external_id x
         WHERE x.system_id = s.system_id AND x.object_id = s.object_id AND x.record_id = record AND x.remote_id <> remote;
    END IF;
    SELECT format('Record %s is bound to %s.', x.record_id, x.remote_id) INTO taken FROM sync.external_id x
     WHERE x.system_id = s.system_id AND x.object_id = s.object_id AND (x.record_id = record OR x.remote_id = remote) AND x.remote_id IS DISTINCT FROM instead;
    IF FOUND THEN
        PERFORM sync._no_repair(s.break_id, taken, 'Neither side is ever bound twice: end that binding first (remedy => ''unbind''), or merge the two (sync.merge_records).');
    END IF;
    RETURN CASE WHEN instead IS NOT NULL
                THEN jsonb_build_array(sync._act('unbind', s.system, format('remote record %s is the one too many', instead), jsonb_build_object('remote_id', instead)))
                ELSE '[]' END
           || jsonb_build_array(sync._act('bind', s.system, format('remote record %s is record %s', remote, record),
                                       jsonb_build_object('record_id', record, 'remote_id', remote)))
           || CASE WHEN EXISTS (SELECT FROM sync.stream t WHERE t.system_id = s.system_id AND t.object_id = s.object_id AND t.state = 'active')
                        AND sync._manifest(s.system) #> ARRAY['objects', s.object, 'pull', 'fetch'] IS NOT NULL
                   THEN jsonb_build_array(sync._act('read', s.system, 'to know what it says', jsonb_build_object('remote_id', remote,
                            'target', replace(sync._manifest(s.system) #>> ARRAY['objects', s.object, 'pull', 'fetch', 'path'], '${id}', remote))))
                   ELSE '[]' END;
END
$$;
COMMENT ON FUNCTION sync._plan_bind(sync._break_subject, jsonb) IS 'Acts that bind a remote record to one of ours';

-- Whoever owns the field gives the value; the other side is corrected.
CREATE FUNCTION sync._plan_correct(s sync._break_subject)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner text;
    other text;
    plan jsonb;
BEGIN
    SELECT w.owner INTO owner FROM sync.ownership w WHERE w.object = s.object AND w.field = s.field;
    IF owner IS NULL THEN
        PERFORM sync._no_repair(s.break_id, CASE WHEN s.field IS NULL THEN 'It is not about a field.' ELSE format('Nobody owns field "%s" of object "%s".', s.field, s.object) END,
                                'Choose who is right: remedy => ''push_again'' or ''pull_again''; or declare it with sync.set_owner().');
    ELSIF owner = 'hub' THEN
        RETURN sync._plan_push(s, s.system, s.field)
               || CASE WHEN s.other IS NOT NULL THEN sync._plan_push(s, s.other, s.field) ELSE '[]' END;
    ELSIF s.other IS NULL AND owner = s.system THEN
        RETURN sync._plan_pull(s, s.system, s.field, true);
    END IF;
    -- Between two systems, or with a third: the owner's value to the hub, and from there.
    plan := sync._plan_pull(s, owner, s.field, true);
    FOREACH other IN ARRAY array_remove(ARRAY[s.system, s.other], NULL) LOOP
        IF other <> owner THEN
            plan := plan || sync._plan_push(s, other, s.field);
        END IF;
    END LOOP;
    RETURN plan;
END
$$;
COMMENT ON FUNCTION sync._plan_correct(sync._break_subject) IS 'Acts that make both sides say what the owner of the field says';

-- Which system is told, or asked. Between two, and about a value, somebody has to say.
CREATE FUNCTION sync._plan_one_way(s sync._break_subject, remedy text, options jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    which text := coalesce(options ->> 'system', CASE
        WHEN s.other IS NULL THEN s.system
        WHEN remedy = 'push_again' THEN sync._lacking(s)
        WHEN sync._lacking(s) = s.system THEN s.other
        WHEN sync._lacking(s) = s.other THEN s.system END);
BEGIN
    IF which IS NULL OR which <> ALL (array_remove(ARRAY[s.system, s.other], NULL)) THEN
        PERFORM sync._no_repair(s.break_id, format('It is about two systems: %s.', concat_ws(', ', s.system, s.other)), 'Say which one is meant: options => ''{"system": "…"}''.');
    END IF;
    RETURN CASE remedy WHEN 'push_again' THEN sync._plan_push(s, which, NULL, options) ELSE sync._plan_pull(s, which, s.field, false) END;
END
$$;
COMMENT ON FUNCTION sync._plan_one_way(sync._break_subject, text, jsonb) IS 'Acts that tell a system the record, or take over what it says';

CREATE FUNCTION sync._repair_plan(break_id bigint, remedy text, options jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    s sync._break_subject := sync._break_subject(break_id, options);
    allowed text[] := sync._remedies(s.kind);
    -- What one of two systems lacks the hub has.
    chosen text := coalesce(remedy, CASE WHEN s.kind = 'missing_here' AND s.other IS NOT NULL AND s.record_id IS NOT NULL THEN 'push_again' END, nullif(allowed[1], ''));
BEGIN
    IF chosen IS NULL THEN
        PERFORM sync._no_repair(s.break_id, coalesce((SELECT format('Rule "%s" says: %s.', r.rule, rtrim(r.remedy, '.')) FROM sync.rule r WHERE r.rule = s.kind),
                                                     format('What is right for "%s" nobody but you can say.', s.kind)), format('Choose a remedy: %s.', array_to_string(array_remove(allowed, ''), ', ')));
    ELSIF chosen <> ALL (array_remove(allowed, '')) THEN
        PERFORM sync._no_repair(s.break_id, format('"%s" is no remedy for "%s".', chosen, s.kind), format('Remedies are: %s.', array_to_string(array_remove(allowed, ''), ', ')));
    ELSIF s.object_id IS NULL AND NOT sync._is_own_remedy(chosen) THEN
        PERFORM sync._no_repair(s.break_id, 'It is about no record of an object.', 'See to it by hand, and note it with sync.note_break().');
    ELSIF s.system_id IS NULL AND chosen NOT IN ('credit_note', 'adjustment') AND NOT sync._is_own_remedy(chosen) THEN
        PERFORM sync._no_repair(s.break_id, 'It names no system.', 'Correct the records here, what changes goes its usual way; or say which system is meant: options => ''{"system": "…"}''.');
    END IF;
    RETURN jsonb_build_object('remedy', chosen, 'acts', CASE chosen
        WHEN 'push_again' THEN sync._plan_one_way(s, chosen, options)
        WHEN 'pull_again' THEN sync._plan_one_way(s, chosen, options)
        WHEN 'delete_there' THEN sync._plan_delete(s, options)
        WHEN 'call_there' THEN sync._plan_call(s, options)
        WHEN 'correct' THEN sync._plan_correct(s)
        WHEN 'bind' THEN sync._plan_bind(s, options)
        WHEN 'unbind' THEN sync._plan_unbind(s)
        WHEN 'credit_note' THEN sync._plan_credit_note(s, options)
        WHEN 'adjustment' THEN sync._plan_adjustment(s, options)
        ELSE sync._plan_own(s, chosen, options) END);
END
$$;
COMMENT ON FUNCTION sync._repair_plan(bigint, text, jsonb) IS 'The acts of a remedy for a break, or an error that says why there are none';

-- What is shown of a break's records is shown to those who may read them.
CREATE FUNCTION sync._repair_begin(break_id bigint, remedy text, options jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    s sync._break_subject := sync._break_subject(break_id, options);
BEGIN
    PERFORM sync._check_caller_reads(s.object, 'A repair shows what it would send.');
    RETURN sync._repair_plan(break_id, remedy, options) || jsonb_build_object('object', s.object, 'record_id', s.record_id);
END
$$;
COMMENT ON FUNCTION sync._repair_begin(bigint, text, jsonb) IS 'The acts of a remedy for a break and what it is about, for who may read the record';
