-- What a certificate may rest on: each financial object compared with each system that keeps the entity's books,
-- after the period had ended, with what the system is known to have had then. What is missing is named, and only
-- who says why may certify all the same.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_evidence;
CREATE DATABASE sync_rec_evidence;
\c sync_rec_evidence
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
SET datestyle = 'ISO';
SET TimeZone = 'UTC';
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
SELECT sync.create_canonical_model();
SET search_path = canonical, public;
CREATE FUNCTION u(what text) RETURNS uuid LANGUAGE sql IMMUTABLE AS 'SELECT md5($1)::uuid';
SELECT count(sync.track(t, financial => t = 'canonical.invoice')) AS tracked FROM unnest('{canonical.customer,canonical.invoice}'::text[]) t;
INSERT INTO legal_entity (id, code, name, functional_currency, timezone)
VALUES (u('DE'), 'DE', 'Nordstern GmbH', 'EUR', 'Europe/Berlin'), (u('US'), 'US', 'Nordstern Inc', 'USD', 'America/New_York');
INSERT INTO customer (id, number, name, legal_entity_id) VALUES (u('A'), 'A', 'Customer A', u('DE'));
SELECT count(sync.set_rule_enabled(r.rule, false, 'not here')) > 20 AS off FROM sync.rule r;
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "vendor", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "customer": {"pull": {"list": {"path": "/c", "items": "$.data"}, "record": {"id": "$.id"}, "fields": {"id": "$.key", "name": "$.name"}}},
    "invoice": {
      "push": {"operations": {"create": {"method": "POST", "path": "/i", "body": {"total": "$.new.total_amount"}, "response": {"remote_id": "$.id"}}}, "plan": {"create": ["create"]}},
      "pull": {"list": {"path": "/i", "items": "$.data"}, "record": {"id": "$.id"}, "fields": {"id": "$.key", "total_amount": "$.total"}}}}} $json$::jsonb);
CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused');
CREATE SERVER erp_de FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused', legal_entity 'DE');
CREATE SERVER erp_us FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'vendor', mode 'paused', legal_entity 'US');

-- What stands against February of DE now.
CREATE VIEW gap AS SELECT * FROM sync._evidence_gaps('[2024-02-01,2024-03-01)', 'DE', 'Europe/Berlin');
-- As if that stream had come to its end with a walk that began then.
CREATE FUNCTION read_until(system text, object text, at timestamptz) RETURNS void LANGUAGE sql AS $$
    UPDATE sync.stream_cursor c SET read_until = at FROM sync.stream t WHERE t.id = c.stream_id AND t.system_id = sync._system_id($1) AND t.object_id = sync._object_id($2) $$;
CREATE FUNCTION run(system text, object text, mode text DEFAULT 'mirror', other text DEFAULT NULL, period daterange DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    made bigint := sync.reconcile(system, object, period, mode, other);
BEGIN
    RETURN (SELECT format('%s %s found, known as of %s', r.state, r.found, coalesce(r.known_as_of::text, 'never')) FROM sync.reconciliation_run r WHERE r.id = made);
END
$$;

-- Nothing is connected: nothing to compare.
TABLE gap;
-- A stream that was never read to the end shows nothing, whatever is in the mirror by then.
SELECT sync.create_stream('billing', 'invoice', '1 h') > 0 AS stream;
TABLE gap;
SELECT sync.reconcile('billing', 'invoice');
SELECT sync.reconcile('billing', 'invoice', mode => 'delta');
SELECT count(*) AS runs FROM sync.reconcile_all();
SELECT source, state, known_as_of, error FROM sync.reconciliation_run;
TABLE gap;
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'month end');

-- Read, but not since the month ended: compared it is, and says of when that is.
SELECT FROM read_until('billing', 'invoice', '2024-02-29 22:59+00');
SELECT run('billing', 'invoice');
TABLE gap;
-- A minute later, in Berlin, it had. A run over a part of the month is none.
SELECT FROM read_until('billing', 'invoice', '2024-02-29 23:00+00');
SELECT run('billing', 'invoice', period => '[2024-02-01,2024-02-29)');
TABLE gap;
SELECT run('billing', 'invoice', period => '[2024-02-01,2024-03-01)');
TABLE gap;
-- What was shown once, a stream that stands still does not undo; a run that fails does, and so does one that went before the end.
SELECT FROM read_until('billing', 'invoice', '2024-02-20');
SELECT run('billing', 'invoice');
TABLE gap;
BEGIN;
INSERT INTO sync.reconciliation (source, kind, state, error) VALUES ('record:billing:invoice', 'record', 'failed', 'no such thing');
TABLE gap;
ROLLBACK;
BEGIN;
UPDATE sync.reconciliation SET started_at = '2024-02-29 22:00+00' WHERE source = 'record:billing:invoice';
TABLE gap;
ROLLBACK;

-- Of a system that is sent to and never read only its answers are known; of another entity's it is none of ours.
SELECT sync.create_route(s, 'invoice', start => 'all', cutover_date => '2024-01-01') > 0 AS route FROM unnest('{erp_de,erp_us}'::text[]) s;
TABLE gap;
SELECT run('erp_de', 'invoice');
TABLE gap;
-- A listing tells all of it, at the moment when it began.
SELECT sync.reconcile('erp_de', 'invoice', mode => 'full') AS run \gset
SELECT state, known_as_of > now() - interval '1 min' AS known FROM sync.reconciliation_run WHERE id = :run;
TABLE gap;
UPDATE sync.reconciliation SET state = 'done' WHERE id = :run;
TABLE gap;
SELECT run('erp_de', 'invoice');
TABLE gap;

-- One that is read from a day in the month on says nothing about what was before, unless history was fetched or listed.
SELECT sync.drop_stream('billing', 'invoice');
SELECT sync.create_stream('billing', 'invoice', '1 h', since => '2024-02-10 12:00+01') > 0 AS stream;
SELECT FROM read_until('billing', 'invoice', '2024-03-05');
SELECT run('billing', 'invoice');
TABLE gap;
BEGIN;
INSERT INTO sync.job (kind, system_id, object_id, state, params) VALUES ('backfill_pull', sync._system_id('billing'), sync._object_id('invoice'), 'done', '{"since": "2024-02-02"}');
TABLE gap;
UPDATE sync.job SET params = '{"since": "2024-01-31T23:00:00Z"}' WHERE kind = 'backfill_pull';
TABLE gap;
ROLLBACK;

-- Of two systems the less recent counts; of customers, and of pairs, only that the last run did not fail.
SELECT sync.create_stream('erp_de', 'invoice', '1 h') > 0 AS stream, sync.create_stream('billing', 'customer', '1 h') > 0 AS customers;
SELECT FROM read_until('erp_de', 'invoice', '2024-03-04');
SELECT run('billing', 'invoice', other => 'erp_de'), run('erp_de', 'invoice', other => 'billing');
SELECT source, gap FROM gap;
INSERT INTO sync.reconciliation (source, kind, state, error) VALUES ('pair:billing:erp_de:invoice', 'pair', 'failed', 'one'), ('record:billing:customer', 'record', 'failed', 'two');
SELECT source, gap FROM gap;

-- What is in the books of nobody is in no certificate.
BEGIN;
INSERT INTO customer (id, number, name) VALUES (u('B'), 'B', 'Customer B');
INSERT INTO invoice (id, customer_id, number, status, issue_date, currency, net_amount, tax_amount, total_amount) VALUES (u('I9'), u('B'), 'I9', 'open', '2024-02-29', 'EUR', 100, 0, 100), (u('I8'), u('A'), 'I8', 'open', '2024-02-29', 'EUR', 100, 0, 100);
SELECT source, gap FROM gap WHERE source LIKE 'canonical%';
ROLLBACK;

-- All the same: with a reason that goes on record, in the certificate, its hash and the audit trail.
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'month end', despite => ' ');
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'month end', despite => 'billing was migrated on the 10th') AS certificate \gset
SELECT despite, statement ->> 'despite' AS stated, statement -> 'gaps' -> 0 AS first, jsonb_array_length(statement -> 'gaps') AS gaps, jsonb_array_length(statement -> 'runs') AS runs
  FROM sync.certificate WHERE id = :certificate;
SELECT r ->> 'source' AS source, (r ->> 'known_as_of')::timestamptz > '2024-03-01' AS known FROM sync.certificate c, jsonb_array_elements(c.statement -> 'runs') r ORDER BY 1;
SELECT detail ->> 'despite' AS despite, jsonb_array_length(detail -> 'gaps') AS gaps FROM sync.audit WHERE action = 'period.certified';
SELECT valid, detail FROM sync.verify_certificate(:certificate);
ALTER TABLE sync.certificate DISABLE TRIGGER append_only;
UPDATE sync.certificate SET despite = NULL;
SELECT valid, detail FROM sync.verify_certificate(:certificate);
-- An open break is another matter.
INSERT INTO sync.break_entry (source, fingerprint, kind, object, severity, entity, period) VALUES ('rule:x', '1', 'x', 'invoice', 'error', 'DE', '2024-02-01');
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'month end', despite => 'we know');
DELETE FROM sync.break_entry;
-- Who decides about it sees what is missing, and what the other said about that.
SELECT sync.set_approval_policy('four eyes', 'certify', reason => 'sox') AS waits;
SET client_min_messages = warning;
SELECT sync.certify('[2024-02-01,2024-03-01)', 'DE', 'month end', despite => 'billing was migrated on the 10th');
RESET client_min_messages;
SELECT r.call ->> 'despite' AS despite, jsonb_array_length(r.call -> 'gaps') AS gaps FROM sync.approval_request r WHERE r.operation = 'certify';

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_rec_evidence;
