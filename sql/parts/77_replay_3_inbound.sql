-- Replay, inbound: remote records through the mapping as it is now.
--
-- A record whose raw form is kept, and is what the mirror was made of, goes into the inbox as it is; of others
-- one asks the system by id. Both are applied by the pull as everything that waits there: by ownership, with
-- conflicts, never over something newer. So nothing here writes a canonical row.

CREATE FUNCTION sync._for_reader(object text, call text, args jsonb)
RETURNS jsonb
LANGUAGE c VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_for_reader';
COMMENT ON FUNCTION sync._for_reader(text, text, jsonb) IS 'What sync._reader_<call>(args) answers, for who may read the object''s table';

-- Whence each record would come: what waits in the inbox is newer than the mirror.
CREATE FUNCTION sync._inbound_source(system_id integer, object_id integer, readable boolean)
RETURNS TABLE (remote_id text, at timestamptz, source text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT m.remote_id, coalesce(i.received_at, m.seen_at),
           CASE WHEN i.id IS NOT NULL THEN 'inbox' WHEN m.raw IS NOT NULL AND m.mapping IS NOT NULL THEN 'raw' WHEN $3 THEN 'read' ELSE 'none' END
      FROM sync.mirror m
      LEFT JOIN sync.inbox i ON i.system_id = m.system_id AND i.object_id = m.object_id AND i.remote_id = m.remote_id
     WHERE m.system_id = $1 AND m.object_id = $2 AND NOT m.deleted
    UNION ALL
    SELECT i.remote_id, i.received_at, 'inbox'
      FROM sync.inbox i
     WHERE i.system_id = $1 AND i.object_id = $2 AND jsonb_typeof(i.item) = 'object'
       AND NOT EXISTS (SELECT FROM sync.mirror m WHERE m.system_id = i.system_id AND m.object_id = i.object_id AND m.remote_id = i.remote_id)
$$;
COMMENT ON FUNCTION sync._inbound_source(integer, integer, boolean) IS 'Remote records, and whence a replay would have them: inbox, raw, read, or none';

CREATE FUNCTION sync._inbound_ids(system_id integer, object_id integer, readable boolean, since timestamptz, until timestamptz)
RETURNS SETOF jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_agg(jsonb_build_object('n', d.n, 'record_id', d.remote_id, 'action', CASE d.source WHEN 'read' THEN 'read' WHEN 'none' THEN 'skip' ELSE 'map' END)
                     ORDER BY d.n)
      FROM (SELECT s.*, row_number() OVER (ORDER BY s.at, s.remote_id) AS n
              FROM sync._inbound_source($1, $2, $3) s WHERE s.at >= $4 AND s.at < $5) d
     GROUP BY (d.n - 1) / 200 ORDER BY (d.n - 1) / 200
$$;
COMMENT ON FUNCTION sync._inbound_ids(integer, integer, boolean, timestamptz, timestamptz) IS 'Remote records that were seen in a period, some hundred at a time';

-- What the mapping makes of some records, beside what it made of them and what stands here. Called by
-- _for_reader() alone.
CREATE FUNCTION sync._reader_inbound(args jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_system constant integer := (args ->> 'system_id')::integer;
    the_object constant integer := (args ->> 'object_id')::integer;
    connector integer;
    answer jsonb;
BEGIN
    SELECT sync._current_connector(v.options ->> 'connector') INTO connector
      FROM sync.system y JOIN sync._server v ON v.name = y.name WHERE y.id = the_system;
    WITH asked AS (
        SELECT a.n, a.record_id AS remote_id, a.action FROM jsonb_to_recordset(args -> 'items') a (n integer, record_id text, action text)),
    kept AS (
        SELECT a.n, a.remote_id, a.action, x.record_id, m.fields, CASE WHEN jsonb_typeof(i.item) = 'object' THEN i.item ELSE m.raw END AS raw,
               row_number() OVER (PARTITION BY a.action = 'map' ORDER BY a.n) AS place
          FROM asked a
          LEFT JOIN sync.mirror m ON m.system_id = the_system AND m.object_id = the_object AND m.remote_id = a.remote_id
          LEFT JOIN sync.inbox i ON i.system_id = the_system AND i.object_id = the_object AND i.remote_id = a.remote_id
          LEFT JOIN sync.external_id x ON x.system_id = the_system AND x.object_id = the_object AND x.remote_id = a.remote_id),
    mapped AS (
        SELECT r.said, row_number() OVER () AS place
          FROM sync._map_records(the_system, the_object, connector,
                                 coalesce((SELECT jsonb_agg(k.raw ORDER BY k.place) FROM kept k WHERE k.action = 'map'), '[]')) r (said))
    SELECT jsonb_agg(jsonb_build_object('n', k.n, 'remote_id', k.remote_id, 'action', k.action, 'record_id', k.record_id, 'mirror', k.fields,
                                        'mapped', m.said -> 'fields', 'said', m.said - 'fields',
                                        'ours', CASE WHEN k.record_id IS NOT NULL THEN sync._record_or_null(the_object, k.record_id) END) ORDER BY k.n)
      INTO answer
      FROM kept k LEFT JOIN mapped m ON m.place = k.place AND k.action = 'map';
    RETURN answer;
END
$$;
COMMENT ON FUNCTION sync._reader_inbound(jsonb) IS 'What the mapping makes of some remote records now, and what is known of them';

CREATE FUNCTION sync._inbound_verdict(object text, field text, system text)
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN w.owner = $3 THEN format('taken: %s owns it', $3)
                WHEN w.owner IS NOT NULL THEN format('%s: %s owns it', w.on_violation, w.owner)
                WHEN w.field IS NULL THEN 'no field of the table'
                ELSE format('taken, unless it was changed here as well (%s)', w.conflict_policy) END
      FROM (SELECT 1) one
      LEFT JOIN sync.ownership w ON w.object = $1 AND w.field = $2
$$;
COMMENT ON FUNCTION sync._inbound_verdict(text, text, text) IS 'What becomes of a change of a field by a system, in words';

CREATE FUNCTION sync._inbound_check(system text, object text, since timestamptz, until timestamptz, filter text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync._replay_period(since, until);
    IF NOT EXISTS (SELECT FROM sync.stream t WHERE t.system_id = sync._system_id(system) AND t.object_id = sync._object_id(object) AND t.state = 'active') THEN
        RAISE EXCEPTION 'object "%" is not pulled from system "%"', object, system
            USING ERRCODE = 'SE085', DETAIL = 'A replay applies what a stream has brought.', HINT = 'Make a stream with sync.create_stream().';
    END IF;
    IF filter IS NOT NULL THEN
        PERFORM sync._condition_check(object, filter);
    END IF;
    RETURN sync._manifest(system) #> ARRAY['objects', object, 'pull', 'fetch'] IS NOT NULL;
END
$$;
COMMENT ON FUNCTION sync._inbound_check(text, text, timestamptz, timestamptz, text) IS 'Whether records can be read by id; an error where a replay would make no sense';

-- A piece of the list, the filter applied: over the record as it stands here; where there is none, as it is mapped.
CREATE FUNCTION sync._inbound_pieces(system text, object text, readable boolean, since timestamptz, until timestamptz, filter text)
RETURNS TABLE (items jsonb, known jsonb)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    piece jsonb;
BEGIN
    FOR piece IN SELECT * FROM sync._inbound_ids(sync._system_id(system), sync._object_id(object), readable, since, until) LOOP
        known := sync._for_reader(object, 'inbound', jsonb_build_object('system_id', sync._system_id(system), 'object_id', sync._object_id(object), 'items', piece));
        items := sync._replay_filtered(sync._object_id(object), filter, piece,
                     (SELECT jsonb_agg(jsonb_build_object('op', 'U', 'body', coalesce(nullif(k.value -> 'ours', 'null'), nullif(k.value -> 'mapped', 'null'),
                                                          nullif(k.value -> 'mirror', 'null'), '{}')) ORDER BY k.n)
                        FROM jsonb_array_elements(known) WITH ORDINALITY k (value, n)));
        IF items IS NOT NULL THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._inbound_pieces(text, text, boolean, timestamptz, timestamptz, text) IS 'The records of an inbound replay and what is known of them, some hundred at a time';

CREATE FUNCTION sync.replay_inbound(system text, object text, since timestamptz, until timestamptz, filter text DEFAULT NULL, dry_run boolean DEFAULT true,
                                    reason text DEFAULT NULL, rate text DEFAULT '20/s')
RETURNS TABLE (remote_id text, record_id text, record_number text, action text, field text, mirror jsonb, mapped jsonb, ours jsonb, verdict text,
               job bigint, approval bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    readable boolean := sync._inbound_check(replay_inbound.system, replay_inbound.object, replay_inbound.since, replay_inbound.until, filter);
    run bigint;
    piece record;
    total bigint := 0;
BEGIN
    PERFORM sync._per_second(rate);
    IF NOT dry_run THEN
        run := sync._replay_begin('in', replay_inbound.system, replay_inbound.object, replay_inbound.since, replay_inbound.until, filter, NULL, rate, reason);
    END IF;
    FOR piece IN SELECT * FROM sync._inbound_pieces(replay_inbound.system, replay_inbound.object, readable, replay_inbound.since, replay_inbound.until, filter) LOOP
        total := total + jsonb_array_length(piece.items);
        IF run IS NOT NULL THEN
            PERFORM sync._replay_add(run, piece.items);
            CONTINUE;
        END IF;
        RETURN QUERY
        SELECT k.remote_id, k.record_id, sync._record_number(sync._object_id(replay_inbound.object), k.record_id),
               CASE WHEN k.action = 'map' AND d.field IS NULL THEN coalesce(nullif(k.said ->> 'status', 'ok'), 'unchanged') ELSE k.action END,
               d.field, d.current, d.candidate, k.ours -> d.field,
               CASE WHEN d.field IS NOT NULL THEN sync._inbound_verdict(replay_inbound.object, d.field, replay_inbound.system)
                    WHEN k.action = 'read' THEN 'what it answers is applied as ownership says'
                    WHEN k.action = 'skip' THEN 'it is neither kept, nor can it be read by id: sync.request_pull() reads all'
                    ELSE k.said ->> 'message' END, NULL::bigint, NULL::bigint
          FROM jsonb_to_recordset(piece.known) k (n integer, remote_id text, record_id text, action text, mirror jsonb, mapped jsonb, said jsonb, ours jsonb)
          JOIN jsonb_to_recordset(piece.items) i (n integer) ON i.n = k.n
          LEFT JOIN LATERAL sync._differences(coalesce(k.mirror, '{}'), k.mapped) d ON k.action = 'map' AND k.mapped IS NOT NULL
         ORDER BY k.n, d.field;
    END LOOP;
    IF run IS NULL THEN
        RETURN;
    ELSIF total = 0 THEN
        RAISE EXCEPTION 'there is nothing to replay'
            USING ERRCODE = 'SE085', DETAIL = 'No remote record was seen in the period that fits.', HINT = 'Call it with dry_run => true, and without filter, to see what there is.';
    END IF;
    RETURN QUERY
    SELECT NULL::text, NULL::text, NULL::text, CASE WHEN g.job IS NULL THEN 'approval' ELSE 'job' END, NULL::text, NULL::jsonb, NULL::jsonb, NULL::jsonb,
           format('%s records', total), g.job, g.approval
      FROM sync._replay_go(run) g;
END
$$;
COMMENT ON FUNCTION sync.replay_inbound(text, text, timestamptz, timestamptz, text, boolean, text, text) IS
    'Applies remote records that were seen in a period again, through the mapping as it is now: dry_run shows the fields that would change; else a job does it';

-- ---- doing it ----

-- A newer state that waits there stays, and is tried again.
CREATE FUNCTION sync._inbound_issue(run sync.replay_run, items jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WITH asked AS (
        SELECT a.n, a.record_id AS remote_id, a.action FROM jsonb_to_recordset(items) a (n integer, record_id text, action text)),
    kept AS (
        SELECT a.n, a.remote_id, a.action, m.seen_at, m.raw,
               CASE WHEN m.raw IS NOT NULL AND m.mapping IS NOT NULL THEN m.raw END AS item
          FROM asked a
          LEFT JOIN sync.mirror m ON m.system_id = run.system_id AND m.object_id = run.object_id AND m.remote_id = a.remote_id AND NOT m.deleted
          WHERE a.action <> 'skip'),
    put AS (
        INSERT INTO sync.inbox AS i (system_id, object_id, remote_id, item, reason, received_at, retry_at)
        SELECT run.system_id, run.object_id, k.remote_id, CASE WHEN k.action = 'map' AND k.item IS NOT NULL THEN k.item ELSE 'null' END, format('replay %s', run.id),
               CASE WHEN k.action = 'map' AND k.item IS NOT NULL THEN k.seen_at ELSE clock_timestamp() END, clock_timestamp()
          FROM kept k
        ON CONFLICT ON CONSTRAINT inbox_system_id_object_id_remote_id_key DO UPDATE SET retry_at = excluded.retry_at)
    UPDATE sync.replay_item t
       SET state = CASE a.action WHEN 'skip' THEN 'skipped' ELSE 'issued' END,
           why = CASE a.action WHEN 'skip' THEN 'it is neither kept, nor can it be read by id' END, acted_at = clock_timestamp()
      FROM asked a WHERE t.replay_id = run.id AND t.n = a.n;
    PERFORM sync._wake();
END
$$;
COMMENT ON FUNCTION sync._inbound_issue(sync.replay_run, jsonb) IS 'Has some records of a replay applied, or read, again';

CREATE FUNCTION sync._job_replay_inbound(id bigint)
RETURNS interval
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run sync.replay_run;
    moving bigint;
    stuck bigint;
    items jsonb;
BEGIN
    SELECT r.* INTO STRICT run FROM sync.replay_run r WHERE r.job_id = _job_replay_inbound.id;
    IF NOT EXISTS (SELECT FROM sync.stream t WHERE t.system_id = run.system_id AND t.object_id = run.object_id AND t.state = 'active') THEN
        RAISE EXCEPTION 'the stream of replay % was dropped', run.id USING ERRCODE = 'SE085', HINT = 'Stop its job with sync.stop_job().';
    END IF;
    SELECT count(*) FILTER (WHERE b.retry_at <= clock_timestamp() OR b.item = 'null'), count(*) FILTER (WHERE b.retry_at > clock_timestamp() AND b.item <> 'null')
      INTO moving, stuck
      FROM sync.inbox b JOIN sync.replay_item i ON i.replay_id = run.id AND i.record_id = b.remote_id AND i.state = 'issued'
     WHERE b.system_id = run.system_id AND b.object_id = run.object_id;
    IF moving >= sync._replay_share(run) THEN
        UPDATE sync.job j SET phase = 'waits for answers' WHERE j.id = _job_replay_inbound.id;
        RETURN sync._replay_idle();
    END IF;
    SELECT jsonb_agg(jsonb_build_object('n', i.n, 'record_id', i.record_id, 'action', i.action)) INTO items FROM sync._replay_next(run) i;
    IF items IS NOT NULL THEN
        PERFORM sync._inbound_issue(run, items);
    END IF;
    RETURN sync._replay_stepped(run, items, moving, CASE WHEN stuck > 0 THEN jsonb_build_object('in_inbox', stuck) ELSE '{}' END);
END
$$;
COMMENT ON FUNCTION sync._job_replay_inbound(bigint) IS 'A step of an inbound replay';
