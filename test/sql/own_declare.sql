-- Declaring owners: what can be declared, by whom, what is seen, what follows and what refuses.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_own;
DROP ROLE IF EXISTS regress_own_owner, regress_own_admin, regress_own_app;
CREATE DATABASE sync_own;
\c sync_own
SET client_min_messages = error;
CREATE EXTENSION sync_ext;
CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', base_url 'https://api.example.com/v1');
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', base_url 'https://api.example.com/v1');
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
CREATE ROLE regress_own_owner LOGIN IN ROLE sync_admin;
CREATE ROLE regress_own_admin LOGIN IN ROLE sync_admin;
CREATE ROLE regress_own_app LOGIN IN ROLE sync_app;
CREATE SCHEMA shop AUTHORIZATION regress_own_owner;
GRANT USAGE ON SCHEMA shop TO PUBLIC;
SET search_path = shop;
SET ROLE regress_own_owner;
CREATE TABLE account (id integer PRIMARY KEY, name text, status text DEFAULT 'new', amount numeric,
    twice numeric GENERATED ALWAYS AS (amount * 2) STORED, updated_at timestamptz DEFAULT now());
CREATE TABLE bill (id integer PRIMARY KEY, number text, total numeric);
CREATE TABLE bill_line (bill_id integer REFERENCES bill ON DELETE CASCADE, line_no integer, amount numeric, PRIMARY KEY (bill_id, line_no));
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA shop TO regress_own_app;
SELECT sync.track('account');
SELECT sync.track('bill', lines => 'bill_line');
SELECT object, field, owner, on_violation, origin, set_by, conflict_policy FROM sync.ownership;

--
-- What can be declared
--
SELECT sync.set_owner('account', 'name', 'crm');
SELECT sync.set_owner('account', 'status', 'crm', 'ignore', 'the CRM knows best');
SELECT sync.set_owner('account', '*', 'hub', 'quarantine');
SELECT sync.set_owner('bill', 'lines', 'erp', 'correct');
SELECT sync.set_conflict_policy('account', 'owner', 'as agreed');
SELECT object, field, owner, on_violation, origin, set_by, conflict_policy FROM sync.ownership;
-- One system in the place of another, and what is declared already.
SELECT sync.set_owner('account', 'name', 'erp', 'correct');
SELECT sync.set_owner('account', 'name', 'erp', 'correct');
SELECT sync.set_conflict_policy('account', 'newest');
SELECT action, object, system, detail, reason, session_user_name FROM sync.audit WHERE action NOT LIKE 'object.%' ORDER BY id;
-- What cannot
SELECT sync.set_owner('account', 'nmae', 'crm');
SELECT sync.set_owner('account', 'lines', 'crm');
SELECT sync.set_owner('bill', 'line_no', 'crm');
SELECT sync.set_owner('account', 'id', 'crm');
SELECT sync.set_owner('account', 'twice', 'crm');
SELECT sync.set_owner('account', 'ctid', 'crm');
SELECT sync.set_owner('account', 'name', 'crn');
SELECT sync.set_owner('account', 'name', NULL);
SELECT sync.set_owner('account', NULL, 'crm');
SELECT sync.set_owner('account', 'name', 'crm', 'refuse');
SELECT sync.set_owner('nothing', 'name', 'crm');
SELECT sync.drop_owner('account', 'amount');
SELECT sync.set_conflict_policy('account', 'oldest');
SELECT sync._owner_act('drop_table', '{"object": "account"}', NULL);

--
-- By whom
--
SET ROLE regress_own_admin;
SELECT sync.set_owner('account', 'name', 'crm');
SELECT sync.drop_owner('account', 'name');
SELECT sync.set_conflict_policy('account', 'quarantine');
SELECT sync._owner_act('set_owner', '{"object": "account", "field": "name", "drop": true}', NULL);
SELECT sync._owner_request('set_owner', '{"object": "account", "field": "name", "drop": true}', NULL);
SELECT sync._approved_set_owner('{"object": "account", "field": "name", "drop": true}', NULL);
DELETE FROM sync.owner;
SET ROLE regress_own_app;
SELECT sync.set_owner('account', 'name', 'crm');
SELECT field, owner FROM sync.ownership WHERE object = 'account' AND origin = 'field';
RESET ROLE;

--
-- A financial object needs a second person.
--
SET ROLE regress_own_owner;
CREATE TABLE invoice (id integer PRIMARY KEY, number text, total numeric);
SELECT sync.track('invoice');
SELECT sync.set_owner('invoice', 'number', 'erp', 'reject', 'posted there') AS asked \gset
RESET ROLE;
SELECT operation, policy, call, reason, requested_by, state FROM sync.approval_request WHERE id = :asked;
SELECT count(*) FROM sync.ownership WHERE object = 'invoice' AND owner IS NOT NULL;
-- asked twice, it is one request
SET ROLE regress_own_owner;
SET client_min_messages = warning;
SELECT sync.set_owner('invoice', 'number', 'erp', 'reject', 'again') = :asked AS same;
RESET client_min_messages;
RESET ROLE;
-- as sync.approve() does
SELECT sync._approved_set_owner(call, id) FROM sync.approval_request WHERE id = :asked;
SELECT field, owner, on_violation, set_by FROM sync.ownership WHERE object = 'invoice' AND owner IS NOT NULL;
SELECT action, object, system, detail - 'approval' AS detail, reason FROM sync.audit WHERE object = 'invoice' AND action NOT LIKE 'object.%' ORDER BY id;
INSERT INTO invoice VALUES (1, 'I-1', 1);
SET ROLE regress_own_owner;
SET client_min_messages = warning;
SELECT sync.drop_owner('invoice', 'number') > :asked AS waits;
RESET client_min_messages;
-- nor does ending the capture end it
SELECT sync.untrack('invoice', force => true);
RESET ROLE;

--
-- Renames are followed, drops refused.
--
SET ROLE regress_own_owner;
ALTER TABLE account RENAME name TO title;
RESET ROLE;
ALTER SERVER erp RENAME TO ledger;
SELECT field, owner, on_violation FROM sync.ownership WHERE object = 'account' AND origin = 'field';
SET ROLE regress_own_owner;
UPDATE account SET title = 'x';
INSERT INTO account (id, title) VALUES (1, 'x');
UPDATE account SET title = 'y';
ALTER TABLE account DROP title;
ALTER TABLE account DROP amount CASCADE;
DROP TABLE account;
DROP TABLE bill_line;
SELECT sync.untrack('account');
SELECT sync.untrack('bill');
SELECT sync.track('bill', documents => false);
RESET ROLE;
DROP SERVER ledger CASCADE;
DROP SERVER crm;
SELECT sync.forget_system('crm');

--
-- Nobody switches it off behind the declaration.
--
SET ROLE regress_own_owner;
SELECT t.tgrelid::regclass AS "table", t.tgname, t.tgenabled FROM pg_trigger t WHERE t.tgname LIKE '%sync_%' ORDER BY t.tgrelid::regclass::text, t.tgname;
DROP TRIGGER zz_sync_guard ON account;
DROP TRIGGER sync_capture ON account;
ALTER TABLE account DISABLE TRIGGER zz_sync_guard;
ALTER TABLE account DISABLE TRIGGER USER;
ALTER TABLE account ENABLE REPLICA TRIGGER sync_capture;
SELECT sync.track('account', capture => false);
SELECT t.tgname FROM pg_trigger t WHERE t.tgrelid = 'account'::regclass ORDER BY t.tgname;
DROP TRIGGER sync_guard ON account;
SELECT sync.track('account', replica => true);
SELECT t.tgname, t.tgenabled FROM pg_trigger t WHERE t.tgrelid = 'account'::regclass ORDER BY t.tgname;
SELECT sync.track('account');
SELECT t.tgname, t.tgenabled FROM pg_trigger t WHERE t.tgrelid = 'account'::regclass ORDER BY t.tgname;
-- A bypass is for functions of the hub.
SELECT sync._owner_bypass(1);
RESET ROLE;
SELECT sync._owner_bypass(1);
SELECT "check", status, detail FROM sync.health() WHERE "check" LIKE 'ownership%';
SET session_replication_role = replica;
ALTER TABLE account DISABLE TRIGGER zz_sync_guard;
RESET session_replication_role;
SELECT "check", status, detail FROM sync.health() WHERE "check" LIKE 'ownership%';
-- What was so before stops nobody's other work.
CREATE TABLE other (id integer);
ALTER TABLE other ADD v integer;
SELECT sync.track('account');
SELECT "check", status, detail FROM sync.health() WHERE "check" LIKE 'ownership%';

--
-- Taken back
--
SET ROLE regress_own_owner;
SELECT sync.drop_owner('account', 'title', 'no longer');
SELECT sync.drop_owner('account', 'status');
SELECT sync.drop_owner('account', '*');
SELECT sync.drop_owner('bill', 'lines');
SELECT object, field, owner, origin FROM sync.ownership WHERE origin <> 'none';
SELECT t.tgrelid::regclass AS "table", t.tgname FROM pg_trigger t WHERE t.tgname LIKE '%sync_guard%' ORDER BY 1, 2;
ALTER TABLE account DROP title;
SELECT sync.untrack('account');
RESET ROLE;
DROP SERVER crm;

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_own;
DROP ROLE regress_own_owner, regress_own_admin, regress_own_app;
