-- Capture asks nobody for rights, and gives none.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS sync_ext;
DROP ROLE IF EXISTS regress_sync_writer, regress_sync_owner, regress_sync_other;
RESET client_min_messages;
\set SHOW_CONTEXT never
\pset null '-'
CREATE ROLE regress_sync_writer LOGIN;
CREATE ROLE regress_sync_owner LOGIN IN ROLE sync_admin;
CREATE ROLE regress_sync_other LOGIN IN ROLE sync_admin;
CREATE SCHEMA capture_rights;
GRANT ALL ON SCHEMA capture_rights TO regress_sync_owner, regress_sync_other;
GRANT USAGE ON SCHEMA capture_rights TO regress_sync_writer;
SET search_path = capture_rights;
CREATE TABLE look (seq bigint);
INSERT INTO look SELECT coalesce(max(seq), 0) FROM sync.outbox;
CREATE VIEW news AS SELECT b.name AS object, o.op, o.record_id AS id, o.body, o.old
    FROM sync.outbox o JOIN sync.object b ON b.id = o.object_id WHERE o.seq > (SELECT seq FROM look) ORDER BY o.seq;
CREATE TABLE foreigners (id integer PRIMARY KEY);

--
-- Who may track
--
SET ROLE regress_sync_writer;
SELECT sync.track('foreigners');
RESET ROLE;
SET ROLE regress_sync_owner;
CREATE TABLE secret (id integer PRIMARY KEY, owner name DEFAULT current_user, v text);
CREATE TABLE secret_line (secret_id integer REFERENCES secret, line_no integer, v text, PRIMARY KEY (secret_id, line_no));
GRANT INSERT, SELECT, UPDATE, DELETE ON secret TO regress_sync_writer;
GRANT INSERT, UPDATE, DELETE, SELECT (secret_id, line_no) ON secret_line TO regress_sync_writer;
SELECT sync.track('foreigners');
SELECT sync.track('secret');
SET ROLE regress_sync_other;
SELECT sync.track('capture_rights.secret', 'mine');
SELECT sync._save_object('capture_rights.secret', NULL, '{}');
SELECT sync._save_object('capture_rights.look', 'capture_rights.secret', '{}');
SELECT sync.untrack('secret');
SELECT sync._drop_object('secret', true);
SELECT sync._write_object('secret', NULL, '{}');
SELECT sync._delete_object('secret', true);
CREATE TABLE secret2 (id integer PRIMARY KEY);
SELECT sync.track('secret2', 'secret');
SELECT sync.track('secret2', lines => 'capture_rights.secret_line', line_parent_columns => '{secret_id}');
-- A table of one's own does not speak for another's records.
CREATE TRIGGER sync_capture AFTER INSERT ON secret2 FOR EACH ROW EXECUTE FUNCTION sync.capture('secret');
INSERT INTO secret2 VALUES (1);
DROP TRIGGER sync_capture ON secret2;
CREATE TRIGGER sync_capture AFTER INSERT ON secret2 FOR EACH ROW EXECUTE FUNCTION sync.capture_line('secret');
INSERT INTO secret2 VALUES (1);
DROP TRIGGER sync_capture ON secret2;
RESET ROLE;

--
-- A writer without any right in schema sync, row security on it
--
SET ROLE regress_sync_owner;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON secret USING (owner = current_user) WITH CHECK (true);
ALTER TABLE secret_line ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY none ON secret_line FOR SELECT USING (true);
CREATE POLICY write ON secret_line FOR INSERT WITH CHECK (true);
SET ROLE regress_sync_writer;
INSERT INTO secret (id, v) VALUES (1, 'a');
INSERT INTO secret (id, owner, v) VALUES (2, 'somebody', 'b');
UPDATE secret SET v = 'c';
SELECT count(*) FROM sync.outbox;
RESET ROLE;
SELECT * FROM news;

-- Documents are read whole, whoever wrote.
SET ROLE regress_sync_owner;
SELECT sync.track('secret', lines => 'secret_line');
ALTER POLICY none ON secret_line USING (line_no = 0);
ALTER POLICY own ON secret USING (false);
UPDATE capture_rights.secret SET v = v;
RESET ROLE;
UPDATE look SET seq = (SELECT max(seq) FROM sync.outbox);
SET ROLE regress_sync_writer;
INSERT INTO secret_line VALUES (1, 1, 'x'), (1, 2, 'y'), (2, 1, 'z');
RESET ROLE;
SELECT * FROM news;
UPDATE look SET seq = (SELECT max(seq) FROM sync.outbox);

-- A writer's functions and operators are not used, whatever its search_path says.
SET ROLE regress_sync_owner;
CREATE FUNCTION capture_rights.trap(integer, integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE OPERATOR capture_rights.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = capture_rights.trap);
SET ROLE regress_sync_writer;
SET search_path = capture_rights, pg_catalog;
INSERT INTO secret_line VALUES (2, 2, 'w');
RESET ROLE;
SET search_path = capture_rights;
SELECT object, op, id, body->'lines' AS lines FROM news;

--
-- session_replication_role: skipped by default, captured by option
--
CREATE TABLE applied (id integer PRIMARY KEY);
SELECT sync.track('applied');
UPDATE look SET seq = (SELECT max(seq) FROM sync.outbox);
SET session_replication_role = replica;
INSERT INTO applied VALUES (1);
RESET session_replication_role;
SELECT count(*) FROM news;
SELECT sync.track('applied', replica => true);
SET session_replication_role = replica;
INSERT INTO applied VALUES (2);
RESET session_replication_role;
SELECT object, op, id FROM news;
SELECT sync.track('applied', replica => false);
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'applied'::regclass ORDER BY 1;
SELECT sync.track('applied', capture => false);
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'applied'::regclass ORDER BY 1;
SELECT captured FROM sync.object WHERE name = 'applied';

--
-- What cannot be tracked
--
CREATE VIEW a_view AS SELECT 1 AS id;
CREATE MATERIALIZED VIEW a_matview AS SELECT 1 AS id;
CREATE SEQUENCE a_sequence;
CREATE FOREIGN DATA WRAPPER capture_rights_fdw;
CREATE SERVER capture_rights_server FOREIGN DATA WRAPPER capture_rights_fdw;
CREATE FOREIGN TABLE a_foreign_table (id integer) SERVER capture_rights_server;
CREATE TEMP TABLE a_temp_table (id integer PRIMARY KEY);
CREATE UNLOGGED TABLE an_unlogged_table (id integer PRIMARY KEY);
SELECT sync.track('a_view');
SELECT sync.track('a_matview');
SELECT sync.track('a_sequence');
SELECT sync.track('a_foreign_table');
SELECT sync.track('a_temp_table');
SELECT sync.track('sync.object');
SELECT sync.track('pg_class');
SELECT sync.track(12345678::regclass);
SELECT sync.track('an_unlogged_table');
SELECT sync.track('an_unlogged_table', 'other_name');
SELECT sync.track('applied', 'an_unlogged_table');
SELECT sync.track('applied', 'no good name');
SELECT sync.track('applied', number_column => 'nothing');
SELECT sync.track('applied', volatile_columns => '{nothing}');

-- Triggers that nobody made by track().
CREATE TABLE wild (id integer PRIMARY KEY);
CREATE TRIGGER wild AFTER INSERT ON wild FOR EACH ROW EXECUTE FUNCTION sync.capture('unknown_object');
INSERT INTO wild VALUES (1);
DROP TRIGGER wild ON wild;
CREATE TRIGGER wild AFTER INSERT ON wild FOR EACH ROW EXECUTE FUNCTION sync.capture();
INSERT INTO wild VALUES (1);
DROP TRIGGER wild ON wild;
CREATE TRIGGER wild BEFORE INSERT ON wild FOR EACH ROW EXECUTE FUNCTION sync.capture('secret');
INSERT INTO wild VALUES (1);
SELECT sync.capture();
-- PUBLIC can do nothing with what is ours.
SELECT p.oid::regprocedure FROM pg_proc p
WHERE pronamespace = 'sync'::regnamespace AND proname IN ('capture', 'capture_line', 'is_applying', '_registry_changed', 'track', 'untrack',
        '_upkeep', '_outbox_floor', '_make_partitions', '_drop_partitions', '_ensure_partitions', '_save_object', '_drop_object', '_write_object', '_delete_object')
  AND has_function_privilege('public', p.oid, 'EXECUTE');

SET client_min_messages = error;
SELECT count(sync.untrack(name)) FROM sync.object WHERE schema_name = 'capture_rights';
DROP SERVER capture_rights_server CASCADE;
DROP FOREIGN DATA WRAPPER capture_rights_fdw;
DROP SCHEMA capture_rights CASCADE;
DROP ROLE regress_sync_writer, regress_sync_owner, regress_sync_other;
