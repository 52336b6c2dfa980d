-- sync.health(), sync.route_status and sync.system_status look at a bounded part of what waits: measured by the
-- pages that they touch, and not by the clock.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_cheap;
CREATE DATABASE sync_cheap;
\c sync_cheap
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
SELECT sync._upkeep(1) IS NOT NULL AS upkeep;
CREATE SCHEMA app;
CREATE TABLE app.item (id bigint PRIMARY KEY, name text);
SELECT sync.track('app.item', 'item');
SELECT sync.register_connector('{"manifest": 1, "name": "cheap", "version": "1", "hosts": ["vendor.example"],
    "objects": {"item": {"push": {"operations": {"create": {"method": "POST", "path": "/items", "body": {"name": "$.new.name"},
        "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"], "update": [], "delete": []}}}}}');
CREATE SERVER cheap FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'cheap', base_url 'https://vendor.example');
SELECT sync.create_route('cheap', 'item') > 0;

-- few events: exact
INSERT INTO app.item SELECT i, 'Item ' || i FROM generate_series(1, 700) i;
SELECT lag_events, queued, in_flight, lag_time < interval '1 hour' FROM sync.route_status;
SELECT queued, in_flight, retry, dead FROM sync.system_status;

-- many: an estimate
INSERT INTO app.item SELECT i, 'Item ' || i FROM generate_series(701, 50000) i;
ANALYZE;
SELECT lag_events BETWEEN 45000 AND 55000, lag_time > interval '0' FROM sync.route_status;
SELECT queued BETWEEN 45000 AND 55000 FROM sync.system_status;

-- pages touched by a query
CREATE FUNCTION pg_temp.touched(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) ' || query INTO plan;
    RETURN (plan -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::bigint + (plan -> 0 -> 'Plan' ->> 'Shared Read Blocks')::bigint;
END
$$;
-- twice, as caches and plans are made at the first
SELECT pg_temp.touched('SELECT * FROM sync.route_status') > 0, pg_temp.touched('SELECT * FROM sync.system_status') > 0,
       pg_temp.touched('SELECT * FROM sync.health()') > 0;
SELECT n.query, CASE WHEN n.touched > 30000 THEN n.touched ELSE 0 END AS too_many
  FROM (SELECT q.query, pg_temp.touched(q.query) AS touched
          FROM (VALUES ('SELECT * FROM sync.route_status'), ('SELECT * FROM sync.system_status'), ('SELECT * FROM sync.health()')) q (query)) n;

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_cheap;
