-- Dead letters: by reason, corrected, and tried again many at a time.

-- What differs from one message to the next of its kind: ids, numbers, quoted values.
CREATE FUNCTION sync._message_pattern(message text)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT regexp_replace(regexp_replace(regexp_replace(regexp_replace(left($1, 500),
               '[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}', '…', 'g'),
               '"[^"]*"|''[^'']*''', '"…"', 'g'),
               '\m[A-Za-z]+_[A-Za-z0-9]*[0-9][A-Za-z0-9]*', '…', 'g'),
               '[0-9]+([.,:][0-9]+)*', 'N', 'g')
$$;
COMMENT ON FUNCTION sync._message_pattern(text) IS 'A message without the ids, numbers and quoted values in it, by which messages are grouped';

CREATE VIEW sync.dead_letter_reason WITH (security_barrier) AS
SELECT d.direction, d.system, d.object, d.code, d.message, count(*) AS count, min(d.at) AS oldest, max(d.at) AS newest, max(d.example) AS example,
       sum(d.behind)::bigint AS behind,
       CASE d.direction WHEN 'out' THEN format('SELECT sync.retry_all(%L, %L, %L, reason => ''…'')', d.system, d.object, d.code)
                        ELSE format('SELECT sync.retry_inbox_all(%L, %L, %L, reason => ''…'')', d.system, d.object, d.code) END AS how_to_retry
  FROM (SELECT 'out' AS direction, y.name AS system, o.name AS object, p.code,
               sync._message_pattern(CASE WHEN o.hides THEN sync._shown_message(o.id, p.message, p.body) ELSE p.message END) AS message, p.created_at AS at,
               p.route_id || '/' || p.seq AS example,
               (SELECT count(*) FROM sync.pending b WHERE b.route_id = p.route_id AND b.record_id = p.record_id AND b.id <> p.id) AS behind
          FROM sync.pending p
          JOIN sync.route r ON r.id = p.route_id
          JOIN sync.system y ON y.id = r.system_id
          JOIN sync._visible_object o ON o.id = p.object_id
         WHERE p.state = 'dead'
        UNION ALL
        SELECT 'in', i.system, i.object, i.sqlstate, sync._message_pattern(i.reason), i.received_at, i.id::text, 0
          FROM sync.inbox_status i WHERE i.state = 'failed') d
 GROUP BY d.direction, d.system, d.object, d.code, d.message;
COMMENT ON VIEW sync.dead_letter_reason IS 'Dead letters, and inbound records that failed, by reason: how many, since when, one of them';
COMMENT ON COLUMN sync.dead_letter_reason.direction IS 'out: deliveries; in: rows of the inbox';
COMMENT ON COLUMN sync.dead_letter_reason.message IS 'The message, with … and N in place of ids, values and numbers';
COMMENT ON COLUMN sync.dead_letter_reason.count IS 'How many there are';
COMMENT ON COLUMN sync.dead_letter_reason.oldest IS 'When the first of them failed; inbound: came';
COMMENT ON COLUMN sync.dead_letter_reason.newest IS 'When the last of them failed; inbound: came';
COMMENT ON COLUMN sync.dead_letter_reason.example IS 'One of them: a delivery, or the id of an inbox row';
COMMENT ON COLUMN sync.dead_letter_reason.behind IS 'Later changes of their records that wait for them';
COMMENT ON COLUMN sync.dead_letter_reason.how_to_retry IS 'The statement that tries all of them again, when the cause has been seen to';

-- ---- edited ----

CREATE FUNCTION sync._check_patch(o sync.object, p sync.pending, patch jsonb)
RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wrong text;
BEGIN
    IF p.state NOT IN ('dead', 'conflict') THEN
        RAISE EXCEPTION 'delivery %/% is %', p.route_id, p.seq, p.state
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Only a dead letter or a conflict can be edited.',
                  HINT = 'View sync.dead_letter lists dead letters.';
    ELSIF p.op = 'D' OR p.body IS NULL THEN
        RAISE EXCEPTION 'delivery %/% has no payload to edit', p.route_id, p.seq
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = CASE p.op WHEN 'D' THEN 'It tells of a deletion.' ELSE 'The record is read when it is sent, because it was too large for an event.' END,
                  HINT = 'Retry or discard it.';
    ELSIF sync._unsure(p) THEN
        RAISE EXCEPTION 'delivery %/% cannot be edited: its last attempt may have taken effect', p.route_id, p.seq
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'An edited request has a new idempotency key, so the other system could not tell that it is the same.',
                  HINT = 'Retry it first: it is looked up.';
    ELSIF jsonb_typeof(patch) IS DISTINCT FROM 'object' OR patch = '{}' THEN
        RAISE EXCEPTION 'a patch is a JSON object of fields and values'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For instance: {"billing_email": "ada@example.com"}.';
    END IF;
    SELECT k INTO wrong FROM jsonb_object_keys(patch) k
     WHERE k = ANY (o.key_columns::text[])
        OR NOT (k = 'lines' AND o.line_table IS NOT NULL OR p.body ? k
                OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = o.table_oid AND a.attname = k AND a.attnum > 0 AND NOT a.attisdropped))
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '"%" is no field of object "%" that can be edited', wrong, o.name
            USING ERRCODE = 'undefined_column', HINT = 'Fields are the columns of its table but for the key, and "lines" of a document.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_patch(sync.object, sync.pending, jsonb) IS 'An error where a payload cannot be edited so';

CREATE FUNCTION sync._approved_edit_dead_letter(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p sync.pending := sync._locked_pending(sync._pending_id(args ->> 'delivery'));
    o sync.object;
    patch constant jsonb := args -> 'patch';
    was jsonb;
    number integer;
BEGIN
    SELECT t.* INTO STRICT o FROM sync.object t WHERE t.id = p.object_id;
    PERFORM sync._check_patch(o, p, patch);
    SELECT jsonb_object_agg(k, coalesce(p.body -> k, 'null')) INTO was FROM jsonb_object_keys(patch) k;
    IF was IS DISTINCT FROM coalesce(args -> 'was', was) THEN
        RAISE EXCEPTION 'delivery % has changed since approval was asked for', args ->> 'delivery'
            USING ERRCODE = 'SE067', HINT = 'Reject this request, and edit it anew.';
    END IF;
    number := 1 + greatest(p.issue, (SELECT max(c.issue) FROM sync.claim c WHERE c.route_id = p.route_id AND c.seq = p.seq AND c.at >= p.event_at));
    -- What was edited counts as changed, so that a partial update tells it.
    UPDATE sync.pending t
       SET body = t.body || patch, old = CASE WHEN t.old IS NOT NULL THEN was || t.old END, state = 'retry', next_attempt_at = clock_timestamp(),
           attempts = 0, issue = number, step = NULL, frozen = NULL
     WHERE t.id = p.id;
    INSERT INTO sync.payload_edit (route_id, seq, event_at, object_id, record_id, issue, patch, before, reason, approval_id, edited_by)
    SELECT p.route_id, p.seq, p.event_at, p.object_id, p.record_id, number, patch, was, args ->> 'reason', approval,
           coalesce((SELECT a.requested_by FROM sync.approval_request a WHERE a.id = approval), session_user);
    PERFORM sync._audit_delivery('delivery.edited', p, jsonb_strip_nulls(jsonb_build_object('issue', number, 'approval', approval))
                                                       || jsonb_build_object('old', was, 'new', patch), args ->> 'reason');
    PERFORM sync._change();
    RETURN jsonb_build_object('delivery', args ->> 'delivery', 'issue', number);
END
$$;
COMMENT ON FUNCTION sync._approved_edit_dead_letter(jsonb, bigint) IS 'Edits the payload of a dead letter and sends it; an approval lets it happen where one is needed';

CREATE FUNCTION sync.edit_dead_letter(delivery text, patch jsonb, reason text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p sync.pending := sync._locked_pending(sync._pending_id(edit_dead_letter.delivery));
    o sync.object;
    call jsonb;
    waits_for bigint;
BEGIN
    PERFORM sync._check_reason(reason);
    SELECT t.* INTO STRICT o FROM sync.object t WHERE t.id = p.object_id;
    PERFORM sync._check_patch(o, p, patch);
    call := jsonb_build_object('delivery', p.route_id || '/' || p.seq, 'patch', patch, 'reason', reason,
                               'was', (SELECT jsonb_object_agg(k, coalesce(p.body -> k, 'null')) FROM jsonb_object_keys(patch) k));
    waits_for := sync._approval('edit_dead_letter', o.name, p.record_id, NULL, NULL, call, reason);
    IF waits_for IS NOT NULL THEN
        RAISE NOTICE 'approval % is needed: nothing has changed yet', waits_for
            USING HINT = format('A member of sync_approver who is not you calls sync.approve(%s, reason).', waits_for);
        RETURN waits_for;
    END IF;
    PERFORM sync._approved_edit_dead_letter(call, NULL);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync.edit_dead_letter(text, jsonb, text) IS
    'Sets fields in the payload of a dead letter and sends it under a new key; the record itself stays as it is. NULL, or the approval it waits for';

-- ---- many at a time ----

CREATE FUNCTION sync._check_many(system text, object text, at_most integer, reason text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync._check_reason(reason);
    IF at_most IS NULL OR at_most NOT BETWEEN 1 AND 100000 THEN
        RAISE EXCEPTION 'at_most must be between 1 and 100000'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Retry some, see what becomes of them, then the rest.';
    END IF;
    IF system IS NOT NULL THEN
        PERFORM sync._system_id(system);
    END IF;
    IF object IS NOT NULL THEN
        PERFORM sync._object_id(object);
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_many(text, text, integer, text) IS 'An error unless what a mass retry is given makes sense';

-- The oldest first, as their records need it.
CREATE FUNCTION sync.retry_all(system text DEFAULT NULL, object text DEFAULT NULL, code text DEFAULT NULL, message text DEFAULT NULL,
                               at_most integer DEFAULT 1000, reason text DEFAULT NULL, fresh boolean DEFAULT false)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p sync.pending;
    n integer := 0;
BEGIN
    PERFORM sync._check_many(retry_all.system, retry_all.object, at_most, reason);
    FOR p IN
        SELECT t.* FROM sync.pending t
          JOIN sync.route r ON r.id = t.route_id
          JOIN sync.system y ON y.id = r.system_id
          JOIN sync.object o ON o.id = r.object_id
         WHERE t.state = 'dead' AND (retry_all.system IS NULL OR y.name = retry_all.system) AND (retry_all.object IS NULL OR o.name = retry_all.object)
           AND (retry_all.code IS NULL OR t.code = retry_all.code) AND (retry_all.message IS NULL OR t.message LIKE retry_all.message)
         ORDER BY t.seq LIMIT at_most FOR UPDATE OF t SKIP LOCKED
    LOOP
        -- What may have taken effect is looked up, whatever was asked for.
        PERFORM sync.retry(p.id, fresh AND NOT sync._unsure(p));
        n := n + 1;
    END LOOP;
    PERFORM sync._audit('delivery.retried_all', retry_all.object, NULL, retry_all.system,
                        jsonb_strip_nulls(jsonb_build_object('code', code, 'message', message, 'fresh', fresh, 'at_most', at_most, 'retried', n)), reason);
    RETURN n;
END
$$;
COMMENT ON FUNCTION sync.retry_all(text, text, text, text, integer, text, boolean) IS
    'Retries dead letters by system, object, code and message (LIKE), the oldest first; returns how many';

CREATE FUNCTION sync.retry_inbox_all(system text DEFAULT NULL, object text DEFAULT NULL, code text DEFAULT NULL, message text DEFAULT NULL,
                                     at_most integer DEFAULT 1000, reason text DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n integer;
BEGIN
    PERFORM sync._check_many(retry_inbox_all.system, retry_inbox_all.object, at_most, reason);
    WITH due AS (
        SELECT i.id FROM sync.inbox i
          JOIN sync.system y ON y.id = i.system_id
          JOIN sync.object o ON o.id = i.object_id
         WHERE i.item <> 'null' AND i.wait_remote_id IS NULL AND i.sqlstate IS DISTINCT FROM 'SE063'
           AND (retry_inbox_all.system IS NULL OR y.name = retry_inbox_all.system) AND (retry_inbox_all.object IS NULL OR o.name = retry_inbox_all.object)
           AND (retry_inbox_all.code IS NULL OR i.sqlstate = retry_inbox_all.code) AND (retry_inbox_all.message IS NULL OR i.reason LIKE retry_inbox_all.message)
         ORDER BY i.id LIMIT at_most FOR UPDATE OF i SKIP LOCKED)
    UPDATE sync.inbox i SET retry_at = clock_timestamp() FROM due WHERE i.id = due.id;
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM sync._audit('inbox.retried_all', retry_inbox_all.object, NULL, retry_inbox_all.system,
                        jsonb_strip_nulls(jsonb_build_object('code', code, 'message', message, 'at_most', at_most, 'retried', n)), reason);
    PERFORM sync._wake();
    RETURN n;
END
$$;
COMMENT ON FUNCTION sync.retry_inbox_all(text, text, text, text, integer, text) IS
    'Has failed rows of the inbox tried again by system, object, SQLSTATE and message (LIKE), the oldest first; returns how many';
