-- Capture of partitioned tables: writes by every way, and moves.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
CREATE SCHEMA capture_partition;
SET search_path = capture_partition;
CREATE TABLE look (seq bigint);
INSERT INTO look SELECT coalesce(max(seq), 0) FROM sync.outbox;
CREATE FUNCTION news() RETURNS TABLE (object text, op "char", id text, body jsonb, old jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    since bigint := (SELECT l.seq FROM capture_partition.look l);
BEGIN
    UPDATE capture_partition.look l SET seq = coalesce((SELECT max(o.seq) FROM sync.outbox o), 0);
    RETURN QUERY SELECT b.name, o.op, o.record_id, o.body, o.old
        FROM sync.outbox o JOIN sync.object b ON b.id = o.object_id WHERE o.seq > since ORDER BY o.seq;
END
$$;

-- Tracked is the whole; what is unique in each partition only is no key by itself.
CREATE TABLE part (id integer, region text, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE part_north PARTITION OF part FOR VALUES IN ('n');
SELECT sync.track('part_north');
SELECT sync.track('part', key_columns => '{region}');
DROP TABLE part;

CREATE TABLE part (id integer, region text, v text, updated_at text, bucket integer, PRIMARY KEY (id, bucket))
    PARTITION BY LIST (bucket);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
-- Another order of columns, and one that is gone.
CREATE TABLE part_2 (gone int, bucket integer NOT NULL, updated_at text, v text, region text, id integer NOT NULL);
ALTER TABLE part_2 DROP COLUMN gone;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES IN (2);
SELECT sync.track('part');
-- Partitions that come after.
CREATE TABLE part_3 PARTITION OF part FOR VALUES IN (3, 4) PARTITION BY LIST (bucket);
CREATE TABLE part_3a PARTITION OF part_3 FOR VALUES IN (3);
CREATE TABLE part_3b PARTITION OF part_3 FOR VALUES IN (4);

INSERT INTO part (id, region, v, bucket) VALUES (1, 'n', 'a', 1), (2, 's', 'b', 2), (3, 'e', 'c', 3);
-- Aimed at a partition.
INSERT INTO part_2 (id, region, v, bucket) VALUES (4, 's', 'd', 2);
UPDATE part_2 SET v = 'dd' WHERE id = 4;
UPDATE part_3a SET v = 'cc';
DELETE FROM part_2 WHERE id = 2;
COPY part_1 (id, region, v, bucket) FROM stdin;
5	n	e	1
\.
SELECT op, id, body, old FROM news();

-- A primary key contains the partition key. Where that is the record's id, a move ends one record
-- and begins another.
UPDATE part SET bucket = 2 WHERE id = 1;
SELECT op, id, body->'v' AS v, old FROM news();

-- A key without the partition key, unique by other means (a uuid): a move is one update.
CREATE TABLE move (id uuid NOT NULL, status text NOT NULL, v integer, updated_at text) PARTITION BY LIST (status);
CREATE TABLE move_open PARTITION OF move FOR VALUES IN ('open', 'new');
CREATE TABLE move_closed (v integer, updated_at text, id uuid NOT NULL, status text NOT NULL);
ALTER TABLE move ATTACH PARTITION move_closed FOR VALUES IN ('closed');
ALTER TABLE move ADD PRIMARY KEY (id, status);
SELECT sync.track('move', key_columns => '{id}');
INSERT INTO move SELECT ('00000000-0000-0000-0000-00000000000' || i)::uuid, 'open', i FROM generate_series(1, 5) i;
SELECT count(*) FROM news();
UPDATE move SET status = 'closed' WHERE v = 1;
UPDATE move SET status = 'closed', v = v * 10, updated_at = 'now' WHERE v IN (2, 3);
UPDATE move SET status = 'new' WHERE v = 4;
UPDATE move SET status = CASE status WHEN 'closed' THEN 'open' ELSE 'closed' END;
SELECT op, right(id, 1) AS id, body - 'id' AS body, old FROM news();
-- A delete and an insert of the same record are no move.
BEGIN;
DELETE FROM move WHERE v = 1;
INSERT INTO move VALUES ('00000000-0000-0000-0000-000000000001', 'open', 1);
COMMIT;
SELECT op, right(id, 1) AS id, old FROM news();
-- Many at a time, and moved again within one transaction, in part undone.
INSERT INTO move SELECT gen_random_uuid(), 'open', i FROM generate_series(100, 5099) i;
SELECT count(*) FROM news();
BEGIN;
UPDATE move SET status = 'closed' WHERE v >= 100;
SAVEPOINT a;
UPDATE move SET status = 'open' WHERE v >= 100;
ROLLBACK TO a;
COMMIT;
SELECT op, count(*), count(DISTINCT id), min(old::text) AS old FROM news() GROUP BY op;
-- A user's trigger that writes in between.
CREATE TABLE other (id serial PRIMARY KEY);
SELECT sync.track('other');
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO capture_partition.other DEFAULT VALUES;
    RETURN NULL;
END
$$;
CREATE TRIGGER z_meddle AFTER DELETE ON move FOR EACH ROW EXECUTE FUNCTION meddle();
UPDATE move SET status = 'closed' WHERE v = 5;
UPDATE move SET status = CASE status WHEN 'closed' THEN 'new' ELSE 'closed' END WHERE v = 5;
SELECT object, op FROM news();
-- MERGE moves, too.
DROP TRIGGER z_meddle ON move;
MERGE INTO move t USING (VALUES (5)) AS s (v) ON t.v = s.v WHEN MATCHED THEN UPDATE SET status = CASE status WHEN 'closed' THEN 'new' ELSE 'closed' END;
SELECT op, right(id, 1) AS id, old FROM news();

-- TRUNCATE of the whole and of a part.
\set VERBOSITY terse
TRUNCATE part;
TRUNCATE part_1;
\set VERBOSITY default
SELECT sync.track('part', on_truncate => 'record');
TRUNCATE part_1;
SELECT op, id, body FROM news();

SET client_min_messages = error;
SELECT count(sync.untrack(name)) FROM sync.object WHERE schema_name = 'capture_partition';
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'sync_capture%' AND tgrelid::regclass::text ~ '^(part|move)';
DROP SCHEMA capture_partition CASCADE;
