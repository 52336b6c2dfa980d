-- Comparing everything by sums of hashes: what has the same letters agrees, sums are exact, workers add up to the
-- same, and the result is that of one join of everything.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_fold;
CREATE DATABASE sync_rec_fold TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8';
\c sync_rec_fold
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET timezone = 'UTC';
CREATE SCHEMA rec;

-- Every value of a type beside every member: the same letters only where the two agree. Which agree and have other
-- letters is shown: they are compared one by one.
CREATE FUNCTION rec.pairs(type text, ours text[], theirs jsonb[]) RETURNS TABLE (type_ text, pairs bigint, same bigint, wrong text[], closer text[]) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE rec.v (v %s)', type);
    RETURN QUERY EXECUTE format($sql$
        WITH pair AS (
            SELECT o.ours, t.theirs, sync._row_agrees(ROW(o.ours::%1$s)::rec.v, jsonb_build_object('v', t.theirs)) AS agrees,
                   (SELECT u.buckets IS NULL FROM sync._unlike_buckets(
                       (SELECT sync._fold_rows('\x000102030405060708090a0b0c0d0e0f', 1, 'id'::text, NULL, NULL, NULL, NULL, NULL, z.v) FROM (VALUES (o.ours::%1$s)) z (v)),
                       (SELECT sync._fold_mirrors('\x000102030405060708090a0b0c0d0e0f', 1, '{v}', ARRAY['%1$s'::regtype::oid], 'id', 'r', false, z.v) FROM (VALUES (jsonb_build_object('v', t.theirs))) z (v)),
                       (SELECT sync._fold_bindings('\x000102030405060708090a0b0c0d0e0f', 1, z.v, 'r') FROM (VALUES ('id')) z (v))) u) AS same
              FROM unnest($1) o (ours) CROSS JOIN unnest($2) t (theirs))
        SELECT '%1$s', count(*), count(*) FILTER (WHERE p.same), array_agg(p.ours || ' ' || p.theirs) FILTER (WHERE p.same AND NOT p.agrees),
               array_agg(coalesce(p.ours, 'NULL') || ' ' || p.theirs ORDER BY p.ours, p.theirs) FILTER (WHERE p.agrees AND NOT p.same)
          FROM pair p$sql$, type) USING ours, theirs;
    DROP TABLE rec.v;
END
$$;
SELECT p.* FROM rec.pairs('numeric', '{0,0.00,1,1.0,-1,-1.00,10,100,1000,10000,10000.0,100000000,1e20,0.1,0.10,0.0001,0.00010001,-0.0001,1e-20,1.5,15,150,-1.5,9999,99999999,12345678901234567890.123,1e100,1e-100,NaN,Infinity,-Infinity,NULL}',
    ARRAY['0', '0.00', '1', '1.000', '-1', '10', '100', '1000', '10000', '100000000', '100000000000000000000', '0.1', '0.0001', '0.00010001', '-0.0001', '0.00000000000000000001', '1.5', '15', '150', '-1.5', '9999', '99999999',
          '12345678901234567890.1230', '1e100', '1e-100', 'null', '"1"', '"NaN"', 'true', '[1]', '{}']::jsonb[]) p;
SELECT p.pairs, p.same, p.wrong, cardinality(p.closer) AS closer FROM rec.pairs('numeric', ARRAY[repeat('7', 250), repeat('7', 249) || '8'], ARRAY[to_jsonb(repeat('7', 250)::numeric)]) p;
SELECT p.* FROM unnest('{smallint,integer,bigint}'::text[]) t (type), rec.pairs(t.type, '{0,1,-1,10,-10,9999,10000,-10000,10001,32767,-32768,NULL}',
    ARRAY['0', '0.0', '1', '1.0', '-1', '10', '-10', '9999', '10000', '10000.0', '-10000', '10001', '32767', '-32768', '0.5', 'null', '"1"', 'false', '1e20']::jsonb[]) p;
SELECT p.* FROM rec.pairs('bigint', '{9223372036854775807,-9223372036854775808,-9223372036854775807,100000000,1000000000000}',
    ARRAY['9223372036854775807', '-9223372036854775808', '9223372036854775808', '-9223372036854775807', '100000000', '100000000.00', '1000000000000']::jsonb[]) p;
SELECT p.* FROM unnest('{text,varchar,char(3)}'::text[]) t (type), rec.pairs(t.type, ARRAY['', ' ', 'a', 'a ', 'A', 'ab', 'é', '1', 'null', 'true', '2026-10-01', NULL],
    ARRAY['""', '" "', '"a"', '"a "', '"a  "', '"A"', '"ab"', '"\u00e9"', '"e\u0301"', '"1"', '1', '"null"', 'null', 'true', '"true"', '"2026-10-01"', '["a"]']::jsonb[]) p;
SELECT p.* FROM rec.pairs('uuid', '{0000000a-0000-0000-0000-00000000000b,0000000a-0000-0000-0000-00000000000c,NULL}',
    ARRAY['"0000000a-0000-0000-0000-00000000000b"', '"0000000A-0000-0000-0000-00000000000B"', '"0000000a00000000000000000000000b"', '"x"', 'null']::jsonb[]) p;
SELECT p.* FROM rec.pairs('date', '{2026-10-01,2026-10-02,2024-02-29,10000-01-01,0044-03-15 BC,0001-01-01,infinity,-infinity,NULL}',
    ARRAY['"2026-10-01"', '"2026-10-02"', '"2024-02-29"', '"2026-10-1"', '"2026-10-01T00:00:00Z"', '"10000-01-01"', '"0044-03-15 BC"', '"0001-01-01"', '"infinity"', 'null', '20261001']::jsonb[]) p;
SELECT p.* FROM rec.pairs('timestamptz', '{2026-10-01 10:00Z,2026-10-01 10:00:00.5Z,2026-10-01 10:00:00.000001Z,2026-10-31 23:59:59.999999Z,2026-11-01 00:00Z,2024-02-29 00:00Z,2024-03-01 00:00Z,2023-03-01 00:00Z,1999-12-31 23:59:59Z,0099-01-01 00:00Z,2000-01-01 00:00Z,infinity,-infinity,NULL}',
    ARRAY['"2026-10-01T10:00:00Z"', '"2026-10-01T10:00:00+00:00"', '"2026-10-01 10:00:00+00"', '"2026-10-01T12:00:00+02:00"', '"2026-10-01T10:00:00.5Z"', '"2026-10-01T10:00:00.500000+00:00"', '"2026-10-01T10:00:00.000001Z"', '"2026-10-01T10:00:00.0000011Z"',
          '"2026-10-01T10:00:00.Z"', '"2026-10-01T10:00Z"', '"2026-10-01T10:00:60Z"', '"2026-10-01T10:60:00Z"', '"2026-10-31T24:00:00Z"', '"2026-10-31T23:59:60Z"', '"2026-10-32T00:00:00Z"', '"2026-11-01"', '"2024-02-29T00:00:00Z"', '"2023-02-29T00:00:00Z"', '"2024-02-30T00:00:00Z"', '"2023-03-01T00:00:00Z"',
          '"1999-12-31T23:59:59Z"', '"0099-01-01T00:00:00Z"', '"2000-01-01T00:00:00"', '"infinity"', '""', '"x"', 'null', '0']::jsonb[]) p;
SELECT p.* FROM rec.pairs('boolean', '{true,false,NULL}', ARRAY['true', 'false', 'null', '"true"', '1']::jsonb[]) p;
SELECT p.* FROM rec.pairs('jsonb', ARRAY['{}', '[]', '{"a": 1}', '{"a": 1.0}', '{"a": -1}', '{"a": "1"}', '{"a": null}', '{"b": 1}', '{"a": {"b": 1}}', '{"a": [1]}', '[1, [2]]', '[[1], 2]', '[1, 2]', '[2, 1]', '["a", "b"]', '["ab"]', '[true]', '[false]', '[null]', '"a"', '1', 'null', NULL],
    ARRAY['{}', '[]', '{"a": 1}', '{"a": 1.00}', '{"a": -1}', '{"a": "1"}', '{"a": null}', '{"b": 1}', '{"a": {"b": 1}}', '{"a": [1]}', '[1, [2]]', '[[1], 2]', '[1, 2]', '[2, 1]', '["a", "b"]', '["ab"]', '[true]', '[false]', '[null]', '"a"', '1', 'null']::jsonb[]) p;

-- Values do not run into one another, nor records; members by name, not by place.
CREATE FUNCTION rec.same(ours text[], theirs jsonb, id text DEFAULT 'id', names text[] DEFAULT '{a,b}') RETURNS boolean LANGUAGE sql AS $$
    SELECT u.buckets IS NULL FROM sync._unlike_buckets(
        (SELECT sync._fold_rows('\x000102030405060708090a0b0c0d0e0f', 1, 'id'::text, NULL, NULL, NULL, NULL, NULL, z.v[1], z.v[2]) FROM (VALUES (ours)) z (v)),
        (SELECT sync._fold_mirrors('\x000102030405060708090a0b0c0d0e0f', 1, names, ARRAY['text'::regtype::oid, 'text'::regtype::oid], id, 'r', false, z.v) FROM (VALUES (theirs)) z (v)),
        (SELECT sync._fold_bindings('\x000102030405060708090a0b0c0d0e0f', 1, id, z.v) FROM (VALUES ('r')) z (v))) u
$$;
SELECT rec.same('{x,y}', '{"a": "x", "b": "y"}') AS yes, rec.same('{x,y}', '{"a": "y", "b": "x"}') AS swapped, rec.same('{xy,""}', '{"a": "x", "b": "y"}') AS run_together,
       rec.same('{x,y}', '{"a": "x", "b": "y"}', 'id2') AS other_record, rec.same('{x,y}', '{"a": "x", "c": "y"}') AS other_member, rec.same('{x,y}', '{"a": "x"}') AS fewer,
       rec.same('{x,y}', '{"a": "x", "b": "y", "c": null}') AS more, rec.same('{x,NULL}', '{"a": "x", "b": null}') AS nulls, rec.same('{x,NULL}', '{"a": "x"}') AS unknown;

-- Sums are those of the server, whatever their size; so are groups, and parallel workers add up to the same.
CREATE TABLE rec.amount AS
SELECT n AS id, CASE n % 5 WHEN 0 THEN NULL ELSE date '2026-01-01' + n % 3 END AS day, (ARRAY['E1', '', NULL])[1 + n % 3] AS entity, (ARRAY['EUR', 'USD', '', NULL])[1 + n % 4] AS currency,
       CASE n % 11 WHEN 0 THEN NULL WHEN 1 THEN -n / 3.0 WHEN 2 THEN n * 1e15 + 0.01 WHEN 3 THEN - n * 1e30 WHEN 4 THEN n * 1e-20 WHEN 5 THEN 9999999999999999.9999999999999999 ELSE n / 100.0 END AS amount
  FROM generate_series(1, 20000) n;
ANALYZE rec.amount;
CREATE FUNCTION rec.differing() RETURNS TABLE (groups bigint, differing bigint) LANGUAGE sql AS $$
    WITH ours AS (SELECT g.* FROM sync._fold_groups((SELECT sync._fold_rows('\x000102030405060708090a0b0c0d0e0f', 1024, a.id, a.day, a.entity, a.currency, a.amount, CASE WHEN a.id % 2 = 0 THEN a.amount END, a.amount) FROM rec.amount a)) g),
    theirs AS (SELECT a.day, a.entity, a.currency, count(*) AS n, count(a.amount) AS with_amount, sum(a.amount) AS amount, count(a.amount) FILTER (WHERE a.id % 2 = 0) AS with_told, sum(a.amount) FILTER (WHERE a.id % 2 = 0) AS told
                 FROM rec.amount a GROUP BY 1, 2, 3)
    SELECT count(*), count(*) FILTER (WHERE (o.n, o.with_amount, o.with_told) IS DISTINCT FROM (t.n, t.with_amount, t.with_told) OR o.amount IS DISTINCT FROM coalesce(t.amount, 0) OR o.told IS DISTINCT FROM coalesce(t.told, 0)
                                               OR scale(o.amount) IS DISTINCT FROM scale(coalesce(t.amount, 0)))
      FROM ours o FULL JOIN theirs t ON coalesce(o.day, 'infinity') = coalesce(t.day, 'infinity') AND coalesce(o.entity, '-') = coalesce(t.entity, '-') AND coalesce(o.currency, '-') = coalesce(t.currency, '-')
$$;
SET max_parallel_workers_per_gather = 0;
SELECT d.* FROM rec.differing() d;
CREATE TABLE rec.fold AS SELECT sync._fold_rows('\x000102030405060708090a0b0c0d0e0f', 1024, a.id, a.day, a.entity, a.currency, a.amount, a.amount, a.amount, a.day, a.entity) AS rows FROM rec.amount a;
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT sync._fold_rows('\x000102030405060708090a0b0c0d0e0f', 1024, a.id, a.day, a.entity, a.currency, a.amount, a.amount, a.amount, a.day, a.entity) FROM rec.amount a;
INSERT INTO rec.fold SELECT sync._fold_rows('\x000102030405060708090a0b0c0d0e0f', 1024, a.id, a.day, a.entity, a.currency, a.amount, a.amount, a.amount, a.day, a.entity) FROM rec.amount a;
SELECT count(*) AS folds, count(DISTINCT substr(f.rows, 1, 8192)) AS hashes, count(DISTINCT g.groups) AS groups
  FROM rec.fold f CROSS JOIN LATERAL (SELECT md5(string_agg(g::text, ' ' ORDER BY g::text)) FROM sync._fold_groups(f.rows) g) g (groups);
SELECT d.* FROM rec.differing() d;
INSERT INTO rec.amount VALUES (0, NULL, NULL, NULL, 'NaN'), (-1, date '2026-01-01', 'E2', 'EUR', 'Infinity'), (-2, date '2026-01-01', 'E2', 'EUR', 1);
SELECT d.* FROM rec.differing() d;

-- The whole, beside one join of everything: 20 000 records with faults of every kind.
SELECT FROM sync.register_connector($json${"manifest": 1, "name": "vendor", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
    "objects": {"thing": {"push": {"operations": {"create": {"method": "POST", "path": "/i", "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}},
                          "pull": {"list": {"path": "/i", "items": "$.data"}, "record": {"id": "$.id"}, "fields": {"number": "$.number", "total_amount": "$.total"}}}}}$json$::jsonb);
CREATE SERVER vendor FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
CREATE TABLE rec.thing (id uuid PRIMARY KEY, number text, currency text, total_amount numeric, issue_date date, legal_entity_id uuid, c integer, posting_date date);
SELECT FROM sync.track('rec.thing', object => 'thing');
SELECT FROM sync.create_stream('vendor', 'thing');
SELECT FROM sync.create_route('vendor', 'thing', start => 'all', cutover_date => '2020-01-01');
SET session_replication_role = replica;
UPDATE sync.stream_cursor SET read_until = clock_timestamp();
INSERT INTO rec.thing SELECT md5(n::text)::uuid, 'T-' || n, (ARRAY['EUR', 'USD', NULL])[1 + n % 3], CASE WHEN n % 7 > 0 THEN n / 100.0 END, date '2026-01-01' + n % 100, NULL, n, CASE WHEN n % 2 = 0 THEN date '2026-01-05' + n % 100 END
  FROM generate_series(1, 20000) n;
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields)
SELECT y.id, o.id, 'r' || t.c, t.id, to_jsonb(t) - '{posting_date,legal_entity_id}'::text[] FROM rec.thing t, sync.system y, sync.object o;
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT m.system_id, m.object_id, m.record_id, m.remote_id FROM sync.mirror m;
ANALYZE rec.thing;
CREATE FUNCTION rec.compare(period daterange DEFAULT NULL) RETURNS TABLE (what text, folded text, joined text) LANGUAGE plpgsql AS $$
DECLARE
    run sync.reconciliation;
    f record;
    unlike text[];
    j record;
    unsent text[];
BEGIN
    SELECT y.id, o.id INTO run.system_id, run.object_id FROM sync.system y, sync.object o;
    run.period := period;
    f := sync._compare_folded(run);
    unlike := sync._unlike_bindings(run.system_id, run.object_id);
    j := sync._compare_all(run, unlike);
    unsent := sync._unsent(run, NULL);
    f.unsent := ARRAY(SELECT u.id FROM unnest(f.unsent) u (id) WHERE NOT EXISTS (SELECT FROM sync.external_id x WHERE x.record_id = u.id));
    RETURN QUERY
    SELECT v.what, v.folded, CASE WHEN v.joined = v.folded THEN 'the same' ELSE v.joined END
      FROM (VALUES ('done', f.done::text, 'true'),
                   ('unlike', (SELECT string_agg(u.id, ' ' ORDER BY u.id) FROM unnest(f.unlike) u (id)), (SELECT string_agg(u.id, ' ' ORDER BY u.id) FROM unnest(unlike) u (id))),
                   ('odd', (SELECT string_agg(u.id, ' ' ORDER BY u.id) FROM unnest(f.odd) u (id)), (SELECT string_agg(u.id, ' ' ORDER BY u.id) FROM unnest(j.odd) u (id))),
                   ('unsent', (SELECT string_agg(u.id, ' ' ORDER BY u.id) FROM unnest(f.unsent) u (id)), (SELECT string_agg(u.id, ' ' ORDER BY u.id) FROM unnest(unsent) u (id))),
                   ('records', (SELECT sum(s.n)::text FROM jsonb_to_recordset(f.sums) s (n bigint)), (SELECT sum(s.n)::text FROM jsonb_to_recordset(j.sums) s (n bigint))),
                   ('sums', (SELECT md5(string_agg(s::text, ' ' ORDER BY s::text)) FROM jsonb_to_recordset(f.sums) s (entity text, period date, currency text, n bigint, amount numeric, told numeric)),
                            (SELECT md5(string_agg(s::text, ' ' ORDER BY s::text)) FROM jsonb_to_recordset(j.sums) s (entity text, period date, currency text, n bigint, amount numeric, told numeric)))) v (what, folded, joined);
END
$$;
SELECT c.what, CASE WHEN c.what <> 'sums' THEN c.folded END AS folded, c.joined FROM rec.compare() c;
UPDATE sync.mirror SET fields = fields || '{"total_amount": 7}' WHERE remote_id = 'r1';                      -- another amount
UPDATE sync.mirror SET fields = fields || '{"total_amount": null}' WHERE remote_id = 'r2';
UPDATE sync.mirror SET fields = fields || '{"number": "t-3"}' WHERE remote_id = 'r3';
UPDATE sync.mirror SET fields = fields || '{"total_amount": "0.04"}' WHERE remote_id = 'r4';                 -- as text: a closer look finds it the same
UPDATE sync.mirror SET fields = fields || '{"total_amount": -0.05}' WHERE remote_id = 'r5';                  -- the other sign
UPDATE sync.mirror SET fields = fields - 'total_amount' WHERE remote_id IN ('r6', 'r8');                     -- fewer members, and they agree
UPDATE sync.mirror SET fields = fields || '{"posting_date": null}' WHERE remote_id = 'r9';                   -- more, and they agree
UPDATE sync.mirror SET fields = fields || '{"nowhere": 1}' WHERE remote_id = 'r10';
UPDATE sync.mirror SET deleted = true WHERE remote_id = 'r11';                                               -- gone over there
DELETE FROM rec.thing WHERE c IN (12, 13);                                                                   -- gone here
UPDATE sync.mirror SET deleted = true, record_id = NULL WHERE remote_id = 'r13';                             -- on both sides, but bound
DELETE FROM sync.external_id WHERE remote_id IN ('r13', 'r14', 'r16');                                       -- read, and bound to nothing
DELETE FROM sync.mirror WHERE remote_id = 'r15';                                                             -- bound, and never read
UPDATE sync.mirror SET record_id = NULL WHERE remote_id = 'r16';
UPDATE sync.external_id SET record_id = md5('18 no more')::uuid WHERE remote_id = 'r17';                     -- bound to another than it was
DELETE FROM sync.mirror WHERE remote_id IN ('r18', 'r19');
DELETE FROM sync.external_id WHERE remote_id IN ('r18', 'r19');                                              -- never sent
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields, deleted)
SELECT m.system_id, m.object_id, v.remote_id, v.record_id, m.fields, v.deleted FROM sync.mirror m,
       (VALUES ('unbound', NULL, false), ('gone', NULL, true), ('twin', md5('20')::uuid::text, false), ('no uuid', 'x', false)) v (remote_id, record_id, deleted) WHERE m.remote_id = 'r20';
SELECT c.what, CASE WHEN c.what <> 'sums' THEN c.folded END AS folded, c.joined FROM rec.compare() c;
SELECT c.what, c.joined FROM rec.compare('[2026-02-01,2026-03-01)') c;
-- As a run sees it, in one process and in several; a second run says the same.
CREATE FUNCTION rec.run() RETURNS TABLE (run text, totals text) LANGUAGE plpgsql AS $$
DECLARE
    the_run bigint := sync.reconcile('vendor', 'thing');
BEGIN
    RETURN QUERY SELECT format('checked %s found %s opened %s', r.checked, r.found, r.opened),
                        (SELECT md5(string_agg((t.entity, t.period, t.currency, t.our_count, t.our_amount, t.their_count, t.their_amount, t.unexplained_count, t.unexplained_amount)::text, ' ' ORDER BY t.period, t.currency))
                           FROM sync.reconciliation_total t WHERE t.reconciliation_id = the_run)
                   FROM sync.reconciliation_run r WHERE r.id = the_run;
END
$$;
SELECT r.run FROM rec.run() r;
SELECT b.kind, b.remote_id, b.record_number, b.field FROM sync.reconciliation_break b ORDER BY b.kind, b.remote_id, b.record_number, b.field;
CREATE TEMP TABLE ran AS SELECT r.* FROM rec.run() r;
SET max_parallel_workers_per_gather = 0;
INSERT INTO ran SELECT r.* FROM rec.run() r;
-- Where more than a quarter differs, everything is joined, to the same result but for what differs now.
UPDATE sync.mirror SET fields = fields - 'c' WHERE remote_id ~ '[02468]$';
UPDATE sync.mirror SET fields = fields || '{"c": 1}' WHERE remote_id = 'r21';
SELECT c.folded AS done FROM rec.compare() c WHERE c.what = 'done';
SELECT r.run FROM rec.run() r;
UPDATE sync.mirror SET fields = fields || '{"c": 21}' WHERE remote_id = 'r21';
INSERT INTO ran SELECT r.* FROM rec.run() r;
SELECT array_agg(DISTINCT r.run) AS runs, count(DISTINCT r.totals) AS totals FROM ran r;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_fold;
