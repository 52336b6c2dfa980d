-- What somebody with few rights tries on somebody with more.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_security;
CREATE DATABASE sync_security;
\c sync_security
SET client_min_messages = warning;
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\set VERBOSITY terse
\pset null '-'
CREATE ROLE regress_security_admin IN ROLE sync_admin;
CREATE ROLE regress_security_owner IN ROLE sync_admin;
CREATE ROLE regress_security_operator IN ROLE sync_operator;
CREATE ROLE regress_security_analyst IN ROLE sync_analyst;
CREATE ROLE regress_security_app IN ROLE sync_app;
CREATE ROLE regress_security_nobody;
CREATE SCHEMA app;
GRANT ALL ON SCHEMA app TO PUBLIC;
GRANT TEMPORARY ON DATABASE sync_security TO PUBLIC;
SELECT FROM sync.register_connector($json$ {
  "manifest": 1, "name": "shop", "version": "1", "title": "Shop",
  "hosts": ["api.example.com"], "base_url": "https://api.example.com", "auth": {"type": "none"},
  "objects": {
    "customer": {
      "push": {"operations": {"create": {"method": "POST", "path": "/c/${id}", "body": {"name": "$.new.name"}, "response": {"remote_id": "$.id"}}}},
      "pull": {"list": {"path": "/c", "items": "$.data"}, "record": {"id": "$.id"}, "fields": {"name": "$.name"}, "on_missing": "ignore"}},
    "lead": {"push": {"operations": {"create": {"method": "POST", "path": "/l/${id}", "body": {"name": "$.new.name"}}}}}}} $json$::jsonb);
CREATE SERVER shop FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'shop', mode 'paused');

-- ---- the registry names the tables of who calls, whatever the definition says ----
SET ROLE regress_security_owner;
CREATE TABLE app.mine (id integer PRIMARY KEY, v text);
SELECT sync._save_object('app.mine', NULL, '{"name": "mine", "schema_name": "pg_catalog", "table_name": "pg_authid",
    "line_schema": "pg_catalog", "line_table": "pg_authid", "line_parent_columns": ["oid"], "line_key_columns": ["oid"],
    "key_columns": ["id"], "volatile_columns": [], "on_truncate": "refuse", "financial": false, "captured": true}') ->> 'name' AS before;
SELECT name, schema_name, table_name, line_table FROM sync.object;
SELECT sync._save_object('app.mine', NULL, '{"name": "a\"b", "key_columns": ["id"], "volatile_columns": [], "on_truncate": "refuse", "financial": false, "captured": true}');
SELECT sync._save_object('app.mine', NULL, '{"name": "x", "key_columns": ["nothing"], "volatile_columns": [], "on_truncate": "refuse", "financial": false, "captured": true}');
SELECT sync._save_object('pg_authid', NULL, '{"name": "x", "key_columns": ["oid"]}');
SELECT sync._write_object('pg_authid', NULL, '{}');
SELECT sync.untrack('mine', true);

-- ---- preview asks the one who calls it, not the session's user ----
CREATE TABLE app.customer (id integer PRIMARY KEY, number text, name text);
INSERT INTO app.customer VALUES (1, 'C1', 'secret name');
SELECT sync.track('app.customer');
RESET ROLE;
SELECT state, body FROM sync.preview('shop', 'customer', '1');
SET ROLE regress_security_app;
SELECT state, body FROM sync.preview('shop', 'customer', '1');
CREATE TABLE app.loot (what text);
CREATE TABLE app.bait (x integer);
INSERT INTO app.bait VALUES (1);
CREATE FUNCTION app.take(i integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.loot SELECT body FROM sync.preview('shop', 'customer', '1');
    RETURN i;
EXCEPTION WHEN insufficient_privilege THEN
    INSERT INTO app.loot VALUES (SQLERRM);
    RETURN i;
END $$;
CREATE FUNCTION app.spy(i integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN app.take(i); END $$;
CREATE INDEX ON app.bait (app.spy(x));
TRUNCATE app.loot;
RESET ROLE;
REINDEX TABLE app.bait;
TABLE app.loot;
-- Row security that applies to the caller hides the record from preview.
GRANT SELECT ON app.customer TO regress_security_app;
SET ROLE regress_security_app;
SELECT state, body FROM sync.preview('shop', 'customer', '1');
RESET ROLE;
ALTER TABLE app.customer ENABLE ROW LEVEL SECURITY;
SET ROLE regress_security_app;
SELECT state, body FROM sync.preview('shop', 'customer', '1');
RESET ROLE;
ALTER TABLE app.customer DISABLE ROW LEVEL SECURITY;
REVOKE SELECT ON app.customer FROM regress_security_app;

-- ---- a condition sees no types of the table's owner: their checks and casts are his code ----
CREATE TABLE app.ran (who name, what text);
GRANT ALL ON app.ran TO PUBLIC;
SET ROLE regress_security_owner;
CREATE FUNCTION app.check_it(t text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN INSERT INTO app.ran VALUES (current_user, 'check'); RETURN true; END $$;
CREATE DOMAIN app.checked AS text CHECK (app.check_it(VALUE));
CREATE TYPE app.stage AS ENUM ('draft', 'open');
CREATE FUNCTION app.cast_it(s app.stage) RETURNS text LANGUAGE plpgsql AS $$
BEGIN INSERT INTO app.ran VALUES (current_user, 'cast'); RETURN 'x'; END $$;
CREATE CAST (app.stage AS text) WITH FUNCTION app.cast_it(app.stage) AS IMPLICIT;
CREATE TYPE app.pair AS (a app.checked, b integer);
CREATE TABLE app.lead (id integer PRIMARY KEY, number text, name app.checked, names app.checked[], stage app.stage, pair app.pair, price numeric(10,2));
SELECT sync.track('app.lead');
RESET ROLE;
SELECT sync._condition_sql(id, $$stage::text = 'open' AND name = 'n' AND names[1] = 'm' AND pair ->> 'a' = 'p' AND price = 1.5$$) AS query
  FROM sync.object WHERE name = 'lead' \gset
\echo :query
PREPARE condition (jsonb[], text[], jsonb[]) AS :query;
EXECUTE condition (ARRAY['{"id": 1, "stage": "open", "name": "n", "names": ["m"], "pair": {"a": "p"}, "price": 1.50}'::jsonb], '{insert}', '{NULL}');
TABLE app.ran;
-- Types of the route's own role are as they are.
SET ROLE regress_security_owner;
SELECT string_agg(m[1], ', ') AS columns FROM sync.object o,
       regexp_matches(sync._condition_sql(o.id, 'true'), 'record \((.*)\)') m WHERE o.name = 'lead';
RESET ROLE;
-- What ends a string is decided as the hub decides it.
SET ROLE regress_security_admin;
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SELECT sync.create_route('shop', 'customer', $$'\' ) IS TRUE; DROP TABLE app.customer; --' = ''$$);
INSERT INTO sync.route (system_id, object_id, name, condition, start_kind)
SELECT 1, o.id, 'r', $$'\' ) IS TRUE; DROP TABLE app.customer; --' = ''$$, 'now' FROM sync.object o WHERE o.name = 'customer';
RESET standard_conforming_strings;
RESET escape_string_warning;
INSERT INTO sync.route (system_id, object_id, name, run_as, start_kind) SELECT 1, o.id, 'r', 'postgres', 'now' FROM sync.object o WHERE o.name = 'customer';
RESET ROLE;

-- ---- policies of a table's owner do not run with the rights of who looks ----
SET ROLE regress_security_owner;
CREATE FUNCTION app.policy(t text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN INSERT INTO app.ran VALUES (current_user, 'policy'); RETURN true; END $$;
CREATE POLICY p ON app.lead USING (app.policy(number));
ALTER TABLE app.lead ENABLE ROW LEVEL SECURITY;
INSERT INTO app.lead (id, number) VALUES (1, 'L1');
GRANT SELECT ON app.lead, app.customer TO regress_security_operator, regress_security_analyst;
RESET ROLE;
INSERT INTO sync.external_id (system_id, object_id, record_id, remote_id)
SELECT y.id, o.id, '1', 'remote-' || o.name FROM sync.system y, sync.object o;
TRUNCATE app.ran;
SET ROLE regress_security_operator;
SELECT * FROM sync.find('L1');
SELECT * FROM sync.find('remote-lead');
SELECT object, record_id, record_number FROM sync.record_status ORDER BY 1;
RESET ROLE;
SET ROLE regress_security_analyst;
SELECT object, record_id, record_number FROM sync.record_status ORDER BY 1;
SELECT object, record_id, found_by FROM sync.find('remote-customer');
RESET ROLE;
TABLE app.ran;

-- ---- who sees which records, and whose bodies ----
SELECT sync.create_route('shop', 'customer') > 0 AS made;
INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin, body, state, message, frozen)
SELECT r.id, 1, 1, now(), r.object_id, '1', 'I', 0, '{"number": "C1", "name": "secret name"}', 'dead', 'refused', '{"body": "secret request"}'
  FROM sync.route r;
SET ROLE regress_security_app;
SELECT object, record_id FROM sync.record_status;
-- Nor through a function that the planner might call before the view's own condition.
CREATE FUNCTION app.leak(t text) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'saw %', t; RETURN true; END $$;
SELECT object FROM sync.record_status WHERE app.leak(last_error);
SELECT body FROM sync.pending;
SELECT * FROM sync.delivery;
RESET ROLE;
GRANT SELECT ON app.customer TO regress_security_app;
SET ROLE regress_security_app;
SELECT object, record_id, record_number, state, last_error FROM sync.record_status;
RESET ROLE;
SET ROLE regress_security_analyst;
SELECT object, state, record_number, message FROM sync.delivery;
SELECT object, record_id, message, request, response FROM sync.dead_letter;
SELECT record_id, state FROM sync.pending;
SELECT body FROM sync.pending;
SELECT frozen FROM sync.pending;
SELECT count(*) FROM sync.mirror;
SELECT count(*) FROM sync.inbox;
SELECT count(*) FROM sync.outbox;
RESET ROLE;
SET ROLE regress_security_operator;
SELECT object, record_id, request FROM sync.dead_letter;
RESET ROLE;

-- ---- nobody's statement locks what the hub needs ----
SET ROLE regress_security_nobody;
BEGIN;
CREATE TEMPORARY TABLE t (x integer);
ALTER TABLE t ADD y integer;
RESET ROLE;
SELECT count(*) AS objects FROM sync.object;
SELECT count(*) AS locked FROM sync.object WHERE xmax = pg_current_xact_id()::xid;
ROLLBACK;
-- A rename is still followed, by who owns the table.
SET ROLE regress_security_owner;
ALTER TABLE app.customer RENAME number TO "no ""1""; --";
ALTER TABLE app.customer RENAME TO "customer's ""table""";
RESET ROLE;
SELECT table_name, number_column FROM sync.object WHERE name = 'customer';
SELECT object, record_number FROM sync.find('C1');
ALTER TABLE app."customer's ""table""" RENAME TO customer;
-- The lock of a system's speaker is out of reach of pg_advisory_lock().
SELECT pg_advisory_lock(1398361667, id) FROM sync.system;
SELECT sync.adopt_cluster() LIKE 'adopted%' AS adopted;
CREATE FUNCTION app.spoken_for() RETURNS boolean LANGUAGE sql AS $$
    SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
                    WHERE l.locktype = 'advisory' AND l.classid = 1398361667 AND l.granted AND l.pid <> pg_backend_pid()) $$;
DO $$
BEGIN
    FOR i IN 1 .. 200 LOOP
        EXIT WHEN app.spoken_for();
        PERFORM pg_sleep(0.1);
    END LOOP;
END $$;
SELECT app.spoken_for();
SELECT pg_advisory_unlock_all();

-- ---- arguments ----
SET ROLE regress_security_admin;
SELECT sync.drop_route('customer_to_shop', true);
SELECT sync.create_route('shop', 'customer', max_lag => interval '170000000 years');
SELECT sync.create_route('shop', 'customer', max_lag => NULL);
SELECT sync.create_route('shop', 'customer', max_lag => interval '-1 day');
SELECT sync.create_route('shop', 'customer', cutover_date => 'infinity');
SELECT sync.create_route('shop', 'customer', start => '-infinity');
SELECT sync.create_route('shop', 'customer', name => E'two\nlines');
SELECT sync.create_route('shop', 'customer', name => repeat('x', 201));
SELECT sync.create_stream('shop', 'customer', '170000000 years');
SELECT sync.create_stream('shop', 'customer', since => '-infinity');
INSERT INTO sync.route (system_id, object_id, name, start_kind, max_lag) SELECT 1, o.id, 'r', 'now', '100 years' FROM sync.object o WHERE o.name = 'customer';
INSERT INTO sync.route (system_id, object_id, name, start_kind, operations) SELECT 1, o.id, 'r', 'now', '{insert,steal}' FROM sync.object o WHERE o.name = 'customer';
SELECT sync.create_route('shop', 'customer', name => $$r'"; --$$) > 0 AS made;
SELECT sync.drop_route($$r'"; --$$);
SELECT sync.wait_idle(NULL);
SELECT sync.wait_idle('170000000 years');
RESET ROLE;
SET ROLE regress_security_app;
SELECT sync.wait_for('customer', '1', 'shop', NULL);
SELECT sync.wait_for('customer', '1', 'shop', '2 days');
SELECT sync.remote_id('customer', $$1' OR true --$$, 'shop');
RESET ROLE;

-- ---- everything has a comment ----
SELECT c.oid::regclass AS relation, a.attname AS uncommented
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition AND c.relname !~ '_(p\d{8}|default)$'
   AND col_description(c.oid, a.attnum) IS NULL;
SELECT p.oid::regprocedure AS uncommented FROM pg_proc p WHERE p.pronamespace = 'sync'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.oid::regclass AS uncommented FROM pg_class c
 WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S') AND c.relname !~ '_(p\d{8}|default)$' AND obj_description(c.oid, 'pg_class') IS NULL;
SELECT t.tgrelid::regclass AS relation, t.tgname AS uncommented FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE c.relnamespace = 'sync'::regnamespace AND NOT t.tgisinternal AND NOT c.relispartition AND obj_description(t.oid, 'pg_trigger') IS NULL;
SELECT evtname AS uncommented FROM pg_event_trigger WHERE evtname ~ '^sync_ext' AND obj_description(oid, 'pg_event_trigger') IS NULL;
-- Views that others than the staff read are barriers.
SELECT c.relname AS no_barrier FROM pg_class c
 WHERE c.oid IN ('sync.record_status'::regclass, 'sync.delivery'::regclass, 'sync._held'::regclass)
   AND NOT coalesce('security_barrier=true' = ANY (c.reloptions), false);

\c regression
SET client_min_messages = warning;
DROP DATABASE sync_security (FORCE);
DROP ROLE regress_security_admin, regress_security_owner, regress_security_operator, regress_security_analyst, regress_security_app, regress_security_nobody;
