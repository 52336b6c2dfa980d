-- Matching before anything is bound: what would be which, and who decides.

-- What would become of the remote records whose identity is open. One that several of ours fit, one of
-- ours that several remote records fit, and one that carries an id of ours that is taken are ambiguous.
CREATE FUNCTION sync._match_verdicts(the_system integer, the_object integer)
RETURNS TABLE (remote_id text, remote_number text, mapped jsonb, rule text, candidates text[], verdict text, message text)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH open AS MATERIALIZED (
        SELECT row_number() OVER (ORDER BY i.remote_id)::integer AS n, i.remote_id, i.remote_number, i.our_id, i.mapped
          FROM sync.inbox i
         WHERE i.system_id = the_system AND i.object_id = the_object AND i.sqlstate IN ('SE063', 'SE064') AND i.mapped IS NOT NULL
    ), found AS MATERIALIZED (
        SELECT f.* FROM (SELECT coalesce(jsonb_agg(jsonb_build_object('n', o.n, 'our_id', o.our_id, 'f', o.mapped)), '[]') AS items FROM open o) a
         CROSS JOIN LATERAL sync._match(the_system, the_object, a.items) f
    ), wanted AS (
        SELECT f.record_id, count(DISTINCT f.n) AS by_remotes FROM found f GROUP BY f.record_id
    ), judged AS (
        SELECT f.n, min(f.rule) AS rule, array_agg(f.record_id ORDER BY f.record_id) AS candidates,
               bool_or(f.bound_to IS NOT NULL) AS taken, max(w.by_remotes) AS by_remotes
          FROM found f JOIN wanted w USING (record_id) GROUP BY f.n
    )
    SELECT o.remote_id, o.remote_number, o.mapped, j.rule, coalesce(j.candidates, '{}'),
           CASE WHEN j.n IS NULL THEN 'none'
                WHEN cardinality(j.candidates) > 1 OR j.taken OR j.by_remotes > 1 THEN 'ambiguous'
                ELSE 'bind' END,
           CASE WHEN j.n IS NULL THEN 'no record of ours fits; it would be created'
                WHEN j.taken THEN 'carries an id of ours that is bound to another remote record'
                WHEN cardinality(j.candidates) > 1 THEN format('%s records of ours fit', cardinality(j.candidates))
                WHEN j.by_remotes > 1 THEN format('%s remote records fit the same record of ours', j.by_remotes) END
      FROM open o LEFT JOIN judged j USING (n)
$$;
COMMENT ON FUNCTION sync._match_verdicts(integer, integer) IS 'What would become of the remote records whose identity is open';

CREATE FUNCTION sync.match_preview(system text, object text)
RETURNS TABLE (remote_id text, remote_number text, name text, verdict text, rule text, record_id text, record_number text,
               candidates text[], decision text, message text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_system integer := sync._system_id(match_preview.system);
    the_object integer := sync._object_id(match_preview.object);
    o sync.object;
    name_hidden boolean;
    number_shown boolean;
BEGIN
    SELECT x.* INTO o FROM sync.object x WHERE x.id = the_object;
    -- This runs with the rights of the extension's owner; what is shown is the caller's to see.
    name_hidden := EXISTS (SELECT FROM sync.personal_field f
                            WHERE f.object_id = the_object AND f.field IN ('name', o.number_column)
                              AND NOT has_column_privilege(sync._caller(), o.table_oid, f.field, 'SELECT'));
    number_shown := o.number_column IS NOT NULL AND has_column_privilege(sync._caller(), o.table_oid, o.number_column::text, 'SELECT');
    RETURN QUERY
        SELECT v.remote_id, v.remote_number,
               CASE WHEN name_hidden THEN '(personal)' ELSE coalesce(v.mapped ->> 'name', v.mapped ->> o.number_column::text) END,
               v.verdict, v.rule, d.record_id,
               CASE WHEN number_shown THEN sync._record_row(the_object, d.record_id) ->> o.number_column::text END,
               v.candidates, c.decision, v.message
          FROM sync._match_verdicts(the_system, the_object) v
          LEFT JOIN sync.match_candidate c ON c.system_id = the_system AND c.object_id = the_object AND c.remote_id = v.remote_id
         CROSS JOIN LATERAL (SELECT coalesce(c.record_id, CASE WHEN v.verdict = 'bind' THEN v.candidates[1] END) AS record_id) d
         ORDER BY v.verdict, v.remote_id;
END
$$;
COMMENT ON FUNCTION sync.match_preview(text, text) IS
    'Remote records whose identity is open: the records of ours that fit, by which rule, and the verdict bind, ambiguous or none. Changes nothing';

CREATE FUNCTION sync._stream_of(system text, object text)
RETURNS sync.stream
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stream sync.stream;
BEGIN
    SELECT t.* INTO stream FROM sync.stream t
      JOIN sync.system y ON y.id = t.system_id AND y.name = _stream_of.system
      JOIN sync.object o ON o.id = t.object_id AND o.name = _stream_of.object
     WHERE t.state = 'active';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'object "%" is not pulled from system "%"', object, system
            USING ERRCODE = 'undefined_object', HINT = 'Create the stream first with sync.create_stream().';
    END IF;
    RETURN stream;
END
$$;
COMMENT ON FUNCTION sync._stream_of(text, text) IS 'The stream of an object from a system; an error when there is none';

CREATE FUNCTION sync.start_matching(system text, object text, reason text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stream sync.stream := sync._stream_of(start_matching.system, start_matching.object);
BEGIN
    IF stream.deciding_since IS NOT NULL THEN
        RETURN;
    END IF;
    UPDATE sync.stream t SET deciding_since = clock_timestamp() WHERE t.id = stream.id;
    UPDATE sync.stream_cursor c SET requested_at = clock_timestamp() WHERE c.stream_id = stream.id;
    PERFORM sync._audit('match.started', start_matching.object, NULL, start_matching.system, '{}', reason);
    PERFORM sync._change();
END
$$;
COMMENT ON FUNCTION sync.start_matching(text, text, text) IS
    'From now on remote records without a record of ours wait in the inbox, and none of ours is created there, until sync.accept_matches()';

-- A person must say which record it is.
CREATE FUNCTION sync._match_conflict(the_system integer, the_object integer, remote_id text, message text, mapped jsonb)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO sync.conflict_entry AS c (kind, object_id, field, system_id, remote_id, remote_value, policy, message)
    VALUES ('match', $2, 'identity of remote record ' || $3, $1, $3, $5, 'a record is bound when exactly one fits', $4)
        ON CONFLICT (object_id, record_id, field, system_id) WHERE resolved_at IS NULL
        DO UPDATE SET remote_value = excluded.remote_value, message = excluded.message
$$;
COMMENT ON FUNCTION sync._match_conflict(integer, integer, text, text, jsonb) IS 'Opens a conflict about the identity of a remote record';

CREATE FUNCTION sync._match_close(the_system integer, the_object integer, remote_ids text[], taken jsonb, reason text)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE sync.conflict_entry c
       SET resolved_at = clock_timestamp(), resolved_by = session_user, taken = 'value', taken_value = $4, reason = $5
     WHERE c.kind = 'match' AND c.resolved_at IS NULL AND c.system_id = $1 AND c.object_id = $2 AND c.remote_id = ANY ($3)
$$;
COMMENT ON FUNCTION sync._match_close(integer, integer, text[], jsonb, text) IS 'Closes conflicts about the identity of remote records';

-- What pushes wait for: they look again.
CREATE FUNCTION sync._match_release(the_system integer, the_object integer)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE sync.pending p SET next_attempt_at = clock_timestamp()
      FROM sync.route r
     WHERE r.id = p.route_id AND r.system_id = $1 AND p.object_id = $2 AND p.state = 'waiting' AND p.code = 'identity_undecided';
    SELECT sync._change();
$$;
COMMENT ON FUNCTION sync._match_release(integer, integer) IS 'Deliveries that waited for identity to be decided are looked at again';

CREATE FUNCTION sync.accept_matches(system text, object text, reason text, force boolean DEFAULT false,
                                    OUT bound integer, OUT created integer, OUT ambiguous integer)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stream sync.stream := sync._stream_of(accept_matches.system, accept_matches.object);
    v record;
BEGIN
    PERFORM sync._check_reason(reason);
    IF stream.deciding_since IS NULL THEN
        RAISE EXCEPTION 'object "%" of system "%" is not being matched', object, system
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Begin with sync.start_matching(), or sync.create_stream(… identity => ''decide'').';
    END IF;
    -- Half a list would have records created that its other half fits.
    IF NOT coalesce(force, false)
       AND NOT EXISTS (SELECT FROM sync.stream_cursor c
                        WHERE c.stream_id = stream.id AND c.finished_at > stream.deciding_since AND c.finished_at >= c.started_at) THEN
        RAISE EXCEPTION 'object "%" has not been read whole from system "%" yet', object, system
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'Records that the system has not listed yet could be the ones that fit.',
                  HINT = 'Wait until view sync.stream_status says that the walk has ended, or use force => true.';
    END IF;
    -- A page that is being applied looks at the stream first, so it either ended before or sees the decision.
    UPDATE sync.stream t SET deciding_since = NULL WHERE t.id = stream.id;
    bound := 0;
    created := 0;
    ambiguous := 0;
    FOR v IN SELECT * FROM sync._match_verdicts(stream.system_id, stream.object_id) LOOP
        INSERT INTO sync.match_candidate AS c (system_id, object_id, remote_id, remote_number, rule, candidates, verdict,
                                               decision, record_id, decided_at, decided_by, reason)
        SELECT stream.system_id, stream.object_id, v.remote_id, v.remote_number, v.rule, v.candidates, v.verdict, d.decision,
               CASE d.decision WHEN 'bind' THEN v.candidates[1] END,
               CASE WHEN d.decision IS NOT NULL THEN clock_timestamp() END, CASE WHEN d.decision IS NOT NULL THEN session_user END,
               CASE WHEN d.decision IS NOT NULL THEN accept_matches.reason END
          FROM (SELECT CASE v.verdict WHEN 'bind' THEN 'bind' WHEN 'none' THEN 'create' END AS decision) d
            ON CONFLICT ON CONSTRAINT match_candidate_pkey DO UPDATE
           SET rule = excluded.rule, candidates = excluded.candidates, verdict = excluded.verdict, found_at = excluded.found_at,
               decision = excluded.decision, record_id = excluded.record_id, decided_at = excluded.decided_at,
               decided_by = excluded.decided_by, reason = excluded.reason
         WHERE c.decision IS NULL;
        IF v.verdict = 'ambiguous' AND EXISTS (SELECT FROM sync.match_candidate c
                                                WHERE c.system_id = stream.system_id AND c.object_id = stream.object_id
                                                  AND c.remote_id = v.remote_id AND c.decision IS NULL) THEN
            PERFORM sync._match_conflict(stream.system_id, stream.object_id, v.remote_id, v.message, v.mapped);
            ambiguous := ambiguous + 1;
        ELSIF v.verdict = 'bind' THEN
            bound := bound + 1;
        ELSIF v.verdict = 'none' THEN
            created := created + 1;
        END IF;
    END LOOP;
    UPDATE sync.inbox i SET retry_at = clock_timestamp()
     WHERE i.system_id = stream.system_id AND i.object_id = stream.object_id AND i.sqlstate = 'SE063';
    PERFORM sync._match_release(stream.system_id, stream.object_id);
    PERFORM sync._audit('match.accepted', object, NULL, system,
                        jsonb_build_object('bind', bound, 'create', created, 'ambiguous', ambiguous), reason);
END
$$;
COMMENT ON FUNCTION sync.accept_matches(text, text, text, boolean) IS
    'Ends matching: unique matches are bound, remote records that fit none of ours are created, ambiguous ones wait for sync.decide_match()';

CREATE FUNCTION sync.decide_match(system text, object text, remote_id text, record_id text, reason text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_system integer := sync._system_id(decide_match.system);
    the_object integer := sync._object_id(decide_match.object);
    whole_id text;
    other text;
    number text;
BEGIN
    PERFORM sync._check_reason(reason);
    SELECT x.record_id INTO other FROM sync.external_id x
     WHERE x.system_id = the_system AND x.object_id = the_object AND x.remote_id = decide_match.remote_id;
    IF FOUND THEN
        RAISE EXCEPTION 'remote record % is bound to record % already', remote_id, other
            USING ERRCODE = 'SE064', HINT = 'If the two of ours are one, merge them with sync.merge_records().';
    END IF;
    SELECT i.remote_number INTO number FROM sync.inbox i
     WHERE i.system_id = the_system AND i.object_id = the_object AND i.remote_id = decide_match.remote_id AND i.sqlstate IN ('SE063', 'SE064');
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is nothing to decide about remote record %', remote_id
            USING ERRCODE = 'undefined_object', HINT = 'sync.match_preview() and sync.match_candidate list what is open.';
    END IF;
    IF record_id IS NOT NULL THEN
        whole_id := sync._record_row(the_object, record_id) ->> '__id';
        IF whole_id IS NULL THEN
            RAISE EXCEPTION 'there is no record % of object "%"', record_id, object
                USING ERRCODE = 'undefined_object', HINT = 'record_id => NULL has the remote record created as a new one.';
        END IF;
        SELECT x.remote_id INTO other FROM sync.external_id x
         WHERE x.system_id = the_system AND x.object_id = the_object AND x.record_id = whole_id;
        IF FOUND THEN
            RAISE EXCEPTION 'record % is bound to remote record % already', whole_id, other
                USING ERRCODE = 'SE064', DETAIL = 'Neither side is ever bound twice.',
                      HINT = 'If the system holds it twice, merge the two there; or have it created (record_id => NULL) and merge the two of ours.';
        END IF;
        SELECT c.remote_id INTO other FROM sync.match_candidate c
         WHERE c.system_id = the_system AND c.object_id = the_object AND c.record_id = whole_id AND c.remote_id <> decide_match.remote_id;
        IF FOUND THEN
            RAISE EXCEPTION 'record % was decided to be remote record %', whole_id, other
                USING ERRCODE = 'SE064', HINT = 'Decide that one anew first.';
        END IF;
    END IF;
    INSERT INTO sync.match_candidate AS c (system_id, object_id, remote_id, remote_number, verdict, decision, record_id, decided_at, decided_by, reason)
    VALUES (the_system, the_object, decide_match.remote_id, number, 'ambiguous', CASE WHEN whole_id IS NULL THEN 'create' ELSE 'bind' END,
            whole_id, clock_timestamp(), session_user, decide_match.reason)
        ON CONFLICT ON CONSTRAINT match_candidate_pkey DO UPDATE
       SET decision = excluded.decision, record_id = excluded.record_id, decided_at = excluded.decided_at,
           decided_by = excluded.decided_by, reason = excluded.reason;
    PERFORM sync._match_close(the_system, the_object, ARRAY[decide_match.remote_id], to_jsonb(whole_id), reason);
    UPDATE sync.inbox i SET retry_at = clock_timestamp()
     WHERE i.system_id = the_system AND i.object_id = the_object AND i.remote_id = decide_match.remote_id;
    PERFORM sync._match_release(the_system, the_object);
    PERFORM sync._audit('match.decided', object, whole_id, system,
                        jsonb_build_object('remote_id', remote_id, 'decision', CASE WHEN whole_id IS NULL THEN 'create' ELSE 'bind' END), reason);
END
$$;
COMMENT ON FUNCTION sync.decide_match(text, text, text, text, text) IS
    'Says which record of ours a remote record is, or (NULL) that it is none of them and is created; it is applied at once';

-- ---- what a hub tells ----

-- Items is [{"remote_id", "remote_number", "candidates", "mapped"}]: several of ours fit.
CREATE FUNCTION sync._match_ambiguous(the_system integer, the_object integer, items jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT * FROM jsonb_to_recordset(items) i (remote_id text, remote_number text, candidates text[], message text, mapped jsonb) LOOP
        INSERT INTO sync.match_candidate AS c (system_id, object_id, remote_id, remote_number, candidates, verdict)
        VALUES (the_system, the_object, item.remote_id, item.remote_number, item.candidates, 'ambiguous')
            ON CONFLICT ON CONSTRAINT match_candidate_pkey DO UPDATE
           SET candidates = excluded.candidates, verdict = excluded.verdict, found_at = excluded.found_at;
        PERFORM sync._match_conflict(the_system, the_object, item.remote_id, item.message, item.mapped);
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._match_ambiguous(integer, integer, jsonb) IS 'Notes remote records that several of ours fit';

-- They left the inbox: bound, gone, or of no interest any more. Decisions stay as history.
CREATE FUNCTION sync._match_settled(the_system integer, the_object integer, remote_ids text[])
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM sync.match_candidate c WHERE c.system_id = $1 AND c.object_id = $2 AND c.remote_id = ANY ($3)) THEN
        RETURN;
    END IF;
    DELETE FROM sync.match_candidate c
     WHERE c.system_id = $1 AND c.object_id = $2 AND c.remote_id = ANY ($3) AND c.decision IS NULL;
    PERFORM sync._match_close($1, $2, $3, NULL, 'settled by itself');
    PERFORM sync._match_release($1, $2);
END
$$;
COMMENT ON FUNCTION sync._match_settled(integer, integer, text[]) IS 'Notes that remote records need no decision any more';

-- Locks the stream, so that sync.accept_matches() comes before a page or after it.
CREATE FUNCTION sync._is_deciding(the_system integer, the_object integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM sync.stream t
      WHERE t.system_id = the_system AND t.object_id = the_object AND t.state = 'active' AND t.deciding_since IS NOT NULL
        FOR SHARE;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sync._is_deciding(integer, integer) IS 'Whether remote records of a stream wait for their identity to be decided';

-- May a record of ours be created in a system? 'undecided': a remote record may be it; 'merged': it was
-- merged into another.
CREATE FUNCTION sync._identity_hold(the_system integer, the_object integer, record_id text)
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN EXISTS (SELECT FROM sync.merge m WHERE m.object_id = $2 AND m.loser = $3 AND m.undone_at IS NULL) THEN 'merged'
                WHEN EXISTS (SELECT FROM sync.stream t
                              WHERE t.system_id = $1 AND t.object_id = $2 AND t.state = 'active' AND t.deciding_since IS NOT NULL)
                  OR EXISTS (SELECT FROM sync.match_candidate c
                              WHERE c.system_id = $1 AND c.object_id = $2
                                AND (c.decision IS NULL AND $3 = ANY (c.candidates)
                                     -- decided, and bound with the next look into the inbox
                                     OR c.record_id = $3 AND EXISTS (SELECT FROM sync.inbox i
                                                                      WHERE i.system_id = $1 AND i.object_id = $2 AND i.remote_id = c.remote_id))) THEN 'undecided' END
$$;
COMMENT ON FUNCTION sync._identity_hold(integer, integer, text) IS 'Why a record of ours must not be created in a system now; NULL: it may';
