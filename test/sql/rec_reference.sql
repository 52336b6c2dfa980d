-- The SQL reference and the catalogue: each public function and view is mentioned, and nothing is that is not there.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_reference;
CREATE DATABASE sync_rec_reference;
\c sync_rec_reference
CREATE EXTENSION sync_ext;
\set reference `cat "$PG_ABS_SRCDIR/../doc/sql-reference.md"`
\set readme `cat "$PG_ABS_SRCDIR/../README.md"`
\set pages `ls "$PG_ABS_SRCDIR/../doc" | grep '[.]md$'`

CREATE TABLE there AS
SELECT p.proname::text AS name, 'function' AS kind
  FROM pg_proc p
 WHERE p.pronamespace = 'sync'::regnamespace AND p.proname !~ '^_'
   -- What is called by triggers and by CREATE SERVER alone is nobody's to call.
   AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'fdw_handler'::regtype)
   AND p.oid NOT IN (SELECT f.fdwvalidator FROM pg_foreign_data_wrapper f)
UNION
SELECT c.relname, 'relation' FROM pg_class c WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'v', 'p') AND c.relname !~ '^_';
SELECT count(*) > 200 AS many FROM there;
-- Views and functions of the catalogue that the reference does not name.
SELECT t.kind, t.name FROM there t
 WHERE (t.kind = 'function' OR EXISTS (SELECT FROM pg_views v WHERE v.schemaname = 'sync' AND v.viewname = t.name))
   AND NOT :'reference' ~ ('[`.]' || t.name || '[`(]')
 ORDER BY 1, 2;
-- Functions in the first column of a table, and names after "sync.", that the catalogue does not have.
SELECT DISTINCT m[1] AS named
  FROM regexp_matches(:'reference', '(?:^\| |^\|.*?→[^|]*, |, )`(\w+)\(', 'gn') m
 WHERE m[1] NOT IN (SELECT name FROM there) ORDER BY 1;
SELECT DISTINCT m[1] AS named FROM regexp_matches(:'reference', '\msync\.(\w+)', 'g') m
 WHERE m[1] !~ '^_' AND m[1] NOT IN (SELECT name FROM there) ORDER BY 1;
-- Each page of the documentation is linked from the README.
SELECT d AS page FROM regexp_split_to_table(:'pages', '\s+') d WHERE strpos(:'readme', '(doc/' || d || ')') = 0 ORDER BY 1;
-- What the README calls is there.
SELECT DISTINCT m[1] AS named FROM regexp_matches(:'readme', '\msync\.(\w+)', 'g') m
 WHERE m[1] NOT IN (SELECT name FROM there) AND m[1] !~ '^_' ORDER BY 1;
