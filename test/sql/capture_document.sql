-- Documents: header and lines are one event per transaction.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
CREATE SCHEMA capture_document;
SET search_path = capture_document;
CREATE TABLE look (seq bigint);
INSERT INTO look SELECT coalesce(max(seq), 0) FROM sync.outbox;
CREATE FUNCTION news() RETURNS TABLE (object text, op "char", id text, body jsonb, old jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    since bigint := (SELECT l.seq FROM capture_document.look l);
BEGIN
    UPDATE capture_document.look l SET seq = coalesce((SELECT max(o.seq) FROM sync.outbox o), 0);
    RETURN QUERY SELECT b.name, o.op, o.record_id, o.body, o.old
        FROM sync.outbox o JOIN sync.object b ON b.id = o.object_id WHERE o.seq > since ORDER BY o.seq;
END
$$;

CREATE TABLE bill (id integer PRIMARY KEY, number text, total numeric(10,2), updated_at text);
CREATE TABLE bill_line (id serial PRIMARY KEY, bill_id integer NOT NULL REFERENCES bill ON DELETE CASCADE ON UPDATE CASCADE,
                        line_no integer NOT NULL, amount numeric(10,2), updated_at text);
CREATE INDEX ON bill_line (bill_id);
SELECT sync.track('bill', lines => 'bill_line', financial => true);
SELECT name, financial, line_schema, line_table, line_parent_columns, line_key_columns FROM sync.object WHERE name = 'bill';

-- In several statements, lines out of order; in one statement.
BEGIN;
INSERT INTO bill VALUES (1, 'B-1', 30);
INSERT INTO bill_line (bill_id, line_no, amount) VALUES (1, 2, 20);
INSERT INTO bill_line (bill_id, line_no, amount) VALUES (1, 1, 10);
UPDATE bill SET number = 'B-1a' WHERE id = 1;
COMMIT;
WITH b AS (INSERT INTO bill VALUES (2, 'B-2', 5), (3, 'B-3', 0) RETURNING id)
INSERT INTO bill_line (bill_id, line_no, amount) VALUES (2, 1, 5);
SELECT op, id, body #- '{lines,0,id}' #- '{lines,1,id}' AS body, old FROM news();

-- Lines alone; header alone; both.
UPDATE bill_line SET amount = 21 WHERE bill_id = 1 AND line_no = 2;
DELETE FROM bill_line WHERE bill_id = 2;
INSERT INTO bill_line (bill_id, line_no, amount) VALUES (3, 1, 1), (1, 3, 1);
UPDATE bill SET total = 31 WHERE id = 1;
BEGIN;
UPDATE bill SET total = 32 WHERE id = 1;
UPDATE bill_line SET amount = 2 WHERE bill_id = 1 AND line_no = 3;
UPDATE bill SET number = 'B-1b', total = 33 WHERE id = 1;
COMMIT;
SELECT op, id, body->'number' AS number, body->'total' AS total, jsonb_path_query_array(body, '$.lines[*].amount') AS amounts, old FROM news();

-- Nothing, nothing but volatile columns, there and back again.
UPDATE bill SET number = number;
UPDATE bill SET updated_at = 'x';
UPDATE bill_line SET updated_at = 'x';
BEGIN;
UPDATE bill SET total = 99 WHERE id = 1;
UPDATE bill SET total = 33 WHERE id = 1;
COMMIT;
BEGIN;
INSERT INTO bill VALUES (9);
INSERT INTO bill_line (bill_id, line_no) VALUES (9, 1);
DELETE FROM bill WHERE id = 9;
COMMIT;
SELECT op, id, body, old FROM news();

-- Delete, with its lines by cascade; delete and insert again; a new key; a line that moves.
DELETE FROM bill WHERE id = 3;
BEGIN;
DELETE FROM bill WHERE id = 2;
INSERT INTO bill VALUES (2, 'B-2x', 5);
COMMIT;
UPDATE bill SET id = 20 WHERE id = 1;
INSERT INTO bill VALUES (21, 'B-21');
UPDATE bill_line SET bill_id = 21 WHERE bill_id = 20 AND line_no = 3;
SELECT op, id, body->'number' AS number, jsonb_path_query_array(body, '$.lines[*].amount') AS amounts, old FROM news();

-- Savepoints.
BEGIN;
SAVEPOINT a;
UPDATE bill_line SET amount = 100 WHERE bill_id = 20;
ROLLBACK TO a;
SAVEPOINT b;
INSERT INTO bill_line (bill_id, line_no, amount) VALUES (21, 9, 9);
ROLLBACK TO b;
INSERT INTO bill_line (bill_id, line_no, amount) VALUES (21, 10, 10);
SAVEPOINT c;
UPDATE bill SET number = 'gone' WHERE id = 20;
ROLLBACK TO c;
COMMIT;
SELECT op, id, body->'number' AS number, jsonb_path_query_array(body, '$.lines[*].amount') AS amounts, old FROM news();
DO $$
BEGIN
    FOR i IN 1 .. 3 LOOP
        BEGIN
            UPDATE capture_document.bill SET number = 'B-' || i WHERE id = 20;
            INSERT INTO capture_document.bill_line (bill_id, line_no, amount) VALUES (20, 100 + i, i);
            IF i = 3 THEN
                RAISE EXCEPTION 'no';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END LOOP;
END
$$;
SELECT op, id, body->'number' AS number, jsonb_path_query_array(body, '$.lines[*].amount') AS amounts, old FROM news();

-- Two-phase commit, procedure, REPEATABLE READ, deferred trigger that adds a line.
BEGIN;
INSERT INTO bill_line (bill_id, line_no, amount) VALUES (21, 11, 11);
PREPARE TRANSACTION 'capture_document';
SELECT count(*) FROM news();
COMMIT PREPARED 'capture_document';
CREATE PROCEDURE two_bills() LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO capture_document.bill VALUES (30, 'P-30');
    INSERT INTO capture_document.bill_line (bill_id, line_no, amount) VALUES (30, 1, 1);
    COMMIT;
    INSERT INTO capture_document.bill_line (bill_id, line_no, amount) VALUES (30, 2, 2);
    COMMIT;
END
$$;
CALL two_bills();
BEGIN ISOLATION LEVEL REPEATABLE READ;
UPDATE bill SET total = 1 WHERE id = 30;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
DELETE FROM bill_line WHERE bill_id = 30 AND line_no = 1;
COMMIT;
CREATE FUNCTION add_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO capture_document.bill_line (bill_id, line_no, amount) VALUES (NEW.id, 99, 99);
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER add_line AFTER INSERT ON bill DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION add_line();
INSERT INTO bill VALUES (31, 'D-31');
DROP TRIGGER add_line ON bill;
SELECT op, id, body->'number' AS number, jsonb_path_query_array(body, '$.lines[*].amount') AS amounts, old FROM news();

-- Many at a time, plain records among them.
CREATE TABLE note (id integer PRIMARY KEY, v text);
SELECT sync.track('note');
BEGIN;
INSERT INTO bill SELECT i, 'M-' || i FROM generate_series(1000, 1999) i;
INSERT INTO bill_line (bill_id, line_no, amount) SELECT 1000 + i % 1000, i / 1000, i FROM generate_series(0, 2999) i;
INSERT INTO note SELECT i FROM generate_series(1, 2000) i;
COMMIT;
SELECT object, op, count(*), count(DISTINCT id), min(jsonb_array_length(body->'lines')) AS lines FROM news() GROUP BY 1, 2 ORDER BY 1;
UPDATE bill_line SET amount = amount + 1 WHERE bill_id >= 1000;
SELECT object, op, count(*), count(DISTINCT id), min(jsonb_array_length(body->'lines')) AS lines FROM news() GROUP BY 1, 2;
DELETE FROM bill WHERE id >= 1000;
SELECT object, op, count(*), count(DISTINCT id) FROM news() GROUP BY 1, 2;

-- Columns change while plans are cached; so does the name of the table of lines.
ALTER TABLE bill_line ADD COLUMN tax numeric DEFAULT 1.5;
ALTER TABLE bill ADD COLUMN memo text;
ALTER TABLE bill_line DROP COLUMN updated_at;
UPDATE bill_line SET amount = 7 WHERE bill_id = 31;
SELECT op, id, body #- '{lines,0,id}' AS body FROM news();

-- Too large.
UPDATE bill SET memo = repeat('m', 70000000) WHERE id = 31;
UPDATE bill SET memo = NULL WHERE id = 31;
SELECT op, id, body #- '{lines,0,id}' AS body, old->'lines' AS lines, length(old->>'memo') AS memo FROM news();

-- Composite keys, an order of lines by several columns, a partitioned header.
CREATE TABLE doc (a integer, b text, v text, PRIMARY KEY (a, b)) PARTITION BY LIST (a);
CREATE TABLE doc_1 PARTITION OF doc FOR VALUES IN (1);
CREATE TABLE doc_2 PARTITION OF doc FOR VALUES IN (2);
CREATE TABLE doc_part (doc_b text, doc_a integer, x integer, y integer, PRIMARY KEY (doc_a, doc_b, x, y),
                       FOREIGN KEY (doc_b, doc_a) REFERENCES doc (b, a) ON UPDATE CASCADE ON DELETE CASCADE);
SELECT sync.track('doc', lines => 'doc_part', line_key_columns => '{x,y}');
SELECT line_parent_columns, line_key_columns FROM sync.object WHERE name = 'doc';
BEGIN;
INSERT INTO doc VALUES (1, 'k "1"', 'v'), (2, 'k2', 'v');
INSERT INTO doc_part VALUES ('k "1"', 1, 2, 1), ('k "1"', 1, 1, 2), ('k "1"', 1, 1, 1), ('k2', 2, 1, 1);
COMMIT;
UPDATE doc_1 SET v = 'w';
UPDATE doc SET a = 2 WHERE a = 1;
DELETE FROM doc WHERE b = 'k2';
SELECT op, id, jsonb_path_query_array(body, '$.lines[*].x') AS x, jsonb_path_query_array(body, '$.lines[*].y') AS y, old FROM news() ORDER BY 2, 1;

-- TRUNCATE of header or lines.
\set VERBOSITY terse
TRUNCATE bill_line;
TRUNCATE bill CASCADE;
\set VERBOSITY default
SELECT sync.track('bill', lines => 'bill_line', on_truncate => 'record');
TRUNCATE bill_line;
SELECT op, id, body FROM news();

-- Options change in place: without lines, and with them again.
SELECT sync.track('bill', documents => false);
INSERT INTO bill_line (bill_id, line_no) VALUES (20, 1);
UPDATE bill SET total = 77 WHERE id = 20;
SELECT op, id, body ? 'lines' AS lines FROM news();
SELECT sync.track('bill', lines => 'note');
CREATE TABLE bill_extra (bill_id integer, v text, PRIMARY KEY (bill_id, v));
SELECT sync.track('bill', lines => 'bill_extra');
SELECT sync.track('bill', lines => 'bill_extra', line_parent_columns => '{bill_id}');
INSERT INTO bill_extra VALUES (20, 'b'), (20, 'a'), (4711, 'no header');
SELECT op, id, body->'lines' AS lines, old FROM news();
ALTER TABLE note ADD COLUMN lines text;
SELECT sync.track('note', lines => 'bill_extra', line_parent_columns => '{bill_id}');
-- a line that writes its header's key otherwise
CREATE TABLE priced (id numeric(12,2) PRIMARY KEY, name text);
CREATE TABLE priced_line (priced_id numeric REFERENCES priced, line_no integer, PRIMARY KEY (priced_id, line_no));
SELECT sync.track('priced', lines => 'priced_line');
ALTER TABLE priced_line ALTER COLUMN priced_id TYPE numeric(12,2);
SELECT sync.track('priced', lines => 'priced_line');
SELECT sync.untrack('priced');
DROP TABLE priced_line, priced;
-- what writes it alike is none of that: other precision, whole numbers, domains, columns padded with blanks
CREATE DOMAIN sku AS varchar(10);
CREATE DOMAIN own_sku AS sku;
CREATE TABLE priced (id numeric(10,0), code own_sku, PRIMARY KEY (id, code));
CREATE TABLE priced_line (priced_id bigint, priced_code char(10), line_no integer, PRIMARY KEY (priced_id, priced_code, line_no));
SELECT sync.track('priced', lines => 'priced_line', line_parent_columns => '{priced_id,priced_code}');
SELECT sync.untrack('priced');
DROP TABLE priced_line;
CREATE TABLE priced_line (priced_id numeric(12,0), priced_code text, line_no integer, PRIMARY KEY (priced_id, priced_code, line_no));
SELECT sync.track('priced', lines => 'priced_line', line_parent_columns => '{priced_id,priced_code}');
SELECT sync.track('priced', lines => 'priced_line', line_parent_columns => '{priced_code,priced_id}');
SELECT sync.untrack('priced');
DROP TABLE priced_line, priced;

SET client_min_messages = error;
SELECT count(sync.untrack(name)) FROM sync.object WHERE schema_name = 'capture_document';
DROP SCHEMA capture_document CASCADE;
