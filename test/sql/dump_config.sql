-- What a dump carries: every table and sequence of the extension, and no partition as a member.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_dump_config;
CREATE DATABASE sync_dump_config;
\c sync_dump_config
CREATE EXTENSION sync_ext;
SELECT sync._upkeep(1000) IS NOT NULL AS upkeep;
-- Members that would be empty after a restore.
SELECT c.oid::regclass AS not_dumped, c.relkind
  FROM pg_extension e
  JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
  JOIN pg_class c ON c.oid = d.objid
 WHERE e.extname = 'sync_ext' AND c.relkind IN ('r', 'S') AND c.oid <> ALL (e.extconfig);
SELECT c.oid::regclass AS dumped FROM pg_extension e JOIN pg_class c ON c.oid = ANY (e.extconfig)
 WHERE e.extname = 'sync_ext' AND c.relkind = 'r' ORDER BY c.relname COLLATE "C";
SELECT bool_and(condition = '') AS whole FROM pg_extension e, unnest(e.extcondition) condition WHERE e.extname = 'sync_ext';
-- A dumped table holds no row of the install script's: a restore would bring it twice.
CREATE TEMP TABLE filled (name text);
DO $$
DECLARE
    t regclass;
    n bigint;
BEGIN
    FOR t IN SELECT c.oid FROM pg_extension e JOIN pg_class c ON c.oid = ANY (e.extconfig) WHERE e.extname = 'sync_ext' AND c.relkind = 'r' LOOP
        EXECUTE format('SELECT count(*) FROM %s', t) INTO n;
        IF n > 0 THEN
            INSERT INTO filled VALUES (t::text);
        END IF;
    END LOOP;
END
$$;
SELECT name FROM filled;
-- Partitions are ordinary tables, and there are some for each log.
SELECT i.inhparent::regclass AS log, count(*) > 1 AS has_partitions,
       count(*) FILTER (WHERE EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.inhrelid
                                                                 AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')) AS members
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent
 WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind = 'p' GROUP BY 1 ORDER BY 1::text COLLATE "C";
-- The registry refers to tables and systems by name; OIDs beside the names are a cache that is made anew.
CREATE TABLE customer (id integer PRIMARY KEY);
SELECT sync.track('customer');
CREATE TEMP TABLE saved AS SELECT * FROM sync.object;
SELECT sync.untrack('customer');
UPDATE saved SET table_oid = 1, line_oid = 2, attributes = '{"table": {"gone": 9}}';
INSERT INTO sync.object SELECT * FROM saved;
SELECT name, table_oid::regclass, line_oid, attributes FROM sync.object;
DELETE FROM sync.object;
-- A row may come before its table does.
UPDATE saved SET table_name = 'later';
INSERT INTO sync.object SELECT * FROM saved;
SELECT name, table_oid, attributes FROM sync.object;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_dump_config;
