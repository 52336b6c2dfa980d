-- Routes and streams: what create_route() and create_stream() accept, conditions, the first cursor.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_routes;
CREATE DATABASE sync_routes;
\c sync_routes
SET DateStyle = 'ISO';
SET IntervalStyle = 'postgres';
CREATE EXTENSION sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
SET TimeZone = 'UTC';
SELECT sync.register_connector($${
  "manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com",
  "objects": {
    "customer": {"push": {"operations": {"create": {"method": "POST", "path": "/c", "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}}},
    "invoice": {"push": {"operations": {"create": {"method": "POST", "path": "/i", "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}}},
    "stock": {"push": {"operations": {"create": {"method": "POST", "path": "/s", "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}}}
  }
}$$::jsonb);
CREATE SERVER shop FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini');
CREATE TABLE customer (id integer PRIMARY KEY, number text, name text, op text, country char(2), updated_at timestamptz);
CREATE SCHEMA books;
CREATE TABLE books.invoice (id integer PRIMARY KEY, number text, total numeric);
CREATE TABLE stock (id integer PRIMARY KEY, pieces integer);
CREATE TABLE other (id integer PRIMARY KEY);
SELECT sync.track('customer'), sync.track('books.invoice'), sync.track('other'), sync.track('stock', capture => false);

-- What cannot be routed says why.
SELECT sync.create_route('nowhere', 'customer');
SELECT sync.create_route('shop', 'nothing');
SELECT sync.create_route('shop', 'other');
SELECT sync.create_route('shop', 'stock');
SELECT sync.create_route('shop', 'customer', operations => '{insert,upsert}');
SELECT sync.create_route('shop', 'customer', operations => '{}');
SELECT sync.create_route('shop', 'customer', max_lag => '1 s');
SELECT sync.create_route('shop', 'customer', start => 'yesterday-ish');

-- Conditions are one boolean expression over the record and its event.
SELECT sync.create_route('shop', 'customer', 'county = ''DE''');
SELECT sync.create_route('shop', 'customer', 'name');
SELECT sync.create_route('shop', 'customer', 'true) FROM pg_authid; DROP TABLE customer; SELECT (true');
SELECT sync.create_route('shop', 'customer', 'true; SELECT true');
SELECT sync.create_route('shop', 'customer', 'true FROM customer');
SELECT sync.create_route('shop', 'customer', 'op = ''insert''');
SELECT sync.create_route('shop', 'customer', 'count(*) > 1');
SELECT sync.create_route('shop', 'customer', 'true -- and so on') > 0 AS made;
SELECT sync.drop_route('customer_to_shop');

SELECT sync.create_route('shop', 'customer', $$country = 'DE' AND event.op <> 'delete' AND ('name' = ANY (changed) OR old IS NULL)$$) AS route \gset
SELECT name, condition, operations, run_as = current_user AS mine, start_kind, start_at, max_lag, state FROM sync.route WHERE state = 'active';
SELECT sync.create_route('shop', 'customer');

-- The query that the hub prepares.
SELECT sync._condition_sql(object_id, condition) AS query FROM sync.route WHERE state = 'active' \gset
SET search_path = pg_catalog, pg_temp;
PREPARE q (jsonb[], text[], jsonb[]) AS :query;
EXECUTE q (ARRAY['{"country": "DE"}', '{"country": "DE"}', '{"country": "DE"}', '{"country": "FR"}', '{"country": "DE"}', NULL]::jsonb[],
           '{insert,update,update,insert,delete,truncate}',
           ARRAY[NULL, '{"name": "x"}', '{"number": "x"}', NULL, NULL, NULL]::jsonb[]);
RESET search_path;

-- Nobody forges who a condition runs as.
CREATE ROLE regress_routes_admin IN ROLE sync_admin;
SET ROLE regress_routes_admin;
INSERT INTO sync.route (system_id, object_id, name, condition, start_kind, run_as) SELECT 1, 2, 'forged', 'true', 'now', 'postgres';
UPDATE sync.route SET condition = 'true';
INSERT INTO sync.route (system_id, object_id, name, condition, start_kind) SELECT 1, 2, 'sneaked', 'true) FROM (SELECT 1', 'now';
SELECT sync.create_route('shop', 'invoice', 'total > 0');
RESET ROLE;
GRANT USAGE ON SCHEMA books TO regress_routes_admin;
SET ROLE regress_routes_admin;
SELECT sync.create_route('shop', 'invoice', 'total > 0') > 0 AS made;
RESET ROLE;
SELECT name, run_as, created_by = session_user AS by_session FROM sync.route WHERE state = 'active' AND name = 'invoice_to_shop';

-- The past of financial objects needs a cut-over date.
SELECT sync.drop_route('invoice_to_shop');
SELECT sync.create_route('shop', 'invoice', start => 'all');
SELECT sync.create_route('shop', 'invoice', start => '2020-01-01');
SELECT sync.create_route('shop', 'invoice', start => 'all', cutover_date => '2026-01-01') AS route \gset invoice_
SELECT name, start_kind, start_at, cutover_date, state FROM sync.route WHERE state = 'active' ORDER BY id;
SELECT finished, finished_seq, window_end, position, incarnation FROM sync.checkpoint WHERE route_id = :invoice_route;

--
-- The first cursor: events committed after the route are on their way, and those of its own transaction
--
SELECT sync.drop_route('customer_to_shop');
INSERT INTO customer (id, name) VALUES (1, 'before');
BEGIN;
INSERT INTO customer (id, name) VALUES (2, 'own transaction, before');
SELECT sync.create_route('shop', 'customer') AS route \gset
INSERT INTO customer (id, name) VALUES (3, 'own transaction, after');
COMMIT;
INSERT INTO customer (id, name) VALUES (4, 'after');
SELECT record_id FROM sync._queued(:route) ORDER BY seq;
-- Also in a transaction whose snapshot is older.
SELECT sync.drop_route('customer_to_shop', true);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM customer;
SELECT sync.create_route('shop', 'customer') AS route \gset
INSERT INTO customer (id, name) VALUES (5, 'repeatable read');
COMMIT;
SELECT record_id FROM sync._queued(:route) ORDER BY seq;
SELECT sync.drop_route(:route, force => true);
SELECT sync.create_route('shop', 'customer', start => 'all', operations => '{insert}') AS route \gset
UPDATE customer SET name = 'new' WHERE id = 5;
SELECT record_id FROM sync._queued(:route) ORDER BY seq;
-- Of an incarnation that is over only what the cursor does not show; of a newer one all.
INSERT INTO sync.hub (hub_id, incarnation, system_identifier, database_oid, timeline)
    SELECT gen_random_uuid(), 2, c.system_identifier, d.oid, 1 FROM pg_control_system() c, pg_database d WHERE d.datname = current_database();
INSERT INTO customer (id, name) VALUES (6, 'next incarnation');
SELECT record_id, incarnation FROM sync._queue WHERE route_id = :route ORDER BY seq;
INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, window_end, window_end_seq, position)
    SELECT :route, 2, pg_current_snapshot(), 0, pg_current_snapshot(), 0, 0;
SELECT count(*) FROM sync._queued(:route);
SELECT sync.drop_route(:route);

--
-- Streams
--
SELECT sync.create_stream('shop', 'customer');
SELECT sync.request_pull('shop', 'customer');
SELECT sync.drop_stream('shop', 'customer');
UPDATE sync.connector SET manifest = jsonb_set(manifest, '{objects,customer,pull}', '{}');
SELECT sync.create_stream('shop', 'customer', 'often');
SELECT sync.create_stream('shop', 'customer', '0 s');
SELECT sync.create_stream('shop', 'customer', '*/5 * * * *');
SELECT sync.create_stream('shop', 'customer', '30 s', since => '2026-01-01 00:00+00') > 0 AS made;
SELECT sync.create_stream('shop', 'customer');
SELECT system, object, every, schedule, since, state FROM sync.stream_status;
SELECT sync.drop_stream('shop', 'customer');
SELECT sync.create_stream('shop', 'customer') > 0 AS made;
SELECT state, requested_at FROM sync.stream_status;
SELECT sync.request_pull('shop', 'customer');
SELECT state, requested_at IS NOT NULL AS requested FROM sync.stream_status;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_routes;
DROP ROLE regress_routes_admin;
