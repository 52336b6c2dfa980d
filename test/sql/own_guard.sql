-- Guards on changes, approved changes of state, and accounting periods. No worker runs here.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_own_guard;
CREATE DATABASE sync_own_guard;
SELECT current_user AS super \gset
\c sync_own_guard
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET TimeZone = 'Asia/Tokyo';
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
DO $$
DECLARE r name;
BEGIN
    FOREACH r IN ARRAY '{own_dev,own_mgr,own_app}'::name[] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN EXECUTE format('CREATE ROLE %I LOGIN', r); END IF;
    END LOOP;
END
$$;
GRANT sync_admin TO own_dev;
GRANT sync_approver TO own_mgr;
CREATE SCHEMA shop AUTHORIZATION own_dev;
\c - own_dev
SET client_min_messages = warning;
CREATE TABLE shop.invoice (id integer PRIMARY KEY, status text);
CREATE TABLE shop.entitlement (id integer PRIMARY KEY, invoice_id integer, feature text, quantity numeric, since timestamptz, status text DEFAULT 'pending',
    updated_at timestamptz DEFAULT clock_timestamp());
SELECT sync.track('shop.entitlement');
GRANT USAGE ON SCHEMA shop TO own_app;
GRANT SELECT, INSERT, UPDATE ON shop.entitlement TO own_app;
INSERT INTO shop.invoice VALUES (1, 'open'), (2, 'paid');

-- What a guard may not be.
SELECT sync.set_guard('g', 'entitlement', 'true', 'm');
SELECT sync.set_guard('g', 'entitlement', 'true', 'm', 'never', reason => 'x');
SELECT sync.set_guard('g', 'entitlement', 'true', 'm', 'change', system => 'erp', reason => 'x');
SELECT sync.set_guard('g', 'entitlement', 'true', 'm', field => 'nothing', reason => 'x');
SELECT sync.set_guard('g', 'entitlement', 'true', '', reason => 'x');
SELECT sync.set_guard('g', 'entitlement', 'true', 'm', recheck => '1 ms', reason => 'x');
SELECT sync.set_guard('g', 'nothing', 'true', 'm', reason => 'x');
SELECT sync.set_guard('g', 'entitlement', 'frobnicate()', 'm', reason => 'x');

-- An entitlement becomes active only if its invoice is paid.
SELECT sync.set_guard('paid first', 'entitlement',
    condition => $$EXISTS (SELECT FROM shop.invoice i WHERE i.id = invoice_id AND i.status = 'paid')$$,
    message => 'the invoice is not paid', applies => $$status = 'active'$$, field => 'status', reason => 'credit control') AS waits;

-- The writer has no right in schema sync, and none on the invoices.
\c - own_app
SET TimeZone = 'Asia/Tokyo';
SET DateStyle = 'German';
INSERT INTO shop.entitlement VALUES (1, 1, 'sso', 2.50, '2026-01-31 12:00+09'), (2, 2, 'sso', 1, now());
UPDATE shop.entitlement SET status = 'active' WHERE id = 1;
-- What a client reads of it. (\set VERBOSITY verbose would show a line of the server's source, too.)
DO $$
DECLARE
    state text;
    part text;
    rel text;
    col text;
    rule text;
BEGIN
    UPDATE shop.entitlement SET status = 'active' WHERE id = 1;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, part = SCHEMA_NAME, rel = TABLE_NAME, col = COLUMN_NAME, rule = CONSTRAINT_NAME;
    RAISE NOTICE '% at %.%.%: %', state, part, rel, col, rule;
END
$$;
INSERT INTO shop.entitlement VALUES (3, 1, 'api', 1, NULL, 'active');
UPDATE shop.entitlement SET status = 'active' WHERE id = 2;
-- A bulk write is refused as a whole; what stays active is not asked about.
UPDATE shop.entitlement SET status = 'active';
\c - own_dev
SET client_min_messages = warning;
UPDATE shop.invoice SET status = 'open' WHERE id = 2;
UPDATE shop.entitlement SET feature = 'saml' WHERE id = 2;
SELECT id, feature, status FROM shop.entitlement ORDER BY id;

-- Or somebody approves: once, for the record as it was shown.
SELECT sync.request_approval('replay', 'entitlement', '1', 'x');
SELECT sync.request_approval('state_change', 'entitlement', '99', 'x');
SELECT sync.request_approval('state_change', 'entitlement', '1', '');
SELECT sync.request_approval('state_change', 'entitlement', '1', 'key account') AS asked \gset
SELECT sync.request_approval('state_change', 'entitlement', '1', 'key account') = :asked AS once;
UPDATE shop.entitlement SET status = 'active' WHERE id = 1;
SELECT sync.approve(:asked, 'x');
\c - own_mgr
SELECT object, record_id, policy, reason, requested_by, state FROM sync.approval;
SELECT sync.approve(:asked, 'they always pay') ->> 'state' AS state;
\c - own_app
SET DateStyle = 'German';
BEGIN;
UPDATE shop.entitlement SET status = 'active' WHERE id = 1;
ROLLBACK;
UPDATE shop.entitlement SET status = 'active', updated_at = now() WHERE id = 1;
UPDATE shop.entitlement SET status = 'pending' WHERE id = 1;
UPDATE shop.entitlement SET status = 'active' WHERE id = 1;
\c - own_dev
SET client_min_messages = warning;
SELECT sync.request_approval('state_change', 'entitlement', '1', 'once more') AS asked \gset
\c - own_mgr
SELECT sync.approve(:asked, 'well') ->> 'state' AS state;
\c - own_app
UPDATE shop.entitlement SET quantity = 1000 WHERE id = 1;
UPDATE shop.entitlement SET status = 'active' WHERE id = 1;

-- A condition that fails lets nothing pass; guards end, and outlive their object's tracking.
\c - own_dev
SET client_min_messages = warning;
SELECT sync.set_guard('odd', 'entitlement', '1 / quantity::integer > 0', 'odd quantity', reason => 'x') AS waits;
UPDATE shop.entitlement SET quantity = 0 WHERE id = 2;
SELECT sync.drop_guard('odd', 'it was odd') AS waits;
SELECT sync.drop_guard('odd', 'it was odd') AS waits;
UPDATE shop.entitlement SET quantity = 0 WHERE id = 2;
SELECT sync.untrack('entitlement', force => true);
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'sync%' AND NOT tgisinternal;
UPDATE shop.entitlement SET quantity = 3 WHERE id = 2;
SELECT sync.track('shop.entitlement');
INSERT INTO shop.entitlement VALUES (4, 1, 'api', 1, NULL, 'active');
SELECT name, kind, state, applies IS NOT NULL AS applies, run_as FROM sync.guard ORDER BY id;
\c - :super
SELECT action, object, record_id, session_user_name, reason FROM sync.audit WHERE action NOT LIKE 'object%' ORDER BY id;

-- What comes in from a system and breaks a guard is kept in the inbox, and tried again when somebody approves.
SELECT sync.register_connector($${
  "manifest": 1, "name": "mini", "version": "1", "base_url": "https://api.example.com", "hosts": ["api.example.com"],
  "objects": {"entitlement": {"pull": {"list": {"path": "/e", "items": "$.data"}, "record": {"id": "$.rid"}, "match": ["id"], "on_missing": "insert",
      "fields": {"id": {"$": "$.id", "cast": "number"}, "invoice_id": {"$": "$.invoice", "cast": "number"}, "feature": "$.feature", "status": "$.status"}}}}
}$$::jsonb) IS NOT NULL AS registered;
CREATE SERVER provider FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini');
SELECT sync.create_stream('provider', 'entitlement') AS stream \gset
SELECT applied, to_inbox FROM sync._apply_page(:stream, '[{"rid": "e1", "id": 1, "invoice": 1, "feature": "sso", "status": "pending"}]');
SELECT applied, to_inbox FROM sync._apply_page(:stream, '[{"rid": "e1", "id": 1, "invoice": 1, "feature": "sso", "status": "active"},
                                                          {"rid": "e5", "id": 5, "invoice": 1, "feature": "sso", "status": "pending"}]');
SELECT remote_id, record_id, state, sqlstate, reason FROM sync.inbox_status;
SELECT kind, object, record_id, system, remote_id, reason FROM sync.task;
UPDATE sync.inbox SET retry_at = 'infinity';
SELECT sync.request_approval('state_change', 'entitlement', '1', 'the provider insists') AS asked \gset
\c - own_mgr
SELECT sync.approve(:asked, 'so be it');
\c - :super
SELECT retry_at <= clock_timestamp() AS due FROM sync.inbox;
SELECT applied, to_inbox FROM sync._apply_page(:stream, '[{"rid": "e1", "id": 1, "invoice": 1, "feature": "sso", "status": "active"}]');
SELECT id, status FROM shop.entitlement WHERE id IN (1, 5) ORDER BY id;

-- Accounting periods: which day counts, which period it is in, which is the next open one.
SELECT FROM sync.create_canonical_model();
INSERT INTO canonical.legal_entity (id, code, name, country, functional_currency, timezone)
VALUES ('00000000-0000-4000-8000-000000000001', 'DE', 'Aster GmbH', 'DE', 'EUR', 'Europe/Berlin');
INSERT INTO canonical.accounting_period (legal_entity_id, start_date, end_date, status)
SELECT '00000000-0000-4000-8000-000000000001', d, d + interval '1 month - 1 day', s
  FROM (VALUES ('2026-01-01'::date, 'closed'), ('2026-02-01', 'closed'), ('2026-03-01', 'soft_closed'), ('2026-04-01', 'open'), ('2026-05-01', 'open')) p (d, s);
SELECT sync.track('canonical.invoice'), sync.track('canonical.payment'), sync.track('canonical.customer');
SELECT n, d.day, p.status, p.first, x.first AS next
  FROM (VALUES (1, '{"posting_date": "2026-01-15"}'::jsonb), (2, '{"issue_date": "2026-02-28"}'), (3, '{"settled_at": "2026-02-28T23:30:00Z"}'),
               (4, '{"posting_date": "2026-06-01"}'), (5, '{}')) v (n, body)
 CROSS JOIN (SELECT o FROM sync.object o WHERE name = 'invoice') t
 CROSS JOIN LATERAL sync._accounting_date(t.o, body || '{"legal_entity_id": "00000000-0000-4000-8000-000000000001"}') d
 CROSS JOIN LATERAL sync._accounting_period(t.o, d.entity, d.day, false) p
 CROSS JOIN LATERAL sync._accounting_period(t.o, d.entity, d.day, true) x ORDER BY n;
SELECT sync.set_period_policy('invoice', 'sometimes', 'x');
SELECT sync.set_period_policy('customer', 'hold', 'x');
SELECT sync.set_period_policy('invoice', 'hold', 'month-end') AS waits;
SELECT sync.set_period_policy('invoice', 'next_open', 'month-end') AS waits;
SELECT object, policy, reason FROM sync.period_policy;
SELECT name, attributed FROM sync.object WHERE name IN ('invoice', 'payment') ORDER BY name;
INSERT INTO canonical.customer (id, kind, number, name) VALUES ('00000000-0000-4000-8000-00000000000c', 'organization', 'C-1', 'Aster');
INSERT INTO canonical.invoice (customer_id, number, currency) VALUES ('00000000-0000-4000-8000-00000000000c', 'INV-1', 'EUR');
SELECT o.name, e.context ->> 'user' = :'super' AS author FROM sync.outbox e JOIN sync.object o ON o.id = e.object_id WHERE o.name IN ('invoice', 'customer') ORDER BY 1;
SELECT sync.set_period_policy('invoice', 'none', 'no more') AS waits;
SELECT action, detail - 'approval' AS detail FROM sync.audit WHERE action LIKE 'period%' ORDER BY id;

\c regression :super
DROP DATABASE sync_own_guard;
DROP ROLE own_dev, own_mgr, own_app;
