-- Repair: what a plan would send and change, and doing it.

-- ---- shown ----

-- What a push would send: all steps of its plan; of a field, or of a record that is made anew, the first that
-- changes something there.
CREATE FUNCTION sync._repair_requests(act jsonb, object text, record_id text)
RETURNS TABLE (method text, target text, request text, detail text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF act ? 'field' OR act ? 'unbound' THEN
        RETURN QUERY
        SELECT p.method, p.target, p.body, coalesce(p.message, CASE p.state WHEN 'skipped' THEN 'there is nothing to send' END)
          FROM sync._preview_events(act ->> 'system', object, jsonb_build_array(jsonb_build_object('record_id', record_id, 'op', 'U')
                   || CASE WHEN act ? 'unbound' THEN '{"unbound": true}' ELSE '{}' END::jsonb
                   || CASE WHEN act ? 'with' THEN jsonb_build_object('with', act -> 'with') ELSE '{}' END
                   || CASE WHEN act ? 'field' THEN jsonb_build_object('old', jsonb_build_object(act ->> 'field', NULL)) ELSE '{}' END)) p;
    ELSE
        RETURN QUERY
        SELECT p.method, substr(p.url, 1 + length(coalesce(sync._system_options(act ->> 'system') ->> 'base_url', sync._manifest(act ->> 'system') ->> 'base_url'))),
               p.body, concat_ws(': ', p.step, p.message)
          FROM sync.preview(act ->> 'system', object, record_id) p WHERE p.state NOT IN ('skipped', 'batch');
    END IF;
END
$$;
COMMENT ON FUNCTION sync._repair_requests(jsonb, text, text) IS 'The requests of a plan''s push, as they would be now';

-- What asks for a record by its id, as the pull sends it. A connector may read by POST, with the id in the body.
-- A request that cannot be told here is not guessed.
CREATE FUNCTION sync._read_request(system text, object text, remote_id text, OUT method text, OUT target text, OUT request text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    manifest constant jsonb := sync._manifest(system);
    rendered jsonb;
BEGIN
    -- An operation of that name is another request; whose the system is, the pull alone looks up.
    IF manifest #> ARRAY['objects', object, 'pull', 'fetch'] IS NULL OR manifest #> ARRAY['objects', object, 'push', 'operations', 'fetch'] IS NOT NULL
       OR manifest #>> ARRAY['objects', object, 'pull', 'fetch'] LIKE '%$entity%' THEN
        RETURN;
    END IF;
    rendered := sync.test_render(manifest, object, 'fetch', jsonb_build_object('id', remote_id, 'param', sync._system_options(system) -> 'param', 'entity', '{}'::jsonb));
    IF rendered ->> 'status' = 'ok' THEN
        method := rendered ->> 'method';
        target := rendered ->> 'target';
        request := rendered ->> 'body';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._read_request(text, text, text) IS 'The request that reads a remote record by its id; NULL: it is not known before it is sent';

CREATE FUNCTION sync._repair_shown(plan jsonb, object text, record_id text)
RETURNS TABLE (step integer, action text, system text, method text, target text, request text, detail text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    act jsonb;
    r record;
BEGIN
    step := 0;
    FOR act IN SELECT a.value FROM jsonb_array_elements(plan -> 'acts') WITH ORDINALITY a (value, n) ORDER BY a.n LOOP
        action := act ->> 'act';
        system := coalesce(act ->> 'system', 'hub');
        IF action = 'send' THEN
            FOR r IN SELECT q.* FROM sync._repair_requests(act, object, record_id) q LOOP
                step := step + 1;
                method := r.method; target := r.target; request := r.request; detail := concat_ws('; ', act ->> 'detail', r.detail);
                RETURN NEXT;
            END LOOP;
            CONTINUE;
        END IF;
        step := step + 1;
        method := act ->> 'method';
        target := act ->> 'target';
        request := CASE action WHEN 'insert' THEN (act - '{act,detail,system,books}'::text[])::text
                               WHEN 'call' THEN act #>> '{request}'
                               ELSE nullif(act - '{act,detail,system,books,remote_id,target,restore_id,delivery,gone,fields,record_id}'::text[], '{}')::text END;
        detail := act ->> 'detail';
        IF action = 'read' THEN
            SELECT q.* INTO r FROM sync._read_request(system, object, act ->> 'remote_id') q;
            method := r.method; target := r.target; request := r.request;
            detail := concat_ws('; ', detail, CASE WHEN r.method IS NULL THEN format('remote record %s is read by its id', act ->> 'remote_id') END);
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._repair_shown(jsonb, text, text) IS 'The acts of a plan with the exact requests';

-- ---- done ----

CREATE FUNCTION sync._fire_deferred()
RETURNS void
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_fire_deferred';
COMMENT ON FUNCTION sync._fire_deferred() IS 'Checks with the session''s rights what it has put off until its commit, and at once from then on';

-- A row, a document with its lines by one statement, with the rights of its table's owner. What nobody tracks is
-- found by its canonical name.
CREATE FUNCTION sync._insert_document(act jsonb)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    made jsonb;
    columns constant text := (SELECT string_agg(quote_ident(k), ', ' ORDER BY k) FROM jsonb_object_keys(act -> 'row') k);
    lines text := '';
BEGIN
    SELECT t.* INTO o FROM sync.object t WHERE t.name = act ->> 'object';
    IF NOT FOUND THEN
        o.table_oid := to_regclass(format('%I.%I', sync._canonical_schema(), act ->> 'object'));
        o.key_columns := '{id}';
    END IF;
    IF o.line_oid IS NULL THEN
        o.line_oid := to_regclass(format('%I.%I', coalesce(o.schema_name, sync._canonical_schema()), (act ->> 'object') || '_line'));
        o.line_parent_columns := ARRAY[CASE act ->> 'object' WHEN 'revenue_schedule' THEN 'schedule_id' ELSE (act ->> 'object') || '_id' END];
    END IF;
    IF jsonb_array_length(act -> 'lines') > 0 THEN
        lines := (SELECT format(', l AS (INSERT INTO %1$s (%2$I, %3$s) SELECT h.%4$I, %5$s FROM h, jsonb_populate_recordset(NULL::%1$s, $1 -> ''lines'') l)',
                                o.line_oid::regclass, o.line_parent_columns[1], string_agg(quote_ident(k), ', ' ORDER BY k), o.key_columns[1],
                                string_agg('l.' || quote_ident(k), ', ' ORDER BY k))
                    FROM (SELECT DISTINCT jsonb_object_keys(e.value) FROM jsonb_array_elements(act -> 'lines') e) u (k));
    END IF;
    PERFORM sync._fire_deferred();
    made := sync._as_owner(o.table_oid, format(
        'WITH h AS (INSERT INTO %1$s (%2$s) SELECT %2$s FROM jsonb_populate_record(NULL::%1$s, $1 -> ''row'') RETURNING %3$I)%4$s SELECT to_jsonb(h.%3$I) FROM h',
        o.table_oid::regclass, columns, o.key_columns[1], lines), act);
    RETURN made #>> '{}';
END
$$;
COMMENT ON FUNCTION sync._insert_document(jsonb) IS 'Makes a row, or a document with its lines; returns its id';

CREATE FUNCTION sync._fields_write(object_id integer, record_id text, "values" jsonb, origin integer)
RETURNS void
LANGUAGE c VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
AS 'MODULE_PATHNAME', 'se_fields_write';
COMMENT ON FUNCTION sync._fields_write(integer, text, jsonb, integer) IS 'Writes fields of a record as its table''s owner, as the change of a system or (0) of an application';

CREATE FUNCTION sync._repair_write(s sync._break_subject, system_id integer, act jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    names constant text[] := ARRAY(SELECT jsonb_array_elements_text(act -> 'fields'));
    found_row boolean;
    ours jsonb;
    theirs jsonb;
BEGIN
    found_row := sync._field_lock(s.object_id, s.record_id, names[1]) IS NOT NULL;
    ours := sync._record_or_null(s.object_id, s.record_id);
    SELECT jsonb_object_agg(f, m.fields -> f) INTO theirs FROM sync.mirror m, unnest(names) f
     WHERE m.system_id = _repair_write.system_id AND m.object_id = s.object_id AND m.remote_id = act ->> 'remote_id' AND m.fields ? f;
    IF NOT found_row OR theirs IS NULL THEN
        PERFORM sync._no_repair(s.break_id, 'The record, or what the system says of it, is gone.', 'Reconcile again.');
    END IF;
    SELECT jsonb_object_agg(t.key, t.value) INTO theirs FROM jsonb_each(theirs) t WHERE t.value IS DISTINCT FROM ours -> t.key;
    IF theirs IS NOT NULL THEN
        PERFORM sync._owner_bypass(s.object_id);
        PERFORM sync._fields_write(s.object_id, s.record_id, theirs, system_id);
        PERFORM sync._owner_bypass(NULL);
    END IF;
    UPDATE sync.mirror m SET agreed = nullif(m.agreed - names, '{}'), corrected = nullif(m.corrected - names, '{}')
     WHERE m.system_id = _repair_write.system_id AND m.object_id = s.object_id AND m.remote_id = act ->> 'remote_id';
END
$$;
COMMENT ON FUNCTION sync._repair_write(sync._break_subject, integer, jsonb) IS 'Writes fields of a record as the system says them';

CREATE FUNCTION sync._repair_push(s sync._break_subject, system_id integer, act jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    key constant text := (SELECT o.key_columns[1] FROM sync.object o WHERE o.id = s.object_id);
BEGIN
    -- The number of its event is drawn under the row's lock, as those of its changes are.
    IF sync._field_lock(s.object_id, s.record_id, key) IS NULL
       OR NOT sync._record_push(s.object_id, s.record_id, system_id, (act ->> 'op')::"char",
                                CASE WHEN act ? 'field' THEN jsonb_build_object(act ->> 'field', s.theirs) END) THEN
        PERFORM sync._no_repair(s.break_id, format('The record "%s" is gone.', s.record_id), 'Reconcile again.');
    END IF;
END
$$;
COMMENT ON FUNCTION sync._repair_push(sync._break_subject, integer, jsonb) IS 'Has a record as it stands sent to one system';

CREATE FUNCTION sync._repair_act(s sync._break_subject, act jsonb, reason text)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_system constant integer := (SELECT y.id FROM sync.system y WHERE y.name = act ->> 'system');
    remote constant text := act ->> 'remote_id';
BEGIN
    CASE act ->> 'act'
        WHEN 'retry' THEN PERFORM sync.retry(act ->> 'delivery');
        WHEN 'wait' THEN NULL;
        WHEN 'send' THEN PERFORM sync._repair_push(s, the_system, act);
        WHEN 'write' THEN PERFORM sync._repair_write(s, the_system, act);
        WHEN 'insert' THEN RETURN sync._insert_document(act);
        WHEN 'change' THEN PERFORM sync._change_row(s, act);
        WHEN 'rewrite' THEN PERFORM sync._rewrite_schedule(s, act);
        WHEN 'put_back' THEN
            -- As what is pulled is written: past the guards of posted documents. No system has this number, so none is told.
            PERFORM sync._fields_write(s.object_id, s.record_id, act -> 'set', -2147483647);
        WHEN 'date' THEN
            PERFORM sync._owner_bypass(s.object_id);
            PERFORM sync._fields_write(s.object_id, s.record_id, act -> 'set', the_system);
            PERFORM sync._owner_bypass(NULL);
        WHEN 'alias' THEN
            INSERT INTO sync.external_alias (system_id, object_id, remote_id, record_id) VALUES (the_system, s.object_id, remote, s.record_id)
            ON CONFLICT ON CONSTRAINT external_alias_pkey DO NOTHING;
        WHEN 'read' THEN
            -- As the pull asks for records by id. What waits there already is newer than what is read now, or asks for it, too.
            INSERT INTO sync.inbox AS i (system_id, object_id, remote_id, item, reason, retry_at, restore_id)
            VALUES (the_system, s.object_id, remote, 'null', format('repair of break %s', s.break_id), clock_timestamp(), act ->> 'restore_id')
            ON CONFLICT ON CONSTRAINT inbox_system_id_object_id_remote_id_key DO UPDATE SET retry_at = excluded.retry_at, restore_id = excluded.restore_id;
        WHEN 'call' THEN
            -- When it is gone the mirror learns of it as of any other delete: by looking.
            INSERT INTO sync.inbox AS i (system_id, object_id, remote_id, item, reason, retry_at)
            SELECT t.system_id, t.object_id, remote, 'null', format('repair of break %s', s.break_id), clock_timestamp() + interval '5 s'
              FROM sync.stream t WHERE t.system_id = the_system AND t.object_id = s.object_id AND t.state = 'active'
            ON CONFLICT ON CONSTRAINT inbox_system_id_object_id_remote_id_key DO UPDATE SET retry_at = excluded.retry_at;
            RETURN 'call ' || sync.call(act ->> 'system', act ->> 'operation', jsonb_build_object('remote_id', remote));
        WHEN 'unbind' THEN
            DELETE FROM sync.external_id x WHERE x.system_id = the_system AND x.object_id = s.object_id AND x.remote_id = remote;
            -- What is gone there is so in its mirror, too, or it would stand there bound to nothing.
            UPDATE sync.mirror m SET record_id = NULL, mapping = NULL, deleted = m.deleted OR act ? 'gone'
             WHERE m.system_id = the_system AND m.object_id = s.object_id AND m.remote_id = remote;
            PERFORM sync._note_mirror(the_system, s.object_id, remote);
        WHEN 'bind' THEN
            INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) VALUES (the_system, s.object_id, act ->> 'record_id', remote);
            UPDATE sync.mirror m SET record_id = act ->> 'record_id', mapping = NULL
             WHERE m.system_id = the_system AND m.object_id = s.object_id AND m.remote_id = remote;
            PERFORM sync._note_mirror(the_system, s.object_id, remote);
    END CASE;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._repair_act(sync._break_subject, jsonb, text) IS 'Does one act of a repair; returns the id of what it made';

CREATE FUNCTION sync._approved_repair(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    s sync._break_subject;
    plan jsonb;
    act jsonb;
    made text[] := '{}';
    by_whom name := coalesce((SELECT a.requested_by FROM sync.approval_request a WHERE a.id = approval), session_user);
BEGIN
    -- Two people at one break take turns, and the second sees what the first did.
    PERFORM FROM sync.break_entry b WHERE b.id = (args ->> 'break')::bigint FOR UPDATE;
    IF args ->> 'remedy' = 'reschedule' THEN
        -- Of both standards, for a break may be about both; always in this order.
        PERFORM sync._lock_schedules('ASC606');
        PERFORM sync._lock_schedules('IFRS15');
    END IF;
    s := sync._break_subject((args ->> 'break')::bigint, coalesce(args -> 'options', '{}'));
    -- So do two who credit one invoice for two breaks: the second counts what the first has credited.
    IF args ->> 'remedy' = 'credit_note' THEN
        PERFORM pg_advisory_xact_lock(hashtext('sync_ext credit_note'), hashtext(concat_ws(' ', s.object, s.record_id)));
    END IF;
    plan := sync._repair_plan(s.break_id, args ->> 'remedy', coalesce(args -> 'options', '{}'));
    IF plan -> 'acts' IS DISTINCT FROM args -> 'acts' THEN
        RAISE EXCEPTION 'what would repair break % is no longer what was shown', s.break_id
            USING ERRCODE = 'SE067', HINT = 'Look at sync.repair() again, with dry_run.';
    END IF;
    FOR act IN SELECT a.value FROM jsonb_array_elements(plan -> 'acts') WITH ORDINALITY a (value, n) ORDER BY a.n LOOP
        IF act ->> 'act' = 'insert' AND act ->> 'object' = 'gl_entry' THEN
            act := jsonb_set(act, '{row}', act -> 'row' || jsonb_strip_nulls(jsonb_build_object('posted_at', now(), 'approved_by', CASE WHEN approval IS NOT NULL THEN sync._caller() END)));
        END IF;
        made := array_append(made, sync._repair_act(s, act, args ->> 'reason'));
    END LOOP;
    made := array_remove(made, NULL);
    INSERT INTO sync.break_note (break_id, author, note)
    VALUES (s.break_id, by_whom, concat_ws('; ', format('repaired: %s', args ->> 'remedy'),
            (SELECT string_agg(concat_ws(' ', a.value ->> 'act', a.value ->> 'system', '(' || (a.value ->> 'detail') || ')'), ', ' ORDER BY a.n)
               FROM jsonb_array_elements(plan -> 'acts') WITH ORDINALITY a (value, n)),
            'made ' || nullif(array_to_string(made, ', '), ''), args ->> 'reason'));
    -- What was posted stays as it is on both sides: the document explains why they differ.
    IF args ->> 'remedy' IN ('credit_note', 'adjustment') AND s.kind IN ('amount_differs', 'duplicate', 'orphan') THEN
        UPDATE sync.break_entry b SET status = 'explained', resolved_by = by_whom, explanation = format('by %s: %s', replace(args ->> 'remedy', '_', ' '), plan #>> '{acts,0,detail}')
         WHERE b.id = s.break_id;
    END IF;
    PERFORM sync._audit('break.repaired', s.object, s.record_id, s.system,
                        jsonb_strip_nulls(jsonb_build_object('break', s.break_id, 'kind', s.kind, 'remedy', args ->> 'remedy', 'made', nullif(to_jsonb(made), '[]'),
                                                             'approval', approval, 'requested_by', by_whom)) || jsonb_build_object('acts', plan -> 'acts'),
                        args ->> 'reason');
    PERFORM sync._change();
    RETURN jsonb_build_object('break', s.break_id, 'made', made);
END
$$;
COMMENT ON FUNCTION sync._approved_repair(jsonb, bigint) IS 'Repairs a break; an approval lets it happen where one is needed';

-- What is shown is what is done, or asked for.
CREATE FUNCTION sync._repair_request(break_id bigint, remedy text, options jsonb, plan jsonb, reason text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    s sync._break_subject := sync._break_subject(break_id, options);
    call jsonb;
    shown record;
    waits_for bigint;
BEGIN
    PERFORM sync._check_caller_reads(s.object, 'A repair shows what it would send.');
    PERFORM sync._check_reason(reason);
    -- A document is approved with the day that was shown, whenever that is.
    options := options || coalesce((SELECT jsonb_build_object('day', coalesce(a.value #> '{row,issue_date}', a.value #> '{row,posting_date}'))
                                      FROM jsonb_array_elements(plan -> 'acts') a WHERE coalesce(a.value #> '{row,issue_date}', a.value #> '{row,posting_date}') IS NOT NULL LIMIT 1), '{}');
    call := jsonb_build_object('break', s.break_id, 'remedy', remedy, 'options', options, 'acts', plan -> 'acts', 'reason', reason,
                               'binds', plan -> 'acts' @> '[{"act": "bind"}]' OR plan -> 'acts' @> '[{"act": "unbind"}]', 'makes', plan -> 'acts' @> '[{"books": true}]',
                               'removes', remedy = 'delete_there', 'calls', remedy = 'call_there');
    shown := sync._amount_made(plan -> 'acts', s.difference, s.currency);
    waits_for := sync._approval('repair', s.object, s.record_id, shown.amount, shown.currency, call, reason);
    IF waits_for IS NULL THEN
        PERFORM sync._approved_repair(call, NULL);
    END IF;
    RETURN waits_for;
END
$$;
COMMENT ON FUNCTION sync._repair_request(bigint, text, jsonb, jsonb, text) IS 'Does a repair, or asks for its approval';

CREATE FUNCTION sync.repair(break_id bigint, dry_run boolean DEFAULT true, remedy text DEFAULT NULL, reason text DEFAULT NULL, options jsonb DEFAULT '{}')
RETURNS TABLE (step integer, action text, system text, method text, target text, request text, detail text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    plan jsonb := sync._repair_begin(repair.break_id, repair.remedy, coalesce(repair.options, '{}'));
    waits_for bigint;
BEGIN
    RETURN QUERY SELECT * FROM sync._repair_shown(plan, plan ->> 'object', plan ->> 'record_id');
    IF coalesce(dry_run, true) THEN
        RETURN;
    END IF;
    waits_for := sync._repair_request(repair.break_id, plan ->> 'remedy', coalesce(repair.options, '{}'), plan, repair.reason);
    RETURN QUERY
    SELECT (SELECT count(*)::integer + 1 FROM jsonb_array_elements(plan -> 'acts')), CASE WHEN waits_for IS NULL THEN 'done' ELSE 'approval' END, 'hub',
           NULL::text, NULL::text, NULL::text,
           CASE WHEN waits_for IS NULL THEN 'the break closes when a run no longer finds it' ELSE format('waits for approval %s: nothing was done yet', waits_for) END;
    IF waits_for IS NOT NULL THEN
        RAISE NOTICE 'repair of break % waits for approval %', repair.break_id, waits_for
            USING HINT = format('A member of sync_approver who is not you calls sync.approve(%s, reason).', waits_for);
    END IF;
END
$$;
COMMENT ON FUNCTION sync.repair(bigint, boolean, text, text, jsonb) IS
    'What a remedy for a break would send and change, step by step; with dry_run => false it is done, where needed when somebody has approved it';
