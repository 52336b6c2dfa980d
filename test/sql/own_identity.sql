-- Identity of records that exist on both sides: rules, preview, decisions; nothing is created before.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_own_identity;
CREATE DATABASE sync_own_identity;
\c sync_own_identity
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
SET TimeZone = 'UTC';

-- normalisers
SELECT v, sync.normal_name(v) FROM unnest('{"Müller & Söhne GmbH & Co. KG","MULLER AND SOHNE",Ærø A/S,"Acme, Inc.",ACME Corporation,Łódź sp-z-o-o,"  ",
    Società Agricola S.p.A.,Strauß AG,SE,Иванов 24,"O''Neill & Co"}'::text[]) v;
SELECT sync.normal_email('  Ada@Example.COM '), sync.normal_email(' '), sync.normal_tax_number('de 123.456-789'), sync.normal_tax_number('-'),
       sync.normal_country(' de ');

CREATE SCHEMA own;
CREATE ROLE own_identity_owner;
GRANT USAGE, CREATE ON SCHEMA own TO own_identity_owner;
CREATE TABLE own.customer (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number text UNIQUE,
    name text NOT NULL,
    email text,
    tax_number text,
    address jsonb,
    merged_into_id uuid REFERENCES own.customer
);
ALTER TABLE own.customer OWNER TO own_identity_owner;
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "own", "version": "1", "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {"customer": {
    "pull": {
      "list": {"path": "/customers", "items": "$.data"},
      "record": {"id": "$.id", "number": "$.no", "our_id": "$.ours"},
      "fields": {"number": {"$": "$.no", "omit": "empty"}, "name": "$.name", "email": "$.email", "tax_number": {"$": "$.vat", "omit": "empty"},
                 "address": {"$": "$.address", "omit": "empty"}},
      "match": ["number"], "on_missing": "insert"},
    "push": {"operations": {"create": {"method": "POST", "path": "/customers", "body": {"name": "$.new.name"}, "response": {"remote_id": "$.id"}}}}}}
} $json$::jsonb);
CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'own');
SELECT FROM sync.track('own.customer', object => 'customer', number_column => 'number');

-- rules that cannot be
SELECT sync.set_match_rule('customer', 'crm', 1, '{email}', 'sounds_like');
SELECT sync.set_match_rule('customer', 'crm', 0, '{email}', 'email');
SELECT sync.set_match_rule('customer', 'crm', 1, '{mail}', 'email');
SELECT sync.set_match_rule('customer', 'crm', 1, '{name.first}', 'exact');
SELECT sync.set_match_rule('customer', 'crm', 1, '{name}', 'name_country');
SELECT sync.set_match_rule('customer', 'crm', 1, '{email,name}', 'email');
SELECT sync.set_match_rule('nothing', 'crm', 1, '{email}', 'email');

SELECT sync._system_id('crm') > 0 AS known;
-- those of the manifest until others are declared; those of a system before those of all
SELECT * FROM sync._match_rules(sync._system_id('crm'), sync._object_id('customer'));
SELECT sync.set_match_rule('customer', NULL, 1, '{number}');
SELECT sync.set_match_rule('customer', 'crm', 1, '{tax_number}', 'tax_number');
SELECT sync.set_match_rule('customer', 'crm', 2, '{email}', 'email');
SELECT sync.set_match_rule('customer', 'crm', 4, '{name}');
SELECT sync.set_match_rule('customer', 'crm', 4, NULL);
SELECT sync.set_match_rule('customer', 'crm', 3, '{name,address.country}', 'name_country', reason => 'names are clean');
SELECT * FROM sync._match_rules(sync._system_id('crm'), sync._object_id('customer'));

INSERT INTO own.customer (id, number, name, email, tax_number, address) VALUES
    ('00000000-0000-0000-0000-0000000000a1', 'C1', 'Ada Ltd', 'ada@x', 'GB 123', NULL),
    ('00000000-0000-0000-0000-0000000000a2', 'C2', 'Bob', 'Bob@X ', NULL, NULL),
    ('00000000-0000-0000-0000-0000000000a3', 'C3', 'Müller GmbH', NULL, NULL, '{"country": "DE"}'),
    ('00000000-0000-0000-0000-0000000000a4', 'C4', 'Twin', 'twin@x', NULL, NULL),
    ('00000000-0000-0000-0000-0000000000a5', 'C5', 'Twin', 'TWIN@x', NULL, NULL),
    ('00000000-0000-0000-0000-0000000000a6', 'C6', 'Shared', 'shared@x', NULL, NULL),
    ('00000000-0000-0000-0000-0000000000a7', 'C7', 'Carried', NULL, NULL, NULL),
    ('00000000-0000-0000-0000-0000000000a8', 'C8', 'Gone', 'gone@x', NULL, NULL);
UPDATE own.customer SET merged_into_id = '00000000-0000-0000-0000-0000000000a1' WHERE number = 'C8';

-- matching first: the page binds and creates nothing
SELECT sync.create_stream('crm', 'customer', identity => 'guess');
SELECT sync.create_stream('crm', 'customer', identity => 'decide') AS stream \gset
SELECT sync.create_route('crm', 'customer', start => 'all');
\set page '[{"id": "r1", "no": "K1", "name": "Ada", "email": "other@x", "vat": "gb123"}, {"id": "r2", "no": "K2", "name": "Robert", "email": "bob@x"}, {"id": "r3", "no": "K3", "name": "MULLER", "email": "", "address": {"country": "de"}}, {"id": "r4", "no": "K4", "name": "Twin", "email": "twin@x"}, {"id": "r5", "no": "K5", "name": "S", "email": "shared@x"}, {"id": "r6", "no": "K6", "name": "S", "email": "shared@x"}, {"id": "r7", "no": "K7", "name": "C", "email": "", "ours": "00000000-0000-0000-0000-0000000000A7"}, {"id": "r8", "no": "K8", "name": "Nobody", "email": ""}, {"id": "r9", "no": "K9", "name": "Was merged", "email": "gone@x"}]'
SELECT applied, bound, to_inbox FROM sync._apply_page(:stream, :'page');
SELECT applied, bound, to_inbox FROM sync._apply_page(:stream, :'page');
SELECT count(*) FROM sync.external_id;
SELECT count(*) FROM own.customer;
SELECT state, count(*), bool_and(retry_at IS NULL) AS not_retried FROM sync.inbox_status GROUP BY 1;
SELECT remote_id, remote_number, name, verdict, rule, record_number, cardinality(candidates) AS n, message FROM sync.match_preview('crm', 'customer');
SELECT count(*) FROM sync.match_candidate;
-- names and numbers are shown to who may read them in the table
SELECT sync.set_personal('customer', 'name');
CREATE ROLE own_identity_operator IN ROLE sync_operator;
GRANT USAGE ON SCHEMA own TO own_identity_operator;
SET ROLE own_identity_operator;
SELECT DISTINCT name, record_number FROM sync.match_preview('crm', 'customer');
RESET ROLE;
GRANT SELECT ON own.customer TO own_identity_operator;
SET ROLE own_identity_operator;
SELECT DISTINCT name, record_number FROM sync.match_preview('crm', 'customer') WHERE remote_id = 'r1';
RESET ROLE;
SELECT sync.drop_personal('customer', 'name');
SELECT sync._identity_hold(sync._system_id('crm'), sync._object_id('customer'), '00000000-0000-0000-0000-0000000000a8') AS of_any;

SELECT sync.accept_matches('crm', 'customer', ' ');
SELECT sync.accept_matches('crm', 'customer', 'looked at');
SELECT * FROM sync.accept_matches('crm', 'customer', 'looked at', force => true);
SELECT sync.accept_matches('crm', 'customer', 'again', force => true);
-- as the hub does it now, out of the inbox; what is ambiguous stays there
SELECT applied, bound, to_inbox FROM sync._apply_page(:stream, :'page');
SELECT x.remote_id, x.remote_number, c.name, c.id::text LIKE '00000000-%' AS ours FROM sync.external_id x JOIN own.customer c ON c.id::text = x.record_id ORDER BY 1;
SELECT remote_id, sqlstate, reason FROM sync.inbox ORDER BY 1;
SELECT remote_id, verdict, decision, reason FROM sync.match_candidate ORDER BY 1;
SELECT kind, remote_id, field, message FROM sync.conflict_entry WHERE resolved_at IS NULL ORDER BY 2;
-- each is one task
SELECT kind, object, system, remote_id, record_number, reason, how_to FROM sync.task ORDER BY 1, 4;
-- candidates are not created over there meanwhile; the others may be
SELECT number, sync._identity_hold(sync._system_id('crm'), sync._object_id('customer'), id::text) FROM own.customer WHERE number ~ '^C' ORDER BY 1;

-- decisions
SELECT sync.decide_match('crm', 'customer', 'r1', NULL, 'no');
SELECT sync.decide_match('crm', 'customer', 'r77', NULL, 'no');
SELECT sync.decide_match('crm', 'customer', 'r4', '00000000-0000-0000-0000-0000000000ff', 'no');
SELECT sync.decide_match('crm', 'customer', 'r4', 'no id', 'no');
SELECT sync.decide_match('crm', 'customer', 'r4', '00000000-0000-0000-0000-0000000000a1', 'no');
SELECT sync.decide_match('crm', 'customer', 'r4', '00000000-0000-0000-0000-0000000000A5', 'called them');
SELECT sync.decide_match('crm', 'customer', 'r5', '00000000-0000-0000-0000-0000000000a6', 'called them');
SELECT sync.decide_match('crm', 'customer', 'r6', '00000000-0000-0000-0000-0000000000a6', 'both?');
SELECT sync.decide_match('crm', 'customer', 'r6', NULL, 'another shop of theirs');
SELECT applied, bound, to_inbox FROM sync._apply_page(:stream, :'page');
SELECT x.remote_id, c.number, c.name FROM sync.external_id x JOIN own.customer c ON c.id::text = x.record_id WHERE x.remote_id IN ('r4', 'r5', 'r6') ORDER BY 1;
SELECT count(*) FROM sync.inbox;
SELECT kind, remote_id, resolved_at IS NOT NULL AS resolved, taken_value, reason FROM sync.conflict_entry ORDER BY 2;
SELECT number, sync._identity_hold(sync._system_id('crm'), sync._object_id('customer'), id::text) FROM own.customer WHERE id::text LIKE '%a4';
-- once bound, nothing is decided anew; the same page changes nothing
SELECT sync.decide_match('crm', 'customer', 'r5', NULL, 'again');
SELECT applied, bound, to_inbox FROM sync._apply_page(:stream, :'page');

-- later, too: one fits, several fit, none fits; a conflict that settles itself
INSERT INTO own.customer (id, number, name, email) VALUES
    ('00000000-0000-0000-0000-0000000000b1', 'D1', 'Dora', 'dora@x'), ('00000000-0000-0000-0000-0000000000b2', 'D2', 'Dup', 'dup@x'),
    ('00000000-0000-0000-0000-0000000000b3', 'D3', 'Dup', 'dup@x');
\set page2 '[{"id": "s1", "no": "L1", "name": "Dora", "email": "DORA@x"}, {"id": "s2", "no": "L2", "name": "Dup", "email": "dup@x"}, {"id": "s3", "no": "L3", "name": "New", "email": "new@x"}]'
SELECT applied, bound, to_inbox FROM sync._apply_page(:stream, :'page2');
SELECT remote_id, sqlstate, reason FROM sync.inbox;
SELECT remote_id, cardinality(candidates) AS candidates, verdict, decision FROM sync.match_candidate WHERE decision IS NULL;
SELECT sync._identity_hold(sync._system_id('crm'), sync._object_id('customer'), '00000000-0000-0000-0000-0000000000b2');
DELETE FROM own.customer WHERE number = 'D3';
SELECT applied, bound, to_inbox FROM sync._apply_page(:stream, :'page2');
SELECT count(*) FROM sync.match_candidate WHERE decision IS NULL;
SELECT kind, remote_id, reason FROM sync.conflict_entry WHERE remote_id = 's2';

-- matching again, of what is not bound yet
SELECT sync.start_matching('crm', 'customer', 'a second look');
SELECT applied, bound, to_inbox FROM sync._apply_page(:stream, '[{"id": "s4", "no": "L4", "name": "Fresh", "email": "fresh@x"}, {"id": "s1", "no": "L1", "name": "Dora B", "email": "DORA@x"}]');
SELECT bound, created, ambiguous FROM sync.accept_matches('crm', 'customer', 'done', force => true);

-- the act is in the audit trail; who may do it
SELECT action, object, system, detail, reason FROM sync.audit WHERE action LIKE 'match%' ORDER BY id;
CREATE ROLE own_identity_app IN ROLE sync_app;
SET ROLE own_identity_app;
SELECT sync.match_preview('crm', 'customer');
SELECT sync._as_owner('pg_catalog.pg_class', 'SELECT 1');
SELECT sync.normal_email('A@x');
RESET ROLE;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_own_identity;
DROP ROLE own_identity_owner, own_identity_app, own_identity_operator;
