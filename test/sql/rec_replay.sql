-- Replay of what was sent: what would go out again, what is passed over and why, approval. No worker runs here:
-- its rows are written by hand, and a job's steps are called.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_replay;
CREATE DATABASE sync_rec_replay;
\c sync_rec_replay
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET TimeZone = 'UTC';
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
SELECT current_user AS super \gset
RESET client_min_messages;
SELECT sync.register_connector($${
  "manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com",
  "idempotency": {"header": "Idempotency-Key", "lifetime": "1 hour"},
  "objects": {"customer": {"push": {"operations": {
     "lookup": {"path": "/c", "query": {"ours": "$.id"}, "response": {"items": "$.data", "remote_id": "$.id"}},
     "create": {"method": "POST", "path": "/c", "body": {"ours": "$.id", "name": "$.new.name", "note": "$.new.note"}, "response": {"remote_id": "$.id"}},
     "update": {"method": "PATCH", "partial": true, "path": "/c/${remote.id}", "body": {"name": "$.new.name", "note": "$.new.note"}}}}}}
}$$::jsonb);
CREATE SERVER shop FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini');
CREATE TABLE customer (id integer PRIMARY KEY, number text, name text, note text);
SELECT sync.track('customer');
SELECT sync.create_route('shop', 'customer') AS route \gset
SELECT clock_timestamp() - interval '2 hours' AS began, clock_timestamp() + interval '1 hour' AS ends \gset
INSERT INTO customer SELECT n, 'C' || n, 'name ' || n FROM generate_series(1, 9) n;

-- A worker's life, in short. sent(record, n): its n-th event was claimed and done.
CREATE FUNCTION pg_temp.event(record integer, n integer DEFAULT 1) RETURNS sync.outbox LANGUAGE sql AS
    $$SELECT e FROM sync.outbox e WHERE e.record_id = record::text ORDER BY e.seq OFFSET n - 1 LIMIT 1$$;
CREATE FUNCTION pg_temp.sent(record integer, n integer DEFAULT 1, step text DEFAULT 'create', body text DEFAULT NULL, key text DEFAULT 'key') RETURNS void LANGUAGE sql AS
    $$WITH c AS (
        INSERT INTO sync.claim (attempt_id, at, route_id, seq, incarnation, event_at, object_id, record_id, issue, attempt, step, idempotency_key, connector_id, method, target, request_hash, request)
        SELECT nextval('sync.attempt_seq'), clock_timestamp(), r.id, e.seq, e.incarnation, e.at, e.object_id, e.record_id, 1, 1, step, sent.key || '-' || e.seq, 1,
               CASE step WHEN 'create' THEN 'POST' ELSE 'PATCH' END, CASE step WHEN 'create' THEN '/c' ELSE '/c/r' || record END, 'x',
               coalesce(sent.body, format('{"ours": "%s", "name": "%s"}', record, e.body ->> 'name'))
          FROM pg_temp.event(record, n) e, sync.route r RETURNING *),
      b AS (INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id)
        SELECT y.id, c.object_id, c.record_id, 'r' || c.record_id FROM sync.system y, c ON CONFLICT DO NOTHING)
      INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state, status)
      SELECT c.attempt_id, clock_timestamp(), c.route_id, c.seq, true, 'done', 'done', 200 FROM c$$;
CREATE FUNCTION pg_temp.passed() RETURNS void LANGUAGE sql AS -- the cursor is beyond all of it
    $$INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, window_end, window_end_seq, position)
      SELECT r.id, sync._incarnation(), pg_current_snapshot(), 0, pg_current_snapshot(), 0, s.last_value FROM sync.route r, sync.outbox_seq s$$;

-- The past, as far as the log goes.
CREATE FUNCTION pg_temp.age(record integer, ago interval) RETURNS void LANGUAGE sql AS
    $$UPDATE sync.claim c SET at = at - ago, event_at = event_at - ago WHERE record_id = record::text;
      UPDATE sync.outcome f SET at = at - ago WHERE seq IN (SELECT seq FROM sync.claim WHERE record_id = record::text);
      UPDATE sync.outbox e SET at = at - ago WHERE record_id = record::text$$;

-- 1 as it was; 2 changed twice since, of which the first was merged; 3 changed, and that was sent; 4 with an old key;
-- 5 held; 6 was sent before there was a note; 7 is gone here; 8 changed over there since; 9 waits to be sent.
SELECT pg_temp.sent(1), pg_temp.sent(2), pg_temp.sent(3), pg_temp.sent(6, body => '{"ours": "6", "name": "name 6", "colour": "red"}'), pg_temp.sent(7), pg_temp.sent(8);
SELECT pg_temp.sent(4);
SELECT pg_temp.age(4, '62 min');
UPDATE customer SET note = 'first' WHERE id = 2;
UPDATE customer SET name = 'second' WHERE id = 2;
INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state) SELECT 0, clock_timestamp(), :route, e.seq, true, 'merged', 'merged' FROM pg_temp.event(2, 2) e;
SELECT pg_temp.sent(2, 3, 'update', '{"note": "first", "name": "second"}');
SELECT clock_timestamp() AS early \gset
UPDATE customer SET name = 'newer' WHERE id = 3;
SELECT pg_temp.sent(3, 2, 'update', '{"name": "newer"}');
INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, state, code, message)
SELECT :route, e.seq, e.incarnation, e.at, e.object_id, e.record_id, e.op, e.origin, e.body, 'dead', 'refused', 'no' FROM pg_temp.event(5) e;
DELETE FROM customer WHERE id = 7;
SELECT pg_temp.passed();
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields, applied_seq) SELECT system_id, object_id, remote_id, record_id, jsonb_build_object('name', 'theirs'), 1000000 FROM sync.external_id WHERE record_id = '8';
UPDATE customer SET name = 'unsent' WHERE id = 9;

\x on
SELECT record_id, record_number, events, action, regexp_replace(why, ', at .*|as seen at .*|[0-9]+/[0-9]+', '…', 'g') AS why, step, method, target, request, sent, request_differs, mirror_differs, idempotency_key IS NOT NULL AS keyed
  FROM sync.replay('shop', 'customer', :'began', :'early');
SELECT record_id, action, regexp_replace(why, ', at .*|as seen at .*|[0-9]+/[0-9]+', '…', 'g') AS why, step, method, target, request, request_differs, mirror_differs
  FROM sync.replay('shop', 'customer', :'began', :'ends', 'id IN (2, 3, 8)', keys => 'new');
\x off

-- A period, a route, keys, a rate, a reason, something to do; and what the log no longer holds.
SELECT * FROM sync.replay('shop', 'customer', '2026-02-01', '2026-01-01');
SELECT * FROM sync.replay('shop', 'customer', NULL, '2026-01-01');
SELECT * FROM sync.replay('shop', 'customer', :'began', :'ends', keys => 'none');
SELECT * FROM sync.replay('shop', 'customer', :'began', :'ends', rate => '10');
SELECT * FROM sync.replay('shop', 'customer', :'began', :'ends', 'nmae = 1');
SELECT * FROM sync.replay('shop', 'customer', :'began', :'ends', dry_run => false);
SELECT * FROM sync.replay('shop', 'customer', :'began', :'ends', 'id = 77', dry_run => false, reason => 'try');
SELECT count(*) FROM sync.replay_run;
BEGIN;
SELECT sync.drop_route('customer_to_shop', force => true);
SELECT * FROM sync.replay('shop', 'customer', :'began', :'ends');
ROLLBACK;
\set VERBOSITY terse
BEGIN;
INSERT INTO sync.claim (attempt_id, at, route_id, seq, incarnation, event_at, object_id, record_id, issue, attempt, step, connector_id, method, target, request_hash)
    SELECT 0, clock_timestamp(), :route, 0, 1, '2020-01-02', id, '1', 1, 1, 'create', 1, 'POST', '/c', 'x' FROM sync.object;
SELECT count(*) > 0 AS later FROM sync.replay('shop', 'customer', '2020-01-03', :'ends');
SELECT * FROM sync.replay('shop', 'customer', '2020-01-01', :'ends');
ROLLBACK;

-- Who may: the right to call it, and to read the table.
SET client_min_messages = warning;
DROP ROLE IF EXISTS rec_ops;
CREATE ROLE rec_ops IN ROLE sync_operator;
RESET client_min_messages;
SET ROLE rec_ops;
SELECT * FROM sync.replay('shop', 'customer', :'began', :'ends');
SELECT seq, body FROM sync._replay_event;
RESET ROLE;
GRANT SELECT ON customer TO rec_ops;
SET ROLE rec_ops;
SELECT count(*) FROM sync.replay('shop', 'customer', :'began', :'ends');
SELECT record_id FROM sync.replay('shop', 'customer', :'began', :'ends', 'pg_catalog.current_setting(''role'') = ''rec_ops'' AND id < 3');
RESET ROLE;
-- What replay() calls takes an event's word for which record it is of and what goes along, not the caller's; and its route's period.
SELECT e.seq, e.at, e.record_id FROM sync.outbox e JOIN sync.route r USING (object_id) WHERE r.name = 'customer_to_shop' AND e.at >= :'began' AND e.at < :'ends'
   AND EXISTS (SELECT FROM sync.outcome f WHERE f.route_id = r.id AND f.seq = e.seq AND f.final) ORDER BY e.seq LIMIT 1 \gset an_
BEGIN;
SELECT sync._replay_begin('out', 'shop', 'customer', :'began', :'ends', NULL, 'new', '20/s', 'another record') AS made \gset
SELECT sync._replay_add(:made, jsonb_build_array(jsonb_build_object('n', 1, 'record_id', 'another', 'seq', :an_seq, 'at', :'an_at', 'seqs', '[1, 2, 3]'::jsonb, 'first_at', '2000-01-01')));
SELECT i.record_id = :'an_record_id' AS its_own, :an_seq = ANY (i.seqs) AND cardinality(i.seqs) < 3 AS seqs, i.first_at > '2020-01-01' AS first_at FROM sync.replay_item i WHERE i.replay_id = :made;
SELECT sync._replay_add(:made, jsonb_build_array(jsonb_build_object('n', 2, 'seq', :an_seq, 'at', '2020-01-01')));
ROLLBACK;
REVOKE SELECT ON customer FROM rec_ops;
SET ROLE rec_ops;
BEGIN;
SELECT sync._replay_begin('out', 'shop', 'customer', :'began', :'ends', NULL, 'new', '20/s', 'another record') AS made \gset
SELECT sync._replay_add(:made, jsonb_build_array(jsonb_build_object('n', 1, 'seq', :an_seq, 'at', :'an_at')));
ROLLBACK;
RESET ROLE;
GRANT SELECT ON customer TO rec_ops;

-- Doing it: steps of the job, as the hub makes them.
CREATE FUNCTION pg_temp.step() RETURNS void LANGUAGE plpgsql AS $$BEGIN UPDATE sync.job SET next_step_at = clock_timestamp() WHERE state IN ('queued', 'running'); PERFORM sync._jobs_step(); END$$;
SELECT events, action, job > 0 AS job, approval FROM sync.replay('shop', 'customer', :'began', :'ends', 'id IN (1, 2, 4, 7)', dry_run => false, reason => 'the shop lost a day');
SELECT direction, keys, per_second, state, items, reason FROM sync.replay_run;
SELECT kind, state, done, total, phase, reason FROM sync.job;
SELECT pg_temp.passed();
SELECT pg_temp.step();
SELECT state, phase, done, total, result - 'replay' AS result FROM sync.job;
SELECT n, record_id, state, action, issue, regexp_replace(why, ', at .*|as seen at .*|[0-9]+(/[0-9]+)?', '…', 'g') AS why FROM sync.replay_item ORDER BY n;
SELECT record_id, op, state, issue, attempts, step, old, frozen ->> 'request' AS request, frozen ? 'unkeyed' AS unkeyed, frozen -> 'repeats' AS repeats, first_claim_at IS NOT NULL AS claimed, code
  FROM sync.pending WHERE code = 'replayed' ORDER BY seq;
SELECT * FROM sync.check_invariants();
SELECT pg_temp.step();
SELECT state, phase FROM sync.job;
-- They end a second time, and that is no fault; a third time would be.
CREATE FUNCTION pg_temp.ends() RETURNS bigint LANGUAGE sql AS $$
    INSERT INTO sync.claim (attempt_id, at, route_id, seq, incarnation, event_at, object_id, record_id, issue, attempt, step, idempotency_key, connector_id, method, target, request_hash, request)
    SELECT nextval('sync.attempt_seq'), clock_timestamp(), p.route_id, p.seq, p.incarnation, p.event_at, p.object_id, p.record_id, p.issue, 2, coalesce(p.step, 'update'),
           coalesce(p.frozen ->> 'idempotency_key', 'again-' || p.seq), 1, 'POST', '/c', 'x', 'x'
      FROM sync.pending p WHERE p.code = 'replayed';
    INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state, status)
    SELECT max(c.attempt_id), clock_timestamp(), c.route_id, c.seq, true, 'done', 'done', 200 FROM sync.claim c JOIN sync.pending p USING (route_id, seq) WHERE p.code = 'replayed' GROUP BY c.route_id, c.seq;
    WITH gone AS (DELETE FROM sync.pending WHERE code = 'replayed' RETURNING 1) SELECT count(*) FROM gone$$;
SELECT kind, regexp_replace(what, '[0-9]+$', 'N') AS what, reason FROM sync.lineage('customer', '4') WHERE kind = 'replay';
SELECT pg_temp.ends();
SELECT * FROM sync.check_invariants();
SELECT pg_temp.step();
SELECT state, phase, done, result - 'replay' AS result FROM sync.job;
BEGIN;
INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state, status) SELECT attempt_id, clock_timestamp(), route_id, seq, true, 'done', 'done', 200 FROM sync.outcome WHERE seq = (pg_temp.event(1)).seq LIMIT 1;
SELECT invariant, regexp_replace(detail, '[0-9]+/[0-9]+', '…') FROM sync.check_invariants();
ROLLBACK;

-- Under a new key, all that the period changed goes along. A step asks again what has happened since.
SELECT job AS job FROM sync.replay('shop', 'customer', :'began', :'ends', 'id IN (1, 2, 3, 6)', dry_run => false, keys => 'new', rate => '4/s', reason => 'once more') \gset
UPDATE customer SET note = 'while it waits' WHERE id = 6;
SELECT pg_temp.step();
SELECT phase, done, total, result - 'replay' AS result FROM sync.job WHERE id = :job;
SELECT sync.pause_job(:job, 'lunch');
SELECT pg_temp.step();
SELECT state, done FROM sync.job WHERE id = :job;
SELECT sync.resume_job(:job);
SELECT pg_temp.ends();
SELECT pg_temp.step();
SELECT pg_temp.step();
SELECT record_id, op, state, issue, attempts, step, old, frozen, code FROM sync.pending WHERE code = 'replayed' ORDER BY seq;
SELECT pg_temp.ends();
SELECT i.n, i.record_id, i.state, i.action, i.issue, regexp_replace(i.why, ', at .*|as seen at .*|[0-9]+(/[0-9]+)?', '…', 'g') AS why FROM sync.replay_item i JOIN sync.replay_run r ON r.id = i.replay_id WHERE r.job_id = :job ORDER BY n;
SELECT sync.stop_job(:job, 'enough');
SELECT state, done, total FROM sync.job WHERE id = :job;
SELECT * FROM sync.check_invariants();
SELECT action, reason, detail - '{since,until,list_sha256,replay,job,params}'::text[] AS detail FROM sync.audit WHERE action LIKE 'replay.%' OR action LIKE 'job.%' ORDER BY id;

-- One that is discarded before it was sent ends as what it was.
SELECT count(*) FROM sync.replay('shop', 'customer', :'began', :'ends', 'id = 1', dry_run => false, keys => 'new', reason => 'by mistake');
SELECT pg_temp.step();
SELECT sync.discard(id, 'by mistake') FROM sync.pending WHERE code = 'replayed';
SELECT pg_temp.step();
SELECT * FROM sync.check_invariants();

-- Inbound: what is kept is mapped anew, what is not is read; for who may read the table.
SELECT * FROM sync.replay_inbound('shop', 'customer', :'began', :'ends');
SELECT sync.register_connector($${
  "manifest": 1, "name": "pulled", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com",
  "objects": {"customer": {"pull": {"list": {"path": "/c", "items": "$.data"}, "fetch": {"path": "/c/${id}"}, "record": {"id": "$.id"},
     "fields": {"name": "$.name", "note": "$.comment"}, "on_missing": "ignore"}}}
}$$::jsonb);
CREATE SERVER desk FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'pulled');
SELECT sync.create_stream('desk', 'customer', '1 h') > 0 AS stream;
SELECT * FROM sync.replay_inbound('desk', 'customer', :'ends', :'began');
SELECT * FROM sync.replay_inbound('desk', 'customer', :'began', :'ends', dry_run => false, reason => 'x');
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT sync._system_id('desk'), sync._object_id('customer'), n, 'd' || n FROM generate_series(1, 3) n;
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields, raw, mapping)
    SELECT sync._system_id('desk'), sync._object_id('customer'), 'd' || n, n, jsonb_build_object('name', 'name ' || n, 'note', NULL),
           CASE WHEN n < 3 THEN jsonb_build_object('id', 'd' || n, 'name', 'name ' || n, 'comment', CASE n WHEN 1 THEN 'said at the desk' END) END, 1 FROM generate_series(1, 3) n;
INSERT INTO sync.inbox (system_id, object_id, remote_id, item, reason) SELECT sync._system_id('desk'), sync._object_id('customer'), 'd9', '{"id": "d9", "name": "nine"}', 'test';
SELECT remote_id, record_number, action, field, mirror, mapped, ours, verdict FROM sync.replay_inbound('desk', 'customer', :'began', :'ends');
SELECT sync.set_owner('customer', 'note', 'hub', 'quarantine') IS NULL AS owned;
SELECT remote_id, field, verdict FROM sync.replay_inbound('desk', 'customer', :'began', :'ends', 'id = 1');
SELECT sync.drop_owner('customer', 'note') IS NULL AS dropped;
REVOKE SELECT ON customer FROM rec_ops;
SET ROLE rec_ops;
SELECT count(*) FROM sync.replay_inbound('desk', 'customer', :'began', :'ends');
RESET ROLE;
SELECT job AS job FROM sync.replay_inbound('desk', 'customer', :'began', :'ends', dry_run => false, reason => 'the note was forgotten') \gset
SELECT pg_temp.step();
SELECT remote_id, item, reason ~ 'replay' AS replay, CASE WHEN item <> 'null' THEN received_at < retry_at END AS as_of_then FROM sync.inbox ORDER BY remote_id;
SELECT state, phase, done, total, result - 'replay' AS result FROM sync.job WHERE id = :job;
SELECT sync.stop_job(:job, 'enough');

-- Money waits for a second person, who approves the list that was made.
CREATE TABLE payment (id integer PRIMARY KEY, number text, amount numeric, currency text);
SELECT sync.register_connector($${
  "manifest": 1, "name": "pay", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com",
  "objects": {"payment": {"push": {"operations": {"create": {"method": "POST", "path": "/p", "body": {"amount": "$.new.amount"}, "response": {"remote_id": "$.id"}}}}}}
}$$::jsonb);
CREATE SERVER bank FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'pay');
SELECT sync.track('payment', financial => true);
SELECT sync.create_route('bank', 'payment') > 0 AS route;
INSERT INTO payment VALUES (1, 'P1', 10.5, 'EUR'), (2, 'P2', 20, 'EUR'), (3, 'P3', 7, 'USD');
INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state) SELECT 0, clock_timestamp(), r.id, e.seq, true, 'discarded', 'discarded' FROM sync.outbox e JOIN sync.route r USING (object_id) WHERE r.name = 'payment_to_bank';
SELECT record_number, action, method, target, request FROM sync.replay('bank', 'payment', :'began', :'ends');
SELECT events, action, approval AS approval FROM sync.replay('bank', 'payment', :'began', :'ends', 'currency = ''EUR''', dry_run => false, reason => 'discarded by mistake') \gset
SELECT :'action' AS action, :events AS events;
SELECT operation, object_id = sync._object_id('payment') AS object, amount, currency, policy, call - '{since,until,list_sha256,replay}'::text[] AS call FROM sync.approval_request;
SELECT count(*) FROM sync.job WHERE kind = 'replay' AND object_id = sync._object_id('payment');
SELECT sync.approve(:approval, 'mine');
SET client_min_messages = warning;
DROP ROLE IF EXISTS rec_second;
CREATE ROLE rec_second SUPERUSER LOGIN IN ROLE sync_approver;
RESET client_min_messages;
\c - rec_second
SELECT sync.approve(:approval, 'seen') - 'approval' - 'result' AS approved;
\c - :super
SELECT kind, state, total, requested_by = session_user AS mine, reason FROM sync.job WHERE object_id = sync._object_id('payment');
SELECT sync._approved_replay((SELECT call FROM sync.approval_request), :approval);
-- The object may go: what was asked for goes with it, what was done stays on record.
SELECT sync.drop_route('payment_to_bank', force => true);
SELECT sync.untrack('payment', force => true);
SELECT kind, state, object_id FROM sync.job ORDER BY id DESC LIMIT 1;
SELECT count(*) FROM sync.replay_run WHERE reason = 'discarded by mistake';
\c regression
DROP DATABASE sync_rec_replay;
DROP ROLE rec_ops, rec_second;
