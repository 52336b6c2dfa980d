-- Lineage, trace and the business questions over rows written by hand; t/550_lineage.pl has them through a hub.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_lineage;
CREATE DATABASE sync_rec_lineage;
\c sync_rec_lineage
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
SET TimeZone = 'UTC';
\set SHOW_CONTEXT never
\pset null '-'
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
SELECT FROM sync.create_canonical_model();
SELECT count(sync.track(('canonical.' || t)::regclass))
  FROM unnest('{customer,subscription,amendment,invoice,gl_entry,revenue_schedule,entitlement,payment,payment_allocation,collection_case,service_status}'::text[]) t;
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "customer": {"push": {"operations": {"create": {"method": "POST", "path": "/c", "response": {"remote_id": "$.id"}}}}},
    "subscription": {"push": {"operations": {"create": {"method": "POST", "path": "/s", "response": {"remote_id": "$.id"}}, "update": {"method": "POST", "path": "/s/u"}}}},
    "entitlement": {"push": {"operations": {"create": {"method": "POST", "path": "/e", "response": {"remote_id": "$.id"}}, "update": {"method": "POST", "path": "/e/u"}}}},
    "invoice": {"push": {"operations": {"create": {"method": "POST", "path": "/i", "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}}}}} $json$::jsonb);
CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', mode 'paused');
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', mode 'paused');
SELECT sync.create_route('billing', 'customer') AS customers, sync.create_route('billing', 'subscription') AS subscriptions,
       sync.create_route('erp', 'invoice') AS invoices, sync.create_route('billing', 'entitlement') AS entitlements;

-- ---- a business ----
BEGIN;
SET LOCAL sync_ext.correlation_id = 'ORDER-7';
SET LOCAL sync_ext.actor = 'ada';
SET LOCAL sync_ext.reason = 'signed today';
INSERT INTO canonical.customer (id, number, name, billing_email, created_at) VALUES ('00000000-0000-4000-8000-0000000000c1', 'C-1', 'Example Ltd', 'ada@example.com', '2026-01-01');
INSERT INTO canonical.subscription (id, customer_id, number, status, currency, mrr, created_at)
    VALUES ('00000000-0000-4000-8000-0000000000b1', '00000000-0000-4000-8000-0000000000c1', 'S-1', 'active', 'EUR', 100, '2026-01-02');
INSERT INTO canonical.subscription_item (id, subscription_id, quantity, unit_price) VALUES ('00000000-0000-4000-8000-0000000000b2', '00000000-0000-4000-8000-0000000000b1', 2, 60);
COMMIT;
-- billed before the amendment, and after it
CREATE FUNCTION pg_temp.bill(n integer, day date) RETURNS void LANGUAGE sql AS $$
    INSERT INTO canonical.invoice (id, customer_id, subscription_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount, amount_due, created_at)
        VALUES (('00000000-0000-4000-8000-0000000000d' || n)::uuid, '00000000-0000-4000-8000-0000000000c1', '00000000-0000-4000-8000-0000000000b1', 'INV-' || n, 'open', day, 'EUR', 120, 0, 120, 120, day);
    INSERT INTO canonical.invoice_line (id, invoice_id, line_no, subscription_item_id, quantity, unit_price, net_amount)
        VALUES (('00000000-0000-4000-8000-0000000001d' || n)::uuid, ('00000000-0000-4000-8000-0000000000d' || n)::uuid, 1, '00000000-0000-4000-8000-0000000000b2', 2, 60, 120);
$$;
SELECT pg_temp.bill(1, '2026-02-01');
INSERT INTO canonical.amendment (id, subscription_id, kind, status, delta_mrr, created_at)
    VALUES ('00000000-0000-4000-8000-0000000000a1', '00000000-0000-4000-8000-0000000000b1', 'upgrade', 'applied', 20, '2026-02-15');
UPDATE canonical.subscription SET mrr = 120, updated_at = now();
SELECT pg_temp.bill(2, '2026-03-01');
INSERT INTO canonical.gl_entry (id, number, posting_date, currency, source_object, source_id, created_at)
    VALUES ('00000000-0000-4000-8000-0000000000e1', 'J-1', '2026-03-01', 'EUR', 'invoice', '00000000-0000-4000-8000-0000000000d2', '2026-03-02');
INSERT INTO canonical.revenue_schedule (id, invoice_line_id, method, currency, total_amount, start_date, end_date, standard, created_at)
    VALUES ('00000000-0000-4000-8000-0000000000f1', '00000000-0000-4000-8000-0000000001d2', 'straight_line', 'EUR', 120, '2026-03-01', '2026-03-31', 'IFRS15', '2026-03-03');
INSERT INTO canonical.entitlement (id, subscription_id, customer_id, feature_code, status, created_at)
    VALUES ('00000000-0000-4000-8000-0000000000e2', '00000000-0000-4000-8000-0000000000b1', '00000000-0000-4000-8000-0000000000c1', 'seats', 'active', '2026-03-04');
INSERT INTO canonical.payment (id, customer_id, kind, status, amount, currency, created_at, attempted_at, failure_code) VALUES
    ('00000000-0000-4000-8000-0000000000aa', '00000000-0000-4000-8000-0000000000c1', 'charge', 'succeeded', 120, 'EUR', '2026-03-05', '2026-03-05', NULL),
    ('00000000-0000-4000-8000-0000000000ab', '00000000-0000-4000-8000-0000000000c1', 'charge', 'failed', 120, 'EUR', '2026-03-06', '2026-03-06 12:00', 'card_declined'),
    ('00000000-0000-4000-8000-0000000000ac', '00000000-0000-4000-8000-0000000000c1', 'charge', 'failed', 60, 'EUR', '2026-03-09', '2026-03-09 12:00', 'expired_card');
INSERT INTO canonical.payment_allocation (id, payment_id, invoice_id, amount, created_at)
    VALUES ('00000000-0000-4000-8000-0000000000ad', '00000000-0000-4000-8000-0000000000aa', '00000000-0000-4000-8000-0000000000d2', 120, '2026-03-06');
INSERT INTO canonical.collection_case (id, customer_id, payment_id, stage, opened_at, created_at)
    VALUES ('00000000-0000-4000-8000-0000000000ae', '00000000-0000-4000-8000-0000000000c1', '00000000-0000-4000-8000-0000000000ab', 'reminder', '2026-03-07', '2026-03-07');

-- ---- what a hub would have written ----
INSERT INTO sync.claim (attempt_id, at, route_id, seq, incarnation, event_at, object_id, record_id, issue, attempt, step, idempotency_key, connector_id, method, target, request_hash, request, context)
    SELECT e.seq * 10 + n, clock_timestamp(), r.id, e.seq, 0, e.at, e.object_id, e.record_id, 1, n, 'create', 'k' || e.seq, 1, 'POST', '/x?email=' || coalesce(e.body ->> 'billing_email', ''), 'h', '{}', e.context
      FROM sync.outbox e JOIN sync.route r USING (object_id) CROSS JOIN generate_series(1, 2) n
     WHERE NOT (n = 2 AND e.op = 'U') AND e.body ->> 'number' IS DISTINCT FROM 'INV-1' ORDER BY e.seq, n;
INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state, status, latency_us, code, message, request_id)
    SELECT c.attempt_id, clock_timestamp(), c.route_id, c.seq, c.attempt = 2, CASE c.attempt WHEN 1 THEN 'throttled' ELSE 'done' END, CASE c.attempt WHEN 1 THEN 'retry' ELSE 'done' END,
           CASE c.attempt WHEN 1 THEN 429 ELSE 200 END, 12345, CASE c.attempt WHEN 1 THEN 'slow_down' END, CASE c.attempt WHEN 1 THEN 'too many for ada@example.com' END, 'req_' || c.attempt_id
      FROM sync.claim c;
INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, state, code)
    SELECT 0, clock_timestamp(), r.id, e.seq, true, 'ignored', 'ignored', 'not_supported' FROM sync.outbox e JOIN sync.route r USING (object_id) WHERE e.body ->> 'number' = 'INV-1';
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id, remote_number)
    SELECT DISTINCT r.system_id, r.object_id, c.record_id, 'r-' || right(c.record_id, 2), CASE o.name WHEN 'invoice' THEN '4711' END
      FROM sync.claim c JOIN sync.route r ON r.id = c.route_id JOIN sync.object o ON o.id = r.object_id WHERE o.name <> 'entitlement';
INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, context, state, code, message, wait_object_id, wait_record_id)
    SELECT r.id, e.seq, 0, e.at, e.object_id, e.record_id, e.op, 0, e.body, e.context, 'waiting', 'waiting', 'waits for subscription', (SELECT id FROM sync.object WHERE name = 'subscription'), '00000000-0000-4000-8000-0000000000b1'
      FROM sync.outbox e JOIN sync.route r USING (object_id) JOIN sync.object o ON o.id = e.object_id WHERE o.name = 'entitlement';
-- as of now everything else is finished
INSERT INTO sync.checkpoint (route_id, incarnation, finished, finished_seq, window_end, window_end_seq, position)
    SELECT r.id, 0, pg_current_snapshot(), s.last_value, pg_current_snapshot(), s.last_value, s.last_value FROM sync.route r, sync.outbox_seq s;
INSERT INTO sync.mirror (system_id, object_id, remote_id, record_id, fields, pushed_at)
    SELECT x.system_id, x.object_id, x.remote_id, x.record_id, CASE o.name WHEN 'invoice' THEN '{"total_amount": "119.99", "posting_status": "posted"}' ELSE '{}' END::jsonb, '2026-03-20 00:00+00'
      FROM sync.external_id x JOIN sync.object o ON o.id = x.object_id;
SELECT FROM sync.mirror m, sync._note_mirror(m.system_id, m.object_id, m.remote_id);
UPDATE sync.mirror SET fields = fields || '{"total_amount": "120.00"}' WHERE fields <> '{}';
SELECT FROM sync.mirror m, sync._note_mirror(m.system_id, m.object_id, m.remote_id) WHERE m.fields <> '{}';
INSERT INTO sync.conflict_entry (kind, object_id, record_id, field, system_id, remote_id, policy, message, resolved_at, resolved_by, taken, reason)
    SELECT 'field', x.object_id, x.record_id, 'status', x.system_id, x.remote_id, 'newest', 'differs', clock_timestamp() + interval '1 min', session_user, 'hub', 'billing was wrong' FROM sync.external_id x JOIN sync.object o ON o.id = x.object_id AND o.name = 'invoice';
INSERT INTO sync.approval_request (operation, object_id, record_id, amount, currency, policy, reason, expires_at, state, decided_by, decided_at, decision_reason)
    SELECT 'deliver', o.id, '00000000-0000-4000-8000-0000000000d2', 120, 'EUR', 'policy "large"', 'as ordered', clock_timestamp() + interval '1 day', 'approved', 'carl', clock_timestamp() + interval '2 min', 'checked' FROM sync.object o WHERE o.name = 'invoice';
INSERT INTO sync.break_entry (source, fingerprint, kind, object, record_id, system, field, difference, currency, status, resolved_at, resolved_by, explanation)
    VALUES ('record:erp:invoice', 'f', 'amount_differs', 'invoice', '00000000-0000-4000-8000-0000000000d2', 'erp', 'total_amount', -0.01, 'EUR', 'resolved', clock_timestamp() + interval '3 min', 'dora', 'rounding');
SELECT sync._audit('task.assigned', 'invoice', '00000000-0000-4000-8000-0000000000d2', 'erp', '{}', 'look at it') IS NOT NULL AS audited;
INSERT INTO sync.merge (object_id, survivor, loser, loser_row, kept, merged_at, reason, undo_until)
    SELECT o.id, '00000000-0000-4000-8000-0000000000c1', '00000000-0000-4000-8000-0000000000c2', '{}', false, '2026-01-03', 'twice', '2026-02-01' FROM sync.object o WHERE o.name = 'customer';
INSERT INTO sync.period_move (object_id, record_id, original_date, original_period, posted_date, posted_period, approval_id, moved_at)
    SELECT o.id, '00000000-0000-4000-8000-0000000000d2', '2026-02-28', '2026-02-01', '2026-03-01', '2026-03-01', 1, clock_timestamp() + interval '4 min' FROM sync.object o WHERE o.name = 'invoice';

-- ---- lineage of one record: everything, in order ----
CREATE TEMP VIEW steps AS SELECT kind, object || coalesce(' ' || record_number, '') AS record, system, regexp_replace(what, 'postgres|regress_\w+', 'someone') AS what, nullif(actor, session_user) AS actor, status, latency_ms,
       remote_id, request_id, correlation_id, delivery, reason, depth, path FROM sync.lineage('invoice', 'INV-2');
SELECT kind, system, what, actor, status, latency_ms, remote_id, request_id, correlation_id, reason FROM steps WHERE depth = 0;
SELECT kind, record, system, what, remote_id, reason, depth, path FROM steps WHERE depth <> 0;
SELECT bool_and(at >= before) AS in_order FROM (SELECT at, lag(at) OVER () AS before FROM sync.lineage('invoice', 'INV-2')) l;
SELECT kind, what, reason FROM sync.lineage('invoice', 'INV-1', 0);
SELECT kind, what, reason FROM sync.lineage('customer', 'C-1', 0) WHERE kind = 'merge' UNION ALL SELECT kind, what, reason FROM sync.lineage('customer', '00000000-0000-4000-8000-0000000000c2', 0);
SELECT kind, what FROM sync.lineage('entitlement', '00000000-0000-4000-8000-0000000000e2', 0);
SELECT count(*) = (SELECT count(*) FROM steps) AS by_id_as_well FROM sync.lineage('invoice', '00000000-0000-4000-8000-0000000000d2');

-- ---- what an amendment caused came after it, what a payment follows from before it ----
SELECT depth, object || coalesce(' ' || record_number, '') AS record, kind, what FROM sync.lineage('amendment', '00000000-0000-4000-8000-0000000000a1') WHERE depth <> 0 ORDER BY depth, 2;
SELECT depth, object || coalesce(' ' || record_number, '') AS record FROM sync.lineage('payment', '00000000-0000-4000-8000-0000000000aa') WHERE depth <> 0 ORDER BY depth, 2;
SELECT depth, object || coalesce(' ' || record_number, '') AS record FROM sync.lineage('subscription', 'S-1') WHERE depth <> 0 ORDER BY depth, 2;
SELECT count(*) FROM sync.lineage('subscription', 'S-1', 1) WHERE depth > 1;
SELECT regexp_replace(t, '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', 'TIME') AS tree FROM sync.lineage_tree('amendment', '00000000-0000-4000-8000-0000000000a1') t;
SELECT regexp_replace(regexp_replace(t, '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', 'TIME'), 'by ' || session_user, 'by someone') AS tree FROM sync.lineage_tree('invoice', 'INV-2') t;

-- ---- trace ----
SELECT kind, object, record_number, system, what, actor, correlation_id, depth, path FROM sync.trace('ORDER-7');
-- what no application named: mark and incarnation are there since the hub was adopted
INSERT INTO sync.hub (hub_id, incarnation, system_identifier, database_oid, timeline) VALUES ('12345678-0000-4000-8000-000000000000', 1, 1, 1, 1);
UPDATE sync.outbox SET incarnation = 1;
UPDATE sync.claim SET incarnation = 1;
SELECT seq AS seq FROM sync.outbox WHERE body ->> 'number' = 'INV-2' \gset
SELECT kind, object, record_number, system, correlation_id = '12345678-1-' || :seq AS own FROM sync.trace('12345678-1-' || :seq);
-- and what it caused
UPDATE sync.outbox SET context = jsonb_build_object('correlation_id', '12345678-1-' || :seq, 'causation_id', '12345678-1-' || :seq) WHERE body ->> 'number' = 'J-1';
SELECT kind, object, record_number, depth, path FROM sync.trace('12345678-1-' || :seq);
SELECT * FROM sync.trace('nothing');
SELECT count(*) FROM sync.trace(NULL);

-- ---- records that belong together by their correlation id alone ----
BEGIN;
SET LOCAL sync_ext.correlation_id = 'ORDER-7';
INSERT INTO canonical.service_status (id, customer_id, service_code, created_at) VALUES ('00000000-0000-4000-8000-0000000000e9', '00000000-0000-4000-8000-0000000000c1', 'api', '2026-03-08');
COMMIT;
SELECT depth, object, kind, reason, path FROM sync.lineage('subscription', 'S-1') WHERE object = 'service_status';

-- ---- questions ----
SELECT subscription_number, customer_number, kind, delta_mrr, currency, system, via, document_number, reached, state, reached_at FROM sync.amendment_reached ORDER BY system, via, document_number;
SELECT invoice_number, customer_number, currency, total_amount, status, posting_status, system, posted, state, remote_id, remote_number, amount_there, difference FROM sync.invoice_posted_in_erp ORDER BY invoice_number;
SELECT customer_number, amount, currency, failure_code, collections_started, found_by, stage, hours_after FROM sync.payment_failure_collections ORDER BY attempted_at;
SELECT * FROM sync.provisioning_paused;
UPDATE canonical.subscription SET status = 'paused';
SELECT subscription_number, customer_number, status, mrr, currency, paused, entitlements, still_active, features, not_told FROM sync.provisioning_paused;
UPDATE canonical.entitlement SET status = 'suspended';
DELETE FROM sync.pending;
SELECT subscription_number, paused, entitlements, still_active, not_told FROM sync.provisioning_paused;

-- ---- who may see what ----
SELECT sync.set_personal('customer', 'billing_email');
CREATE ROLE rec_lineage_operator IN ROLE sync_operator;
GRANT USAGE ON SCHEMA canonical TO rec_lineage_operator;
GRANT SELECT (id, number) ON canonical.customer TO rec_lineage_operator;
SET ROLE rec_lineage_operator;
-- neither the address in a target nor the one in a message; no rows of tables that the role may not read
SELECT kind, system, what FROM sync.lineage('customer', '00000000-0000-4000-8000-0000000000c1') WHERE kind IN ('event', 'attempt', 'caused');
SELECT kind, what FROM sync.trace('ORDER-7') WHERE object = 'customer';
RESET ROLE;
CREATE ROLE rec_lineage_analyst IN ROLE sync_analyst;
SET ROLE rec_lineage_analyst;
SELECT DISTINCT kind FROM sync.lineage('invoice', 'INV-2') ORDER BY 1;
SELECT count(*) FROM sync.invoice_posted_in_erp;
SELECT count(*) FROM sync.audit;
RESET ROLE;
REVOKE SELECT ON canonical.invoice FROM sync_analyst;
SET ROLE rec_lineage_analyst;
SELECT count(*) FROM sync.lineage('invoice', '00000000-0000-4000-8000-0000000000d2');
SELECT count(*) FROM sync.lineage('subscription', 'S-1') WHERE object = 'invoice';
SELECT count(*) FROM sync.invoice_posted_in_erp;
RESET ROLE;
CREATE ROLE rec_lineage_nobody;
SET ROLE rec_lineage_nobody;
SELECT FROM sync.lineage('invoice', 'INV-2');
RESET ROLE;

-- ---- errors ----
SELECT sync.lineage('nothing', '1');
SELECT sync.lineage('invoice', 'INV-99');
SELECT sync.lineage_tree('invoice', 'INV-99');
SELECT sync.lineage('invoice', 'INV-2', -1);
SELECT sync.lineage_tree('invoice', 'INV-2', NULL);
DO $$ BEGIN PERFORM sync.lineage('invoice', 'INV-99'); EXCEPTION WHEN SQLSTATE 'SE087' THEN RAISE NOTICE 'SE087'; END $$;

-- ---- tables of one's own: a circle, a key of two columns, the same number twice ----
CREATE TABLE node (id integer PRIMARY KEY, number text, next_id integer REFERENCES node DEFERRABLE INITIALLY DEFERRED, created_at timestamptz DEFAULT '2026-01-01');
CREATE TABLE place (region text, id integer, number text, PRIMARY KEY (region, id));
SELECT sync.track('node'), sync.track('place');
BEGIN;
INSERT INTO node VALUES (1, 'N', 2), (2, 'N', 3), (3, 'M', 1);
INSERT INTO place VALUES ('eu', 1, 'P-1');
COMMIT;
SELECT kind, record_id, depth, path FROM sync.lineage('node', '1');
SELECT sync.lineage('node', 'N');
SELECT kind, record_id, record_number, what FROM sync.lineage('place', '["eu", "1"]');
SELECT kind, record_id, what FROM sync.lineage('node', 'M', 0);

-- ---- each look-up has an index in every table that grows ----
CREATE FUNCTION pg_temp.scans(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    SET LOCAL enable_seqscan = off;
    SET LOCAL plan_cache_mode = force_generic_plan;
    PREPARE one (integer, text) AS SELECT * FROM sync._lineage_entry WHERE object_id = $1 AND record_id = $2;
    FOR line IN EXPLAIN (COSTS off) EXECUTE one (1, '1') LOOP
        IF line ~ 'Seq Scan on (outbox|claim|outcome|pending|external|mirror|conflict|approval|audit|break|inbox)' THEN RETURN NEXT line; END IF;
    END LOOP;
END $$;
SELECT pg_temp.scans('');
\c regression
DROP DATABASE sync_rec_lineage;
DROP ROLE rec_lineage_operator, rec_lineage_analyst, rec_lineage_nobody;
