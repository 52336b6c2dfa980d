-- The analyst's guide names the columns of what it shows, in order: here they are compared with the catalogue.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_rec_guide;
CREATE DATABASE sync_rec_guide;
\c sync_rec_guide
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset null '-'
\set guide `cat "$PG_ABS_SRCDIR/../doc/analyst-guide.md"`
CREATE TABLE documented AS
SELECT m[1] AS name, m[2] AS arguments, string_to_array(m[3], ', ') AS columns
  FROM regexp_matches(:'guide', '^\| `(\w+)(\([^`]*\))?` \| `([^`]*)` \|$', 'gn') m;
SELECT count(*) AS documented FROM documented;
CREATE TABLE there AS
SELECT c.relname::text AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns, NULL::text AS arguments
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'v') GROUP BY c.relname
UNION ALL
SELECT p.proname, (SELECT array_agg(n ORDER BY i) FROM unnest(p.proargnames, p.proargmodes) WITH ORDINALITY u (n, m, i) WHERE m = 't'),
       '(' || (SELECT string_agg(n, ', ' ORDER BY i) FROM unnest(p.proargnames, p.proargmodes) WITH ORDINALITY u (n, m, i) WHERE m = 'i') || ')'
  FROM pg_proc p WHERE p.pronamespace = 'sync'::regnamespace AND p.proretset AND p.proargmodes IS NOT NULL;
SELECT d.name, d.arguments, t.arguments AS arguments_there, d.columns, t.columns AS columns_there
  FROM documented d LEFT JOIN there t ON t.name = d.name
 WHERE t.columns IS DISTINCT FROM d.columns OR t.arguments IS DISTINCT FROM d.arguments;
