-- Dead letters by reason, edited, and retried many at a time. No worker runs here.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_dead;
CREATE DATABASE sync_rec_dead;
\c sync_rec_dead
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
SELECT current_user AS super \gset
RESET client_min_messages;
SELECT sync.register_connector($${
  "manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com",
  "objects": {"customer": {"push": {"operations": {
      "create": {"method": "POST", "path": "/c", "body": {"email": "$.new.email"}, "response": {"remote_id": "$.id"}},
      "update": {"method": "PATCH", "partial": true, "path": "/c/${remote.id}", "body": {"email": "$.new.email", "name": "$.new.name"}}}}},
    "invoice": {"push": {"operations": {"create": {"method": "POST", "path": "/i", "body": {"total": "$.new.total_amount"}, "response": {"remote_id": "$.id"}}}}}}
}$$::jsonb);
CREATE SERVER shop FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini');
CREATE TABLE customer (id integer PRIMARY KEY, number text, name text, email text);
CREATE TABLE invoice (id integer PRIMARY KEY, number text, total_amount numeric, currency text);
SELECT sync.track('customer');
SELECT sync.track('invoice', financial => true);
SELECT sync.create_route('shop', 'customer') AS route \gset
SELECT sync.create_route('shop', 'invoice') AS bills \gset
INSERT INTO customer SELECT n, 'C' || n, 'name ' || n, 'mail ' || n FROM generate_series(1, 7) n;
UPDATE customer SET name = 'renamed' WHERE id = 3;
DELETE FROM customer WHERE id = 4;
INSERT INTO invoice VALUES (1, 'I1', 10, 'EUR');
CREATE FUNCTION pg_temp.dead(object text, record integer, code text, message text, n integer DEFAULT 1, outcome text DEFAULT 'rejected') RETURNS text LANGUAGE sql AS
    $$WITH e AS (SELECT e.*, r.id AS route FROM sync.outbox e JOIN sync.route r USING (object_id) JOIN sync.object o ON o.id = e.object_id
                  WHERE o.name = dead.object AND e.record_id = record::text ORDER BY e.seq OFFSET n - 1 LIMIT 1),
      c AS (INSERT INTO sync.claim (attempt_id, at, route_id, seq, incarnation, event_at, object_id, record_id, issue, attempt, step, connector_id, method, target, request_hash, request)
        SELECT nextval('sync.attempt_seq'), clock_timestamp(), e.route, e.seq, e.incarnation, e.at, e.object_id, e.record_id, 1, 1, 'create', 1, 'POST', '/c', 'x', '{}' FROM e RETURNING *),
      f AS (INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state, status, code, message)
        SELECT c.attempt_id, clock_timestamp(), c.route_id, c.seq, false, dead.outcome, 'dead', 400, dead.code, dead.message FROM c)
      INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, old, state, attempts, last_attempt_id, code, message)
      SELECT e.route, e.seq, e.incarnation, e.at, e.object_id, e.record_id, e.op, e.origin, e.body, e.old, 'dead', 1, c.attempt_id, dead.code, dead.message FROM e, c
      RETURNING route_id || '/' || seq$$;
SELECT pg_temp.dead('customer', 1, 'email_invalid', 'Invalid email "mail 1" of cus_9a8b (line 12)') AS one \gset
SELECT pg_temp.dead('customer', 2, 'email_invalid', 'Invalid email "mail 2" of cus_777b (line 7)') AS two \gset
SELECT pg_temp.dead('customer', 3, 'missing', 'No such customer: 00000000-0000-4000-8000-000000000001', 2) AS three \gset
SELECT pg_temp.dead('customer', 4, 'missing', 'No such customer: 11111111-0000-4000-8000-000000000001', 2) AS gone \gset
SELECT pg_temp.dead('customer', 5, 'no_answer', 'no answer after 10 s', outcome => 'ambiguous') AS unsure \gset
SELECT pg_temp.dead('invoice', 1, 'total', 'total is 10.00') AS bill \gset
INSERT INTO sync.inbox (system_id, object_id, remote_id, item, sqlstate, reason)
    SELECT y.id, o.id, 'r' || n, '{}', '23514', format('new row for relation "customer" violates check constraint "c" (%s)', n) FROM sync.system y, sync.object o, generate_series(1, 3) n WHERE o.name = 'customer';

SELECT direction, system, object, code, message, count, oldest <= newest AS span, example IS NOT NULL AS example, behind, how_to_retry FROM sync.dead_letter_reason ORDER BY count DESC, 1, 2, 3, 4, 5;

-- A payload is edited: audited with old and new, and sent under a new number. The row stays as it is.
SELECT sync.edit_dead_letter(:'one', '{"email": "one@example.com"}', 'typed wrongly');
SELECT record_id, state, issue, attempts, step, frozen, body ->> 'email' AS email, old FROM sync.pending WHERE record_id = '1' AND state <> 'dead';
SELECT email FROM customer WHERE id = 1;
SELECT record_id, issue, patch, before, reason, approval_id, edited_by = session_user AS me FROM sync.payload_edit;
SELECT action, object, record_id, detail - 'delivery' AS detail, reason FROM sync.audit WHERE action = 'delivery.edited';
SELECT kind, what, actor = session_user AS me, reason FROM sync.lineage('customer', '1') WHERE kind = 'edit';
-- What was edited is told by a partial update, too.
SELECT sync.edit_dead_letter(:'three', '{"email": "three@example.com"}', 'goes along');
SELECT body ->> 'email' AS email, old FROM sync.pending WHERE record_id = '3';
-- What cannot be.
SELECT sync.edit_dead_letter(:'two', '{"email": "x"}', ' ');
SELECT sync.edit_dead_letter(:'two', '[]', 'x');
SELECT sync.edit_dead_letter(:'two', '{"emial": "x"}', 'x');
SELECT sync.edit_dead_letter(:'two', '{"id": 9}', 'x');
SELECT sync.edit_dead_letter(:'one', '{"email": "x"}', 'sent already');
SELECT sync.edit_dead_letter(:'gone', '{"email": "x"}', 'deleted');
SELECT sync.edit_dead_letter(:'unsure', '{"email": "x"}', 'who knows');
SELECT sync.edit_dead_letter('9/9', '{"email": "x"}', 'x');

-- Money: a second person.
SELECT sync.edit_dead_letter(:'bill', '{"total_amount": 11}', 'short by one') AS approval \gset
SELECT operation, amount, currency, policy, call - 'delivery' AS call FROM sync.approval_request;
SELECT state, body -> 'total_amount' AS total FROM sync.pending WHERE object_id = sync._object_id('invoice');
SET client_min_messages = warning;
DROP ROLE IF EXISTS rec_second;
CREATE ROLE rec_second SUPERUSER LOGIN IN ROLE sync_approver;
RESET client_min_messages;
\c - rec_second
SELECT sync.approve(:approval, 'checked') -> 'state' AS state;
\c - :super
SELECT state, issue, body -> 'total_amount' AS total FROM sync.pending WHERE object_id = sync._object_id('invoice');
SELECT patch, before, approval_id = :approval AS approved, edited_by = session_user AS mine FROM sync.payload_edit WHERE object_id = sync._object_id('invoice');

-- Many at a time: by code, by message; what is unsure is never made afresh.
SELECT sync.retry_all('shop', 'customer', 'email_invalid', reason => 'the mapping is corrected', fresh => true);
SELECT sync.retry_all(message => 'no answer%', reason => 'it is back', fresh => true);
SELECT record_id, state, issue FROM sync.pending WHERE record_id IN ('2', '5') ORDER BY seq;
SELECT sync.retry_all('shop', 'customer', 'missing', at_most => 1, reason => 'one first');
SELECT sync.retry_all('shop', 'nothing', reason => 'x');
SELECT sync.retry_all('nowhere', reason => 'x');
SELECT sync.retry_all(reason => '');
SELECT sync.retry_all(at_most => 0, reason => 'x');
SELECT sync.retry_inbox_all('shop', 'customer', '23514', at_most => 2, reason => 'the check is gone');
SELECT remote_id, retry_at IS NOT NULL AS due FROM sync.inbox ORDER BY id;
SELECT sync.retry_inbox_all(code => '99999', reason => 'none such');
SELECT action, object, system, detail, reason FROM sync.audit WHERE action LIKE '%retried_all' ORDER BY id;
SELECT * FROM sync.check_invariants() WHERE invariant <> 'effects_in_order' AND invariant <> 'key_is_one_request';
\c regression
DROP DATABASE sync_rec_dead;
DROP ROLE rec_second;
