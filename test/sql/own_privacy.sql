-- Personal fields: who sees them, how long history holds them, who declares them.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_own_privacy;
CREATE DATABASE sync_own_privacy;
\c sync_own_privacy
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
CREATE ROLE own_privacy_operator IN ROLE sync_operator;
CREATE ROLE own_privacy_dpo IN ROLE sync_auditor;
CREATE ROLE own_privacy_admin IN ROLE sync_admin;
CREATE SCHEMA own;
GRANT USAGE ON SCHEMA own TO own_privacy_operator, own_privacy_dpo, own_privacy_admin;
CREATE TABLE own.customer (
    id integer PRIMARY KEY,
    number text,
    name text NOT NULL,
    email text CHECK (email <> 'bad@example.com'),
    address jsonb,
    status text
);
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "crm", "version": "1", "title": "CRM",
  "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {"customer": {
    "push": {"operations": {"create": {"method": "POST", "path": "/c", "body": {"email": "$.new.email"}, "response": {"remote_id": "$.id"}}}},
    "pull": {"list": {"path": "/c", "items": "$.data"}, "record": {"id": "$.id", "our_id": "$.ours"},
             "fields": {"email": "$.email", "status": "$.status"}, "on_missing": "inbox"}}}} $json$::jsonb);
CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'crm', mode 'paused');
SELECT sync.track('own.customer');
SELECT FROM sync.create_stream('crm', 'customer');
INSERT INTO own.customer VALUES (1, 'C-1', 'Ada', 'ada@example.com', '{"city": "Leeds"}', 'new');
UPDATE own.customer SET email = 'ada@example.org', status = 'active' WHERE id = 1;
INSERT INTO own.customer VALUES (2, 'C-2', 'Bob', 'bob@example.com', NULL, 'new');
SELECT applied, to_inbox FROM sync._apply_page((SELECT id FROM sync.stream), $$ [
    {"id": "r1", "ours": "1", "email": "ada@example.net", "status": "active"},
    {"id": "r2", "ours": "2", "email": "bad@example.com", "status": "x"}] $$);

-- ---- declaring ----
SELECT sync.set_personal('customer', 'id');
SELECT sync.set_personal('customer', 'nothing');
SELECT sync.set_personal('nothing', 'email');
SELECT sync.set_personal('customer', 'email', interval '-1 day');
SELECT sync.erase('customer', '1', 'asked by the customer');
SET ROLE own_privacy_operator;
SELECT sync.set_personal('customer', 'email');
RESET ROLE;
SET ROLE own_privacy_admin;
SELECT sync.set_personal('customer', 'email');
SELECT sync.set_personal('customer', 'address', interval '30 days');
RESET ROLE;
SELECT object, field, retention, set_by FROM sync.personal ORDER BY field;

-- ---- what an operator sees: that something was there ----
SET ROLE own_privacy_operator;
SELECT operation, origin, record_id, body, old FROM sync.event ORDER BY seq;
SELECT remote_id, fields, raw FROM sync.remote_record;
SELECT remote_id, reason, item FROM sync.inbox_status;
-- Not past the views either, nor by a function or an operator of one's own in the query.
SELECT body FROM sync.outbox;
SELECT fields FROM sync.mirror;
SELECT item FROM sync.inbox;
SELECT request FROM sync.claim;
SELECT count(*) FROM sync.outbox;
SELECT remote_id FROM sync.mirror;
CREATE FUNCTION pg_temp.leak(j jsonb) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE '%', j; RETURN true; END $$;
SELECT count(*) FROM sync.event WHERE pg_temp.leak(body) AND record_id = '2';
RESET ROLE;

-- ---- the right is that of the table's column ----
GRANT SELECT (id, email) ON own.customer TO own_privacy_dpo;
SET ROLE own_privacy_dpo;
SELECT record_id, body, old FROM sync.event ORDER BY seq LIMIT 2;
SELECT remote_id, fields, raw FROM sync.remote_record;
RESET ROLE;
GRANT SELECT ON own.customer TO own_privacy_dpo;
SET ROLE own_privacy_dpo;
SELECT body FROM sync.event ORDER BY seq LIMIT 1;
SELECT remote_id, reason, item FROM sync.inbox_status;
RESET ROLE;
-- Row security shows somebody some rows only: then none of them here.
ALTER TABLE own.customer ENABLE ROW LEVEL SECURITY;
SET ROLE own_privacy_dpo;
SELECT body -> 'email' AS email FROM sync.event ORDER BY seq LIMIT 1;
RESET ROLE;
ALTER TABLE own.customer DISABLE ROW LEVEL SECURITY;
-- A column that is gone is nobody's to read.
ALTER TABLE own.customer DROP COLUMN address;
SET ROLE own_privacy_dpo;
SELECT body -> 'address' AS address FROM sync.event ORDER BY seq LIMIT 1;
RESET ROLE;

-- ---- history forgets ----
SELECT sync.set_personal('customer', 'email', interval '1 day');
SELECT sync._forget_personal();
SELECT count(*) FILTER (WHERE body ? 'email') AS still FROM sync.outbox;
-- The day before yesterday: what no route needs forgets, what one still needs does not.
DO $$
DECLARE
    child text := 'outbox_p' || to_char((now() AT TIME ZONE 'UTC')::date - 3, 'YYYYMMDD');
    bound date := (now() AT TIME ZONE 'UTC')::date - 3;
BEGIN
    EXECUTE format('CREATE TABLE sync.%I (LIKE sync.outbox INCLUDING ALL)', child);
    EXECUTE format('INSERT INTO sync.%I SELECT seq, now() - interval ''3 days'', xid, incarnation, object_id, op, origin, record_id, body, old, context FROM sync.outbox', child);
    EXECUTE format('ALTER TABLE sync.outbox ATTACH PARTITION sync.%I FOR VALUES FROM (%L) TO (%L)', child, bound || ' 00:00:00+00', (bound + 1) || ' 00:00:00+00');
END $$;
UPDATE sync.personal_field SET cleared_to = NULL;
SELECT sync._forget_personal(2) AS more;
SELECT sync._forget_personal(2) AS more;
SELECT sync._forget_personal(2) AS more;
SELECT at < now() - interval '1 day' AS old, count(*) FILTER (WHERE body ? 'email' OR old ? 'email') AS holds, count(*) FILTER (WHERE body ? 'name') AS rows
  FROM sync.outbox GROUP BY 1 ORDER BY 1;
SELECT field, cleared_to < now() - interval '1 day' AS cleared FROM sync.personal ORDER BY field;

-- ---- audit rows hold hashes, and who knows the value can show that it was the one ----
SELECT sync._audit('test.field', 'customer', '1', 'crm', '{"field": "email", "hub_value": "ada@example.net", "remote_value": null, "policy": "reject"}') AS audit_id,
       sync._audit('test.row', 'customer', '1', 'crm', '{"before": {"email": "ada@example.net", "status": "new"}, "list": [{"email": "x"}]}') IS NOT NULL AS second,
       sync._audit('test.other', 'customer', '1', 'crm', '{"field": "status", "hub_value": "new"}') IS NOT NULL AS third \gset
SELECT action, regexp_replace(detail::text, '[0-9a-f]{64}', '<hash>', 'g') AS detail FROM sync.audit WHERE action LIKE 'test.%' ORDER BY id;
SELECT a.detail #>> '{hub_value,sha256}' = encode(sha256(s.salt || convert_to('"ada@example.net"', 'UTF8')), 'hex') AS proves
  FROM sync.audit a JOIN sync.audit_salt s ON s.audit_id = a.id WHERE a.id = :audit_id;
SELECT count(*) FROM sync.audit_salt;

-- ---- erasing ----
SELECT sync.erase('customer', '1', ' ');
SET ROLE own_privacy_operator;
SELECT sync.erase('customer', '1', 'asked');
RESET ROLE;
SET ROLE own_privacy_admin;
SELECT sync.erase('customer', '1', 'asked');
RESET ROLE;
GRANT SELECT, UPDATE ON own.customer TO own_privacy_admin;
SET ROLE own_privacy_admin;
SELECT sync.erase('customer', '1', 'asked by the customer') > 0 AS asked;
SELECT sync._upkeep_personal();
RESET ROLE;
SELECT email, name FROM own.customer ORDER BY id;
SELECT record_id, fields, done_at IS NOT NULL AS done, erased FROM sync.erasure;
SELECT record_id, body, old FROM sync.outbox WHERE at > now() - interval '1 day' ORDER BY seq;
SELECT remote_id, fields, raw, mapping FROM sync.mirror;
SELECT action, object, record_id, reason FROM sync.audit WHERE action LIKE 'personal.%' ORDER BY id;
SELECT count(*) AS salts FROM sync.audit_salt;
-- Its deliveries are on their way: it waits.
SELECT FROM sync.create_route('crm', 'customer');
UPDATE own.customer SET email = 'bob@example.org' WHERE id = 2;
SELECT sync.erase('customer', '2', 'asked', in_table => false) > 0 AS asked;
SELECT sync._erase_due();
SELECT done_at IS NULL AS waits FROM sync.erasure WHERE record_id = '2';
SELECT sync.drop_route('customer_to_crm', force => true);
SELECT sync._erase_due();
SELECT count(*) FROM sync.outbox WHERE record_id = '2' AND (body::text ~ 'bob@' OR old::text ~ 'bob@');
SELECT count(*) FROM sync.inbox WHERE item::text ~ 'bad@';
SELECT sync.drop_personal('customer', 'email');
SELECT sync.drop_personal('customer', 'email');

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_own_privacy;
DROP ROLE own_privacy_operator, own_privacy_dpo, own_privacy_admin;
