-- Upkeep of partitions: made ahead, dropped when finished, never a member of the extension.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
-- All of it is undone at the end: other tests share the database.
BEGIN;
SET LOCAL TimeZone = 'Pacific/Kiritimati';
SELECT jsonb_object_keys(sync._upkeep()) AS part ORDER BY 1;
SELECT jsonb_path_query_array(sync._upkeep(), '$.*.made[*]') AS made_again;

-- Today's and the days after it, by UTC, and a default partition, owned by the extension's owner.
CREATE FUNCTION pg_temp.partitions() RETURNS TABLE (parent text, partition text, bound text)
LANGUAGE sql AS $$
SELECT i.inhparent::regclass::text, regexp_replace(c.relname, '\d{8}$', '+' || to_date(right(c.relname, 8), 'YYYYMMDD') - (now() AT TIME ZONE 'UTC')::date),
       regexp_replace(pg_get_expr(c.relpartbound, c.oid), '\d{4}-\d\d-\d\d', 'day', 'g')
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent IN ('sync.outbox'::regclass, 'sync.claim'::regclass, 'sync.outcome'::regclass) AND c.relname ~ '_p\d{8}$'
UNION ALL
SELECT i.inhparent::regclass::text, c.relname, pg_get_expr(c.relpartbound, c.oid)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent IN ('sync.outbox'::regclass, 'sync.claim'::regclass, 'sync.outcome'::regclass) AND c.relname ~ '_default$'
ORDER BY 1, 2
$$;
SET LOCAL TimeZone = 'UTC';
SET LOCAL DateStyle = 'ISO';
SELECT * FROM pg_temp.partitions();
SELECT count(*) FILTER (WHERE d.objid IS NOT NULL) AS members, count(DISTINCT c.relowner) AS owners,
       bool_and(c.relowner = (SELECT extowner FROM pg_extension WHERE extname = 'sync_ext')) AS of_extension
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
WHERE i.inhparent IN ('sync.outbox'::regclass, 'sync.claim'::regclass, 'sync.outcome'::regclass);
SELECT count(*) FROM pg_indexes WHERE schemaname = 'sync' AND tablename = 'outbox_p' || to_char(now(), 'YYYYMMDD');

-- Old partitions, as an upkeep of long ago would have left them.
CREATE TABLE sync.outbox_p20200101 PARTITION OF sync.outbox FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00');
CREATE TABLE sync.outbox_p20200102 PARTITION OF sync.outbox FOR VALUES FROM ('2020-01-02 00:00+00') TO ('2020-01-03 00:00+00');
CREATE TABLE sync.claim_p20200101 PARTITION OF sync.claim FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00');
CREATE TABLE sync.outcome_p20200101 PARTITION OF sync.outcome FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00');
CREATE SCHEMA capture_upkeep;
CREATE TABLE capture_upkeep.thing (id integer PRIMARY KEY);
CREATE TABLE capture_upkeep.other (id integer PRIMARY KEY);
SELECT sync.track('capture_upkeep.thing'), sync.track('capture_upkeep.other');
INSERT INTO sync.system (name) VALUES ('capture_upkeep');
INSERT INTO sync.route (system_id, object_id, name, run_as, start_kind)
SELECT s.id, o.id, 'capture_upkeep', current_user, 'now' FROM sync.system s, sync.object o WHERE s.name = 'capture_upkeep' AND o.name = 'thing';
CREATE FUNCTION pg_temp.event(of text, at timestamptz, seq bigint, xid xid8) RETURNS void LANGUAGE sql AS $$
INSERT INTO sync.outbox (seq, at, xid, incarnation, object_id, op, origin, record_id)
SELECT seq, at, xid, 0, id, 'I', 0, seq::text FROM sync.object WHERE name = of
$$;
SELECT pg_temp.event('thing', '2020-01-01 12:00+00', -2, '100');
SELECT pg_temp.event('other', '2020-01-02 12:00+00', -1, '101');
-- In the default partition, because no other fits.
SELECT pg_temp.event('thing', '2019-01-01 12:00+00', -4, '98');
SELECT pg_temp.event('other', '2019-01-02 12:00+00', -3, '99');
INSERT INTO sync.claim (attempt_id, at, route_id, seq, incarnation, event_at, object_id, record_id, issue, attempt, step, connector_id, method, target, request_hash)
SELECT 1, '2020-01-01 12:00+00', r.id, -2, 0, '2020-01-01 12:00+00', r.object_id, '-2', 1, 1, 'create', 1, 'POST', '/', ''
FROM sync.route r WHERE r.name = 'capture_upkeep';
CREATE FUNCTION pg_temp.upkeep() RETURNS TABLE (part text, dropped jsonb, skipped jsonb, deleted jsonb) LANGUAGE sql AS $$
SELECT key, value->'retention'->'dropped', jsonb_path_query_array(value, '$.retention.skipped[*]'), value->'retention'->'deleted'
FROM jsonb_each(sync._upkeep()) ORDER BY key
$$;
SELECT sync._outbox_floor();

-- The route has no cursor yet: it may need everything of its object. The other object has no route.
SELECT * FROM pg_temp.upkeep();

-- A cursor that has not passed the event; one of another incarnation; one that has.
INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, window_end, window_end_seq, position)
SELECT id, 0, '100:100:', -3, '100:100:', 0, 0 FROM sync.route WHERE name = 'capture_upkeep';
SELECT sync._outbox_floor();
SELECT * FROM pg_temp.upkeep();
INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, window_end, window_end_seq, position)
SELECT id, 7, '200:200:', -3, '200:200:', 0, 0 FROM sync.route WHERE name = 'capture_upkeep';
SELECT * FROM pg_temp.upkeep();
INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, window_end, window_end_seq, position)
SELECT id, 0, '101:101:', 0, '101:101:', 0, 0 FROM sync.route WHERE name = 'capture_upkeep';
SELECT sync._outbox_floor();
-- Its delivery is parked: the event may go, its history not.
INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, state)
SELECT id, -2, 0, '2020-01-01 12:00+00', object_id, '-2', 'I', 0, 'dead' FROM sync.route WHERE name = 'capture_upkeep';
SELECT * FROM pg_temp.upkeep();
DELETE FROM sync.pending WHERE seq = -2;
SELECT * FROM pg_temp.upkeep();
SELECT count(*) FROM sync.outbox WHERE seq < 0;

-- In use: a route, a stream.
SAVEPOINT a;
SELECT sync.untrack('thing');
ROLLBACK TO a;
SELECT sync.untrack('thing', force => true);
ROLLBACK TO a;
UPDATE sync.route SET state = 'dropped' WHERE name = 'capture_upkeep';
-- History refers to it.
SELECT sync.untrack('thing');
SELECT captured FROM sync.object WHERE name = 'thing';
SELECT tgname FROM pg_trigger WHERE tgrelid = 'capture_upkeep.thing'::regclass;
SELECT sync.track('capture_upkeep.thing');
SELECT captured FROM sync.object WHERE name = 'thing';
SELECT sync.untrack('thing', force => true);
SELECT count(*) FROM sync.object WHERE name = 'thing';

-- When the default partition has rows of a day already, that day stays there and others are made.
SELECT pg_temp.event('other', date_trunc('day', now(), 'UTC') + interval '40 days 1 hour', -9, '99');
SELECT jsonb_path_query_array(sync._make_partitions('outbox', 41), '$.skipped[*].reason') AS skipped,
       to_regclass('sync.outbox_p' || to_char(now() + interval '41 days', 'YYYYMMDD')) IS NOT NULL AS next_is_made;
ROLLBACK;
SELECT sync._make_partitions('pg_class', 1);

-- No partition at all: the hint says what to do.
BEGIN;
CREATE TABLE no_partition (id integer PRIMARY KEY);
SELECT sync.track('no_partition');
DO $$
DECLARE
    p regclass;
BEGIN
    FOR p IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'sync.outbox'::regclass LOOP
        EXECUTE 'DROP TABLE ' || p;
    END LOOP;
END
$$;
INSERT INTO no_partition VALUES (1);
COMMIT;
-- Only the default partition: it serves.
BEGIN;
CREATE TABLE no_partition (id integer PRIMARY KEY);
SELECT sync.track('no_partition');
DO $$
DECLARE
    p regclass;
BEGIN
    FOR p IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'sync.outbox'::regclass AND inhrelid <> 'sync.outbox_default'::regclass LOOP
        EXECUTE 'DROP TABLE ' || p;
    END LOOP;
END
$$;
INSERT INTO no_partition SELECT generate_series(1, 1500);
SELECT tableoid::regclass, count(*) FROM sync.outbox WHERE xid = pg_current_xact_id() GROUP BY 1;
-- What it has of today stays there; tomorrow gets its own.
SELECT jsonb_array_length(value->'skipped') AS skipped, jsonb_array_length(value->'made') > 0 AS made
FROM jsonb_each(sync._upkeep()) WHERE key = 'outbox';
ROLLBACK;
