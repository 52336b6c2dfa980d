-- Views, health() and check_invariants() over rows written by hand.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_views;
CREATE DATABASE sync_views;
\c sync_views
SET DateStyle = 'ISO';
SET IntervalStyle = 'postgres';
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET TimeZone = 'UTC';
-- Partitions of the days that the rows below lie in; the workers' upkeep makes others.
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
SELECT sync.register_connector($${
  "manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com",
  "objects": {"invoice": {"push": {"operations": {"create": {"method": "POST", "path": "/i", "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}}}}
}$$::jsonb);
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini');
CREATE SERVER idle FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'absent', mode 'dry_run');
CREATE TABLE invoice (region text, id integer, number text, total numeric, PRIMARY KEY (region, id));
SELECT sync.track('invoice');
SELECT sync.create_route('erp', 'invoice') AS route \gset
INSERT INTO invoice VALUES ('eu', 1, 'INV-1', 10), ('eu', 2, 'INV-2', 20), ('us', 1, 'INV-3', 30), ('us', 2, 'INV-4', 40);
SELECT id AS object FROM sync.object \gset
SELECT id AS system FROM sync.system \gset
SELECT array_agg(seq ORDER BY seq) AS s, min(at) AS event_at FROM sync.outbox \gset
INSERT INTO sync.claim (attempt_id, at, route_id, seq, incarnation, event_at, object_id, record_id, issue, attempt, step, idempotency_key, connector_id, method, target, request_hash, request)
    SELECT nextval('sync.attempt_seq'), clock_timestamp(), :route, e.seq, 0, e.at, e.object_id, e.record_id, 1, 1, 'create', 'k' || e.seq, 1, 'POST', '/i', 'h', '{"total": "10"}'
      FROM sync.outbox e WHERE e.record_id IN ('["eu", "1"]', '["eu", "2"]', '["us", "1"]') ORDER BY e.seq;
INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state, status, latency_us, code, message, request_id, response)
    SELECT c.attempt_id, clock_timestamp(), c.route_id, c.seq, c.record_id = '["eu", "1"]',
           CASE c.record_id WHEN '["eu", "2"]' THEN 'rejected' ELSE 'done' END,
           CASE c.record_id WHEN '["eu", "1"]' THEN 'done' WHEN '["eu", "2"]' THEN 'dead' ELSE 'conflict' END,
           CASE c.record_id WHEN '["eu", "2"]' THEN 422 ELSE 200 END, 2500, CASE c.record_id WHEN '["eu", "1"]' THEN NULL ELSE 'tax' END,
           CASE c.record_id WHEN '["eu", "1"]' THEN NULL ELSE 'tax code S1 is unknown' END, 'req_' || c.attempt_id, '{"error": {}}'
      FROM sync.claim c;
INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, state, attempts, last_attempt_id, code, message, step)
    SELECT :route, e.seq, 0, e.at, e.object_id, e.record_id, e.op, 0, e.body, f.state, 1, f.attempt_id, f.code, f.message, 'create'
      FROM sync.outbox e JOIN sync.outcome f ON f.seq = e.seq AND NOT f.final;
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id, remote_number) VALUES (:system, :object, '["eu", "1"]', 'r1', 'E-2026-1');
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields, pushed_at) VALUES (:system, :object, 'r1', '["eu", "1"]', '{"total": "10"}', '2026-01-01 00:00+00');
SELECT FROM sync._note_mirror(:system, :object, 'r1');
INSERT INTO sync.inbox (system_id, object_id, remote_id, item, reason) VALUES (:system, :object, 'r9', '{}', 'no customer');
INSERT INTO sync.notice (key, severity, message, hint) VALUES ('login:erp', 'error', 'login was refused', 'Check the password.');

SELECT object, record_id, record_number, system, state, remote_id, remote_number, last_error, last_done_at FROM sync.record_status ORDER BY record_number;
SELECT system, object, record_id, record_number, state, issue, attempts, code, operation, event_at IS NOT NULL AS event, ended_at IS NOT NULL AS ended FROM sync.delivery ORDER BY seq;
SELECT system, object, record_number, step, method, target, request, outcome, state, status, latency_ms, code, message, request_id = 'req_' || attempt_id AS request_id, response, connector FROM sync.delivery_attempt ORDER BY seq;
SELECT system, object, record_number, code, message, step, status, request, response, behind, how_to_retry ~ 'sync.retry' AS how FROM sync.dead_letter;
SELECT system, object, record_number, code, message FROM sync.conflict;
SELECT route, system, object, state, lag_events, lag_time < '1 h' AS fresh, queued, dead, conflict, ended_last_minute FROM sync.route_status;
SELECT system, connector, connector_version, base_url, mode, routes, queued, dead, conflict, inbox, bound, notice FROM sync.system_status ORDER BY system;
SELECT kind, system, object, done_last_minute, remaining, held FROM sync.progress;
SELECT object, record_id, record_number, system, remote_id, found_by FROM sync.find('E-2026-1') UNION ALL
SELECT object, record_id, record_number, system, remote_id, found_by FROM sync.find('INV-4') UNION ALL
SELECT object, record_id, record_number, system, remote_id, found_by FROM sync.find('["eu", "2"]');
SELECT "check", status, detail FROM sync.health() WHERE "check" IN ('connector idle', 'system idle', 'held erp', 'pg_cron', 'identity') ORDER BY 1;
SELECT "check", status, hint FROM sync.health() WHERE "check" = 'notice login:erp';
SELECT "check", status FROM sync.health() WHERE "check" LIKE 'partitions%' ORDER BY 1;
SELECT * FROM sync.hub_status();

--
-- Invariants: none is violated; then each one
--
SELECT * FROM sync.check_invariants();
CREATE FUNCTION pg_temp.violated(VARIADIC statements text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    s text;
    found text[];
BEGIN
    BEGIN
        FOREACH s IN ARRAY statements LOOP
            EXECUTE s;
        END LOOP;
        found := ARRAY(SELECT DISTINCT i.invariant FROM sync.check_invariants() i ORDER BY 1);
        RAISE SQLSTATE 'ZZ001';
    EXCEPTION WHEN SQLSTATE 'ZZ001' THEN
        RETURN QUERY SELECT unnest(found);
    END;
END
$$;
SELECT pg_temp.violated('INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state) SELECT attempt_id, clock_timestamp(), route_id, seq, true, ''done'', ''done'' FROM sync.claim WHERE seq = (SELECT seq FROM sync.pending WHERE state = ''dead'')');
SELECT pg_temp.violated('INSERT INTO sync.outcome SELECT * FROM sync.outcome WHERE final');
SELECT pg_temp.violated('INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state) SELECT 0, at + interval ''1 s'', route_id, seq, true, ''discarded'', ''discarded'' FROM sync.outcome WHERE final AND attempt_id <> 0');
SELECT pg_temp.violated('INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, state) SELECT route_id, seq + 100, 0, now(), object_id, record_id, op, 0, body, ''retry'' FROM sync.pending WHERE state = ''dead''');
SELECT pg_temp.violated('INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state) SELECT 99, clock_timestamp(), 1, 99, true, ''done'', ''done''');
SELECT pg_temp.violated('INSERT INTO sync.claim SELECT attempt_id + 100, at - interval ''1 s'', route_id, seq, incarnation, event_at, object_id, record_id, issue, attempt, step, idempotency_key, connector_id, method, target, request_hash FROM sync.claim WHERE record_id = ''["eu", "1"]''');
SELECT pg_temp.violated('INSERT INTO sync.claim SELECT attempt_id + 100, at, route_id, seq + 100, incarnation, event_at, object_id, record_id, issue, attempt, step, ''other'', connector_id, method, target, request_hash FROM sync.claim WHERE record_id = ''["eu", "1"]''',
                        'INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, state) SELECT route_id, seq, 0, now(), object_id, record_id, ''I'', 0, ''{}'', ''ambiguous'' FROM sync.claim WHERE attempt_id > 100',
                        'UPDATE sync.outcome SET at = at + interval ''1 h'' WHERE final');
SELECT pg_temp.violated('INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, window_end, window_end_seq, position) SELECT route_id, incarnation, ''3:3:'', 0, ''3:3:'', 0, 0 FROM sync.checkpoint');
SELECT pg_temp.violated('UPDATE sync.mirror SET record_id = ''["us", "9"]''');
SELECT pg_temp.violated('UPDATE sync.mirror SET deleted = true');
SELECT pg_temp.violated('UPDATE sync.claim SET idempotency_key = ''one'', request_hash = seq::text::bytea');
SELECT pg_temp.violated('UPDATE sync.pending SET body = NULL');
SELECT pg_temp.violated('DELETE FROM sync.checkpoint');
SELECT pg_temp.violated('UPDATE sync.checkpoint SET at = at - interval ''30 days''');
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_views;
