-- Reconciliation: a run.

-- What a comparison makes of the two sides beside their records: from when on and under which condition a route
-- sends them, what a system's fields mean, and which table it is.
CREATE FUNCTION sync._meaning(run sync.reconciliation)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN md5(concat_ws(' ', (SELECT (r.id, r.condition, r.operations, r.start_kind, r.start_at, r.cutover_date) FROM sync.route r
                                WHERE r.system_id = run.system_id AND r.object_id = run.object_id AND r.state <> 'dropped'),
                              (SELECT (o.schema_name, o.table_name, o.key_columns, o.line_schema, o.line_table, o.line_key_columns) FROM sync.object o WHERE o.id = run.object_id),
                              sync._pull_refs(run.system_id, run.object_id)));
END
$$;
COMMENT ON FUNCTION sync._meaning(sync.reconciliation) IS 'Changes when records may compare otherwise without having changed';

-- What a delta looks at: everything that changed on either side since the run before had its snapshot. Both
-- sides keep logs of what changes, so what a second run costs is in proportion to that. NULL, NULL: it
-- cannot be told any more.
CREATE FUNCTION sync._changed_since(run sync.reconciliation, earlier sync.reconciliation, OUT records text[], OUT remotes text[], OUT alone text[], OUT why_not text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    seen pg_snapshot := (earlier.seen ->> 'snapshot')::pg_snapshot;
    since timestamptz := earlier.started_at - interval '1 min';
    bound_records text[];
    bound_remotes text[];
BEGIN
    why_not := CASE WHEN earlier.id IS NULL THEN 'there is no earlier run'
                    WHEN (earlier.seen ->> 'incarnation')::integer IS DISTINCT FROM sync._writer_incarnation() THEN 'the hub has been adopted since'
                    WHEN earlier.started_at < (SELECT min(p.lower_bound) FROM sync._partitions('sync.outbox') p)
                      OR earlier.started_at < clock_timestamp() - current_setting('sync_ext.mirror_change_retention')::interval
                      THEN 'changes since the last run are kept no longer'
                    WHEN (earlier.seen -> 'in_transit') IS NULL THEN 'too much was on its way in the last run'
                    WHEN earlier.seen ->> 'means' IS DISTINCT FROM sync._meaning(run) THEN 'a route, mapping or table has changed since'
                    WHEN EXISTS (SELECT FROM sync.outbox e WHERE e.object_id = run.object_id AND e.op = 'T' AND e.xid >= pg_snapshot_xmin(seen)
                                    AND e.xid < '18446744073709551615' AND NOT pg_visible_in_snapshot(e.xid, seen)) THEN 'the table was truncated since' END;
    IF why_not IS NOT NULL THEN
        RETURN;
    END IF;
    WITH changed AS (
        SELECT e.record_id, NULL::text AS remote_id FROM sync.outbox e
         WHERE e.object_id = run.object_id AND e.xid >= pg_snapshot_xmin(seen) AND e.xid < '18446744073709551615' AND NOT pg_visible_in_snapshot(e.xid, seen)
        UNION
        SELECT h.record_id, h.remote_id FROM sync.mirror_history h
         WHERE h.object_id = run.object_id AND h.system_id = run.system_id AND h.xid >= pg_snapshot_xmin(seen) AND NOT pg_visible_in_snapshot(h.xid, seen)
        UNION
        SELECT c.record_id, NULL FROM sync.outcome f
          JOIN sync.route r ON r.id = f.route_id AND r.system_id = run.system_id AND r.object_id = run.object_id
          JOIN sync.claim c ON c.route_id = f.route_id AND c.seq = f.seq
         WHERE f.at >= since
        UNION
        SELECT i.record_id, NULL FROM jsonb_array_elements_text(earlier.seen -> 'in_transit') i (record_id)
        UNION
        SELECT NULL, i.remote_id FROM jsonb_array_elements_text(earlier.seen -> 'remote_in_transit') i (remote_id)
        UNION
        SELECT NULL, i.remote_id FROM sync.inbox i WHERE i.system_id = run.system_id AND i.object_id = run.object_id
        UNION
        SELECT b.record_id, b.remote_id FROM sync.break_entry b WHERE b.source = run.source AND b.status <> 'resolved')
    SELECT array_agg(DISTINCT c.record_id) FILTER (WHERE c.record_id IS NOT NULL), array_agg(DISTINCT c.remote_id) FILTER (WHERE c.remote_id IS NOT NULL)
      INTO records, remotes FROM changed c;
    -- What is looked at on one side is looked at on the other. Each is bound to one of the other at most.
    SELECT array_agg(x.record_id), array_agg(x.remote_id) INTO bound_records, bound_remotes
      FROM sync.external_id x WHERE x.system_id = run.system_id AND x.object_id = run.object_id AND x.remote_id = ANY (remotes);
    alone := ARRAY(SELECT unnest(records) EXCEPT SELECT unnest(bound_records));
    records := coalesce(bound_records, '{}') || alone;
    SELECT array_agg(x.record_id), array_agg(x.remote_id) INTO bound_records, bound_remotes
      FROM sync.external_id x WHERE x.object_id = run.object_id AND x.system_id = run.system_id AND x.record_id = ANY (alone);
    alone := ARRAY(SELECT unnest(alone) EXCEPT SELECT unnest(bound_records));
    remotes := coalesce(remotes, '{}') || coalesce(bound_remotes, '{}');
END
$$;
COMMENT ON FUNCTION sync._changed_since(sync.reconciliation, sync.reconciliation) IS 'Records that changed on either side since an earlier run, and which of ours are bound to nothing (alone), or why that cannot be told';

CREATE FUNCTION sync._reconcile_check(system text, object text, period daterange, mode text, other text, as_of timestamptz)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    which text;
    oldest timestamptz;
BEGIN
    SELECT t.* INTO o FROM sync.object t WHERE t.id = sync._object_id($2);
    IF $4 IS NULL OR $4 NOT IN ('mirror', 'delta', 'full') THEN
        RAISE EXCEPTION 'invalid mode "%"', $4
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'mirror: against the last known state; delta: what changed since the run before; full: against a fresh listing of the system.';
    ELSIF isempty($3) THEN
        RAISE EXCEPTION 'the period is empty'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name its first day and the day after its last: daterange(''2026-10-01'', ''2026-11-01'').';
    ELSIF $1 = $5 THEN
        RAISE EXCEPTION 'system "%" cannot be compared with itself', $1
            USING ERRCODE = 'invalid_parameter_value', HINT = 'other names a second system, or is left out to compare with the hub.';
    ELSIF $4 <> 'mirror' AND ($5 IS NOT NULL OR $6 IS NOT NULL) THEN
        RAISE EXCEPTION 'mode % is for one system as it is now', $4
            USING ERRCODE = 'SE080', HINT = 'Two systems, or a moment in the past, are compared in mode mirror.';
    END IF;
    FOREACH which IN ARRAY array_remove(ARRAY[$1, $5], NULL) LOOP
        PERFORM sync._system_id(which);
        IF NOT EXISTS (SELECT FROM sync.route r JOIN sync.system y ON y.id = r.system_id WHERE y.name = which AND r.object_id = o.id)
           AND NOT EXISTS (SELECT FROM sync.stream t JOIN sync.system y ON y.id = t.system_id WHERE y.name = which AND t.object_id = o.id) THEN
            RAISE EXCEPTION 'object "%" is neither pushed to nor pulled from system "%"', $2, which
                USING ERRCODE = 'SE080', DETAIL = 'Nothing is known of what the system has.', HINT = 'Make a route or a stream first: sync.create_route(), sync.create_stream().';
        END IF;
        -- Of a mirror that was never filled nothing differs.
        IF $4 <> 'full' AND $6 IS NULL
           AND EXISTS (SELECT FROM sync._read_until u JOIN sync.system y ON y.id = u.system_id WHERE y.name = which AND u.object_id = o.id AND u.at IS NULL) THEN
            RAISE EXCEPTION 'object "%" was never read from system "%" to the end', $2, which
                USING ERRCODE = 'SE080', DETAIL = 'Its stream has not come through yet, so what the system has is not known.',
                      HINT = format('Have it read (SELECT sync.request_pull(%L, %L)) and see sync.stream_status; or compare with a fresh listing: mode => ''full''.', which, $2);
        END IF;
        IF $6 IS NOT NULL THEN
            SELECT min(h.at) INTO oldest FROM sync.mirror_history h JOIN sync.system y ON y.id = h.system_id
             WHERE y.name = which AND h.object_id = o.id AND h.fields IS NOT NULL;
            IF NOT o.financial OR oldest IS NULL OR oldest > $6 THEN
                RAISE EXCEPTION 'what system "%" said of object "%" at % is not known', which, $2, $6
                    USING ERRCODE = 'SE080',
                          DETAIL = CASE WHEN NOT o.financial THEN 'States are kept of financial objects only.' WHEN oldest IS NULL THEN 'Nothing was ever known of it.' ELSE format('States are known since %s.', oldest) END,
                          HINT = 'Compare as of a later moment, or leave as_of out for the present.';
            END IF;
        END IF;
    END LOOP;
    IF $6 > clock_timestamp() THEN
        RAISE EXCEPTION 'as_of lies in the future' USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out for the present.';
    ELSIF $6 IS NOT NULL AND $5 IS NULL AND $6 < (SELECT min(p.lower_bound) FROM sync._partitions('sync.outbox') p) THEN
        RAISE EXCEPTION 'what the hub had at % is not known', $6
            USING ERRCODE = 'SE080', DETAIL = 'The outbox, by which rows are taken back to what they were, does not reach back so far.',
                  HINT = 'Compare two systems with each other as of then (other => …): their states are kept longer.';
    ELSIF $4 <> 'full' AND NOT (o.table_oid IS NOT NULL AND sync._in_place(o.table_oid) AND (o.line_oid IS NULL OR sync._in_place(o.line_oid))) THEN
        RAISE EXCEPTION 'table %.% cannot be compared in place', o.schema_name, o.table_name
            USING ERRCODE = 'SE080', DETAIL = 'It has columns of types that are not the server''s own, row security, or no right for the extension''s owner.',
                  HINT = 'Compare with a fresh listing, which reads records as the table''s owner: mode => ''full''.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._reconcile_check(text, text, daterange, text, text, timestamptz) IS 'An error when such a comparison cannot be';

-- Asked before the mirrors are read, so that it says rather too little than too much.
CREATE FUNCTION sync._known_as_of(system text, object text, mode text, other text)
RETURNS timestamptz
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN $3 = 'full' THEN clock_timestamp()
                WHEN bool_and(u.at IS NOT NULL) THEN min(u.at) END
      FROM unnest(array_remove(ARRAY[$1, $4], NULL)) w (name)
      JOIN sync.system y ON y.name = w.name
      JOIN sync.object o ON o.name = $2
      LEFT JOIN sync._read_until u ON u.system_id = y.id AND u.object_id = o.id
$$;
COMMENT ON FUNCTION sync._known_as_of(text, text, text, text) IS 'As of when it is known what a system has of an object, of two systems the less recent; NULL: that was never read';

CREATE FUNCTION sync._compare(run sync.reconciliation)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1 SET jit = off
AS $$
DECLARE
    earlier sync.reconciliation;
    records text[];
    remotes text[];
    alone text[];
    why_not text;
    snapshot pg_snapshot := pg_current_snapshot();
    looked text[];
BEGIN
    IF run.mode = 'delta' THEN
        SELECT r.* INTO earlier FROM sync.reconciliation r
         WHERE r.source = run.source AND r.state = 'done' AND r.mode IN ('mirror', 'delta') AND r.period IS NULL AND r.as_of IS NULL AND r.id < run.id ORDER BY r.id DESC LIMIT 1;
        SELECT c.* INTO records, remotes, alone, why_not FROM sync._changed_since(run, earlier) c;
        IF why_not IS NULL THEN
            looked := records || remotes;
        ELSE
            RAISE NOTICE 'everything is compared: %', why_not;
        END IF;
    END IF;
    IF run.other_system_id IS NOT NULL THEN
        PERFORM sync._read_pair(run);
    ELSIF run.as_of IS NOT NULL THEN
        PERFORM sync._read_hub_side_as_of(run);
    ELSE
        PERFORM sync._read_hub_side(run, alone, remotes);
    END IF;
    PERFORM sync._judge_suspects(run);
    IF looked IS NULL THEN
        IF run.other_system_id IS NOT NULL OR run.as_of IS NOT NULL THEN
            PERFORM sync._write_totals(run, sync._ours_sql(run), sync._theirs_sql(run));
        END IF;
        PERFORM sync._explain_totals(run.id);
    END IF;
    UPDATE sync.reconciliation r
       SET checked = coalesce(cardinality(records), (SELECT sum(greatest(t.our_count, t.their_count)) FROM sync.reconciliation_total t WHERE t.reconciliation_id = r.id), 0),
           seen = jsonb_build_object('snapshot', snapshot, 'incarnation', sync._writer_incarnation(), 'means', sync._meaning(run))
                  || coalesce((SELECT jsonb_build_object('in_transit', coalesce(jsonb_agg(DISTINCT f.record_id) FILTER (WHERE f.record_id IS NOT NULL), '[]'),
                                                           'remote_in_transit', coalesce(jsonb_agg(DISTINCT f.remote_id) FILTER (WHERE f.record_id IS NULL), '[]')) FROM sync.finding f
                                WHERE f.reconciliation_id = r.id AND f.class IN ('in_transit', 'timing') HAVING count(*) <= 10000), '{}')
     WHERE r.id = run.id;
    PERFORM sync._settle_breaks(run.id, looked);
END
$$;
COMMENT ON FUNCTION sync._compare(sync.reconciliation) IS 'Compares, settles breaks and writes totals of a run in mode mirror or delta';

CREATE FUNCTION sync.reconcile(system text, object text, period daterange DEFAULT NULL, mode text DEFAULT 'mirror', other text DEFAULT NULL,
                               as_of timestamptz DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan -- a delta takes less than to plan for it; what reads everything is EXECUTE
AS $$
DECLARE
    run sync.reconciliation;
    about text;
BEGIN
    PERFORM sync._reconcile_check($1, $2, $3, $4, $5, $6);
    IF $4 = 'full' AND NOT pg_has_role(sync._caller(), 'sync_operator', 'USAGE') AND NOT pg_has_role(sync._caller(), 'sync_admin', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for a fresh listing'
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'It asks the system for everything, under the limits that live traffic has, too.',
                  HINT = 'A member of sync_operator may; mode mirror compares with the last known state.';
    END IF;
    about := CASE WHEN $5 IS NULL THEN format('record:%s:%s', $1, $2) ELSE format('pair:%s:%s:%s', $1, $5, $2) END
             || coalesce(':' || regexp_replace(to_char($6 AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), '\.0{6}$', ''), '');
    -- Before the first look: a run that looked earlier must not settle later than one that looked after it.
    PERFORM pg_advisory_xact_lock(hashtext('sync_ext breaks'), hashtext(about));
    INSERT INTO sync.reconciliation AS r (source, kind, system_id, other_system_id, object_id, mode, period, as_of, known_as_of)
    VALUES (about, CASE WHEN $5 IS NULL THEN 'record' ELSE 'pair' END, sync._system_id($1), CASE WHEN $5 IS NOT NULL THEN sync._system_id($5) END,
            sync._object_id($2), $4, $3, $6, CASE WHEN $6 IS NULL THEN sync._known_as_of($1, $2, $4, $5) END)
    RETURNING r.* INTO run;
    IF $4 = 'full' THEN
        PERFORM sync._reconcile_full(run.id);
    ELSE
        PERFORM sync._compare(run);
    END IF;
    RETURN run.id;
END
$$;
COMMENT ON FUNCTION sync.reconcile(text, text, daterange, text, text, timestamptz) IS
    'Compares the records of an object in the hub with those of a system, or (other) of two systems with each other; period: accounting days; mode: mirror, delta, full; as_of: a moment in the past. Returns the id of the run';
