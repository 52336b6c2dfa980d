-- Contracts: what comes in must fit, what goes out has a schema, manifests stand side by side.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_own_contract;
CREATE DATABASE sync_own_contract;
\c sync_own_contract
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
RESET client_min_messages;

CREATE SCHEMA own;
CREATE TABLE own.customer (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number text UNIQUE,
    name text NOT NULL,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'churned')),
    credit numeric(12,2),
    updated_at timestamptz
);

-- A manifest in versions: only what differs is said.
CREATE FUNCTION own.manifest(version text, pull jsonb) RETURNS jsonb LANGUAGE sql AS $fn$
SELECT jsonb_set($json$ {
  "manifest": 1, "name": "crm", "version": "1", "title": "CRM",
  "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "enums": {"status": {"pull": {"on": "active", "off": "churned"}}},
  "objects": {"customer": {
    "push": {"operations": {
      "create": {"method": "POST", "path": "/customers", "body": {"name": "$.new.name"}, "response": {"remote_id": "$.id"}},
      "update": {"method": "PATCH", "path": "/customers/${remote.id}", "body": {"name": "$.new.name"}}}},
    "pull": {
      "list": {"path": "/customers", "items": "$.data"},
      "record": {"id": "$.id", "version": "$.v"},
      "fields": {"number": "$.number", "name": "$.name", "status": {"$": "$.status", "map": "status"}, "credit": "$.credit"},
      "match": ["number"]
    }}}
} $json$::jsonb || jsonb_build_object('version', version), '{objects,customer,pull}',
    $json$ {
      "list": {"path": "/customers", "items": "$.data"},
      "record": {"id": "$.id", "version": "$.v"},
      "fields": {"number": "$.number", "name": "$.name", "status": {"$": "$.status", "map": "status"}, "credit": "$.credit"},
      "match": ["number"]
    } $json$::jsonb || pull)
$fn$;

-- ---- the grammar ----
SELECT sync.register_connector(own.manifest('1', '{"contract": {"schema": {}}}'));
SELECT sync.register_connector(own.manifest('1', '{"contract": {"version": "2024-01", "schema": {"type": "text"}}}'));
SELECT sync.register_connector(own.manifest('1', '{"contract": {"version": "2024-01", "schema": {"properties": {"name": {"pattern": "^x"}}}}}'));
SELECT sync.register_connector(own.manifest('1', $json$ {"contract": {"version": "2024-01", "schema": {
    "type": "object", "required": ["id", "name", "plan"],
    "properties": {
        "id": {"type": "string"},
        "name": {"type": "string"},
        "plan": {},
        "credit": {"type": ["number", "null"]},
        "seats": {"type": "integer"},
        "status": {"enum": ["on", "off"]},
        "tags": {"type": "array", "items": {"type": "object", "required": ["key"], "properties": {"key": {"type": "string"}}}}
    }}}} $json$));

CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'crm');
SELECT sync.track('own.customer');
SELECT FROM sync.create_stream('crm', 'customer');
CREATE FUNCTION own.page(items jsonb) RETURNS TABLE (applied int, to_inbox int) LANGUAGE sql AS
$$ SELECT applied, to_inbox FROM sync._apply_page((SELECT id FROM sync.stream), items) $$;

-- ---- inbound: one record of each kind of fault, and their neighbours ----
SELECT * FROM own.page($$ [
    {"id": "1", "v": "1", "number": "C-1", "name": "One",   "plan": null, "status": "on", "seats": 3.0, "credit": 1.50},
    {"id": "2", "v": "1", "number": "C-2", "name": "Two",   "status": "on"},
    {"id": "3", "v": "1", "number": "C-3", "name": 3,       "plan": "x", "status": "on"},
    {"id": "4", "v": "1", "number": "C-4", "name": "Four",  "plan": "x", "status": "paused"},
    {"id": "5", "v": "1", "number": "C-5", "name": "Five",  "plan": "x", "status": "on", "seats": 2.5},
    {"id": "6", "v": "1", "number": "C-6", "name": "Six",   "plan": "x", "status": "on", "tags": [{"key": "a"}, {"key": 1}]},
    {"id": "7", "v": "1", "number": "C-7", "name": "Seven", "plan": "x", "status": "off", "tags": [{"key": "a"}], "new": {"is": "fine"}},
    {"id": "8", "v": "1", "number": "C-8", "name": "Eight", "plan": "x", "status": "on", "tags": [{"name": "a"}]},
    {"id": "9", "v": "1", "number": "C-9", "name": "Nine",  "plan": "x", "status": "on", "tags": {"key": "a"}}] $$);
SELECT number, name, status, credit FROM own.customer ORDER BY number;
SELECT remote_id, state, reason FROM sync.inbox_status ORDER BY remote_id;
SELECT path, kind, expected, got, contract_version, records, sample_remote_id, state, inbox FROM sync.drift ORDER BY path, kind;
SELECT "check", status, detail ~ 'expected string, got otherwise' AS says FROM sync.health() WHERE "check" LIKE 'drift%' AND detail LIKE '/name:%';
SELECT action, object, system, detail - 'contract' AS detail FROM sync.audit WHERE action = 'drift.detected' ORDER BY detail ->> 'path', detail ->> 'kind' LIMIT 2;

-- The same drift again counts up and raises no second alarm; a retry out of the inbox does not even count.
SELECT count(*) FROM sync.audit WHERE action = 'drift.detected';
SELECT * FROM own.page('[{"id": "14", "v": "1", "number": "C-14", "name": 14, "plan": "x", "status": "on"}, {"id": "15", "v": "1", "number": "C-15", "name": 15, "plan": "x", "status": "on"}]');
SELECT count(*) FROM sync.audit WHERE action = 'drift.detected';
SELECT path, records, sample_remote_id FROM sync.drift WHERE path = '/name';

-- A mapped value that an enum does not know is drift also where no contract says so.
SELECT sync.register_connector(own.manifest('2', '{}'));
SELECT state, count(*) FROM sync.drift GROUP BY state;
SELECT * FROM own.page('[{"id": "16", "v": "1", "number": "C-16", "name": "Sixteen", "status": "paused"}]');
SELECT path, kind, expected, got, contract_version, state FROM sync.drift WHERE state = 'open';

-- ---- versions side by side ----
SELECT sync.register_connector(own.manifest('2', '{"match": []}'), activate => false);
SELECT sync.register_connector(own.manifest('3', $json$ {"contract": {"version": "2025-06"},
    "fields": {"number": "$.number", "name": {"$concat": ["$.name", "!"]}, "status": {"$": "$.status", "map": "status"}}} $json$), activate => false);
SELECT connector, version, current, contracts, systems FROM sync.connector_version ORDER BY id;
SELECT direction, system, object, record_number, remote_id, field, current, candidate
  FROM sync.manifest_preview('crm', '3') ORDER BY remote_id, field;
SELECT * FROM sync.manifest_preview('crm', '4');
SELECT * FROM sync.manifest_preview('crm', '3', 0);
-- It has changed nothing.
SELECT number, name FROM own.customer ORDER BY number;
SELECT sync.activate_connector('crm', '3');
SELECT sync.activate_connector('crm', '3');
SELECT version FROM sync.connector_version WHERE current;
SELECT sync.activate_connector('crm', '0');
SELECT state, count(*) FROM sync.drift GROUP BY state;
SELECT action, detail - 'id' - 'sha256' AS detail FROM sync.audit WHERE action LIKE 'connector.%' ORDER BY id;
-- A frozen request names a row by its id: going back to a version makes no new one.
SELECT sync.activate_connector('crm', '1');
SELECT count(*), count(*) FILTER (WHERE current) AS current FROM sync.connector;

-- ---- outgoing: schemas of events ----
SELECT jsonb_pretty(sync.event_schema('customer'));
ALTER TABLE own.customer ADD note text;
ALTER TABLE own.customer ALTER credit TYPE text;
ALTER TABLE own.customer ALTER name DROP NOT NULL;
ALTER TABLE own.customer DROP CONSTRAINT customer_status_check;
ALTER TABLE own.customer ADD CHECK (status IN ('active', 'churned', 'paused'));
ALTER TABLE own.customer DROP note;
SELECT version, breaking, changes FROM sync.event_schema_version ORDER BY version;
SELECT sync.event_schema('customer', 1) -> 'properties' -> 'credit' AS before, sync.event_schema('customer') -> 'properties' -> 'credit' AS after;
-- What is no part of an event makes no version.
ALTER TABLE own.customer ALTER number SET DEFAULT 'x';
CREATE INDEX ON own.customer (name);
ALTER TABLE own.customer SET (fillfactor = 80);
SELECT max(version) FROM sync.event_schema_version;
SELECT sync.set_event_compatibility('customer', 'never');
SELECT sync.set_event_compatibility('customer', 'refuse');
ALTER TABLE own.customer RENAME number TO no;
ALTER TABLE own.customer ADD extra int;
SELECT max(version) FROM sync.event_schema_version;
SELECT sync.event_schema('customer', 99);

-- ---- rights ----
CREATE ROLE own_contract_operator;
GRANT sync_operator TO own_contract_operator;
SET ROLE own_contract_operator;
SELECT count(*) > 0 AS readable FROM sync.drift;
SELECT sync.event_schema('customer') ? 'properties' AS readable;
SELECT sync.activate_connector('crm', '2');
SELECT sync.set_event_compatibility('customer', 'warn');
SELECT count(*) >= 0 AS allowed FROM sync.manifest_preview('crm', '2');
RESET ROLE;

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_own_contract;
DROP ROLE own_contract_operator;
