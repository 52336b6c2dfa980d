-- Certification: refused while something stands against it; frozen, versioned, verified; what changes later
-- is told against it.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_certify;
CREATE DATABASE sync_rec_certify;
\c sync_rec_certify
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET datestyle = 'ISO';
SET TimeZone = 'UTC';
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
SELECT current_user AS super \gset
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'month end');
SELECT sync.create_canonical_model();
SET search_path = canonical, public;
SELECT count(sync.track(t, financial => true)) AS tracked FROM unnest('{canonical.invoice,canonical.payment,canonical.gl_entry}'::text[]) t;
CREATE FUNCTION u(what text) RETURNS uuid LANGUAGE sql IMMUTABLE AS 'SELECT md5($1)::uuid';
INSERT INTO legal_entity (id, code, name, functional_currency, timezone)
VALUES (u('DE'), 'DE', 'Nordstern GmbH', 'EUR', 'Europe/Berlin'), (u('US'), 'US', 'Nordstern Inc', 'USD', 'America/New_York');
INSERT INTO customer (id, number, name, legal_entity_id) VALUES (u('A'), 'A', 'Customer A', u('DE')), (u('B'), 'B', 'Customer B', u('US'));
INSERT INTO product (id, code, name, kind, revenue_account, deferred_account) VALUES (u('seat'), 'SEAT', 'Seat', 'service', '8400', '3900');
INSERT INTO accounting_period (legal_entity_id, start_date, end_date) VALUES (u('DE'), '2024-02-01', '2024-02-29');
INSERT INTO invoice (id, customer_id, legal_entity_id, number, status, issue_date, due_date, currency, net_amount, tax_amount, total_amount)
SELECT u('I' || n), u(CASE WHEN n < 4 THEN 'A' ELSE 'B' END), u(CASE WHEN n < 4 THEN 'DE' ELSE 'US' END), 'I' || n, 'open', '2024-02-01'::date + n, '2024-03-01',
       CASE n WHEN 3 THEN 'JPY' WHEN 4 THEN 'USD' ELSE 'EUR' END, 100 * n, 10 * n, 110 * n FROM generate_series(1, 4) n;
INSERT INTO invoice_line (invoice_id, line_no, product_id, net_amount, service_start, service_end) VALUES (u('I1'), 1, u('seat'), 100, '2024-02-01', '2024-02-29');
INSERT INTO payment (id, customer_id, legal_entity_id, kind, status, amount, currency, settled_at)
VALUES (u('P1'), u('A'), u('DE'), 'charge', 'succeeded', 110, 'EUR', '2024-02-29 22:30+00'), (u('P2'), u('A'), u('DE'), 'charge', 'succeeded', 5, 'EUR', '2024-02-29 23:30+00');
INSERT INTO payment_allocation (payment_id, invoice_id, amount, applied_at) VALUES (u('P1'), u('I1'), 110, '2024-02-29 22:30+00');

-- Not without a reason, a period, an entity, an end of the period, a reconciliation that went well.
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', ' ');
SELECT sync.certify('[2024-02-01,)', 'DE', 'month end');
SELECT sync.certify('[2024-02-01,2024-03-01)', 'FR', 'month end');
SELECT sync.certify('[2024-02-01,2024-03-01)', NULL, 'month end');
\set VERBOSITY terse
SELECT sync.certify(daterange(current_date, current_date + 2), 'DE', 'month end');
\set VERBOSITY default
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'month end');
-- Every rule that is on has to have run, well, over the whole month, after it ended where the entity is.
SELECT count(sync.set_rule_enabled(r.rule, false, 'not here')) AS off FROM sync.rule r WHERE r.rule <> ALL ('{line_sums,amount_due,billed_once,committed_tax,journals_balance}');
INSERT INTO sync.reconciliation (source, kind, period, state, started_at, finished_at, error)
VALUES ('rule:line_sums', 'rule', '[2024-02-01,2024-03-01)', 'done', '2024-02-29 22:50+00', '2024-03-02', NULL), ('rule:amount_due', 'rule', '[2024-02-10,2024-03-01)', 'done', '2024-03-02', '2024-03-02', NULL),
       ('rule:billed_once', 'rule', NULL, 'failed', '2024-03-02', '2024-03-02', E'canceling statement\nmore'), ('rule:journals_balance', 'rule', NULL, 'done', '2024-02-29 23:10+00', '2024-03-02', NULL);
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'month end');
INSERT INTO sync.reconciliation (source, kind, period, state, started_at, finished_at, checked)
SELECT 'rule:' || r, 'rule', '[2024-02-01,2024-03-01)', 'done', '2024-03-03', '2024-03-03', 4 FROM unnest('{line_sums,amount_due,billed_once,committed_tax}'::text[]) r;

-- Breaks that are open and errors, of the entity and period or of nobody's.
INSERT INTO sync.break_entry (source, fingerprint, kind, object, record_number, severity, status, entity, period, difference, currency, at_risk, first_seen)
VALUES ('rule:x', '1', 'x', 'invoice', 'I1', 'error', 'open', 'DE', '2024-02-01', -5, 'EUR', 5, '2024-03-02 10:00+00'), ('rule:x', '2', 'x', 'invoice', 'I2', 'warning', 'open', 'DE', '2024-02-01', -1, 'EUR', 1, '2024-03-02 10:00+00'),
       ('rule:x', '3', 'x', 'invoice', 'I4', 'error', 'open', 'US', '2024-02-01', -5, 'USD', 5, '2024-03-02 10:00+00'), ('rule:x', '4', 'x', 'invoice', 'I9', 'error', 'open', 'DE', '2024-03-01', -5, 'EUR', 5, '2024-03-02 10:00+00'),
       ('rule:x', '5', 'x', 'customer', 'A', 'error', 'open', NULL, NULL, NULL, NULL, NULL, '2024-03-02 10:00+00'), ('rule:x', '6', 'x', 'invoice', 'I3', 'error', 'accepted', 'DE', '2024-02-01', -7, 'JPY', 7, '2024-03-02 10:00+00');
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'month end');
UPDATE sync.break_entry SET status = 'resolved', resolved_at = '2024-03-03 10:00+00' WHERE fingerprint = '1';
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'month end');
UPDATE sync.break_entry SET status = 'explained', explanation = 'known' WHERE fingerprint = '5';
-- Nor by a snapshot that may be older than what stands against it.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'month end') AS certificate;
ROLLBACK;
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'month end') AS certificate;

-- What it froze.
SELECT id, entity, period, version, certified_by = :'super' AS by_me, certified_at > now() - interval '1 minute' AS just_now, reason, length(hash) AS hash FROM sync.certificate;
SELECT f.object, f.figure, f.currency, f.account, f.amount
  FROM sync.certificate c, jsonb_to_recordset(c.statement -> 'figures') f (object text, figure text, currency text, account text, amount numeric);
SELECT b ->> 'record_number' AS number, b ->> 'severity' AS severity, b ->> 'status' AS status, b ->> 'at_risk' AS at_risk, b ->> 'currency' AS currency
  FROM sync.certificate c, jsonb_array_elements(c.statement -> 'breaks') b;
SELECT r ->> 'source' AS source, r ->> 'checked' AS checked, r ->> 'finished_at' AS finished FROM sync.certificate c, jsonb_array_elements(c.statement -> 'runs') r;
SELECT jsonb_array_length(statement -> 'rules_off') AS rules_off, statement ? 'gaps' AS gaps, despite, statement -> 'accounting_periods' AS periods, statement ->> 'version' AS version, statement -> 'previous' AS previous FROM sync.certificate;
SELECT action, reason, detail - 'hash' AS detail, detail ->> 'hash' = (SELECT hash FROM sync.certificate) AS hash FROM sync.audit WHERE action = 'period.certified';

-- It stays as it is, whoever asks.
UPDATE sync.certificate SET reason = 'other';
DELETE FROM sync.certificate;
TRUNCATE sync.certificate;
SELECT valid, hash = computed AND hash = audited AS agree, detail FROM sync.verify_certificate(1);
SELECT * FROM sync.verify_certificate(99);
-- Someone who switches the guard off leaves traces: a changed figure, a changed figure with a new hash, a changed row.
CREATE FUNCTION forged(change text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    said text;
BEGIN
    ALTER TABLE sync.certificate DISABLE TRIGGER append_only;
    EXECUTE 'UPDATE sync.certificate SET ' || change;
    SELECT v.detail INTO said FROM sync.verify_certificate(1) v WHERE NOT v.valid;
    RAISE EXCEPTION USING MESSAGE = coalesce(said, 'nobody noticed');
EXCEPTION WHEN raise_exception THEN
    RETURN SQLERRM;
END
$$;
SELECT forged($$statement = jsonb_set(statement, '{figures,0,amount}', '1')$$);
SELECT forged($$statement = s.statement, hash = encode(sha256(convert_to(s.statement::text, 'UTF8')), 'hex')
                FROM (SELECT jsonb_set(statement, '{figures,0,amount}', '1') AS statement FROM sync.certificate) s$$);
SELECT forged($$certified_by = 'somebody'$$);
SELECT forged($$reason = reason$$);

-- Nothing has changed. An invoice of another month or entity is no change.
SELECT count(*) AS drift FROM sync.period_drift;
INSERT INTO invoice (customer_id, legal_entity_id, number, status, issue_date, currency, net_amount, total_amount) VALUES (u('A'), u('DE'), 'I5', 'open', '2024-03-01', 'EUR', 1, 1), (u('B'), u('US'), 'I6', 'open', '2024-02-20', 'USD', 1, 1);
SELECT count(*) AS drift FROM sync.period_drift;
-- Then one is added, one voided, one moved into March by the ERP, a payment deleted, a refund comes in late, a journal is posted.
INSERT INTO invoice (id, customer_id, legal_entity_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount) VALUES (u('I7'), u('A'), u('DE'), 'I7', 'open', '2024-02-29', 'EUR', 50, 5, 55);
UPDATE invoice SET status = 'void', voided_at = '2024-03-05 10:00+00' WHERE number = 'I2';
UPDATE invoice SET posting_status = 'posted', posting_date = '2024-03-01' WHERE number = 'I3';
INSERT INTO payment (id, customer_id, legal_entity_id, kind, status, amount, currency, settled_at) VALUES (u('P3'), u('A'), u('DE'), 'refund', 'succeeded', 10, 'EUR', '2024-02-15 10:00+00');
DELETE FROM payment_allocation;
DELETE FROM payment WHERE id = u('P1');
BEGIN;
INSERT INTO gl_entry (id, legal_entity_id, number, posting_date, currency, status) VALUES (u('G1'), u('DE'), 'G1', '2024-02-10', 'EUR', 'posted');
INSERT INTO gl_entry_line (gl_entry_id, line_no, account_code, debit, credit) VALUES (u('G1'), 1, '1200', 110, 0), (u('G1'), 2, '3900', 0, 110);
COMMIT;
SELECT certificate, version, object, figure, currency, account, certified, now, difference FROM sync.period_drift;
SELECT object, number, change, record_id = u(coalesce(number, CASE change WHEN 'deleted' THEN 'P1' ELSE 'P3' END))::text AS it, changed_at > now() - interval '1 minute' AS just_now
  FROM sync.certificate_changes(1) ORDER BY 1, 2, 3;

-- Breaks: one opened in the month, one that came and went, one without a month that is an error; not those of another month or
-- entity, nor a warning without a month. Of those that were certified one is open again, one is gone, one has another amount.
BEGIN;
UPDATE sync.break_entry SET status = 'open', at_risk = 8 WHERE fingerprint = '6';
UPDATE sync.break_entry SET status = 'resolved', resolved_at = clock_timestamp() WHERE fingerprint = '2';
INSERT INTO sync.break_entry (source, fingerprint, kind, object, record_number, severity, status, entity, period, difference, currency, at_risk, resolved_at)
VALUES ('rule:x', '7', 'x', 'invoice', 'I1', 'error', 'open', 'DE', '2024-02-01', -3, 'EUR', 3, NULL), ('rule:x', '8', 'x', 'invoice', 'I5', 'error', 'open', 'DE', '2024-03-01', -3, 'EUR', 3, NULL),
       ('rule:x', '9', 'x', 'invoice', 'I4', 'error', 'open', 'US', '2024-02-01', -3, 'USD', 3, NULL), ('rule:x', '10', 'x', 'payment', 'P2', 'error', 'resolved', 'DE', '2024-02-01', 4, 'EUR', 4, clock_timestamp()),
       ('rule:x', '11', 'x', 'customer', 'A', 'warning', 'open', NULL, NULL, NULL, NULL, NULL, NULL), ('rule:x', '12', 'x', 'customer', 'B', 'error', 'open', NULL, NULL, NULL, NULL, NULL, NULL);
SELECT object, figure, currency, account, certified, now, difference FROM sync.period_drift WHERE figure LIKE '%breaks%';
SELECT object, number, change, changed_at > now() - interval '1 minute' AS just_now FROM sync.certificate_changes(1) WHERE change LIKE 'break%' ORDER BY 1, 2, 3;
UPDATE sync.break_entry SET status = 'accepted', difference = -8 WHERE fingerprint = '6';
SELECT object, number, change FROM sync.certificate_changes(1) WHERE change LIKE 'break%' ORDER BY 1, 2, 3;
ROLLBACK;

-- Certified again it is another version, against which there is no drift; the first stays, and is still told of.
SET datestyle = 'German';
SET TimeZone = 'Asia/Tokyo';
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'late postings') AS certificate;
SELECT v.valid, v.detail FROM sync.certificate c, sync.verify_certificate(c.id) v ORDER BY c.id;
SET datestyle = 'ISO';
SET TimeZone = 'UTC';
SELECT c.statement ->> 'period' AS period, c.statement ->> 'certified_at' LIKE '%+00:00' AS utc FROM sync.certificate c ORDER BY c.id;
SELECT c.version, c.statement ->> 'previous' = (SELECT p.hash FROM sync.certificate p WHERE p.id = 1) AS follows, v.valid, v.detail
  FROM sync.certificate c, sync.verify_certificate(c.id) v ORDER BY c.id;
SELECT count(*) FILTER (WHERE figure NOT LIKE 'records %') AS figures FROM sync.period_drift;
SELECT count(*) > 0 AS still_told FROM sync._drift_since(1);

-- Breaks by age and day.
SELECT entity, severity, status, currency, to_1_day, to_7_days, to_30_days, over_30_days, breaks, at_risk, oldest FROM sync.break_aging ORDER BY 1, 2, 3, 4;
SELECT * FROM sync.break_trend ORDER BY day, entity, currency;

-- Who may: administrators and approvers certify, with the rights of the owner of the tables for the figures alone; a policy
-- has another person decide. Analysts and auditors read.
SET client_min_messages = error;
CREATE ROLE rec_certify_controller LOGIN IN ROLE sync_approver;
CREATE ROLE rec_certify_other LOGIN IN ROLE sync_approver;
CREATE ROLE rec_certify_auditor LOGIN IN ROLE sync_auditor;
CREATE ROLE rec_certify_analyst LOGIN IN ROLE sync_analyst;
RESET client_min_messages;
SELECT sync.set_approval_policy('four eyes', 'certify', reason => 'sox') AS waits;
\c - rec_certify_controller
\pset null '-'
SELECT * FROM canonical.invoice;
-- The one who approves writes dates another way, and means the same month.
SET datestyle = 'SQL, DMY';
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'mine') AS certificate;
SELECT id AS approval FROM sync.approval WHERE operation = 'certify' \gset
SELECT sync.approve(:approval, 'mine, too');
\c - rec_certify_other
\pset null '-'
SET datestyle = 'ISO, MDY';
SELECT sync.approve(:approval, 'looked at') IS NOT NULL AS approved;
SELECT period, version, certified_by, approval_id = :approval AS approval, reason FROM sync.certificate ORDER BY id DESC LIMIT 1;
\c - rec_certify_auditor
\pset null '-'
SELECT count(*) AS certificates, bool_and(v.valid) AS valid FROM sync.certificate c, sync.verify_certificate(c.id) v;
SELECT count(*) FILTER (WHERE figure NOT LIKE 'records %') AS figures FROM sync.period_drift;
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'mine');
\c - rec_certify_analyst
\pset null '-'
SELECT count(*) FILTER (WHERE figure NOT LIKE 'records %') AS figures FROM sync.period_drift;
SELECT sync._figures_now('[2024-02-01,2024-03-01)', 'DE');
SELECT sync._as_model_owner('SELECT 1', '{}');
INSERT INTO sync.certificate DEFAULT VALUES;
\c - :super
DROP ROLE rec_certify_controller, rec_certify_other, rec_certify_auditor, rec_certify_analyst;
