-- What applications and operators do with deliveries. No worker runs here: its rows are written by hand.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_operate;
CREATE DATABASE sync_operate;
\c sync_operate
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET TimeZone = 'UTC';
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
RESET client_min_messages;
SELECT sync.register_connector($${
  "manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com",
  "objects": {"customer": {"push": {"operations": {"create": {"method": "POST", "path": "/c", "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}}}}
}$$::jsonb);
CREATE SERVER shop FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini');
CREATE TABLE customer (id integer PRIMARY KEY, number text, name text);
SELECT sync.track('customer');
SELECT sync.wait_for('customer', '1', 'shop', '10 ms');
SELECT sync.create_route('shop', 'customer') AS route \gset
INSERT INTO customer SELECT n, 'C' || n, 'name ' || n FROM generate_series(1, 9) n;

-- A worker's life, in short: seq and claim of a record's first event, and its outcome.
CREATE FUNCTION pg_temp.seq(record integer, n integer DEFAULT 1) RETURNS bigint LANGUAGE sql AS
    $$SELECT e.seq FROM sync.outbox e WHERE e.record_id = record::text ORDER BY e.seq OFFSET n - 1 LIMIT 1$$;
CREATE FUNCTION pg_temp.claim(record integer) RETURNS bigint LANGUAGE sql AS
    $$INSERT INTO sync.claim (attempt_id, at, route_id, seq, incarnation, event_at, object_id, record_id, issue, attempt, step, idempotency_key, connector_id, method, target, request_hash, request)
      SELECT nextval('sync.attempt_seq'), clock_timestamp(), r.id, e.seq, e.incarnation, e.at, e.object_id, e.record_id, 1, 1, 'create', 'key-' || e.seq, 1, 'POST', '/c', 'x', '{"name": "x"}'
        FROM sync.outbox e, sync.route r WHERE e.seq = pg_temp.seq(record) RETURNING attempt_id$$;
CREATE FUNCTION pg_temp.outcome(attempt bigint, final boolean, outcome text, state text, code text DEFAULT NULL, message text DEFAULT NULL) RETURNS void LANGUAGE sql AS
    $$INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state, status, latency_us, code, message)
      SELECT $1, clock_timestamp(), c.route_id, c.seq, final, outcome, state, 200, 1500, code, message FROM sync.claim c WHERE c.attempt_id = $1$$;
CREATE FUNCTION pg_temp.hold(record integer, state text, attempt bigint DEFAULT NULL, code text DEFAULT NULL, message text DEFAULT NULL, n integer DEFAULT 1) RETURNS bigint LANGUAGE sql AS
    $$INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, state, attempts, last_attempt_id, code, message, frozen)
      SELECT r.id, e.seq, e.incarnation, e.at, e.object_id, e.record_id, e.op, e.origin, e.body, hold.state, (attempt IS NOT NULL)::integer, attempt, hold.code, hold.message, '{"body": "{}"}'
        FROM sync.outbox e, sync.route r WHERE e.seq = pg_temp.seq(record, n) RETURNING id$$;
CREATE VIEW held AS SELECT record_id, state, issue, attempts, frozen IS NOT NULL AS frozen, next_attempt_at <= clock_timestamp() AS due FROM sync.pending ORDER BY record_id::integer, seq;

-- 1 done, 2 in flight, 3 dead with a change behind it, 4 ambiguous, 5 waits for 6, 7 dead after an unknown effect, 8 conflict; 9 is queued
SELECT pg_temp.claim(1) AS attempt \gset
SELECT pg_temp.outcome(:attempt, true, 'done', 'done');
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id, remote_number) SELECT y.id, o.id, '1', 'cus_1', 'R-1' FROM sync.system y, sync.object o;
SELECT pg_temp.claim(2) > 0 AS claimed;
UPDATE customer SET name = 'second' WHERE id = 3;
SELECT pg_temp.claim(3) AS attempt \gset
SELECT pg_temp.outcome(:attempt, false, 'rejected', 'dead', 'bad_name', 'name is not a name'), pg_temp.hold(3, 'dead', :attempt, 'bad_name', 'name is not a name') > 0 AS held, pg_temp.hold(3, 'behind', n => 2) > 0 AS behind;
SELECT pg_temp.claim(4) AS attempt \gset
SELECT pg_temp.outcome(:attempt, false, 'ambiguous', 'ambiguous'), pg_temp.hold(4, 'ambiguous', :attempt) > 0 AS held;
SELECT pg_temp.hold(5, 'waiting') > 0 AS held;
UPDATE sync.pending SET wait_object_id = object_id, wait_record_id = '6' WHERE record_id = '5';
SELECT pg_temp.claim(7) AS attempt \gset
SELECT pg_temp.outcome(:attempt, false, 'ambiguous', 'dead', NULL, 'too many attempts'), pg_temp.hold(7, 'dead', :attempt, NULL, 'too many attempts') > 0 AS held;
SELECT pg_temp.claim(8) AS attempt \gset
SELECT pg_temp.outcome(:attempt, false, 'done', 'conflict', 'total', 'total is 10, ours is 11'), pg_temp.hold(8, 'conflict', :attempt, 'total', 'total is 10, ours is 11') > 0 AS held;

SELECT record_id, record_number, state, waiting_for, remote_id, remote_number, last_error FROM sync.record_status ORDER BY record_id::integer;
SELECT * FROM sync.check_invariants();

-- What applications ask.
SELECT sync.remote_id('customer', '1', 'shop') AS one, sync.remote_id('customer', '2', 'shop') AS two;
SELECT sync.remote_id('customer', '1', 'nowhere');
SELECT * FROM sync.wait_for('customer', '1', 'shop', '1 s');
SELECT * FROM sync.wait_for('customer', '3', 'shop', '1 s');
SELECT * FROM sync.wait_for('customer', '8', 'shop', '1 s');
SELECT outcome, regexp_replace(message, '[0-9]+/[0-9]+', 'N/N') ~ 'the delivery N/N is waiting; it waits for customer 6' AS explained FROM sync.wait_for('customer', '5', 'shop', '50 ms');
SELECT sync.pause('shop', 'stock-taking');
SELECT outcome, message ~ 'is queued; system "shop" is paused: stock-taking' AS explained FROM sync.wait_for('customer', '9', 'shop', '50 ms');
SELECT mode, paused_reason, queued, in_flight, retry, waiting, ambiguous, behind, dead, conflict, bound FROM sync.system_status;
-- Nothing moves by itself in a paused system.
SELECT sync.wait_idle('10 ms');
SELECT sync.resume('shop');
SET client_min_messages = warning;
SELECT sync.wait_idle('10 ms');
RESET client_min_messages;
BEGIN;
UPDATE customer SET name = 'mine' WHERE id = 1;
SELECT sync.wait_for('customer', '1', 'shop');
ROLLBACK;
BEGIN;
UPDATE customer SET name = 'mine' WHERE id = 1;
SELECT sync.wait_idle();
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT sync.wait_for('customer', '1', 'shop');
ROLLBACK;

-- retry
SELECT sync.retry('nonsense');
SELECT sync.retry(:route || '/999999');
SELECT sync.retry(id) FROM sync.pending WHERE state = 'waiting';
SELECT sync.retry(delivery) FROM sync.dead_letter WHERE record_id = '3';
SELECT * FROM held WHERE record_id = '3';
SELECT sync.retry(id) FROM sync.pending WHERE state = 'behind';
-- An unknown effect is looked up, never sent afresh.
SELECT sync.retry('customer_to_shop/' || pg_temp.seq(7), fresh => true);
SELECT sync.retry('customer_to_shop/' || pg_temp.seq(7));
SELECT sync.retry('customer_to_shop/' || pg_temp.seq(4));
SELECT sync.retry('customer_to_shop/' || pg_temp.seq(8), fresh => true);
SELECT * FROM held;

-- discard
UPDATE sync.pending SET state = 'dead', message = 'name is not a name' WHERE record_id = '3' AND state = 'retry';
SELECT sync.discard(delivery, 'customer is gone') FROM sync.dead_letter WHERE record_id = '3';
SELECT * FROM held WHERE record_id = '3';
SELECT state, message FROM sync.delivery WHERE record_id = '3' ORDER BY seq;
SELECT pg_temp.claim(4) > 0 AS claimed;
SELECT sync.discard('customer_to_shop/' || pg_temp.seq(4));
SELECT sync.discard('customer_to_shop/' || pg_temp.seq(1));
SELECT * FROM sync.check_invariants();

-- one-off calls
SELECT sync.call('shop', 'customer');
SELECT sync.call('shop', 'nothing.read');
SELECT sync.call('shop', 'customer.create', '[]');
SELECT sync.call('shop', 'customer.create', '{"name": "x"}') AS id;
SELECT id, kind, operation, params, state FROM sync.api_call;
SELECT sync.fetch('shop', 'customer', '1');

-- the end of a route
\set VERBOSITY terse
SELECT sync.drop_route('customer_to_shop');
\set VERBOSITY default
SELECT sync.drop_route('customer_to_shop', force => true);
SELECT count(*) FROM sync.pending;
SELECT state, count(*) FROM sync.delivery GROUP BY state ORDER BY state;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_operate;
