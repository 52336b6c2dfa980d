-- Who may do what. Lists of offenders are empty.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_privileges;
CREATE DATABASE sync_privileges;
\c sync_privileges
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\set VERBOSITY terse
\pset null '-'
SET TimeZone = 'UTC';

-- PUBLIC can do nothing.
SELECT p.oid::regprocedure AS executable_by_public FROM pg_proc p
 WHERE p.pronamespace = 'sync'::regnamespace
   AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0);
SELECT c.oid::regclass AS usable_by_public FROM pg_class c
 WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
   AND EXISTS (SELECT FROM aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, c.relowner))) a WHERE a.grantee = 0);
SELECT n.nspname AS schema_open_to_public FROM pg_namespace n
 WHERE n.nspname = 'sync' AND EXISTS (SELECT FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a WHERE a.grantee = 0);
-- Whatever runs with other rights than its caller's pins search_path.
SELECT p.oid::regprocedure AS unpinned FROM pg_proc p
 WHERE p.pronamespace = 'sync'::regnamespace AND p.prosecdef
   AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false);
-- So does every PL/pgSQL function, and every SQL function that is not inlined; a procedure that commits cannot, and qualifies all that it names.
SELECT p.oid::regprocedure AS unpinned FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
 WHERE p.pronamespace = 'sync'::regnamespace AND l.lanname = 'plpgsql' AND NOT (p.prokind = 'p' AND NOT p.prosecdef)
   AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false);
-- Functions that touch files and secrets are nobody's.
SELECT p.oid::regprocedure AS function, a.grantee::regrole FROM pg_proc p, aclexplode(p.proacl) a
 WHERE p.pronamespace = 'sync'::regnamespace AND p.proname IN ('_permit_write', '_secret_ok', '_fetch_now', '_system_secrets')
   AND a.grantee NOT IN (p.proowner, 'sync_worker'::regrole);
-- Everything has a comment.
SELECT p.oid::regprocedure AS uncommented FROM pg_proc p
 WHERE p.pronamespace = 'sync'::regnamespace AND p.proname !~ '^_' AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.oid::regclass AS uncommented FROM pg_class c
 WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition AND obj_description(c.oid, 'pg_class') IS NULL;
-- Nobody but the owner writes the registry; sync_admin may insert routes, but not say who they run as.
SELECT c.relname, a.grantee::regrole, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type) AS privileges
  FROM pg_class c, aclexplode(c.relacl) a
 WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.grantee <> c.relowner
   AND a.privilege_type <> 'SELECT'
 GROUP BY c.relname, a.grantee ORDER BY c.relname COLLATE "C", 2;
SELECT a.attname, has_column_privilege('sync_admin', a.attrelid, a.attnum, 'INSERT') AS admin_inserts
  FROM pg_attribute a WHERE a.attrelid = 'sync.route'::regclass AND a.attname IN ('condition', 'run_as', 'created_by', 'state') ORDER BY 1;

-- What each role may call.
SELECT r.role,
       string_agg(DISTINCT p.proname, ' ' ORDER BY p.proname) AS functions
  FROM unnest('{sync_operator,sync_approver,sync_auditor,sync_analyst,sync_app}'::text[]) WITH ORDINALITY r (role, n)
  JOIN pg_proc p ON p.pronamespace = 'sync'::regnamespace AND p.proname = ANY ('{wait_for,wait_idle,remote_id,find,health,hub_status,check_invariants,
       check_system,adopt_cluster,start_workers,create_route,drop_route,create_stream,drop_stream,forget_system,pause,resume,retry,discard,request_pull,call,fetch,
       track,untrack,register_connector}')
   AND has_function_privilege(r.role, p.oid, 'EXECUTE')
 GROUP BY r.role, r.n ORDER BY r.n;
SELECT r.role, c.relname AS reads
  FROM unnest('{sync_analyst,sync_app}'::text[]) r (role)
  JOIN pg_class c ON c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
   AND has_table_privilege(r.role, c.oid, 'SELECT')
 ORDER BY r.role, c.relname COLLATE "C";

-- As the roles themselves.
CREATE ROLE regress_privileges_nobody;
CREATE ROLE regress_privileges_app IN ROLE sync_app;
CREATE ROLE regress_privileges_operator IN ROLE sync_operator;
CREATE ROLE regress_privileges_worker IN ROLE sync_worker;
CREATE TABLE customer (id integer PRIMARY KEY, number text);
SELECT sync.track('customer');
GRANT SELECT, INSERT ON customer TO regress_privileges_nobody;
SET ROLE regress_privileges_nobody;
INSERT INTO customer VALUES (1, 'C1');
SELECT count(*) FROM sync.record_status;
SELECT sync.health();
RESET ROLE;
SET ROLE regress_privileges_app;
SELECT count(*) FROM sync.record_status;
SELECT count(*) FROM sync.outbox;
SELECT sync.pause('shop');
SELECT sync.remote_id('customer', '1', 'shop');
RESET ROLE;
SET ROLE regress_privileges_operator;
SELECT count(*) FROM sync.outbox;
SELECT count(*) > 5 AS healthy_or_not FROM sync.health();
SELECT count(*) FROM sync.check_invariants();
SELECT count(*) FROM sync.delivery;
SELECT count(*) >= 0 AS readable FROM sync.worker;
SELECT object, record_id, record_number FROM sync.find('C1');
SELECT sync.adopt_cluster();
SELECT sync.create_route('shop', 'customer');
DELETE FROM sync.outbox;
RESET ROLE;
-- A business number is read as the one who looks.
GRANT SELECT ON customer TO regress_privileges_operator;
SET ROLE regress_privileges_operator;
SELECT object, record_id, record_number FROM sync.find('C1');
RESET ROLE;
-- The workers' role reads the registry and writes the flow, no more.
SET ROLE regress_privileges_worker;
SELECT count(*) FROM sync.object;
UPDATE sync.object SET captured = false;
INSERT INTO sync.route (system_id, object_id, name, start_kind) VALUES (1, 1, 'x', 'now');
UPDATE sync.outbox SET seq = seq;
DELETE FROM sync.outcome;
SELECT * FROM customer;
RESET ROLE;
\c regression
SET client_min_messages = warning;
DROP DATABASE sync_privileges;
DROP ROLE regress_privileges_nobody, regress_privileges_app, regress_privileges_operator, regress_privileges_worker;
