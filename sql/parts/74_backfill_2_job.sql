-- Backfill: the steps.
--
-- Push: the object's table is walked by key. What the system does not have, or (on a route that fell
-- behind) has otherwise, is told by an event for that system alone, drawn under the row's lock with the row
-- as it stands: it takes its place among the record's other events, before whatever an app does later. The
-- next piece is told only when the route has little left to do, so what apps write waits for a piece at most.
-- Pull: src/reconcile lists the system and applies each page as the stream would.

CREATE FUNCTION sync._record_send(object_id integer, record_id text, system_id integer, op "char", old jsonb)
RETURNS boolean
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
-- as a hub has them: keys and values are compared as texts
SET datestyle = 'ISO' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
AS 'MODULE_PATHNAME', 'se_record_send';
COMMENT ON FUNCTION sync._record_send(integer, text, integer, "char", jsonb) IS
    'Tells one system of a record as it stands, under its lock; false: there is no such record. A locked row is an error at once';

CREATE FUNCTION sync._count_rows(object_id integer)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass := (sync._identity_table(object_id)).relation;
    estimate bigint;
    bytes bigint;
BEGIN
    SELECT sum(greatest(c.reltuples, 0)), sum(pg_relation_size(c.oid)) INTO estimate, bytes
      FROM (SELECT relation UNION SELECT p.relid FROM pg_partition_tree(relation) p) t (oid) JOIN pg_class c ON c.oid = t.oid;
    -- Counting a large table would hold the hub up.
    IF estimate > 20000 OR bytes > 16 * 1024 * 1024 THEN
        RETURN nullif(estimate, 0);
    END IF;
    RETURN sync._as_owner(relation, format('SELECT to_jsonb(count(*)) FROM %s', relation))::bigint;
END
$$;
COMMENT ON FUNCTION sync._count_rows(integer) IS 'How many records an object has; of a large table as last estimated';

-- What becomes of a record in a backfill: send, or why not. old: what the system says of fields that differ.
CREATE FUNCTION sync._backfill_verdict(job sync.job, route sync.route, o sync.object, record_id text, body jsonb, queued text[], OUT verdict text, OUT op "char", OUT old jsonb)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed timestamptz := coalesce(body ->> 'updated_at', body ->> 'created_at');
    day date := coalesce((sync._accounting_date(o, body)).day, ((body ->> 'created_at')::timestamptz AT TIME ZONE 'UTC')::date);
    filter sync.job_filter;
    answer record;
    m sync.mirror;
    bound text;
    owned text[];
BEGIN
    op := 'I';
    IF changed < (job.params ->> 'since')::timestamptz OR changed > (job.params ->> 'until')::timestamptz THEN
        verdict := 'outside';
        RETURN;
    ELSIF day < (job.params ->> 'cutover_date')::date THEN
        verdict := 'before_cutover';
        RETURN;
    ELSIF body ->> 'merged_into_id' IS NOT NULL THEN
        verdict := 'merged';
        RETURN;
    END IF;
    SELECT f.* INTO filter FROM sync.job_filter f WHERE f.job_id = job.id;
    IF FOUND THEN
        answer := sync._holds(o.id, filter.filter, filter.run_as, body, 'insert', NULL);
        IF answer.error IS NOT NULL THEN
            RAISE EXCEPTION 'the filter failed: %', answer.error;
        ELSIF answer.holds IS NOT TRUE THEN
            verdict := 'filtered';
            RETURN;
        END IF;
    END IF;
    SELECT x.remote_id INTO bound FROM sync.external_id x WHERE x.object_id = o.id AND x.record_id = $4 AND x.system_id = job.system_id;
    IF bound IS NOT NULL THEN
        verdict := 'there';
        IF NOT job.params ? 'healed' THEN
            RETURN;
        END IF;
        -- The route missed changes: what the system said last is compared with the row.
        op := 'U';
        owned := ARRAY(SELECT w.field FROM sync.owner w WHERE w.object_id = o.id AND w.system_id = job.system_id);
        IF '*' = ANY (owned) THEN
            RETURN;
        END IF;
        SELECT t.* INTO m FROM sync.mirror t WHERE t.system_id = job.system_id AND t.object_id = o.id AND t.remote_id = bound;
        old := (sync._fields_differing(o.id, 1000, ARRAY[body], ARRAY[m.fields - owned - ARRAY(SELECT jsonb_object_keys(m.agreed))]))[1];
        IF old IS NULL AND m.remote_id IS NOT NULL THEN
            RETURN;
        END IF;
    ELSIF NOT job.params ? 'healed' AND ($4 = ANY (queued) OR EXISTS (SELECT FROM sync.pending p WHERE p.route_id = route.id AND p.record_id = $4)) THEN
        verdict := 'on_its_way';
        RETURN;
    END IF;
    answer := sync._holds(o.id, route.condition, route.run_as, body, CASE op WHEN 'I' THEN 'insert' ELSE 'update' END, old);
    verdict := CASE WHEN answer.holds IS NOT TRUE AND answer.error IS NULL
                      OR CASE op WHEN 'I' THEN 'insert' ELSE 'update' END <> ALL (route.operations) THEN 'not_wanted' ELSE 'sent' END;
END
$$;
COMMENT ON FUNCTION sync._backfill_verdict(sync.job, sync.route, sync.object, text, jsonb, text[]) IS 'Whether a backfill sends a record, or why not';

CREATE FUNCTION sync._backfill_one(job sync.job, route sync.route, o sync.object, record_id text, body jsonb, queued text[])
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v record := sync._backfill_verdict(job, route, o, record_id, body, queued);
BEGIN
    IF v.verdict = 'sent' AND NOT sync._record_send(o.id, record_id, job.system_id, v.op, v.old) THEN
        RETURN 'gone';
    END IF;
    RETURN v.verdict;
EXCEPTION WHEN lock_not_available THEN
    RETURN 'locked';
END
$$;
COMMENT ON FUNCTION sync._backfill_one(sync.job, sync.route, sync.object, text, jsonb, text[]) IS 'Sends a record, or says why not';

-- How many records may be told of now; 0: what was told before, or what apps wrote, goes first.
CREATE FUNCTION sync._backfill_room(job sync.job, route sync.route)
RETURNS integer
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    size integer := coalesce((job.cursor ->> 'size')::integer, 10);
    rate integer := (job.params ->> 'rate')::integer;
    told_at timestamptz := job.cursor ->> 'told_at';
    before bigint;
BEGIN
    SELECT b.queued + b.in_flight INTO before FROM sync._backlog(route.id) b;
    IF before = 0 THEN
        size := least(size * 2, 200);
    ELSIF before > size / 4 THEN
        -- Where apps leave it no room at all, a little is told all the same, once in ten seconds; but not
        -- while nothing goes out.
        IF told_at > clock_timestamp() - interval '10 s'
           OR NOT EXISTS (SELECT FROM sync.outcome f WHERE f.route_id = route.id AND f.final AND f.at > coalesce(told_at, job.started_at)) THEN
            RETURN 0;
        END IF;
        size := 10;
    END IF;
    UPDATE sync.job j SET cursor = j.cursor || jsonb_build_object('size', size, 'told_at', clock_timestamp()) WHERE j.id = job.id;
    RETURN least(size, rate);
END
$$;
COMMENT ON FUNCTION sync._backfill_room(sync.job, sync.route) IS 'How many records a backfill may tell of now';

-- One piece: records by id, until as many were sent as there is room for.
CREATE FUNCTION sync._backfill_piece(job sync.job, route sync.route, ids text[], room integer, OUT looked integer, OUT sent integer, OUT locked text[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    bodies jsonb := sync._bodies(job.object_id, ids);
    queued text[] := ARRAY(SELECT q.record_id FROM sync._queue q WHERE q.route_id = route.id LIMIT 1000);
    counts jsonb := '{}';
    verdict text;
    id text;
BEGIN
    SELECT t.* INTO STRICT o FROM sync.object t WHERE t.id = job.object_id;
    -- Whose act it is, for approvals and for who looks at the deliveries.
    PERFORM set_config('sync_ext.actor', job.requested_by, true), set_config('sync_ext.reason', coalesce(job.reason, ''), true),
            set_config('sync_ext.correlation_id', 'backfill ' || job.id, true);
    looked := 0;
    sent := 0;
    locked := '{}';
    FOREACH id IN ARRAY ids LOOP
        EXIT WHEN sent >= room;
        looked := looked + 1;
        verdict := CASE WHEN bodies ? id THEN sync._backfill_one(job, route, o, id, bodies -> id, queued) ELSE 'gone' END;
        IF verdict = 'locked' THEN
            locked := locked || id;
        ELSE
            counts := jsonb_set(counts, ARRAY[verdict], to_jsonb(coalesce((counts ->> verdict)::integer, 0) + 1));
        END IF;
        sent := sent + (verdict = 'sent')::integer;
    END LOOP;
    UPDATE sync.job j
       SET done = j.done + looked - cardinality(locked),
           result = j.result || (SELECT coalesce(jsonb_object_agg(c.key, c.value::bigint + coalesce((j.result ->> c.key)::bigint, 0)), '{}') FROM jsonb_each_text(counts) c)
     WHERE j.id = job.id;
END
$$;
COMMENT ON FUNCTION sync._backfill_piece(sync.job, sync.route, text[], integer) IS 'Sends what is to be sent of some records';

CREATE FUNCTION sync._backfill_sending(job sync.job, route sync.route)
RETURNS interval
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    room integer := sync._backfill_room(job, route);
    rate integer := (job.params ->> 'rate')::integer;
    again boolean := coalesce(job.cursor ? 'again', false);
    ids text[];
    piece record;
BEGIN
    IF room = 0 THEN
        RETURN interval '200 ms';
    END IF;
    ids := CASE WHEN again THEN ARRAY(SELECT i FROM jsonb_array_elements_text(job.cursor -> 'locked') i LIMIT 200)
                -- Where much is sent, no more is read than there is room for.
                ELSE sync._next_ids(job.object_id, job.cursor ->> 'after', CASE WHEN coalesce(job.cursor ? 'dense', false) THEN room ELSE 200 END) END;
    IF cardinality(ids) = 0 THEN
        IF NOT again AND job.cursor ? 'locked' THEN
            UPDATE sync.job j SET cursor = j.cursor || '{"again": true}' WHERE j.id = job.id;
        ELSE
            UPDATE sync.job j SET phase = 'delivering', cursor = j.cursor || jsonb_build_object('last_seq', (SELECT s.last_value FROM sync.outbox_seq s)) WHERE j.id = job.id;
        END IF;
        RETURN '0';
    END IF;
    piece := sync._backfill_piece(job, route, ids, room);
    UPDATE sync.job j
       SET cursor = CASE WHEN again THEN j.cursor || jsonb_build_object('locked', to_jsonb(piece.locked) || coalesce(
                                                    (SELECT jsonb_agg(l.id ORDER BY l.n) FROM jsonb_array_elements(job.cursor -> 'locked') WITH ORDINALITY l (id, n) WHERE l.n > piece.looked), '[]'))
                         ELSE (j.cursor - 'dense') || jsonb_build_object('after', ids[piece.looked])
                              || CASE WHEN piece.sent * 2 >= piece.looked THEN jsonb '{"dense": true}' ELSE '{}' END
                              || CASE WHEN cardinality(piece.locked) > 0 THEN jsonb_build_object('locked', coalesce(job.cursor -> 'locked', '[]') || to_jsonb(piece.locked)) ELSE '{}' END END
     WHERE j.id = job.id;
    IF again AND cardinality(piece.locked) > 0 THEN
        RETURN interval '1 s';
    END IF;
    RETURN CASE WHEN piece.sent = 0 THEN interval '0' WHEN rate IS NOT NULL THEN interval '1 s' * piece.sent / rate ELSE interval '50 ms' END;
END
$$;
COMMENT ON FUNCTION sync._backfill_sending(sync.job, sync.route) IS 'A step of a backfill into a system: the next piece';

CREATE FUNCTION sync._job_backfill_push(id bigint)
RETURNS interval
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    job sync.job;
    route sync.route;
BEGIN
    SELECT j.* INTO STRICT job FROM sync.job j WHERE j.id = _job_backfill_push.id;
    SELECT r.* INTO route FROM sync.route r WHERE r.system_id = job.system_id AND r.object_id = job.object_id AND r.state = 'active';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the route is gone, or needs a backfill again';
    END IF;
    CASE job.phase
        WHEN 'sending' THEN
            RETURN sync._backfill_sending(job, route);
        WHEN 'delivering' THEN
            -- What is held, dead or in conflict is for a person, and is not waited for.
            RETURN CASE WHEN EXISTS (SELECT FROM sync._queue q WHERE q.route_id = route.id AND q.seq <= (job.cursor ->> 'last_seq')::bigint)
                        THEN interval '300 ms' END;
        ELSE
            UPDATE sync.job j SET phase = 'sending', total = sync._count_rows(job.object_id) WHERE j.id = job.id;
            RETURN '0';
    END CASE;
END
$$;
COMMENT ON FUNCTION sync._job_backfill_push(bigint) IS 'A step of a backfill into a system';

CREATE FUNCTION sync._job_backfill_pull(id bigint)
RETURNS interval
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    job sync.job;
BEGIN
    SELECT j.* INTO STRICT job FROM sync.job j WHERE j.id = _job_backfill_pull.id;
    IF job.phase = 'listed' THEN
        UPDATE sync.job j SET phase = 'settling' WHERE j.id = job.id;
        RETURN '0';
    ELSIF job.phase = 'settling' THEN
        -- Until what is in doubt has been read by id; an outage there is not waited for.
        RETURN CASE WHEN job.started_at > clock_timestamp() - interval '1 day'
                     AND EXISTS (SELECT FROM sync.inbox i WHERE i.system_id = job.system_id AND i.object_id = job.object_id AND i.item = 'null' AND i.attempts < 3)
                    THEN interval '300 ms' END;
    ELSIF job.phase IS NULL THEN
        UPDATE sync.job j SET phase = 'counting' WHERE j.id = job.id;
    END IF;
    RETURN interval '1 h'; -- src/reconcile is at it, and sets the time of the next step when it is done
END
$$;
COMMENT ON FUNCTION sync._job_backfill_pull(bigint) IS 'A step of a backfill from a system';
