-- What people do about breaks: care for them, write, explain, accept, take back. Each act is a note of the
-- break and an audit row. That a break is gone nobody says: a run finds that.

-- A break, locked, in one of these states; or an error.
CREATE FUNCTION sync._break_of(id bigint, states text[])
RETURNS sync.break_entry
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    b sync.break_entry;
BEGIN
    SELECT t.* INTO b FROM sync.break_entry t WHERE t.id = $1 FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no break %', $1 USING ERRCODE = 'undefined_object', HINT = 'View sync.reconciliation_break lists them.';
    ELSIF b.status <> ALL ($2) THEN
        RAISE EXCEPTION 'break % is %', $1, b.status
            USING ERRCODE = 'SE083', DETAIL = format('It must be %s for that.', array_to_string($2, ' or ')),
                  HINT = CASE b.status WHEN 'resolved' THEN 'It occurs no longer; should a run find it again, that is another break.'
                                       WHEN 'open' THEN 'sync.explain_break() explains it, sync.accept_break() asks for its acceptance.'
                                       ELSE 'sync.reopen_break() takes that back.' END;
    END IF;
    RETURN b;
END
$$;
COMMENT ON FUNCTION sync._break_of(bigint, text[]) IS 'A break, locked, if it is in one of these states; or an error';

-- On record twice: with the break for who works on it, in the audit for who asks later.
CREATE FUNCTION sync._break_act(b sync.break_entry, act text, note text, detail jsonb DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF btrim(note) <> '' THEN
        INSERT INTO sync.break_note (break_id, note) VALUES (b.id, note);
    END IF;
    PERFORM sync._audit('break.' || act, b.object, b.record_id, b.system,
                        jsonb_strip_nulls(jsonb_build_object('break', b.id, 'source', b.source, 'kind', b.kind, 'record_number', b.record_number, 'field', b.field,
                                                             'difference', b.difference, 'at_risk', b.at_risk, 'currency', b.currency) || detail), note);
END
$$;
COMMENT ON FUNCTION sync._break_act(sync.break_entry, text, text, jsonb) IS 'Writes the note and the audit row of an act';

CREATE FUNCTION sync.assign_break(id bigint, assignee name, note text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    b sync.break_entry := sync._break_of($1, '{open,explained,accepted}');
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = $2) AND $2 IS NOT NULL THEN
        RAISE EXCEPTION 'role "%" does not exist', $2
            USING ERRCODE = 'undefined_object', HINT = 'A break is assigned to a role of this server; NULL: to nobody.';
    END IF;
    UPDATE sync.break_entry t SET assignee = $2 WHERE t.id = b.id;
    PERFORM sync._break_act(b, 'assigned', $3, jsonb_build_object('assignee', $2, 'before', b.assignee));
END
$$;
COMMENT ON FUNCTION sync.assign_break(bigint, name, text) IS 'Says who cares for a break; NULL: nobody';

CREATE FUNCTION sync.note_break(id bigint, note text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF btrim(coalesce($2, '')) = '' THEN
        RAISE EXCEPTION 'the note is empty' USING ERRCODE = 'invalid_parameter_value', HINT = 'Write what was found out or done.';
    END IF;
    -- Of one that is resolved, too: what was the matter is often known afterwards.
    PERFORM sync._break_act(sync._break_of($1, '{open,explained,accepted,resolved}'), 'noted', $2);
END
$$;
COMMENT ON FUNCTION sync.note_break(bigint, text) IS 'Writes a note to a break';

-- What was shown to who decides is the break as it was then. Where its amounts have changed since, nothing
-- was decided.
CREATE FUNCTION sync._break_call(b sync.break_entry, words text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object('break', b.id, 'source', b.source, 'kind', b.kind, 'object', b.object, 'record_number', b.record_number, 'field', b.field,
                                                'ours', b.ours, 'theirs', b.theirs, 'difference', b.difference, 'at_risk', b.at_risk, 'currency', b.currency,
                                                'reason', words))
$$;
COMMENT ON FUNCTION sync._break_call(sync.break_entry, text) IS 'What is asked for about a break, with its amounts as they are';

-- Both ways of closing a break by a person's word: explained needs a second person where a policy says
-- so, accepted always does.
CREATE FUNCTION sync._break_word(operation text, id bigint, words text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    b sync.break_entry;
    waits bigint;
BEGIN
    PERFORM sync._check_reason($3);
    b := sync._break_of($2, CASE $1 WHEN 'accept_break' THEN '{open,explained}'::text[] ELSE '{open}' END);
    waits := sync._approval($1, b.object, b.record_id, b.at_risk, b.currency, sync._break_call(b, $3), $3);
    IF waits IS NULL THEN
        PERFORM sync._break_settled(sync._break_call(b, $3), CASE $1 WHEN 'accept_break' THEN 'accepted' ELSE 'explained' END, NULL);
    ELSE
        RAISE NOTICE 'break % stays % until approval % is granted', b.id, b.status, waits
            USING HINT = sync._approve_hint(waits);
    END IF;
    RETURN waits;
END
$$;
COMMENT ON FUNCTION sync._break_word(text, bigint, text) IS 'Explains or accepts a break, or asks for the approval of that; returns the approval it waits for';

CREATE FUNCTION sync.explain_break(id bigint, explanation text)
RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._break_word('explain_break', id, explanation)
$$;
COMMENT ON FUNCTION sync.explain_break(bigint, text) IS
    'Says why a break is none, as long as its amounts stay as they are; NULL, or the approval it waits for where a policy wants one';

CREATE FUNCTION sync.accept_break(id bigint, reason text)
RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._break_word('accept_break', id, reason)
$$;
COMMENT ON FUNCTION sync.accept_break(bigint, text) IS 'Asks that a break be accepted as it is, with its amount at risk; returns the approval that a second person grants';

CREATE FUNCTION sync._break_settled(call jsonb, status text, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    b sync.break_entry := sync._break_of((call ->> 'break')::bigint, '{open,explained}');
BEGIN
    IF sync._break_call(b, call ->> 'reason') IS DISTINCT FROM call THEN
        RAISE EXCEPTION 'break % is no longer what was asked about', b.id
            USING ERRCODE = 'SE083', DETAIL = format('Its values are now %s and %s, at risk are %s %s.', b.ours, b.theirs, b.at_risk, b.currency),
                  HINT = 'Reject the approval; whoever wants it looks at the break and asks anew.';
    END IF;
    UPDATE sync.break_entry t
       SET status = $2, explanation = call ->> 'reason', approval_id = $3,
           resolved_by = coalesce((SELECT a.requested_by FROM sync.approval_request a WHERE a.id = $3), session_user)
     WHERE t.id = b.id;
    PERFORM sync._break_act(b, $2, call ->> 'reason', jsonb_strip_nulls(jsonb_build_object('approval', $3)));
    RETURN jsonb_build_object('break', b.id, 'status', $2);
END
$$;
COMMENT ON FUNCTION sync._break_settled(jsonb, text, bigint) IS 'Closes a break by a person''s word, if it is still what was asked about';

CREATE FUNCTION sync._approved_explain_break(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._break_settled(args, 'explained', approval)
$$;
COMMENT ON FUNCTION sync._approved_explain_break(jsonb, bigint) IS 'Explains a break as it was approved';

CREATE FUNCTION sync._approved_accept_break(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._break_settled(args, 'accepted', approval)
$$;
COMMENT ON FUNCTION sync._approved_accept_break(jsonb, bigint) IS 'Accepts a break as it was approved';

CREATE FUNCTION sync.reopen_break(id bigint, reason text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    b sync.break_entry;
BEGIN
    PERFORM sync._check_reason($2);
    -- Approvals before the break, as who approves locks them.
    PERFORM FROM sync.approval_request a WHERE a.operation IN ('accept_break', 'explain_break') AND a.state = 'open' AND a.call ->> 'break' = $1::text FOR UPDATE;
    b := sync._break_of($1, '{explained,accepted}');
    IF b.resolved_by IS NULL THEN
        RAISE EXCEPTION 'break % is explained by a policy', b.id
            USING ERRCODE = 'SE083', DETAIL = format('Which says: %s.', b.explanation),
                  HINT = 'The next run would explain it again: change the policy.';
    END IF;
    UPDATE sync.break_entry t SET status = 'open', explanation = NULL, resolved_by = NULL, approval_id = NULL WHERE t.id = b.id;
    -- What was asked for before is taken back with it: it was about a break that somebody had spoken for.
    PERFORM sync._lapse(a.id, format('break %s was opened again: %s', b.id, $2)) FROM sync.approval_request a
      WHERE a.operation IN ('accept_break', 'explain_break') AND a.state = 'open' AND a.call ->> 'break' = b.id::text;
    PERFORM sync._break_act(b, 'reopened', $2, jsonb_strip_nulls(jsonb_build_object('was', b.status, 'explanation', b.explanation, 'approval', b.approval_id)));
END
$$;
COMMENT ON FUNCTION sync.reopen_break(bigint, text) IS 'Takes back what a person said about a break';
