-- What counts as idle: each way in which something still moves by itself, and what does not. No worker runs
-- here: its rows are written by hand.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_idle;
CREATE DATABASE sync_idle;
\c sync_idle
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
SELECT sync.register_connector($${
  "manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com",
  "objects": {"customer": {"push": {"operations": {"create": {"method": "POST", "path": "/c", "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}}}}
}$$::jsonb) IS NOT NULL AS registered;
CREATE SERVER shop FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini');
CREATE TABLE customer (id integer PRIMARY KEY, name text);
SELECT sync.track('customer') IS NOT NULL AS tracked;
SELECT sync.create_route('shop', 'customer') IS NOT NULL AS route;

-- The hub's rows for a record's newest event: claim, outcome, kept.
CREATE VIEW newest AS SELECT DISTINCT ON (e.record_id) e.*, r.id AS route_id, r.system_id FROM sync.outbox e, sync.route r ORDER BY e.record_id, e.seq DESC;
CREATE FUNCTION claim(record integer) RETURNS void LANGUAGE sql AS
    $$INSERT INTO sync.claim (attempt_id, at, route_id, seq, incarnation, event_at, object_id, record_id, issue, attempt, step, connector_id, method, target, request_hash)
      SELECT nextval('sync.attempt_seq'), clock_timestamp(), e.route_id, e.seq, e.incarnation, e.at, e.object_id, e.record_id, 1, 1, 'create', 1, 'POST', '/c', 'x'
        FROM newest e WHERE e.record_id = record::text$$;
CREATE FUNCTION done(record integer) RETURNS void LANGUAGE sql AS
    $$INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state)
      SELECT coalesce((SELECT max(c.attempt_id) FROM sync.claim c WHERE c.seq = e.seq), 0), clock_timestamp(), e.route_id, e.seq, true, 'done', 'done'
        FROM newest e WHERE e.record_id = record::text;
      DELETE FROM sync.pending p WHERE p.record_id = record::text$$;
CREATE FUNCTION keep(record integer, state text, due interval DEFAULT NULL, awaits text DEFAULT NULL, remote_state text DEFAULT NULL) RETURNS void LANGUAGE sql AS
    $$INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, state, next_attempt_at, wait_object_id, wait_record_id, wait_state)
      SELECT e.route_id, e.seq, e.incarnation, e.at, e.object_id, e.record_id, e.op, e.origin, e.body, keep.state, clock_timestamp() + due,
             CASE WHEN awaits IS NOT NULL THEN e.object_id END, awaits, remote_state
        FROM newest e WHERE e.record_id = record::text$$;
CREATE FUNCTION busy() RETURNS text LANGUAGE sql AS $$SELECT regexp_replace(sync._busy(), '[0-9]+', 'N')$$;
CREATE FUNCTION bind(record text) RETURNS void LANGUAGE sql AS
    $$INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT y.id, o.id, record, 'cus_' || record FROM sync.system y, sync.object o$$;
\pset null '-'

SELECT busy() AS nothing;
INSERT INTO customer VALUES (1, 'a');
SELECT busy() AS queued;
SELECT claim(1);
SELECT busy() AS under_way;

-- ---- an attempt that may have taken effect, from its claim to the end of its look-ups ----
SELECT keep(1, 'ambiguous', '1 min');
SELECT busy() AS settles;
SELECT done(1);
SELECT busy() AS ended;

-- ---- waiting: for what is not there, for what is, for a state, by a column ----
INSERT INTO customer VALUES (2, 'b');
SELECT keep(2, 'waiting', '10 min', '99');
SELECT busy() AS not_there;
SELECT bind('99');
SELECT busy() AS there;
UPDATE sync.pending SET wait_state = 'posted';
SELECT busy() AS not_seen_since;
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, seen_at) SELECT x.system_id, x.object_id, x.remote_id, x.record_id, clock_timestamp() FROM sync.external_id x;
SELECT busy() AS seen_since;
UPDATE sync.pending SET created_at = clock_timestamp();
SELECT busy() AS seen_before;
UPDATE sync.pending SET wait_record_id = 'name=z', wait_state = NULL;
SELECT busy() AS no_such_name;
SELECT bind('98');
SELECT busy() AS perhaps;
UPDATE sync.pending SET created_at = clock_timestamp();
SELECT busy() AS was_not_it;

-- ---- its time has come: looked at, sent, between two steps ----
UPDATE sync.pending SET next_attempt_at = clock_timestamp();
SELECT busy() AS looked_at;
SELECT claim(2);
SELECT busy() AS sent;
SELECT state FROM sync.delivery WHERE record_id = '2';
SELECT done(2);
SELECT busy() AS ended;
INSERT INTO customer VALUES (3, 'c');
SELECT keep(3, 'held');
SELECT busy() AS for_a_person;
UPDATE sync.pending SET next_attempt_at = clock_timestamp() + interval '1 min';
SELECT busy() AS for_later;
UPDATE sync.pending SET next_attempt_at = clock_timestamp();
SELECT busy() AS now;

-- ---- behind another, and behind none ----
UPDATE sync.pending SET next_attempt_at = NULL, state = 'dead';
UPDATE customer SET name = 'cc' WHERE id = 3;
SELECT keep(3, 'behind');
SELECT busy() AS behind;
INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state) SELECT 0, clock_timestamp(), e.route_id, o.seq, true, 'discarded', 'discarded'
  FROM newest e JOIN sync.outbox o ON o.record_id = e.record_id AND o.seq < e.seq WHERE e.record_id = '3';
DELETE FROM sync.pending WHERE state = 'dead';
SELECT busy() AS first_now;
SELECT done(3);
SELECT busy() AS ended;

-- ---- what the system changed itself: passed over, but for what an older change of ours may have overwritten ----
CREATE FUNCTION pulled(record integer) RETURNS void LANGUAGE sql AS
    $$INSERT INTO sync.outbox (seq, at, xid, incarnation, object_id, op, origin, record_id, body)
      SELECT nextval('sync.outbox_seq'), clock_timestamp(), pg_current_xact_id(), e.incarnation, e.object_id, 'U', e.system_id, e.record_id, e.body FROM newest e WHERE e.record_id = record::text$$;
SELECT pulled(1);
SELECT busy() AS passed_over;
INSERT INTO customer VALUES (4, 'd');
SELECT claim(4);
SELECT pulled(4);
SELECT busy() AS under_way;
INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state) SELECT c.attempt_id, clock_timestamp(), c.route_id, c.seq, true, 'done', 'done' FROM sync.claim c WHERE c.record_id = '4';
SELECT busy() AS goes_back;
SELECT outcome FROM sync.wait_for('customer', '4', 'shop', '0');
SELECT claim(4);
SELECT busy() AS under_way;
SELECT done(4);
SELECT busy() AS ended;
SELECT outcome FROM sync.wait_for('customer', '4', 'shop', '0');
SELECT sync.wait_idle('0') AS idle;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_idle;
