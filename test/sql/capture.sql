-- Capture of plain records: every form of write, through sync.track() and sync.outbox.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
SET TimeZone = 'UTC';
CREATE SCHEMA capture;
SET search_path = capture;

-- What has come since the last look, in order; sequence numbers and times differ from run to run.
CREATE TABLE look (seq bigint);
INSERT INTO look VALUES (0);
CREATE FUNCTION news() RETURNS TABLE (object text, op "char", id text, body jsonb, old jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    since bigint := (SELECT l.seq FROM capture.look l);
BEGIN
    UPDATE capture.look l SET seq = coalesce((SELECT max(o.seq) FROM sync.outbox o), 0);
    RETURN QUERY SELECT b.name, o.op, o.record_id, o.body, o.old
        FROM sync.outbox o JOIN sync.object b ON b.id = o.object_id WHERE o.seq > since ORDER BY o.seq;
END
$$;

CREATE TABLE item (id integer PRIMARY KEY, number text, name text, amount numeric(12,2), updated_at timestamptz);
SELECT sync.track('item');
SELECT name, key_columns, number_column, volatile_columns, on_truncate, financial, captured FROM sync.object WHERE name = 'item';

--
-- Insert, update, delete
--
INSERT INTO item VALUES (1, 'A-1', 'one', 10.50), (2, 'A-2', 'two', NULL);
UPDATE item SET name = 'eins', amount = 11 WHERE id = 1;
UPDATE item SET name = NULL WHERE id = 2;
DELETE FROM item WHERE id = 2;
SELECT * FROM news();

-- Nothing, or nothing but volatile columns, changed.
UPDATE item SET name = name;
UPDATE item SET updated_at = '2026-01-01 00:00+00';
SELECT * FROM news();
-- With another change, the volatile one is told.
UPDATE item SET updated_at = '2026-01-02 00:00+00', name = 'uno';
SELECT op, old FROM news();

-- A change of the key ends one record and begins another.
UPDATE item SET id = 7;
SELECT op, id, body->'name' AS name, old FROM news();

-- lastval() stays the application's.
CREATE TABLE serial_item (id serial PRIMARY KEY, name text);
SELECT sync.track('serial_item');
INSERT INTO serial_item (name) VALUES ('a'), ('b');
SELECT lastval() = max(id) AS lastval_is_ours FROM serial_item;
SELECT op, id, body FROM news();

--
-- Exactly when the write commits
--
BEGIN;
INSERT INTO item VALUES (20);
ROLLBACK;
BEGIN;
INSERT INTO item VALUES (21);
SAVEPOINT a;
INSERT INTO item VALUES (22);
SAVEPOINT b;
INSERT INTO item VALUES (23);
RELEASE b;
ROLLBACK TO a;
INSERT INTO item VALUES (24);
SAVEPOINT c;
INSERT INTO item VALUES (25);
RELEASE c;
COMMIT;
SELECT op, id FROM news();

DO $$
BEGIN
    FOR i IN 30 .. 34 LOOP
        BEGIN
            INSERT INTO item VALUES (i);
            IF i % 2 = 0 THEN
                RAISE EXCEPTION 'no';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END LOOP;
END
$$;
SELECT op, id FROM news();

-- Buffers that are full within subtransactions: what aborts takes only its own events along.
BEGIN;
INSERT INTO item SELECT i FROM generate_series(10001, 10500) i;
SAVEPOINT a;
INSERT INTO item SELECT i FROM generate_series(11001, 13500) i;
SAVEPOINT b;
INSERT INTO item SELECT i FROM generate_series(14001, 16500) i;
ROLLBACK TO b;
INSERT INTO item SELECT i FROM generate_series(17001, 17700) i;
RELEASE a;
SAVEPOINT c;
INSERT INTO item SELECT i FROM generate_series(18001, 20500) i;
ROLLBACK TO c;
COMMIT;
SELECT count(*), count(DISTINCT id), bool_and(i.n IS NOT NULL) AS all_true
FROM news() e LEFT JOIN (SELECT id::text AS n FROM item) i ON i.n = e.id;
SELECT count(*) FROM item WHERE id > 10000;
DO $$
BEGIN
    FOR i IN 30001 .. 36000 LOOP
        BEGIN
            INSERT INTO item VALUES (i);
            IF i % 3 = 0 THEN
                RAISE EXCEPTION 'no';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END LOOP;
END
$$;
SELECT count(*), count(DISTINCT id) FROM news();
DELETE FROM item WHERE id > 10000;
SELECT op, count(*) FROM news() GROUP BY op;

-- Two-phase commit.
BEGIN;
INSERT INTO item VALUES (40);
PREPARE TRANSACTION 'capture_1';
SELECT op, id FROM news();
BEGIN;
INSERT INTO item VALUES (41);
PREPARE TRANSACTION 'capture_2';
COMMIT PREPARED 'capture_1';
ROLLBACK PREPARED 'capture_2';
SELECT op, id FROM news();

-- Transaction control in a procedure, and writes through a cursor.
CREATE PROCEDURE two_transactions() LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO capture.item VALUES (50);
    COMMIT;
    INSERT INTO capture.item VALUES (51);
    ROLLBACK;
    INSERT INTO capture.item VALUES (52);
END
$$;
CALL two_transactions();
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM item WHERE id IN (50, 52) ORDER BY id FOR UPDATE;
FETCH NEXT FROM c;
UPDATE item SET name = 'by cursor' WHERE CURRENT OF c;
COMMIT;
SELECT op, id, old FROM news();

-- A deferred trigger writes last of all, and is heard.
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO capture.item VALUES (NEW.id + 1000, NULL, 'late');
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.id < 100) EXECUTE FUNCTION late();
INSERT INTO item VALUES (60);
SELECT op, id FROM news();
DROP TRIGGER late ON item;

--
-- Forms of writing
--
COPY item (id, name) FROM stdin;
70	copied
71	\N
\.
INSERT INTO item (id, name) VALUES (71, 'again'), (72, 'new') ON CONFLICT (id) DO UPDATE SET name = excluded.name;
INSERT INTO item (id, name) VALUES (71, 'ignored') ON CONFLICT DO NOTHING;
MERGE INTO item t USING (VALUES (70, 'merged'), (71, NULL), (73, 'inserted')) AS s (id, name) ON t.id = s.id
    WHEN MATCHED AND s.name IS NULL THEN DELETE
    WHEN MATCHED THEN UPDATE SET name = s.name
    WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.name);
WITH gone AS (DELETE FROM item WHERE id = 70 RETURNING *)
INSERT INTO item SELECT id + 10, number, name FROM gone;
SELECT op, id, body->'name' AS name, old FROM news();

CREATE TABLE many (id bigint PRIMARY KEY, t text);
SELECT sync.track('many');
INSERT INTO many SELECT i, 'row ' || i FROM generate_series(1, 100000) i;
SELECT count(*), count(DISTINCT o.seq), count(DISTINCT record_id), min(op) AS op,
       bool_and(body = jsonb_build_object('id', record_id::bigint, 't', 'row ' || record_id)) AS bodies
FROM sync.outbox o JOIN sync.object b ON b.id = o.object_id WHERE b.name = 'many';
SELECT count(*) FROM news();

-- Foreign keys.
CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (id integer PRIMARY KEY, parent_id integer REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE,
                    other_id integer REFERENCES parent ON DELETE SET NULL);
SELECT sync.track('parent'), sync.track('child');
INSERT INTO parent VALUES (1), (2), (3);
INSERT INTO child VALUES (1, 1, 3), (2, 2, 2), (3, 2, 3);
SELECT count(*) FROM news();
UPDATE parent SET id = 10 WHERE id = 1;
DELETE FROM parent WHERE id IN (2, 3);
SELECT * FROM news() ORDER BY object, id::int, op;

--
-- TRUNCATE
--
TRUNCATE item;
\echo :SQLSTATE :ERROR
\set VERBOSITY sqlstate
TRUNCATE item;
\set VERBOSITY default
SELECT sync.track('item', on_truncate => 'record');
TRUNCATE item;
SELECT * FROM news();
SELECT sync.track('item', on_truncate => 'never');

--
-- Composite keys, keys by a unique index, no key
--
CREATE TABLE composite (b text, a integer, "Odd ""name" text, PRIMARY KEY (a, b));
SELECT sync.track('composite');
INSERT INTO composite VALUES ('x "y"', 1, 'o'), (E'z\\', 2, NULL);
UPDATE composite SET "Odd ""name" = 'p' WHERE a = 1;
UPDATE composite SET b = 'w' WHERE a = 2;
SELECT op, id, body, old FROM news();
SELECT jsonb_build_array('1', 'x "y"')::text AS record_id_as_sql_builds_it;

CREATE TABLE no_key (code text NOT NULL, maybe text, v int);
SELECT sync.track('no_key');
CREATE UNIQUE INDEX ON no_key (code);
CREATE UNIQUE INDEX ON no_key (maybe);
SELECT sync.track('no_key', key_columns => '{maybe}');
SELECT sync.track('no_key', key_columns => '{v}');
SELECT sync.track('no_key', key_columns => '{code}');
INSERT INTO no_key VALUES ('k', NULL, 1);
SELECT op, id, body FROM news();

--
-- Columns come, go and change their names
--
CREATE TABLE shape (id integer PRIMARY KEY, gone text, a integer, total integer GENERATED ALWAYS AS (a * 2) STORED);
SELECT sync.track('shape', volatile_columns => '{}');
INSERT INTO shape (id, gone, a) VALUES (1, 'g', 4);
ALTER TABLE shape DROP COLUMN gone;
UPDATE shape SET a = 5;
ALTER TABLE shape ADD COLUMN b text DEFAULT 'fast';
UPDATE shape SET a = 6;
ALTER TABLE shape RENAME COLUMN a TO amount;
UPDATE shape SET amount = 7;
ALTER TABLE shape ALTER COLUMN b DROP DEFAULT, ALTER COLUMN b TYPE integer USING 1;
UPDATE shape SET b = 2;
ALTER TABLE shape RENAME TO shaped;
INSERT INTO shaped (id, amount) VALUES (2, 1);
SELECT op, id, body, old FROM news();

-- Options may change in a session that has the table cached; also when the change is undone.
SELECT sync.track('no_key', key_columns => '{code}', volatile_columns => '{v}');
UPDATE no_key SET v = 2;
BEGIN;
SELECT sync.track('no_key', key_columns => '{code}', volatile_columns => '{}');
UPDATE no_key SET v = 3;
ROLLBACK;
UPDATE no_key SET v = 4;
SELECT op, id FROM news();

--
-- Context
--
BEGIN;
SET LOCAL sync_ext.actor = 'jane';
SET LOCAL sync_ext.correlation_id = 'order-7';
INSERT INTO item VALUES (100);
SET LOCAL sync_ext.reason = 'because "of"';
INSERT INTO item VALUES (101);
COMMIT;
INSERT INTO item VALUES (102);
SELECT record_id, context - 'user' AS context, context->>'user' = session_user AS me, origin, incarnation >= 0 AS incarnation,
       xid IS NOT NULL AS xid, at > now() - interval '1 minute' AS at
FROM sync.outbox WHERE record_id IN ('100', '101', '102') AND seq > (SELECT seq FROM look) ORDER BY seq;
SELECT count(*) FROM news();
SELECT sync.is_applying();

--
-- Too large for an event
--
CREATE TABLE large (id integer PRIMARY KEY, t text);
ALTER TABLE large ALTER COLUMN t SET STORAGE EXTENDED;
SELECT sync.track('large');
INSERT INTO large VALUES (1, repeat('x', 70000000));
UPDATE large SET t = 'small';
UPDATE large SET t = repeat('y', 70000000);
DELETE FROM large;
SELECT op, id, body, old FROM news();
-- Large, but not too large; unchanged parts are not fetched.
INSERT INTO large VALUES (2, repeat('z', 1000000));
UPDATE large SET t = t;
SELECT op, id, length(body->>'t') AS length FROM news();

--
-- End
--
SELECT sync.untrack('item');
INSERT INTO item VALUES (200);
SELECT count(*) FROM news();
SELECT sync.untrack('item');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'item'::regclass;
SET client_min_messages = error;
SELECT sync.untrack(name) FROM sync.object WHERE schema_name = 'capture';
DROP SCHEMA capture CASCADE;
