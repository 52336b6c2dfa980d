-- Record ids in any spelling that their column's type takes: what they find, and what is refused.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_ids;
CREATE DATABASE sync_rec_ids;
\c sync_rec_ids
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
CREATE SCHEMA ids;
CREATE DOMAIN ids.code AS varchar(4);
CREATE TABLE ids.person (id uuid PRIMARY KEY, number text, email text, merged_into_id uuid REFERENCES ids.person);
CREATE TABLE ids.thing (id integer PRIMARY KEY, number text);
CREATE TABLE ids.pair (region text, day date, id bigint, PRIMARY KEY (region, day, id));
CREATE TABLE ids.coded (id ids.code PRIMARY KEY);
CREATE TABLE ids.padded (id character(4) PRIMARY KEY, number text);
CREATE TABLE ids.priced (id numeric(6,2) PRIMARY KEY);
CREATE TABLE ids.timed (id timestamptz PRIMARY KEY);
SELECT sync.track('ids.person'), sync.track('ids.thing'), sync.track('ids.pair'), sync.track('ids.coded'), sync.track('ids.padded'), sync.track('ids.priced'), sync.track('ids.timed');
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "person": {"push": {"operations": {"create": {"method": "POST", "path": "/p", "response": {"remote_id": "$.id"}}, "update": {"method": "POST", "path": "/p/u"}}}},
    "thing": {"push": {"operations": {"create": {"method": "POST", "path": "/t", "response": {"remote_id": "$.id"}}, "update": {"method": "POST", "path": "/t/u"}}}}}} $json$::jsonb);
CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', mode 'paused');
SELECT sync.create_route('crm', 'person') AS people, sync.create_route('crm', 'thing') AS things;
INSERT INTO ids.person VALUES ('00000000-0000-4000-8000-00000000000a', 'P-1', 'a@example.com'), ('00000000-0000-4000-8000-00000000000b', 'P-2', 'b@example.com');
INSERT INTO ids.thing VALUES (42, 'T-1');
INSERT INTO ids.pair VALUES ('eu', '2026-10-01', 7);
INSERT INTO ids.coded VALUES ('abcd');
INSERT INTO ids.padded VALUES ('ab', 'B-1');
INSERT INTO ids.priced VALUES (1.5);
INSERT INTO ids.timed VALUES ('2026-10-01 12:00+02');
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id)
    SELECT y.id, o.id, v.record_id, v.remote_id FROM (VALUES ('person', '00000000-0000-4000-8000-00000000000a', 'r-a'), ('thing', '42', 'r-42')) v (object, record_id, remote_id)
      JOIN sync.object o ON o.name = v.object CROSS JOIN sync.system y;

-- ---- one text for each spelling ----
CREATE FUNCTION pg_temp.whole(object text, id text, strict boolean DEFAULT true) RETURNS text LANGUAGE sql AS $$
    SELECT sync._record_id((SELECT o.id FROM sync.object o WHERE o.name = $1), $2, $3) $$;
SELECT v.object, v.id, pg_temp.whole(v.object, v.id) AS whole, (SELECT count(*) FROM sync.outbox e JOIN sync.object o ON o.id = e.object_id
                                                         WHERE o.name = v.object AND e.record_id = pg_temp.whole(v.object, v.id)) AS events
  FROM (VALUES ('person', '{00000000-0000-4000-8000-00000000000A}'), ('person', '00000000000040008000-00000000000A'),
               ('thing', '0042'), ('thing', ' 42'), ('thing', '+42'), ('pair', '["eu","20261001",7]'), ('pair', '["eu", "2026-10-01", "7"]'),
               ('coded', 'abcd'), ('padded', 'ab'), ('padded', 'ab  '), ('priced', '1.5'), ('priced', '01.500'), ('timed', '2026-10-01 10:00'), ('timed', '2026-10-01T10:00:00+00:00')) v (object, id);
SET datestyle = 'German';
SELECT pg_temp.whole('pair', '["eu", "2026-10-01", "7"]');
SELECT pg_temp.whole('pair', '["eu", "01/02/2026", "7"]', false) AS not_a_day_of_the_session;
RESET datestyle;
SELECT length(pg_temp.whole('pair', repeat('[', 100000), false)) AS as_given;
-- A value that the column would cut or round is nobody's.
SELECT v.object, v.id, pg_temp.whole(v.object, v.id, false) AS lenient
  FROM (VALUES ('coded', 'abcdefg'), ('padded', 'abcdefg'), ('priced', '1.504'), ('thing', 'T-1'), ('thing', NULL), ('pair', '["eu"]'), ('pair', 'eu')) v (object, id);
SELECT pg_temp.whole('coded', 'abcdefg');
SELECT pg_temp.whole('priced', '1.504');
SELECT pg_temp.whole('thing', '99999999999');
SELECT pg_temp.whole('pair', '["eu"]');
SELECT pg_temp.whole('pair', '["eu", null, "7"]');
SELECT pg_temp.whole('pair', '{"a": 1}');
-- Of other types an id stays as it was given; domains are looked through to the last. What events have is never changed.
CREATE DOMAIN ids.amount AS numeric(6,2);
CREATE DOMAIN ids.price AS ids.amount;
CREATE TABLE ids.letter (id "char" PRIMARY KEY);
CREATE TABLE ids.named (id name PRIMARY KEY);
CREATE TABLE ids.moved (id xid8 PRIMARY KEY);
CREATE TABLE ids.clock (id timetz PRIMARY KEY);
CREATE TABLE ids.doc (id jsonb PRIMARY KEY);
CREATE TABLE ids.words (id tsvector PRIMARY KEY);
CREATE TABLE ids.nested (id ids.price PRIMARY KEY);
CREATE TABLE ids.mixed (a double precision, b boolean, c timestamp(0), d real, e smallint, PRIMARY KEY (a, b, c, d, e));
SELECT count(sync.track(format('ids.%I', t)::regclass)) FROM unnest('{letter,named,moved,clock,doc,words,nested,mixed}'::text[]) t;
INSERT INTO ids.letter VALUES ('a');
INSERT INTO ids.named VALUES ('n');
INSERT INTO ids.moved VALUES ('7');
INSERT INTO ids.clock VALUES ('03:04+02');
INSERT INTO ids.doc VALUES ('"s"');
INSERT INTO ids.words VALUES ('a b');
INSERT INTO ids.nested VALUES (1.5);
INSERT INTO ids.mixed VALUES (0.1, true, '2026-10-01 12:00:00', 1e10, 5);
SELECT o.name, e.record_id, pg_temp.whole(o.name, e.record_id) = e.record_id AS kept FROM sync.outbox e JOIN sync.object o ON o.id = e.object_id ORDER BY e.seq;
SELECT v.object, v.id, pg_temp.whole(v.object, v.id, false) AS whole
  FROM (VALUES ('letter', 'abc'), ('named', repeat('n', 70)), ('moved', 'x'), ('words', $$it's$$), ('nested', '01.5'),
               ('mixed', '["1e-1", "t", "2026-10-01 12:00", "10000000000", "05"]'), ('mixed', '["0.1", "t", "2026-10-01 12:00:00.4", "1", "5"]')) v (object, id);
SELECT sync.remote_id('thing', 'T-1', 'crm');
\echo :SQLSTATE

-- ---- what takes a record id ----
SELECT sync.remote_id('person', '{00000000-0000-4000-8000-00000000000A}', 'crm'), sync.remote_id('thing', '0042', 'crm'), sync.remote_id('thing', '43', 'crm'), sync.remote_id('thing', NULL, 'crm');
SELECT DISTINCT record_id FROM sync.lineage('person', upper('00000000-0000-4000-8000-00000000000a'), 0);
SELECT DISTINCT record_id FROM sync.lineage('thing', '0042', 0) UNION ALL SELECT DISTINCT record_id FROM sync.lineage('thing', 'T-1', 0);
SELECT DISTINCT record_id FROM sync.lineage('pair', '["eu","20261001",7]', 0);
SELECT DISTINCT record_id, record_number FROM sync.lineage('padded', 'B-1', 0);
SELECT count(*) > 0 AS tree FROM sync.lineage_tree('thing', '+42', 0);
-- Keys that a session writes otherwise than events: what follows from what is found from level to level.
CREATE TABLE ids.run (id timestamptz PRIMARY KEY, number text);
CREATE TABLE ids.batch (id bytea PRIMARY KEY, number text, run_id timestamptz REFERENCES ids.run);
CREATE TABLE ids.entry (id numeric(6,2) PRIMARY KEY, number text, batch_id bytea REFERENCES ids.batch);
CREATE TABLE ids.share (id integer PRIMARY KEY, number text, entry_id numeric REFERENCES ids.entry);
CREATE TYPE ids.mood AS ENUM ('fair');
CREATE TABLE ids.coin (id ids.code PRIMARY KEY, number text, share_id integer REFERENCES ids.share);
CREATE TABLE ids.felt (id ids.mood PRIMARY KEY, number text, coin_id varchar(4) REFERENCES ids.coin, share_id integer REFERENCES ids.share);
SELECT count(sync.track(format('ids.%I', t)::regclass)) FROM unnest('{run,batch,entry,share,coin,felt}'::text[]) t;
INSERT INTO ids.run VALUES ('2026-10-01 10:00+02', 'R-1');
INSERT INTO ids.batch VALUES ('\x00ff', 'B-9', '2026-10-01 10:00+02');
INSERT INTO ids.entry VALUES (1, 'E-1', '\x00ff');
INSERT INTO ids.share VALUES (5, 'S-1', 1);
INSERT INTO ids.coin VALUES ('c1', 'C-1', 5);
INSERT INTO ids.felt VALUES ('fair', 'F-1', 'c1', 5);
SET timezone = 'Asia/Kolkata';
SET datestyle = 'German';
SET bytea_output = 'escape';
SET intervalstyle = 'iso_8601';
SELECT DISTINCT object, record_id, depth, path FROM sync.lineage('run', 'R-1', 4) ORDER BY depth;
SELECT DISTINCT object, record_id, depth, path FROM sync.lineage('share', 'S-1', 4) ORDER BY depth DESC;
SELECT DISTINCT object, record_id, depth, path FROM sync.lineage('coin', 'C-1', 2) ORDER BY depth DESC;
SELECT DISTINCT object, record_id, depth, path FROM sync.lineage('felt', 'F-1', 2) ORDER BY depth DESC;
SELECT v.number, f.object, f.record_id, f.found_by FROM unnest('{R-1,B-9,E-1,B-1}'::text[]) v (number) CROSS JOIN LATERAL sync.find(v.number) f ORDER BY 1, 2;
RESET timezone;
RESET datestyle;
RESET bytea_output;
RESET intervalstyle;
SELECT sync.lineage('thing', '99999999999');
SELECT sync.lineage('thing', NULL);
SELECT object, record_id, remote_id, found_by FROM sync.find('{00000000-0000-4000-8000-00000000000A}') UNION ALL SELECT object, record_id, remote_id, found_by FROM sync.find('0042');
SELECT * FROM sync.find(NULL) UNION ALL SELECT * FROM sync.find('forty-two');
SELECT outcome, message LIKE '%is queued%' AS queued FROM sync.wait_for('person', '{00000000-0000-4000-8000-00000000000A}', 'crm', '0');
SELECT outcome, message LIKE '%is queued%' AS queued FROM sync.wait_for('thing', '00042', 'crm', '0');
SELECT outcome FROM sync.wait_for('thing', '43', 'crm', '0');
SELECT outcome FROM sync.wait_for('thing', 'forty-two', 'crm', '0');
SELECT outcome FROM sync.wait_for('thing', NULL, 'crm', '0');
-- bound, so it is an update
SELECT step, url FROM sync.preview('crm', 'thing', '0042');
SELECT step FROM sync.preview('crm', 'thing', 'forty-two');
SELECT step FROM sync.preview('crm', 'thing', '43');

SELECT sync.set_guard('numbered', 'thing', 'number IS NOT NULL', 'thing needs a number', applies => 'true', reason => 'to ask');
SELECT sync.request_approval('state_change', 'thing', '0042', 'please') AS asked \gset
SELECT sync.request_approval('state_change', 'thing', '42', 'please') = :asked AS same;
SELECT record_id, call ->> 'record_id' AS in_call FROM sync.approval_request;
SELECT sync.request_approval('state_change', 'thing', 'T-1', 'please');
SELECT sync.set_personal('person', 'email');
SELECT sync.erase('person', upper('00000000-0000-4000-8000-00000000000b'), 'asked') IS NOT NULL AS asked;
SELECT record_id, fields FROM sync.erasure;
SELECT email FROM ids.person WHERE number = 'P-2';
SELECT sync.erase('person', 'P-2', 'asked');
SELECT sync.erase('person', NULL, 'asked');
SELECT sync.merge_records('person', '{00000000-0000-4000-8000-00000000000A}', upper('00000000-0000-4000-8000-00000000000b'), 'one and the same');
SELECT survivor, loser FROM sync.merge;
SELECT sync.merge_records('person', 'P-1', 'P-2', 'one and the same');
\c regression
DROP DATABASE sync_rec_ids;
