-- Values are rendered the same whatever the session has SET.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
CREATE SCHEMA capture_render;
SET search_path = capture_render;

CREATE TYPE mood AS ENUM ('sad', 'so "so"');
CREATE TYPE pair AS (a integer, b timestamptz);
CREATE DOMAIN cents AS integer CHECK (VALUE >= 0);
CREATE DOMAIN cents_list AS integer[];
CREATE TABLE kind (
    id integer PRIMARY KEY, b boolean, i2 smallint, i8 bigint, n numeric, n2 numeric(10, 2), f4 real, f8 double precision,
    t text, vc varchar(10), c char(5), nm name, ch "char", u uuid, m mood, tz timestamptz, ts timestamp, d date, ti time, tiz timetz,
    iv interval, by bytea, j json, jb jsonb, ai integer[], at text[], atz timestamptz[], an numeric[], aj jsonb[],
    p pair, r tstzrange, dom cents, doml cents_list, mo money, ip inet, bits bit(3), pt point, o oid, x xml, re regclass);
SELECT sync.track('kind');

CREATE FUNCTION fill(i integer) RETURNS void LANGUAGE sql AS $$
INSERT INTO capture_render.kind VALUES (
    i, true, -2, 9007199254740993, 12345678901234567890.123456789000, 10.5, 0.1::real, 0.1::float8 + 0.2::float8,
    E'tab\t "q" \\ \u00e9 \U0001F600', 'vc', 'c', 'nm', 'x', '00112233-4455-6677-8899-aabbccddeeff', 'so "so"',
    '2026-03-01 23:30:00.123456-08', '2026-03-01 23:30:00', '2026-03-01', '23:30:00.5', '23:30:00+05:30',
    '1 year 2 mons -3 days 04:05:06.7', '\xdeadbeef00', '{"a": [1, 2.50, {"b": null}], "a": "dup"}', '{"z": 1, "aa": [true]}',
    '{1,NULL,3}', '{{a,"b c"},{"\"",NULL}}', '{"2026-01-01 00:00:00+13"}', '{1.50,NaN}', '{"{\"k\": 1}",NULL}',
    ROW(1, '2026-01-01 12:00:00+02'), '["2026-01-01 00:00:00+00","2026-02-01 00:00:00+00")', 5, '{7,8}',
    1234.5, '10.0.0.1/8', B'101', '(0.1,0.2)', 4000000000, '<a/>', 'pg_class');
$$;
SET lc_monetary = 'C';
SET TimeZone = 'UTC';
SELECT fill(1);
SELECT key, value FROM sync.outbox o JOIN sync.object b ON b.id = o.object_id CROSS JOIN LATERAL jsonb_each(o.body)
WHERE b.name = 'kind' ORDER BY key COLLATE "C";

-- Byte for byte under other settings. The literals themselves are read under the first ones.
CREATE TABLE master AS SELECT * FROM kind;
SET TimeZone = 'Pacific/Auckland';
SET DateStyle = 'German, DMY';
SET IntervalStyle = 'sql_standard';
SET bytea_output = 'escape';
SET extra_float_digits = -10;
SET xmloption = 'document';
SET quote_all_identifiers = on;
SET search_path = pg_catalog;
INSERT INTO capture_render.kind SELECT * FROM (SELECT * FROM capture_render.master) m WHERE false;
UPDATE capture_render.master SET id = 2;
INSERT INTO capture_render.kind SELECT * FROM capture_render.master;
SET TimeZone = 'America/Los_Angeles';
SET DateStyle = 'SQL, MDY';
SET IntervalStyle = 'iso_8601';
UPDATE capture_render.master SET id = 3;
INSERT INTO capture_render.kind SELECT * FROM capture_render.master;
SHOW TimeZone;
SHOW DateStyle;
SHOW IntervalStyle;
RESET ALL;
SET search_path = capture_render;
SELECT count(*), count(DISTINCT (body - 'id')::text), count(DISTINCT jsonb_send(body - 'id')) FROM sync.outbox o JOIN sync.object b ON b.id = o.object_id WHERE b.name = 'kind';

-- What we write is what the server itself would have written, to the byte.
SELECT bool_and(jsonb_send(body) = jsonb_send(body::text::jsonb)) AS same_text,
       bool_and(body = body::text::jsonb) AS equal,
       bool_and(pg_column_size(body) = pg_column_size(body::text::jsonb) OR pg_column_size(body) > 2000) AS same_size
FROM sync.outbox o JOIN sync.object b ON b.id = o.object_id WHERE b.name = 'kind';

-- Edges of each type.
CREATE TABLE edge (id text PRIMARY KEY, n numeric, f8 double precision, f4 real, tz timestamptz, ts timestamp, d date,
                   ai integer[], j json, jb jsonb, iv interval, by bytea, t text);
SELECT sync.track('edge');
INSERT INTO edge VALUES ('nan', 'NaN', 'NaN', 'NaN');
INSERT INTO edge VALUES
    ('inf', 'Infinity', 'Infinity', '-Infinity', 'infinity', '-infinity', 'infinity'),
    ('zero', 0.000, -0.0, 0, '0001-01-01 00:00:00+00 BC', '4713-01-01 00:00:00 BC', '5874897-12-31'),
    ('tiny', 1e-30, 5e-324, 1.17549e-38, '294276-12-31 23:59:59.999999+00', '2026-06-01 12:00:00.1', '2024-02-29'),
    ('huge', 1e100, 1.7976931348623157e308, 3.4028235e38, NULL, NULL, NULL);
INSERT INTO edge VALUES
    ('empty', NULL, NULL, NULL, NULL, NULL, NULL, '{}', '""', '[]', '0', '\x', ''),
    ('json', NULL, NULL, NULL, NULL, NULL, NULL, '[2:3]={1,2}', '{"a":"\u0000"}', '"s"', '-1 day', NULL, NULL),
    ('json2', NULL, NULL, NULL, NULL, NULL, NULL, '{{{1}},{{2}}}', '["\ud800"]', 'null', NULL, NULL, NULL),
    ('json3', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '1e200000', '-1.50', NULL, NULL, NULL);
SELECT record_id, jsonb_strip_nulls(body - 'id') FROM sync.outbox o JOIN sync.object b ON b.id = o.object_id WHERE b.name = 'edge' ORDER BY seq;

-- More than 32 columns and elements: the container keeps an offset at every 32nd.
DO $$
BEGIN
    EXECUTE (SELECT format('CREATE TABLE wide (id integer PRIMARY KEY, %s)', string_agg(format('c%s text DEFAULT %L', i, 'v' || i), ', '))
             FROM generate_series(1, 200) i);
END
$$;
SELECT sync.track('wide');
INSERT INTO wide (id) VALUES (1);
UPDATE wide SET c100 = 'changed', c7 = NULL;
SELECT op, (SELECT count(*) FROM jsonb_each_text(body) WHERE key ~ '^c' AND value = 'v' || substr(key, 2)) AS right, body->'c200' AS c200, body->'c7' AS c7, old
FROM sync.outbox o JOIN sync.object b ON b.id = o.object_id WHERE b.name = 'wide' ORDER BY seq;

-- Keys of several types.
CREATE TABLE keyed (d date, n numeric, tz timestamptz, b boolean, by bytea, PRIMARY KEY (d, n, tz, b, by));
SELECT sync.track('keyed');
SET DateStyle = 'German, DMY';
SET TimeZone = 'Asia/Kolkata';
INSERT INTO keyed VALUES ('2026-01-31', 1.50, '2026-01-31 00:00:00+00', true, '\x00ff');
SELECT record_id FROM sync.outbox o JOIN sync.object b ON b.id = o.object_id WHERE b.name = 'keyed';

SET client_min_messages = error;
SELECT count(sync.untrack(name)) FROM sync.object WHERE schema_name = 'capture_render';
DROP SCHEMA capture_render CASCADE;
