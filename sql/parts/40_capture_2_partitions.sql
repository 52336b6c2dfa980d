-- Upkeep of the partitions of outbox, claim and outcome.
--
-- A partition is made as a table of its own and attached: attaching takes no lock that a writer's
-- open transaction holds. Dropping does, so it waits some milliseconds only and comes again at the
-- next round. Partitions belong to the extension's owner and are no members of the extension,
-- because rows of a member's partition would be missing in a dump.

-- The parents have no indexes: see 11_tables_flow.sql.
CREATE FUNCTION sync._index_partition(parent text, child text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    part text;
BEGIN
    FOREACH part IN ARRAY CASE parent
        WHEN 'outbox' THEN ARRAY['seq (seq)', 'xid (xid, seq)', 'record (record_id)',
                                 'correlation ((context ->> ''correlation_id'')) WHERE context ? ''correlation_id''']
        WHEN 'claim' THEN ARRAY['delivery (route_id, seq)', 'record (record_id, object_id)',
                                'correlation ((context ->> ''correlation_id'')) WHERE context ? ''correlation_id''']
        WHEN 'outcome' THEN ARRAY['delivery (route_id, seq)',
                                  'at USING brin (at) WITH (pages_per_range = 32, autosummarize = on)'] END
    LOOP
        EXECUTE format('CREATE INDEX %I ON sync.%I %s', child || '_' || split_part(part, ' ', 1) || '_idx', child,
                       substr(part, strpos(part, ' ') + 1));
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._index_partition(text, text) IS 'Makes the indexes of a partition of outbox, claim or outcome';

-- Makes the default partition and one for each day from today on; returns what was skipped.
CREATE FUNCTION sync._make_partitions(parent text, days integer) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    today constant date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    made jsonb := '[]';
    skipped jsonb := '[]';
    bound text;
    child text;
    attached boolean;
BEGIN
    IF parent NOT IN ('outbox', 'claim', 'outcome') THEN
        RAISE EXCEPTION 'table "%" has no partitions of ours', parent USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR n IN -1 .. days LOOP
        IF n < 0 THEN
            child := parent || '_default';
            bound := 'DEFAULT';
        ELSE
            child := parent || '_p' || to_char(today + n, 'YYYYMMDD');
            bound := format('FOR VALUES FROM (%L) TO (%L)', (today + n) || ' 00:00:00+00', (today + n + 1) || ' 00:00:00+00');
        END IF;
        SELECT c.relispartition INTO attached
        FROM pg_class c WHERE c.relnamespace = 'sync'::regnamespace AND c.relname = child;
        CONTINUE WHEN attached;
        BEGIN
            IF attached IS NULL THEN
                -- Rows are only appended: vacuum matters for freezing alone, statistics early.
                EXECUTE format('CREATE TABLE sync.%I (LIKE sync.%I INCLUDING ALL) WITH (autovacuum_vacuum_insert_scale_factor = 1, autovacuum_analyze_scale_factor = 0.05)', child, parent);
                PERFORM sync._index_partition(parent, child);
            END IF;
            EXECUTE format('ALTER TABLE sync.%I ATTACH PARTITION sync.%I %s', parent, child, bound);
            made := made || to_jsonb(child);
        EXCEPTION
            -- Locked by somebody, made by somebody else meanwhile, or the default partition holds
            -- rows of that day already (then they stay there, and the days after it are made).
            WHEN lock_not_available OR deadlock_detected OR duplicate_table OR duplicate_object OR unique_violation OR check_violation OR invalid_object_definition THEN
                skipped := skipped || jsonb_build_object('partition', child, 'reason', SQLERRM);
        END;
    END LOOP;
    RETURN jsonb_build_object('made', made, 'skipped', skipped);
END
$$;
COMMENT ON FUNCTION sync._make_partitions(text, integer) IS 'Makes the missing partitions of today and the days after it';

-- The newest cursor of each route that events must still be kept for.
CREATE VIEW sync._active_cursor AS
    SELECT r.id AS route_id, r.object_id, c.incarnation, c.finished, c.finished_seq
    FROM sync.route r
    LEFT JOIN LATERAL (
        SELECT * FROM sync.checkpoint p WHERE p.route_id = r.id ORDER BY p.id DESC LIMIT 1) c ON true
    WHERE r.state = 'active';
COMMENT ON VIEW sync._active_cursor IS 'Newest checkpoint of each active route; NULLs when it has none yet';

-- Has a cursor passed the event? Transaction ids of another incarnation mean nothing; what was
-- taken over from it counts by sequence number.
CREATE FUNCTION sync._is_finished(cursor sync._active_cursor, incarnation integer, xid xid8, seq bigint) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE
    WHEN ($1).finished IS NULL THEN false
    WHEN ($1).incarnation = $2 THEN pg_visible_in_snapshot($3, ($1).finished)
    ELSE $2 < ($1).incarnation AND $4 <= ($1).finished_seq
END
$$;
COMMENT ON FUNCTION sync._is_finished(sync._active_cursor, integer, xid8, bigint) IS 'Whether a route has finished an event';

CREATE FUNCTION sync._outbox_floor() RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT min(o.at)
FROM sync.outbox o
WHERE EXISTS (SELECT FROM sync._active_cursor c
              WHERE c.object_id = o.object_id AND NOT sync._is_finished(c, o.incarnation, o.xid, o.seq))
$$;
COMMENT ON FUNCTION sync._outbox_floor() IS 'Oldest event that an active route still needs; NULL when none does';

-- SQL condition, over a row p of a partition, that the row must be kept.
CREATE FUNCTION sync._keep_condition(parent text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE WHEN parent = 'outbox' THEN
    'EXISTS (SELECT FROM sync._active_cursor c
             WHERE c.object_id = p.object_id AND NOT sync._is_finished(c, p.incarnation, p.xid, p.seq))'
ELSE
    'EXISTS (SELECT FROM sync.pending d WHERE d.route_id = p.route_id AND d.seq = p.seq)
     OR EXISTS (SELECT FROM sync._active_cursor c
                WHERE c.route_id = p.route_id AND (c.finished_seq IS NULL OR p.seq > c.finished_seq))'
END
$$;
COMMENT ON FUNCTION sync._keep_condition(text) IS 'Condition that a row of a partition past retention must still be kept';

-- Has a partition a row that must be kept? A day may have millions, and this runs between deliveries:
-- the newest numbers, which an index knows, say of a finished day that nothing in it is needed.
CREATE FUNCTION sync._is_pinned(parent text, child text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pinned boolean;
BEGIN
    IF parent = 'outbox' THEN
        EXECUTE format(
            'SELECT EXISTS (SELECT FROM sync._active_cursor c
                             CROSS JOIN (SELECT max(p.xid) AS xid, max(p.seq) AS seq FROM sync.%I p) newest
                             WHERE (newest.xid < pg_snapshot_xmin(c.finished) AND newest.seq <= c.finished_seq
                                    AND c.incarnation = (SELECT h.incarnation FROM sync.hub h)) IS NOT TRUE)', child) INTO pinned;
        IF pinned THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM sync.%I p WHERE %s)', child, sync._keep_condition(parent)) INTO pinned;
        END IF;
    ELSE
        EXECUTE format(
            'SELECT EXISTS (SELECT FROM sync.pending d JOIN sync.%1$I p ON p.route_id = d.route_id AND p.seq = d.seq)
                 OR EXISTS (SELECT FROM sync._active_cursor c
                             CROSS JOIN LATERAL (SELECT max(p.seq) AS seq FROM sync.%1$I p WHERE p.route_id = c.route_id) newest
                             WHERE newest.seq IS NOT NULL AND (c.finished_seq IS NULL OR newest.seq > c.finished_seq))', child) INTO pinned;
    END IF;
    RETURN pinned;
END
$$;
COMMENT ON FUNCTION sync._is_pinned(text, text) IS 'Whether a partition past retention has a row that must still be kept';

-- Drops what is past retention and finished. The scan runs without a strong lock; only what was
-- written since it began is looked at again under the lock, which a late writer may have waited for.
CREATE FUNCTION sync._drop_partitions(parent text, retention interval) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    horizon constant timestamptz := clock_timestamp() - retention;
    keep constant text := sync._keep_condition(parent);
    dropped jsonb := '[]';
    skipped jsonb := '[]';
    child text;
    pinned boolean;
    before pg_snapshot;
    deleted bigint;
BEGIN
    FOR child IN
        SELECT c.relname
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = format('sync.%I', parent)::regclass AND c.relname ~ ('^' || parent || '_p\d{8}$')
          AND ((to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC') <= horizon
        ORDER BY c.relname
    LOOP
        before := pg_current_snapshot();
        pinned := sync._is_pinned(parent, child);
        IF pinned THEN
            skipped := skipped || jsonb_build_object('partition', child, 'reason', 'not finished');
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE format('LOCK TABLE sync.%I IN ACCESS EXCLUSIVE MODE', child);
            IF parent = 'outbox' THEN
                EXECUTE format('SELECT EXISTS (SELECT FROM sync.%I p WHERE p.xid >= $1 AND (%s))', child, keep)
                    INTO pinned USING pg_snapshot_xmin(before);
            END IF;
            IF pinned THEN
                skipped := skipped || jsonb_build_object('partition', child, 'reason', 'not finished');
            ELSE
                EXECUTE format('DROP TABLE sync.%I', child);
                dropped := dropped || to_jsonb(child);
            END IF;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                skipped := skipped || jsonb_build_object('partition', child, 'reason', SQLERRM);
        END;
    END LOOP;

    IF to_regclass(format('sync.%I', parent || '_default')) IS NULL THEN
        RETURN jsonb_build_object('dropped', dropped, 'skipped', skipped);
    END IF;
    BEGIN
        EXECUTE format('DELETE FROM sync.%I p WHERE p.at < $1 AND NOT (%s)', parent || '_default', keep) USING horizon;
        GET DIAGNOSTICS deleted = ROW_COUNT;
    EXCEPTION
        WHEN lock_not_available OR deadlock_detected THEN
            skipped := skipped || jsonb_build_object('partition', parent || '_default', 'reason', SQLERRM);
    END;
    RETURN jsonb_build_object('dropped', dropped, 'skipped', skipped, 'deleted', coalesce(deleted, 0));
END
$$;
COMMENT ON FUNCTION sync._drop_partitions(text, interval) IS 'Drops partitions whose rows are past retention and finished';

CREATE FUNCTION sync._upkeep(lock_timeout_ms integer DEFAULT 20) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '20ms'
AS $$
DECLARE
    result jsonb := '{}';
    parent text;
    days integer;
    outbox_retention interval;
    history_retention interval;
BEGIN
    -- Any C function of ours loads the library, which defines the settings.
    PERFORM sync.is_applying();
    PERFORM set_config('lock_timeout', greatest(lock_timeout_ms, 1) || 'ms', true);
    days := current_setting('sync_ext.upkeep_days');
    outbox_retention := current_setting('sync_ext.outbox_retention');
    history_retention := current_setting('sync_ext.history_retention');

    FOREACH parent IN ARRAY ARRAY['outbox', 'claim', 'outcome'] LOOP
        result := result || jsonb_build_object(parent, sync._make_partitions(parent, days));
    END LOOP;
    -- Last, because the locks of a drop last until this transaction ends.
    FOREACH parent IN ARRAY ARRAY['claim', 'outcome', 'outbox'] LOOP
        result := jsonb_set(result, ARRAY[parent, 'retention'],
            sync._drop_partitions(parent, CASE WHEN parent = 'outbox' THEN outbox_retention ELSE history_retention END));
    END LOOP;
    RETURN result;
END
$$;
COMMENT ON FUNCTION sync._upkeep(integer) IS 'Makes partitions ahead and drops finished ones past retention, without ever making an app wait';

REVOKE ALL ON sync._active_cursor FROM PUBLIC;
REVOKE ALL ON FUNCTION sync._make_partitions(text, integer), sync._drop_partitions(text, interval), sync._keep_condition(text), sync._is_pinned(text, text),
    sync._is_finished(sync._active_cursor, integer, xid8, bigint), sync._outbox_floor(), sync._upkeep(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync._upkeep(integer), sync._outbox_floor() TO sync_admin, sync_worker;
