-- Comparisons value by value: what is the same, written otherwise, and what is not; by the fast look at all and by
-- the closer look alike.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_edges_values;
CREATE DATABASE sync_rec_edges_values TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8';
\c sync_rec_edges_values
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET client_encoding = 'UTF8';
CREATE SCHEMA rec;
CREATE DOMAIN rec.money AS numeric CHECK (value >= 0);
CREATE DOMAIN rec.short_money AS numeric(12,2);
CREATE DOMAIN rec.moment AS timestamptz;
CREATE TYPE rec.mood AS ENUM ('sad', 'glad');
CREATE TABLE rec.thing (id integer PRIMARY KEY, currency text, n numeric, n2 numeric(12,2), amount numeric, fee_amount rec.money, due_amount rec.short_money, unit_price numeric, i2 smallint, i4 integer, i8 bigint,
    f4 real, f8 double precision, t text, v varchar(10), c char(5), b boolean, u uuid, d date, tz timestamptz, dtz rec.moment, ts timestamp, tm time, iv interval, j jsonb, js json, a text[], ai integer[], by bytea, ip inet, e rec.mood);
SELECT FROM sync.register_connector(jsonb_build_object('manifest', 1, 'name', 'vendor', 'version', '1', 'hosts', '["api.example.com"]'::jsonb,
    'base_url', 'https://api.example.com', 'auth', '{"type": "none"}'::jsonb, 'objects', jsonb_build_object('thing', jsonb_build_object(
        'pull', jsonb_build_object('list', '{"path": "/x", "items": "$.data"}'::jsonb, 'record', '{"id": "$.id"}'::jsonb, 'fields', '{"id": "$.key", "t": "$.t"}'::jsonb)))));
CREATE SERVER vendor FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
SELECT FROM sync.track('rec.thing', object => 'thing');
SELECT sync.create_stream('vendor', 'thing') > 0 AS stream;
UPDATE sync.stream_cursor SET read_until = clock_timestamp();

CREATE FUNCTION rec.run(mode text DEFAULT 'mirror') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    run bigint := sync.reconcile('vendor', 'thing', mode => mode);
BEGIN
    RETURN (SELECT format('checked %s found %s opened %s closed %s', r.checked, r.found, r.opened, r.closed) FROM sync.reconciliation_run r WHERE r.id = run);
END
$$;

-- Ours as a literal, theirs as JSON, and whether they are the same.
CREATE TABLE rec.case_ (id serial PRIMARY KEY, field text, ours text, theirs jsonb, same boolean, currency text, note text);
INSERT INTO rec.case_ (field, ours, theirs, same, note) VALUES
    ('n', '1.00', '1', true, 'scale'), ('n', '1.00', '1.000', true, 'scale'), ('n', '1.00', '"1.0"', true, 'text'), ('n', '1.00', '"1.001"', false, NULL), ('n', '1', 'null', false, NULL), ('n', NULL, 'null', true, NULL),
    ('n', NULL, '0', false, NULL), ('n', '0', 'null', false, NULL), ('n', '0.00', '0', true, NULL), ('n', '-0.00', '0', true, NULL), ('n', '100', '"1e2"', true, 'exponent'), ('n', '1', 'true', false, NULL), ('n', '1', '"one"', false, 'no number'), ('n', '1', '""', false, NULL), ('n', 'NaN', '"NaN"', true, NULL),
    ('n', '12345678901234567890.12345678901234567890', '12345678901234567890.12345678901234567890', true, 'long'), ('n', '12345678901234567890.12345678901234567890', '12345678901234567890.12345678901234567891', false, 'long'), ('n', '1', '[1]', false, NULL), ('n', '1', '{"value": 1}', false, NULL),
    ('n2', '10', '10.004', true, 'what the column can hold'), ('n2', '10', '10.005', false, NULL),
    ('unit_price', '10', '10.0000001', false, 'a price is free in scale'),
    ('i2', '7', '7.0', true, NULL), ('i4', '7', '"7"', true, NULL), ('i4', '7', '"07"', true, NULL), ('i4', '7', '7.5', false, NULL), ('i8', '9007199254740993', '9007199254740993', true, 'beyond a double'), ('i8', '9007199254740993', '9007199254740992', false, NULL), ('i4', '7', '99999999999', false, NULL),
    ('f8', '0.1', '0.1', true, NULL), ('f8', '0.1', '0.1000000000000000055511151231257827', true, NULL), ('f8', '0.1', '"0.10"', true, NULL), ('f8', '0.1', '0.11', false, NULL), ('f4', '0.1', '0.1', true, NULL), ('f4', '0.1', '0.10000000149', true, NULL),
    ('t', 'a', '"a"', true, NULL), ('t', 'a', '"A"', false, 'case'), ('t', 'a', '"a "', false, 'space'), ('t', '', 'null', false, 'empty is not unknown'), ('t', NULL, '""', false, NULL), ('t', '', '""', true, NULL), ('t', 'é', '"e\u0301"', false, 'another normal form'), ('t', 'é', '"\u00e9"', true, NULL), ('t', '7', '7', false, 'a number is no text'), ('t', 'true', 'true', false, NULL), ('t', 'null', 'null', false, NULL), ('t', E'a\nb', '"a\nb"', true, NULL),
    ('t', repeat('x', 200000), to_jsonb(repeat('x', 200000)), true, 'long'), ('t', repeat('x', 200000), to_jsonb(repeat('x', 199999) || 'y'), false, 'long'),
    ('v', 'a', '"a"', true, NULL), ('v', 'a', '"a "', false, NULL), ('c', 'a', '"a"', true, 'padding'), ('c', 'a', '"a    "', true, 'padding'), ('c', 'a', '"a\t"', false, NULL), ('c', 'a', '"abcdefgh"', false, 'too long'), ('c', '', '""', true, NULL),
    ('b', 'true', 'true', true, NULL), ('b', 'true', '"true"', true, 'as text'), ('b', 'true', '"t"', true, NULL), ('b', 'true', '"yes"', true, NULL), ('b', 'true', '1', true, NULL), ('b', 'false', '0', true, NULL), ('b', 'true', '"false"', false, NULL), ('b', 'false', 'null', false, NULL), ('b', NULL, 'false', false, NULL),
    ('u', '0000000a-0000-0000-0000-00000000000b', '"0000000A-0000-0000-0000-00000000000B"', true, 'case'), ('u', '0000000a-0000-0000-0000-00000000000b', '"0000000a00000000000000000000000b"', true, NULL), ('u', '0000000a-0000-0000-0000-00000000000b', '"0000000a-0000-0000-0000-00000000000c"', false, NULL), ('u', '0000000a-0000-0000-0000-00000000000b', '"cus_1"', false, NULL),
    ('d', '2026-10-01', '"2026-10-01"', true, NULL), ('d', '2026-10-01', '"2026-10-01T00:00:00Z"', true, NULL), ('d', '2026-10-01', '"20261001"', true, NULL), ('d', '2026-10-01', '"2026-10-02"', false, NULL), ('d', '2026-10-01', '"01.10.2026"', false, NULL), ('d', '2026-10-01', '""', false, NULL), ('d', 'infinity', '"infinity"', true, NULL),
    ('tz', '2026-10-01 10:00Z', '"2026-10-01T10:00:00Z"', true, NULL), ('tz', '2026-10-01 10:00Z', '"2026-10-01T12:00:00+02:00"', true, 'zone'), ('tz', '2026-10-01 10:00Z', '"2026-10-01T10:00:00.000000+00:00"', true, NULL), ('tz', '2026-10-01 10:00:00.123456Z', '"2026-10-01T10:00:00.123Z"', true, 'they tell milliseconds'), ('tz', '2026-10-01 10:00:00.1239Z', '"2026-10-01T10:00:00.124Z"', true, 'rounded'),
    ('tz', '2026-10-01 10:00:00.123456Z', '"2026-10-01T10:00:00.122Z"', false, NULL), ('tz', '2026-10-01 10:00Z', '"2026-10-01T10:00:01Z"', false, NULL), ('tz', '2026-10-01 10:00Z', '1790848800', false, 'seconds are no instant before they are mapped'), ('tz', '1969-12-31 23:59:59.9999Z', '"1969-12-31T23:59:59.999Z"', true, 'before the epoch'), ('tz', '1969-12-31 23:59:59.9999Z', '"1970-01-01T00:00:00Z"', true, NULL), ('tz', '1999-12-31 23:59:59.9999Z', '"1999-12-31T23:59:59.999Z"', true, 'before the epoch of the server'), ('tz', '1999-12-31 23:59:59.9999Z', '"2000-01-01T00:00:00.0009Z"', false, 'two ticks'), ('tz', 'infinity', '"infinity"', true, NULL), ('tz', NULL, '"2026-10-01T10:00:00Z"', false, NULL),
    ('dtz', '2026-10-01 10:00Z', '"2026-10-01T12:00:00+02:00"', true, 'a domain'), ('dtz', '2026-10-01 10:00:00.123456Z', '"2026-10-01T10:00:00.123Z"', true, NULL), ('dtz', '2026-10-01 10:00Z', '"2026-10-01T12:00:01+02:00"', false, NULL),
    ('ts', '2026-10-01 10:00', '"2026-10-01T10:00:00"', true, NULL), ('ts', '2026-10-01 10:00', '"2026-10-01 10:00:00.000"', true, NULL), ('ts', '2026-10-01 10:00', '"2026-10-01T10:00:01"', false, NULL), ('tm', '10:00', '"10:00:00"', true, NULL), ('iv', '1 day', '"P1D"', true, NULL), ('iv', '1 day', '"24:00:00"', false, NULL),
    ('j', '{"a": 1, "b": [1, 2]}', '{"b": [1, 2], "a": 1.0}', true, 'order of keys'), ('j', '{"b": [1, 2]}', '{"b": [2, 1]}', false, NULL), ('j', '{"a": null}', '{}', false, NULL), ('j', 'null', 'null', true, NULL), ('j', NULL, 'null', true, NULL), ('j', '"a"', '"a"', true, NULL), ('j', '7', '7.0', true, NULL), ('j', '{}', '[]', false, NULL), ('j', '{}', 'null', false, NULL), ('j', 'true', 'true', true, NULL),
    ('js', '{"b": 1, "a": 2, "b": 3}', '{"a": 2, "b": 3}', true, NULL), ('js', '{"a": 2}', '{"a": 3}', false, NULL),
    ('a', '{a,NULL,"b c"}', '["a", null, "b c"]', true, NULL), ('a', '{a,b}', '["b", "a"]', false, NULL), ('a', '{}', '[]', true, NULL), ('a', '{}', 'null', false, NULL), ('ai', '{1,2}', '[1.0, 2]', true, NULL), ('ai', '{{1},{2}}', '[[1], [2]]', true, NULL),
    ('by', '\x00ff', '"\\x00ff"', true, NULL), ('by', '\x00ff', '"\\x00fe"', false, NULL), ('ip', '10.0.0.1', '"10.0.0.1"', true, NULL), ('e', 'sad', '"sad"', true, NULL), ('e', 'sad', '"glad"', false, NULL), ('e', 'sad', '"angry"', false, NULL);
-- Amounts count to their currency's minor unit.
INSERT INTO rec.case_ (field, currency, ours, theirs, same, note) VALUES
    ('amount', 'EUR', '10.00', '10.004', true, NULL), ('amount', 'EUR', '10.00', '10.005', false, NULL), ('amount', 'EUR', '10.50', '10.499999999999998', true, 'a binary float'), ('amount', 'EUR', '10.50', '"10.5"', true, NULL), ('amount', 'EUR', '10.50', '1050', false, 'minor units are mapped, not guessed'),
    ('amount', 'JPY', '5000', '5000.4', true, NULL), ('amount', 'JPY', '5000', '5000.5', false, NULL), ('amount', 'JPY', '5000', '5001', false, NULL), ('amount', 'KWD', '1.234', '1.2344', true, NULL), ('amount', 'KWD', '1.234', '1.235', false, NULL), ('amount', 'KWD', '1.230', '1.23', true, NULL), ('amount', 'XYZ', '1.00', '1.001', false, 'unknown currency'), ('amount', NULL, '1.00', '1.001', false, 'no currency'), ('amount', 'EUR', '-1.00', '1.00', false, NULL), ('amount', 'EUR', '0', 'null', false, NULL),
    ('fee_amount', 'EUR', '10.00', '10.004', true, 'a domain'), ('fee_amount', 'EUR', '10.00', '"10.0"', true, NULL), ('fee_amount', 'EUR', '10.00', '10.01', false, NULL), ('due_amount', 'EUR', '10.00', '10.004', true, NULL), ('due_amount', 'JPY', '10.00', '10.4', true, NULL);
DO $$ DECLARE k rec.case_; BEGIN
    FOR k IN SELECT * FROM rec.case_ LOOP
        EXECUTE format('INSERT INTO rec.thing (id, currency, %I) VALUES (%s, %L, %L)', k.field, k.id, k.currency, k.ours);
    END LOOP;
END $$;
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, o.id, k.id, k.id FROM rec.case_ k, sync.system y, sync.object o;
INSERT INTO sync.mirror (system_id, object_id, record_id, remote_id, fields)
SELECT y.id, o.id, k.id, k.id, jsonb_build_object(k.field, k.theirs) || CASE WHEN k.currency IS NULL THEN '{}' ELSE jsonb_build_object('currency', k.currency) END FROM rec.case_ k, sync.system y, sync.object o;
-- Whatever the session has set.
SET timezone = 'Asia/Kathmandu';
SET datestyle = 'German, DMY';
SET intervalstyle = 'iso_8601';
SET bytea_output = 'escape';
SET extra_float_digits = -10;
SELECT rec.run();
SELECT k.field, left(k.ours, 45) AS ours, left(k.theirs::text, 45) AS theirs, k.currency, k.note, b.kind, b.difference,
       CASE WHEN (b.id IS NULL) IS DISTINCT FROM k.same THEN 'WRONG' WHEN k.same THEN 'same' ELSE 'differs' END AS verdict
  FROM rec.case_ k LEFT JOIN sync.reconciliation_break b ON b.record_id = k.id::text ORDER BY k.id;
SELECT count(*) FROM sync.reconciliation_break b WHERE b.field <> (SELECT k.field FROM rec.case_ k WHERE k.id::text = b.record_id);
-- The closer look finds nothing where the fast one is sure.
SELECT k.* FROM rec.case_ k JOIN rec.thing c ON c.id = k.id JOIN sync.mirror m ON m.remote_id = k.id::text
 WHERE sync._row_agrees(c.*, m.fields) AND (sync._fields_differing(m.object_id, 1, ARRAY[to_jsonb(c.*)], ARRAY[m.fields]))[1] IS NOT NULL;
-- A delta finds the same.
UPDATE rec.thing SET currency = currency || ' ', t = t;
UPDATE rec.thing SET currency = btrim(currency);
SELECT rec.run('delta');
RESET ALL;
-- What a system does not say is not compared; a column that there is not here is.
UPDATE sync.mirror SET fields = '{}';
SELECT rec.run();
UPDATE sync.mirror SET fields = '{"color": "red"}' WHERE remote_id = '1';
SELECT rec.run();
SELECT kind, record_id, field, ours, theirs, detail FROM sync.reconciliation_break WHERE status = 'open';

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_edges_values;
