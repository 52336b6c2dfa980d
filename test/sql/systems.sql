-- Systems: options of foreign servers and user mappings, following DDL, check_system().
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_systems;
CREATE DATABASE sync_systems;
\c sync_systems
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\set VERBOSITY default
\pset null '-'
SET TimeZone = 'UTC';

-- A restore makes servers before it loads the registry: a warning, not an error.
RESET client_min_messages;
CREATE SERVER shop FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', base_url 'https://api.example.com/v1', region 'eu');
SELECT sync.register_connector($${
  "manifest": 1, "name": "mini", "version": "1", "hosts": ["api.example.com"],
  "parameters": {"region": {"required": true}, "page_size": {"default": "50"}},
  "secrets": {"token": {"required": true}, "spare": {}},
  "objects": {
    "customer": {
      "push": {
        "operations": {
          "create": {"method": "POST", "path": "/customers", "body": {"name": {"$": "$.new.name"}}, "response": {"remote_id": "$.id"}},
          "update": {"method": "PUT", "path": "/customers/${remote.id}", "body": {"name": {"$": "$.new.name"}}, "response": {"remote_id": "$.id"}}
        },
        "plan": {"create": ["create"], "update": ["update"]}
      }
    }
  }
}$$::jsonb);
ALTER SERVER shop OPTIONS (ADD page_size '10');
SELECT sync._system_options('shop');

-- Every value is checked.
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext;
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', colour 'red');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', base_url 'ftp://api.example.com');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', base_url 'https://');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', base_url 'https://joe:hunter2@api.example.com');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', base_url 'https://api.example.com/?a=1');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', mode 'fast');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', rate_limit '10');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', rate_limit '0/s');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', max_in_flight '-1');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', timeout 'soon');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', timeout '1 month');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', settle_time '-1 s');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', ca_file 'ca.pem');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', http2 'perhaps');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', legal_entity ' ');
CREATE SERVER bad FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', allowed_hosts 'http://');
CREATE SERVER good FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', region 'eu', base_url 'https://api.example.com', mode 'dry_run',
    rate_limit '600/min', max_in_flight '4', timeout '30s', connect_timeout '00:00:05', legal_entity 'DE', allowed_hosts 'api.example.com, 10.0.0.0/8',
    ca_file '/etc/ca.pem', proxy 'http://proxy.example.com:3128', http2 'on', max_attempts '5', settle_time '1 min');
DROP SERVER good;
CREATE FOREIGN TABLE bad (id integer) SERVER shop;
ALTER FOREIGN DATA WRAPPER sync_ext OPTIONS (ADD debug 'on');

-- Secrets are references; what looks like one is not repeated.
CREATE USER MAPPING FOR PUBLIC SERVER shop OPTIONS (token 'sk_live_123456');
CREATE USER MAPPING FOR PUBLIC SERVER shop OPTIONS (token 'file:../../etc/passwd');
CREATE USER MAPPING FOR PUBLIC SERVER shop OPTIONS ("Token" 'file:token');
CREATE USER MAPPING FOR PUBLIC SERVER shop OPTIONS (token 'file:token', "user" 'joe');
CREATE USER MAPPING FOR CURRENT_USER SERVER shop OPTIONS (token 'file:token');
DROP USER MAPPING FOR CURRENT_USER SERVER shop;
SELECT sync._system_secrets('shop');

-- Only a superuser opens what the administrator of the server has closed.
CREATE ROLE regress_systems_admin IN ROLE sync_admin;
GRANT CREATE ON SCHEMA public TO regress_systems_admin;
ALTER SERVER shop OPTIONS (ADD allowed_hosts 'lan.example.com');
ALTER SERVER shop OWNER TO regress_systems_admin;
SET ROLE regress_systems_admin;
CREATE SERVER mine FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'mini', region 'us');
ALTER SERVER mine OPTIONS (ADD proxy 'http://proxy.example.com:3128');
ALTER SERVER mine OPTIONS (ADD allowed_hosts '169.254.169.254');
-- The owner of a server may still change the rest.
ALTER SERVER shop OPTIONS (ADD mode 'paused');
ALTER SERVER shop OPTIONS (DROP mode);
RESET ROLE;

-- Readiness.
SELECT "check", ok, detail, hint FROM sync.check_system('shop') WHERE "check" NOT IN ('hub', 'secret token');
SELECT "check", ok, detail FROM sync.check_system('nowhere');
SELECT "check", ok, detail FROM sync.check_system('mine') WHERE "check" IN ('host', 'secret token');

-- Unknown names are explained.
SELECT sync._system_id('nowhere');
SELECT sync._object_id('nothing');

--
-- DDL: names are followed
--
CREATE SCHEMA app;
CREATE TABLE app.customer (id integer PRIMARY KEY, number text, name text, updated_at timestamptz);
CREATE TABLE app.bill (id integer PRIMARY KEY, number text);
CREATE TABLE app.bill_line (bill_id integer REFERENCES app.bill, line_no integer, text text, PRIMARY KEY (bill_id, line_no));
SELECT sync.track('app.customer');
SELECT sync.track('app.bill', lines => 'app.bill_line');
CREATE TEMP VIEW known AS
    SELECT name, schema_name, table_name, key_columns, number_column, volatile_columns, line_schema, line_table, line_parent_columns, line_key_columns
    FROM sync.object ORDER BY id;
ALTER TABLE app.customer RENAME TO client;
ALTER TABLE app.client RENAME COLUMN id TO client_id;
ALTER TABLE app.client RENAME COLUMN number TO code;
ALTER TABLE app.client RENAME COLUMN updated_at TO changed_at;
ALTER TABLE app.bill_line RENAME TO bill_row;
ALTER TABLE app.bill_row RENAME bill_id TO bill;
ALTER TABLE app.bill_row RENAME line_no TO row_no;
ALTER SCHEMA app RENAME TO apps;
\x on
SELECT * FROM known;
\x off
-- Two tables change places: the object stays with its table.
CREATE TABLE apps.customer (id integer PRIMARY KEY);
ALTER TABLE apps.client RENAME TO tmp;
ALTER TABLE apps.customer RENAME TO client;
ALTER TABLE apps.tmp RENAME TO customer;
SELECT table_name, key_columns FROM known WHERE name = 'customer';
CREATE SCHEMA moved;
ALTER TABLE apps.customer SET SCHEMA moved;
SELECT schema_name, table_name FROM known WHERE name = 'customer';
ALTER TABLE moved.customer DROP COLUMN code;
SELECT number_column FROM known WHERE name = 'customer';
ALTER TABLE moved.customer DROP COLUMN client_id;
-- Capture goes on under the new names.
INSERT INTO moved.customer (client_id, name) VALUES (1, 'one');
INSERT INTO apps.bill VALUES (1, 'B1');
INSERT INTO apps.bill_row VALUES (1, 1, 'text');
SELECT o.name, e.op, e.record_id, e.body FROM sync.outbox e JOIN sync.object o ON o.id = e.object_id ORDER BY e.seq;

SELECT sync.create_route('shop', 'customer');
ALTER SERVER shop RENAME TO store;
SELECT name FROM sync.system;
SELECT system, object, state FROM sync.route_status;
ALTER FOREIGN DATA WRAPPER sync_ext RENAME TO hub;
SELECT system, connector FROM sync.system_status ORDER BY system;
ALTER FOREIGN DATA WRAPPER hub RENAME TO sync_ext;

--
-- DDL: drops of what is in use are refused
--
DROP TABLE moved.customer;
DROP SCHEMA moved CASCADE;
DROP SERVER store CASCADE;
SELECT sync.untrack('customer');
SELECT sync.drop_route('customer_to_shop', force => true);
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id)
    SELECT y.id, o.id, '1', 'r1' FROM sync.system y, sync.object o WHERE y.name = 'store' AND o.name = 'customer';
DROP SERVER store CASCADE;
SELECT sync.forget_system('store');
SET client_min_messages = warning;
DROP SERVER store CASCADE;
DROP TABLE moved.customer;
RESET client_min_messages;
SELECT sync.untrack('customer');
DROP TABLE moved.customer;
SELECT name, server_oid IS NULL AS gone FROM sync.system;
SELECT name, captured, table_oid IS NULL AS gone FROM known JOIN sync.object USING (name) ORDER BY name;
DROP TABLE apps.bill CASCADE;

--
-- DROP EXTENSION with servers, mappings, routes and triggers
--
DROP EXTENSION sync_ext;
SET client_min_messages = warning;
DROP EXTENSION sync_ext CASCADE;
SELECT count(*) FROM pg_event_trigger WHERE evtname LIKE 'sync%';
INSERT INTO apps.bill VALUES (2, 'B2');
-- Again, beside a schema name that is taken.
CREATE SCHEMA sync;
CREATE EXTENSION sync_ext;
DROP SCHEMA sync;
CREATE EXTENSION sync_ext;
DROP OWNED BY regress_systems_admin;
DROP EXTENSION sync_ext;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_systems;
DROP ROLE regress_systems_admin;
