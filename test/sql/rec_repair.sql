-- Repair: what is shown for each kind of break, what is done, what cannot be. No worker runs here: breaks are written by hand.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_repair;
CREATE DATABASE sync_rec_repair;
\c sync_rec_repair
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET TimeZone = 'UTC';
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
SELECT current_user AS super \gset
SELECT sync.create_canonical_model() IS NOT NULL AS model;
RESET client_min_messages;
SELECT sync.register_connector($${
  "manifest": 1, "name": "mini", "version": "1", "parameters": {"clerk": {"default": "hub"}}, "hosts": ["api.example.com"], "base_url": "https://api.example.com/v1",
  "objects": {
    "customer": {
      "push": {"operations": {
        "create": {"method": "POST", "path": "/c", "body": {"ours": "$.id", "name": "$.new.name", "email": "$.new.billing_email"}, "response": {"remote_id": "$.id"}},
        "update": {"method": "PATCH", "partial": true, "path": "/c/${remote.id}", "body": {"name": "$.new.name", "email": "$.new.billing_email"}},
        "delete": {"method": "DELETE", "path": "/c/${remote.id}"}, "archive": {"kind": "action", "method": "POST", "path": "/c/${remote.id}/archive"}}},
      "pull": {"list": {"path": "/c", "items": "$.data"}, "fetch": {"path": "/c/${id}"}, "record": {"id": "$.id", "our_id": "$.ours"},
               "fields": {"name": "$.name", "billing_email": "$.email"}, "on_missing": "ignore"}},
    "invoice": {"push": {"operations": {"create": {"method": "POST", "path": "/i", "body": {"total": "$.new.total_amount", "day": "$.new.posting_date"}, "response": {"remote_id": "$.id"}},
                                        "cancel": {"kind": "action", "method": "POST", "path": "/i/${remote.id}/cancel", "body": {"id": "$.remote.id", "by": "$param.clerk"}}}}},
    "credit_note": {"push": {"operations": {"create": {"method": "POST", "path": "/cn", "body": {"total": "$.new.total_amount"}, "response": {"remote_id": "$.id"}}}}}}
}$$::jsonb);
CREATE SERVER shop FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini');
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini');
SELECT sync.track(t, financial => t <> 'canonical.customer') FROM unnest('{canonical.customer,canonical.invoice,canonical.credit_note,canonical.gl_entry}'::text[]) t;
SELECT sync.create_route(s, 'customer', $$status <> 'prospect'$$) > 0 AS route FROM unnest('{shop,erp}'::text[]) s;
SELECT sync.create_route('shop', 'invoice') > 0 AS route;
SELECT sync.create_stream('shop', 'customer', '1 h') > 0 AS stream;
INSERT INTO canonical.customer (id, number, name, billing_email, status)
    SELECT format('00000000-0000-4000-8000-00000000000%s', n)::uuid, 'C' || n, 'name ' || n, 'mail' || n || '@example.com', CASE n WHEN 5 THEN 'prospect' ELSE 'active' END
      FROM generate_series(1, 6) n;
INSERT INTO canonical.invoice (id, customer_id, number, currency, net_amount, total_amount)
    SELECT '00000000-0000-4000-8000-000000000011', id, 'I1', 'EUR', 100, 100 FROM canonical.customer WHERE number = 'C1';
-- All of it is done: 1, 2 and 6 are known in the shop.
INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, window_end, window_end_seq, position)
    SELECT r.id, sync._incarnation(), pg_current_snapshot(), 0, pg_current_snapshot(), 0, s.last_value FROM sync.route r, sync.outbox_seq s;
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id)
    SELECT sync._system_id('shop'), sync._object_id('customer'), id, 'r' || substr(number, 2) FROM canonical.customer WHERE number IN ('C1', 'C2', 'C6');
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields)
    SELECT x.system_id, x.object_id, x.remote_id, x.record_id, jsonb_build_object('name', CASE x.remote_id WHEN 'r2' THEN 'their name' ELSE c.name END, 'billing_email', c.billing_email)
      FROM sync.external_id x JOIN canonical.customer c ON c.id::text = x.record_id;

CREATE FUNCTION pg_temp.broken(kind text, object text, number text, field text DEFAULT NULL, theirs jsonb DEFAULT NULL, remote text DEFAULT NULL, difference numeric DEFAULT NULL,
                               system text DEFAULT 'shop', other text DEFAULT NULL) RETURNS bigint LANGUAGE sql AS
    $$INSERT INTO sync.break_entry (source, fingerprint, kind, object, record_id, record_number, system, other_system, remote_id, field, theirs, difference, currency)
      SELECT 'test', gen_random_uuid(), $1, $2, (SELECT coalesce((SELECT id FROM canonical.customer c WHERE c.number = $3), (SELECT id FROM canonical.invoice i WHERE i.number = $3)))::text,
             $3, $8, $9, $6, $4, $5, $7, 'EUR' RETURNING id$$;
CREATE VIEW acts AS SELECT count(*) FILTER (WHERE t.what = 'event') AS events, count(*) FILTER (WHERE t.what = 'read') AS reads, count(*) FILTER (WHERE t.what = 'bound') AS bound
  FROM (SELECT 'event' AS what FROM sync.outbox WHERE origin < 0 UNION ALL SELECT 'read' FROM sync.inbox UNION ALL SELECT 'bound' FROM sync.external_id) t;

-- Missing there: sent, made anew where it was known; asking changes nothing.
SELECT pg_temp.broken('missing_there', 'customer', 'C3') AS id \gset
SELECT * FROM sync.repair(:id);
SELECT * FROM acts;
SELECT * FROM sync.repair(:id, dry_run => false);
-- What does not say that it is meant is none.
SELECT action FROM sync.repair(:id, dry_run => NULL, reason => 'never arrived');
SELECT step, action, detail FROM sync.repair(:id, dry_run => false, reason => 'never arrived');
SELECT op, origin = -sync._system_id('shop') AS for_shop, record_id, old, body ->> 'name' AS name FROM sync.outbox WHERE origin < 0 ORDER BY seq DESC LIMIT 1;
SELECT status, (SELECT note FROM sync.break_note n WHERE n.break_id = b.id) AS note FROM sync.break_entry b WHERE id = :id;
SELECT action, object, system, detail - '{break,requested_by}'::text[] AS detail, reason FROM sync.audit WHERE action = 'break.repaired';
-- What is on its way is left alone; what is held is retried.
SELECT step, action, system, regexp_replace(detail, '[0-9]+/[0-9]+', '…') AS detail FROM sync.repair(:id);
INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, state, code)
    SELECT r.id, e.seq, e.incarnation, e.at, e.object_id, e.record_id, e.op, e.origin, e.body, 'dead', 'refused' FROM sync.outbox e JOIN sync.route r ON r.object_id = e.object_id AND r.system_id = -e.origin WHERE e.origin < 0;
SELECT step, action, system, regexp_replace(detail, '[0-9]+/[0-9]+', '…') AS detail FROM sync.repair(:id);
SELECT action FROM sync.repair(:id, dry_run => false, reason => 'refused by mistake');
SELECT state FROM sync.pending;
SELECT pg_temp.broken('missing_there', 'customer', 'C6') AS id \gset
SELECT * FROM sync.repair(:id);
SELECT action, detail FROM sync.repair(:id, dry_run => false, reason => 'lost over there');
SELECT * FROM acts;
SELECT record_id, deleted FROM sync.mirror WHERE remote_id = 'r6';

-- Missing here: read by id.
SELECT pg_temp.broken('missing_here', 'customer', NULL, remote => 'r9') AS id \gset
SELECT * FROM sync.repair(:id);
SELECT action FROM sync.repair(:id, dry_run => false, reason => 'unseen');
SELECT remote_id, item, reason ~ 'repair of break' AS reason, retry_at <= clock_timestamp() AS due FROM sync.inbox;
-- … or bound to one of ours, if that is free.
SELECT step, action, system, target, detail FROM sync.repair(:id, remedy => 'bind', options => '{"record_id": "00000000-0000-4000-8000-000000000004"}');
SELECT * FROM sync.repair(:id, remedy => 'bind', options => '{"record_id": "00000000-0000-4000-8000-000000000001"}');
SELECT action FROM sync.repair(:id, dry_run => false, remedy => 'bind', options => '{"record_id": "00000000-0000-4000-8000-000000000004"}', reason => 'the same firm');
SELECT record_id FROM sync.external_id WHERE remote_id = 'r9';
-- A key may be written in many ways: bound is the record, as events spell it, and never twice.
SELECT pg_temp.broken('missing_here', 'customer', NULL, remote => 'r10') AS id \gset
INSERT INTO canonical.customer (id, number, name, status) VALUES ('abcdef00-0000-4000-8000-000000000007', 'C7', 'name 7', 'prospect');
SELECT action, detail FROM sync.repair(:id, remedy => 'bind', options => '{"record_id": "{ABCDEF00-0000-4000-8000-000000000007}"}');
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) VALUES (sync._system_id('shop'), sync._object_id('customer'), 'abcdef00-0000-4000-8000-000000000007', 'r7');
SELECT * FROM sync.repair(:id, remedy => 'bind', options => '{"record_id": "ABCDEF00-0000-4000-8000-000000000007"}');
DELETE FROM sync.external_id WHERE remote_id = 'r7';
CREATE TABLE public.pair (a bigint, b text, PRIMARY KEY (a, b));
CREATE TABLE public.whole (id bigint PRIMARY KEY, name text);
INSERT INTO public.pair VALUES (1, 'NULL');
INSERT INTO public.whole VALUES (9223372036854775807, 'last');
SELECT sync.track(t, object => substr(t, 8)) IS NOT NULL AS tracked FROM unnest('{public.pair,public.whole}'::text[]) t;
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id)
    VALUES (sync._system_id('shop'), sync._object_id('pair'), '["1", "NULL"]', 'p1'), (sync._system_id('shop'), sync._object_id('whole'), '9223372036854775807', 'w1');
SELECT * FROM sync.repair(pg_temp.broken('missing_here', 'pair', NULL, remote => 'p2'), remedy => 'bind', options => '{"record_id": "[\"01\",\"NULL\"]"}');
SELECT * FROM sync.repair(pg_temp.broken('missing_here', 'whole', NULL, remote => 'w2'), remedy => 'bind', options => '{"record_id": "09223372036854775807"}');
SELECT * FROM sync.repair(pg_temp.broken('missing_here', 'whole', NULL, remote => 'w2'), remedy => 'bind', options => '{"record_id": "9223372036854775808"}');

-- A connector may read by a POST with the id in its body; then that is what is shown.
BEGIN;
SELECT sync.register_connector(jsonb_set(jsonb_set(c.manifest, '{version}', '"2"'), '{objects,customer,pull,fetch}',
    '{"method": "POST", "path": "/", "body": {"method": "party.read", "params": [{"$": "$.id"}, {"by": "$param.clerk"}]}, "response": {"items": "$.result"}}')) FROM sync.connector c WHERE c.name = 'mini';
SELECT action, method, target, request, detail FROM sync.repair(:id);
-- What cannot be told before it is sent is not guessed.
SELECT sync.register_connector(jsonb_set(jsonb_set(c.manifest, '{version}', '"3"'), '{objects,customer,pull,fetch}',
    '{"method": "POST", "path": "/", "body": {"id": "$.id", "of": "$entity.code"}}')) FROM sync.connector c WHERE c.name = 'mini' AND c.current;
SELECT action, method, target, request, detail FROM sync.repair(:id);
ROLLBACK;

-- A field: nobody owns it, the hub does, the system does.
SELECT pg_temp.broken('field_differs', 'customer', 'C2', 'name', '"their name"') AS id \gset
SELECT * FROM sync.repair(:id);
SELECT sync.set_owner('customer', 'name', 'hub') IS NULL AS owned;
SELECT * FROM sync.repair(:id);
SELECT action FROM sync.repair(:id, dry_run => false, reason => 'ours is right');
SELECT op, record_id, old, body ->> 'name' AS name FROM sync.outbox WHERE origin < 0 ORDER BY seq DESC LIMIT 1;
INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, window_end, window_end_seq, position)
    SELECT r.id, sync._incarnation(), pg_current_snapshot(), 0, pg_current_snapshot(), 0, s.last_value FROM sync.route r, sync.outbox_seq s;
SELECT sync.set_owner('customer', 'name', 'shop') IS NULL AS owned;
SELECT * FROM sync.repair(:id);
SELECT action FROM sync.repair(:id, dry_run => false, reason => 'theirs is right');
SELECT name FROM canonical.customer WHERE number = 'C2';
SELECT op, origin = sync._system_id('shop') AS from_shop, old - 'updated_at' AS old FROM sync.outbox ORDER BY seq DESC LIMIT 1;
-- What is known to differ of a record goes at once, because checks may be about several fields.
ALTER TABLE canonical.customer ADD CONSTRAINT mail_like_name CHECK (number <> 'C4' OR split_part(billing_email, '@', 1) = replace(name, 'name ', 'mail'));
UPDATE sync.mirror SET fields = '{"name": "name 44", "billing_email": "mail44@example.com"}', record_id = '00000000-0000-4000-8000-000000000004' WHERE remote_id = 'r9';
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields)
    SELECT system_id, object_id, remote_id, record_id, '{"name": "name 44", "billing_email": "mail44@example.com"}' FROM sync.external_id WHERE remote_id = 'r9' ON CONFLICT DO NOTHING;
SELECT pg_temp.broken('field_differs', 'customer', 'C4', 'name', '"name 44"') AS id \gset
SELECT pg_temp.broken('field_differs', 'customer', 'C4', 'billing_email', '"mail44@example.com"') > 0 AS other;
SELECT action, detail FROM sync.repair(:id);
SELECT action, detail FROM sync.repair(:id, remedy => 'pull_again', dry_run => false, reason => 'theirs is right');
SELECT name, billing_email FROM canonical.customer WHERE number = 'C4';
-- A break that names no field: all in which the record differs from what the system says.
SELECT sync.drop_owner('customer', 'name') IS NULL AS dropped;
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE canonical.customer SET name = 'behind', billing_email = 'behind@example.com' WHERE number = 'C2';
COMMIT;
SELECT pg_temp.broken('a_rule_of_ours', 'customer', 'C2') AS id \gset
SELECT action, detail FROM sync.repair(:id, remedy => 'pull_again', dry_run => false, reason => 'theirs is right');
SELECT name, billing_email FROM canonical.customer WHERE number = 'C2';
SELECT sync.set_owner('customer', 'name', 'shop') IS NULL AS owned;
-- Between two systems the owner's value comes here, and goes from here.
SELECT pg_temp.broken('field_differs', 'customer', 'C1', 'name', '"name of the erp"', system => 'erp', other => 'shop') AS id \gset
SELECT step, action, system, method, target, request FROM sync.repair(:id);

SELECT step, action, system FROM sync.repair(:id, remedy => 'pull_again');
SELECT step, action, system FROM sync.repair(:id, remedy => 'pull_again', options => '{"system": "shop"}');
-- What one of two lacks is sent to that one.
SELECT pg_temp.broken('missing_here', 'customer', 'C1', system => 'erp', other => 'shop') AS id \gset
SELECT step, action, system, method FROM sync.repair(:id);
SELECT pg_temp.broken('missing_there', 'customer', 'C1', system => 'erp', other => 'shop') AS id \gset
SELECT step, action, system, method FROM sync.repair(:id);

-- A second one over there: taken away, by the connector's delete or another operation.
SELECT pg_temp.broken('duplicate', 'customer', 'C1', remote => 'r77') AS id \gset
SELECT * FROM sync.repair(:id, remedy => 'delete_there');
SELECT * FROM sync.repair(:id, remedy => 'delete_there', options => '{"operation": "burn"}');
-- … or it takes the place of the other.
SELECT step, action, detail FROM sync.repair(:id, remedy => 'bind');
SELECT action, detail FROM sync.repair(:id, dry_run => false, remedy => 'delete_there', options => '{"operation": "archive"}', reason => 'entered twice');
SELECT operation, params FROM sync.api_call;
SELECT remote_id, retry_at > clock_timestamp() AS later FROM sync.inbox WHERE remote_id = 'r77';

-- What stays known as a second one counts for nothing, and is nobody's orphan.
SELECT sync._repair_act(sync._break_subject(:id), jsonb_build_object('act', 'alias', 'system', 'shop', 'remote_id', 'r77'), 'twice') IS NULL AS again;
SELECT remote_id, record_id, merge_id FROM sync.external_alias;

-- A document that is posted over there is not changed: it is reversed by an operation of the connector, and made anew.
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT sync._system_id('shop'), sync._object_id('invoice'), id, 'in_5' FROM canonical.invoice;
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields) SELECT system_id, object_id, remote_id, record_id, '{"total_amount": 90, "posting_status": "posted"}' FROM sync.external_id WHERE remote_id = 'in_5';
SELECT pg_temp.broken('amount_differs', 'invoice', 'I1', 'total_amount', '90', difference => -10) AS id \gset
SELECT * FROM sync.repair(:id, remedy => 'call_there');
SELECT * FROM sync.repair(:id, remedy => 'call_there', options => '{"operation": "create"}');
SELECT * FROM sync.repair(:id, remedy => 'call_there', options => '{"operation": "cancel", "system": "erp"}');
SELECT * FROM sync.repair(:id, remedy => 'call_there', options => '{"operation": "cancel"}');
BEGIN;
SELECT action, detail FROM sync.repair(:id, dry_run => false, remedy => 'call_there', options => '{"operation": "cancel"}', reason => 'typed wrongly');
SELECT policy FROM sync.approval_request ORDER BY id DESC LIMIT 1;
ROLLBACK;
SELECT action, detail FROM sync.repair(:id, remedy => 'push_again');
UPDATE sync.mirror SET fields = '{"total_amount": 90, "posting_status": "reversed"}' WHERE remote_id = 'in_5';
SELECT * FROM sync.repair(:id, remedy => 'push_again');
-- … on a later day, where the numbers of the old one's have gone on.
SELECT step, action, system, request, detail FROM sync.repair(:id, remedy => 'push_again', options => '{"day": "2025-10-31"}');
DELETE FROM sync.mirror WHERE remote_id = 'in_5';
DELETE FROM sync.external_id WHERE remote_id = 'in_5';

-- An amendment that reached nobody: its subscription is sent.
SELECT sync.track('canonical.subscription') IS NOT NULL AS tracked;
INSERT INTO canonical.subscription (id, customer_id, number, status, currency) SELECT '00000000-0000-4000-8000-000000000021', id, 'S1', 'active', 'EUR' FROM canonical.customer WHERE number = 'C1';
INSERT INTO canonical.amendment (id, subscription_id, kind, status, effective_at) VALUES ('00000000-0000-4000-8000-000000000031', '00000000-0000-4000-8000-000000000021', 'upgrade', 'applied', '2026-01-01');
INSERT INTO sync.break_entry (source, fingerprint, kind, object, record_id, record_number) VALUES ('test', 'a', 'amendment_arrived', 'amendment', '00000000-0000-4000-8000-000000000031', 'S1 upgrade') RETURNING id \gset
SELECT * FROM sync.repair(:id, options => '{"system": "shop"}');
SELECT (s).object, (s).record_id, (s).number FROM sync._break_subject(:id) s;

-- What cannot be repaired so.
SELECT * FROM sync.repair(999);
SELECT * FROM sync.repair(:id, remedy => 'pray');
SELECT pg_temp.broken('duplicate', 'customer', 'C1') AS id \gset
SELECT * FROM sync.repair(:id);
SELECT pg_temp.broken('line_sums', 'invoice', 'I1', system => NULL) AS id \gset
SELECT * FROM sync.repair(:id);
SELECT * FROM sync.repair(:id, remedy => 'push_again');
SELECT step, action, system, method FROM sync.repair(:id, remedy => 'push_again', options => '{"system": "shop"}');
SELECT pg_temp.broken('some_rule', 'customer', 'C5') AS id \gset
SELECT * FROM sync.repair(:id, remedy => 'push_again');
SELECT * FROM sync.repair(:id, remedy => 'pull_again');
SELECT * FROM sync.repair(:id, remedy => 'unbind');
SELECT pg_temp.broken('missing_there', 'customer', NULL) AS id \gset
SELECT * FROM sync.repair(:id);
SELECT pg_temp.broken('duplicate', 'invoice', 'I1', remote => 'in_9') AS id \gset
SELECT * FROM sync.repair(:id, remedy => 'delete_there');
SELECT pg_temp.broken('missing_there', 'invoice', 'I1', system => 'erp') AS id \gset
SELECT * FROM sync.repair(:id);
UPDATE sync.break_entry SET status = 'resolved', resolved_at = '2026-01-01' WHERE id = :id;
SELECT * FROM sync.repair(:id);
SET client_min_messages = warning;
DROP ROLE IF EXISTS rec_ops;
CREATE ROLE rec_ops IN ROLE sync_operator;
RESET client_min_messages;
SELECT pg_temp.broken('orphan', 'customer', NULL, remote => 'r1') AS id \gset
SET ROLE rec_ops;
SELECT * FROM sync.repair(:id);
-- nor by what repair() calls
SELECT sync._repair_begin(:id, 'unbind', '{}');
SELECT sync._repair_request(:id, 'unbind', '{}', '{}', 'a way around');
SELECT sync._repair_plan(:id, 'unbind', '{}');
SELECT sync._break_subject(:id);
RESET ROLE;
GRANT USAGE ON SCHEMA canonical TO rec_ops;
GRANT SELECT ON canonical.customer TO rec_ops;
SET ROLE rec_ops;
SELECT action, detail FROM sync.repair(:id, dry_run => false, reason => 'not ours');
RESET ROLE;
SELECT count(*) FROM sync.external_id WHERE remote_id = 'r1';

-- Money: a second person, for what is made and what is bound.
SELECT pg_temp.broken('amount_differs', 'invoice', 'I1', 'total_amount', '90', difference => -10) AS id \gset
SELECT * FROM sync.repair(:id, remedy => 'credit_note', options => '{"day": "2025-10-31"}');
SELECT step, action, detail FROM sync.repair(:id, dry_run => false, remedy => 'credit_note', reason => 'billed too much', options => '{"day": "2025-10-31"}');
SELECT id AS approval FROM sync.approval_request ORDER BY id DESC LIMIT 1 \gset
SELECT operation, amount, currency, policy FROM sync.approval_request WHERE id = :approval;
SELECT count(*) FROM canonical.credit_note;
SELECT * FROM sync.repair(:id, remedy => 'adjustment');
SELECT * FROM sync.repair(:id, remedy => 'credit_note', options => '{"amount": "-1"}');
SELECT step, action, request FROM sync.repair(:id, remedy => 'adjustment', options => '{"debit_account": "6500", "credit_account": "1200", "amount": "2.50", "day": "2025-10-31"}');
SELECT step, action FROM sync.repair(:id, dry_run => false, remedy => 'adjustment', options => '{"debit_account": "6500", "credit_account": "1200", "day": "2025-10-31"}', reason => 'written off');
SELECT sync.approve(:approval, 'mine');
SET client_min_messages = warning;
DROP ROLE IF EXISTS rec_second;
CREATE ROLE rec_second SUPERUSER LOGIN IN ROLE sync_approver;
RESET client_min_messages;
\c - rec_second
SELECT sync.approve(:approval, 'seen') -> 'state' AS state;
SELECT sync.approve(:approval + 1, 'seen') -> 'state' AS state;
\c - :super
SELECT c.status, c.reason, c.total_amount, c.currency, i.number AS invoice, l.line_no, l.net_amount FROM canonical.credit_note c JOIN canonical.credit_note_line l ON l.credit_note_id = c.id JOIN canonical.invoice i ON i.id = c.invoice_id;
SELECT g.status, g.memo, g.source_object, l.line_no, l.account_code, l.debit, l.credit FROM canonical.gl_entry g JOIN canonical.gl_entry_line l ON l.gl_entry_id = g.id ORDER BY l.line_no;
SELECT author = session_user AS mine, regexp_replace(note, '[0-9a-f-]{36}', '…', 'g') AS note FROM sync.break_note WHERE break_id = :id ORDER BY id;
-- What has changed since it was asked for is not done.
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id) SELECT sync._system_id('shop'), sync._object_id('invoice'), id, 'in_1' FROM canonical.invoice;
INSERT INTO sync.break_entry (source, fingerprint, kind, object, record_id, system) SELECT 'test', 'x', 'missing_there', 'invoice', id, 'shop' FROM canonical.invoice RETURNING id \gset
INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, window_end, window_end_seq, position)
    SELECT r.id, sync._incarnation(), pg_current_snapshot(), 0, pg_current_snapshot(), 0, s.last_value FROM sync.route r, sync.outbox_seq s;
SELECT step, action, method, target, request, detail FROM sync.repair(:id, dry_run => false, reason => 'lost over there');
SELECT id AS approval FROM sync.approval_request ORDER BY id DESC LIMIT 1 \gset
UPDATE sync.external_id SET remote_id = 'in_2' WHERE remote_id = 'in_1';
\c - rec_second
SELECT sync.approve(:approval, 'seen');
\c regression :super
DROP DATABASE sync_rec_repair;
DROP ROLE rec_ops, rec_second;
