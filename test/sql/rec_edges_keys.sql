-- Comparisons of tables with keys of every kind: of several columns, of odd characters, padded, of a collation
-- of their own, partitioned; records that were renamed; bindings whose record id is no key.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_edges_keys;
CREATE DATABASE sync_rec_edges_keys TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8';
\c sync_rec_edges_keys
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET client_encoding = 'UTF8';
-- Ids are what events have, not what this session makes of days, times and bytes.
SET timezone = 'Asia/Kolkata';
SET datestyle = 'German';
SET bytea_output = 'escape';
CREATE SCHEMA rec;
DO $$BEGIN
    CREATE COLLATION rec.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
EXCEPTION WHEN feature_not_supported THEN -- a server without ICU
    CREATE COLLATION rec.any_case FROM "C";
END$$;
CREATE COLLATION rec.plain (provider = libc, locale = 'POSIX');
CREATE TABLE rec.pair (region text, code text, name text, PRIMARY KEY (region, code));
CREATE TABLE rec.mixed (day date, no integer, owner uuid, name text, PRIMARY KEY (day, no, owner));
CREATE TABLE rec.word (word text PRIMARY KEY, name text);
CREATE TABLE rec.padded (code char(6) PRIMARY KEY, name text);
CREATE TABLE rec.cased (code text COLLATE rec.any_case PRIMARY KEY, name text);
CREATE TABLE rec.sorted (code varchar(20) COLLATE rec.plain PRIMARY KEY, name text);
CREATE TABLE rec.small (id smallint PRIMARY KEY, name text);
CREATE TABLE rec.exact (id numeric(12,2) PRIMARY KEY, name text);
CREATE TABLE rec.parted (id uuid, day date, name text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE rec.parted_09 PARTITION OF rec.parted FOR VALUES FROM ('2026-09-01') TO ('2026-10-01');
CREATE TABLE rec.parted_10 PARTITION OF rec.parted FOR VALUES FROM ('2026-10-01') TO ('2026-11-01');
CREATE TABLE rec.parcel (depot char(4), no integer, name text, PRIMARY KEY (depot, no));
CREATE TABLE rec.timed (at timestamptz PRIMARY KEY, name text);
CREATE TABLE rec.hashed (sum bytea, no integer, name text, PRIMARY KEY (sum, no));
CREATE TABLE rec.blob (sum bytea PRIMARY KEY, name text);
CREATE TABLE rec.host (ip inet PRIMARY KEY, name text);
CREATE TABLE rec.port (ip inet, no integer, name text, PRIMARY KEY (ip, no));
CREATE TABLE rec.flag (region text, active boolean, name text, PRIMARY KEY (region, active));
CREATE TABLE rec.gauge (value float8, share float4, name text, PRIMARY KEY (value, share));
CREATE TABLE rec.clock (at timetz PRIMARY KEY, name text);
CREATE TABLE rec.era (at timestamptz PRIMARY KEY, name text);
CREATE TABLE rec.tag (value jsonb PRIMARY KEY, name text);
CREATE TYPE rec.mood AS ENUM ('happy', 'so so');
CREATE TABLE rec.felt (mood rec.mood, letter "char", span interval, name text, PRIMARY KEY (mood, letter, span));
CREATE DOMAIN rec.instant AS timestamp;
CREATE TABLE rec.stamped (no integer, at rec.instant, name text, PRIMARY KEY (no, at));
CREATE TABLE rec.logged (id uuid, at timestamptz, name text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE rec.logged_09 PARTITION OF rec.logged FOR VALUES FROM ('2026-09-01 00:00+00') TO ('2026-10-01 00:00+00');
CREATE TABLE rec.logged_10 PARTITION OF rec.logged FOR VALUES FROM ('2026-10-01 00:00+00') TO ('2026-11-01 00:00+00');
CREATE TABLE rec.objects (object text PRIMARY KEY, columns text[], items jsonb);
INSERT INTO rec.objects VALUES
    ('pair', '{region,code}', '[["a", "b"], ["a,b", ""], ["\"", "\\"], ["[1]", "{\"k\": 1}"], ["t\tb", "n\nl"], ["Köln", "日本 🎉"], ["", "a"], [" a", "a "], ["\u0001", "\u007f"]]'),
    ('mixed', '{day,no,owner}', '[["2026-10-01", -1, "00000000-0000-0000-0000-00000000000a"], ["2026-10-01", 1, "00000000-0000-0000-0000-00000000000a"], ["2026-10-02", 1, "00000000-0000-0000-0000-00000000000b"]]'),
    ('word', '{word}', '[["a,b"], ["\"a\""], ["it''s"], ["t\tb"], ["c:\\x"], ["[\"a\"]"], ["{a}"], ["Köln"], ["日本 🎉"], ["NULL"], [" a"], ["a "], ["%s $1"], ["\u0001"]]'),
    ('padded', '{code}', '[["a"], ["abc"], ["abcdef"], ["ü b"]]'),
    ('cased', '{code}', '[["Abc"], ["xyz"]]'),
    ('sorted', '{code}', '[["Abc"], ["abc"]]'),
    ('small', '{id}', '[[-32768], [0], [7]]'),
    ('exact', '{id}', '[["1.00"], ["2.50"]]'),
    ('parted', '{id,day}', '[["00000000-0000-0000-0000-000000000001", "2026-09-30"], ["00000000-0000-0000-0000-000000000001", "2026-10-01"], ["00000000-0000-0000-0000-000000000002", "2026-10-02"]]'),
    ('parcel', '{depot,no}', '[["a", 1], ["abcd", 2], ["b ", 3]]'),
    ('timed', '{at}', '[["2026-10-01T10:00:00+00:00"], ["2026-10-25T00:30:00.25+00:00"], ["infinity"]]'),
    ('era', '{at}', '[["0044-03-15 12:00+00 BC"], ["0001-01-01 00:00+00"], ["0001-12-31 23:59:59.999999+00 BC"]]'),
    ('blob', '{sum}', '[["\\x"], ["\\x00ff5c"], ["\\x616263"]]'),
    ('hashed', '{sum,no}', '[["\\x00ff5c", 1], ["\\x616263", 2]]'),
    ('host', '{ip}', '[["10.0.0.1"], ["10.0.0.1/8"], ["::1"]]'),
    ('port', '{ip,no}', '[["10.0.0.1", 80], ["10.0.0.1", 443]]'),
    ('flag', '{region,active}', '[["eu", true], ["eu", false], ["us", "t"]]'),
    ('gauge', '{value,share}', '[[1e20, 1e6], [0.00001, 0.1], [-0.0, 1], [0.1, 16777216], ["NaN", "-Infinity"]]'),
    ('clock', '{at}', '[["03:04:00+02"], ["03:04:00.5-03:30"], ["24:00:00+00"]]'),
    ('tag', '{value}', '[[1.50], [true]]'),
    ('felt', '{mood,letter,span}', '[["happy", "a", "1 day 02:00"], ["so so", "%", "-3 mons"]]'),
    ('stamped', '{no,at}', '[[1, "2026-10-01T10:00:00"], [2, "2026-03-29T02:30:00.000001"]]'),
    ('logged', '{id,at}', '[["00000000-0000-0000-0000-000000000001", "2026-09-30T23:30:00+00:00"], ["00000000-0000-0000-0000-000000000001", "2026-10-01T00:00:00+00:00"]]');

-- A connector that reads each: the remote id is the object's and the place in the list.
SELECT FROM sync.register_connector(jsonb_build_object('manifest', 1, 'name', 'vendor', 'version', '1', 'hosts', '["api.example.com"]'::jsonb,
    'base_url', 'https://api.example.com', 'auth', '{"type": "none"}'::jsonb, 'objects',
    (SELECT jsonb_object_agg(o.object, jsonb_build_object(
                'push', '{"operations": {"create": {"method": "POST", "path": "/x", "body": {"name": "$.new.name"}, "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}}'::jsonb,
                'pull', jsonb_build_object('list', '{"path": "/x", "items": "$.data"}'::jsonb, 'record', '{"id": "$.remote", "deleted": "$.deleted == true"}'::jsonb,
                'fields', (SELECT jsonb_object_agg(c, '$.' || c) FROM unnest(o.columns || '{name}') c)))) FROM rec.objects o)));
CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
SELECT sync.track(format('rec.%I', object)::regclass, object => object) IS NOT NULL AS tracked, object FROM rec.objects ORDER BY object;
CREATE FUNCTION rec.items(object text) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_agg(jsonb_build_object('remote', o.object || i.n, 'name', 'name ' || i.n) || (SELECT jsonb_object_agg(o.columns[v.n], v.value) FROM jsonb_array_elements(i.key) WITH ORDINALITY v (value, n)) ORDER BY i.n)
      FROM rec.objects o, jsonb_array_elements(o.items) WITH ORDINALITY i (key, n) WHERE o.object = $1
$$;
CREATE FUNCTION rec.stream(object text) RETURNS integer LANGUAGE sql AS $$
    SELECT t.id FROM sync.stream t JOIN sync.object o ON o.id = t.object_id WHERE o.name = $1
$$;
\getenv dir PG_ABS_SRCDIR
\set file :dir '/sql/include/rec_run.sql'
\i :file
CREATE VIEW rec.breaks AS SELECT object, kind, record_id, remote_id, field, ours, theirs FROM sync.reconciliation_break WHERE status <> 'resolved';
SELECT sync.create_stream('billing', object) > 0 AS stream FROM rec.objects ORDER BY object;
UPDATE sync.stream_cursor SET read_until = clock_timestamp();
SELECT o.object, a.applied, a.bound, a.to_inbox FROM rec.objects o CROSS JOIN LATERAL sync._apply_page(rec.stream(o.object), rec.items(o.object)) a ORDER BY 1;
-- A system may spell a key in its own way: bound is what events say.
SELECT o.object, a.applied, a.bound, a.to_inbox
  FROM (VALUES ('exact', '{"remote": "exact3", "id": "03.5", "name": "name 3"}'::jsonb), ('padded', '{"remote": "padded5", "code": "x  ", "name": "name 5"}'),
               ('timed', '{"remote": "timed4", "at": "2026-11-01 02:00+02", "name": "name 4"}'), ('stamped', '{"remote": "stamped3", "no": "03", "at": "20261101 0200", "name": "name 3"}'),
               ('logged', '{"remote": "logged3", "id": "{00000000-0000-0000-0000-00000000000A}", "at": "2026-10-02 05:30+05:30", "name": "name 3"}'),
               ('timed', '{"remote": "timed5", "at": "yesterday or so", "name": "name 5"}')) o (object, item)
 CROSS JOIN LATERAL sync._apply_page(rec.stream(o.object), jsonb_build_array(o.item)) a ORDER BY 1, o.item ->> 'remote';
SELECT remote_id, sqlstate, reason FROM sync.inbox;
DELETE FROM sync.inbox;
DELETE FROM sync.mirror WHERE remote_id = 'timed5';
SELECT o.name, x.remote_id, x.record_id FROM sync.external_id x JOIN sync.object o ON o.id = x.object_id
 WHERE x.remote_id IN ('exact3', 'padded5', 'timed4', 'stamped3', 'logged3') ORDER BY 1;
SELECT count(*) AS bound, count(e.record_id) AS as_events_say
  FROM sync.external_id x LEFT JOIN (SELECT DISTINCT object_id, record_id FROM sync.outbox) e USING (object_id, record_id);

-- Who matches finds a record by the id that a system carries for it, in capitals where its key has them.
SELECT o.object, m.rule, m.record_id, m.bound_to
  FROM (VALUES ('sorted', 'Abc'), ('sorted', 'ABC'), ('exact', '01.0'), ('mixed', '["20261001", "1", "00000000-0000-0000-0000-00000000000A"]'), ('timed', '2026-10-01T10:00:00+00:00'), ('host', '10.0.0.1'),
               ('parted', '["00000000-0000-0000-0000-000000000001", "2026-10-01"]')) o (object, id)
  JOIN sync.object b ON b.name = o.object
 CROSS JOIN LATERAL sync._match((SELECT y.id FROM sync.system y), b.id, jsonb_build_array(jsonb_build_object('n', 1, 'our_id', o.id, 'f', '{}'::jsonb))) m ORDER BY 1, 3;

-- Nothing differs; then everything does, in the mirror: each is found, and as which record.
SELECT object, rec.run(object) FROM rec.objects ORDER BY object;
UPDATE sync.mirror m SET fields = m.fields || '{"name": "other"}';
SELECT object, rec.run(object) FROM rec.objects ORDER BY object;
SELECT b.object, b.kind, b.record_id, b.remote_id, b.field, b.theirs, b.record_id = x.record_id AS bound_so
  FROM rec.breaks b JOIN sync.object o ON o.name = b.object JOIN sync.external_id x ON x.object_id = o.id AND x.remote_id = b.remote_id ORDER BY b.object, b.remote_id COLLATE "C";
UPDATE sync.mirror m SET fields = m.fields || jsonb_build_object('name', 'name ' || right(m.remote_id, -length(o.name))) FROM sync.object o WHERE o.id = m.object_id;
SELECT object, rec.run(object) FROM rec.objects ORDER BY object;

-- A delta finds records by the same keys: each row is changed, then changed back.
DO $$ DECLARE o record; BEGIN FOR o IN SELECT * FROM rec.objects LOOP EXECUTE format('UPDATE rec.%I SET name = ''ours'' || name', o.object); END LOOP; END $$;
SELECT object, rec.run(object, 'delta') FROM rec.objects ORDER BY object;
SELECT count(*), count(*) FILTER (WHERE b.record_id = x.record_id) AS bound_so
  FROM rec.breaks b JOIN sync.object o ON o.name = b.object JOIN sync.external_id x ON x.object_id = o.id AND x.remote_id = b.remote_id;
SELECT object, rec.run(object) FROM rec.objects ORDER BY object;
DO $$ DECLARE o record; BEGIN FOR o IN SELECT * FROM rec.objects LOOP EXECUTE format('UPDATE rec.%I SET name = right(name, -4)', o.object); END LOOP; END $$;
SELECT object, rec.run(object, 'delta') FROM rec.objects ORDER BY object;
SELECT object, rec.run(object) FROM rec.objects ORDER BY object;

-- Between partitions, and deleted: a row that moved is another record.
UPDATE rec.parted SET day = '2026-10-31' WHERE day = '2026-09-30';
SELECT rec.run('parted', 'delta');
SELECT * FROM rec.breaks ORDER BY remote_id;
SELECT rec.run('parted');
UPDATE rec.parted SET day = '2026-09-30' WHERE day = '2026-10-31';
SELECT rec.run('parted', 'delta'), rec.run('parted');

-- Renamed: what is bound to the old key is an orphan, of the new one nothing is known.
UPDATE rec.pair SET code = 'new' WHERE region = 'a';
UPDATE rec.word SET word = 'new' WHERE word = 'a,b';
SELECT rec.run('pair', 'delta'), rec.run('word', 'delta');
SELECT * FROM rec.breaks ORDER BY object;
SELECT rec.run('pair'), rec.run('word');
-- and is missing there where a route would have sent it
SELECT sync.create_route('billing', 'word', start => 'all') > 0 AS route;
UPDATE rec.word SET word = 'newer' WHERE word = 'new';
SELECT rec.run('word', 'delta'), rec.run('word');
SELECT * FROM rec.breaks WHERE object = 'word';
UPDATE rec.pair SET code = 'b' WHERE region = 'a';
UPDATE rec.word SET word = 'a,b' WHERE word = 'newer';
SELECT rec.run('pair', 'delta'), rec.run('word', 'delta'), rec.run('pair'), rec.run('word');
SELECT * FROM rec.breaks;

-- Record ids that are no key any more (of before a key was changed) stop nobody else's comparison.
CREATE TABLE rec.ids (object text, id text);
INSERT INTO rec.ids VALUES ('pair', 'plain'), ('pair', '["one"]'), ('pair', '["a", "b", "c"]'), ('pair', '{"a": 1}'), ('pair', '[1, 2]'), ('mixed', '["x", "y", "z"]'), ('mixed', '["2026-10-01", "1", "no"]'),
    ('small', 'x'), ('small', '99999'), ('small', '99999999999999999999'), ('small', '007'), ('small', ''), ('exact', 'x'), ('exact', '1'), ('parted', '["x", "2026-10-01"]'), ('padded', 'abcdefgh');
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id)
SELECT y.id, o.id, i.id, 'odd ' || i.id FROM rec.ids i JOIN sync.object o ON o.name = i.object, sync.system y;
INSERT INTO sync.mirror (system_id, object_id, record_id, remote_id, fields)
SELECT y.id, o.id, i.id, 'odd ' || i.id, '{"name": "odd"}' FROM rec.ids i JOIN sync.object o ON o.name = i.object, sync.system y;
SELECT object, rec.run(object) FROM rec.objects ORDER BY object;
SELECT object, kind, record_id FROM rec.breaks ORDER BY object, record_id COLLATE "C";
SELECT object, rec.run(object, 'delta') FROM rec.objects ORDER BY object;
-- nor that of a full listing, which finds the same
SELECT rec.full(object) FROM rec.objects ORDER BY object;
SELECT i.object, i.id, sync._bodies(o.id, ARRAY[i.id]) FROM rec.ids i JOIN sync.object o ON o.name = i.object ORDER BY 1, 2;
SELECT o.name, (SELECT count(*) FROM jsonb_object_keys(sync._bodies(o.id, ARRAY(SELECT x.record_id FROM sync.external_id x WHERE x.object_id = o.id)))) AS bodies FROM sync.object o ORDER BY 1;

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_edges_keys;
