-- The audit trail as people read it.

CREATE VIEW sync.audit_trail WITH (security_barrier) AS
SELECT a.id, a.at, a.action, a.object, a.record_id,
       CASE WHEN o.id IS NOT NULL AND a.record_id IS NOT NULL THEN sync._record_number(o.id, a.record_id) END AS record_number,
       a.system, CASE WHEN h.fields IS NULL THEN a.detail ELSE sync._audit_without(a.detail, h.fields) END AS detail, a.reason,
       coalesce(a.actor, a.session_user_name::text) AS who, a.session_user_name AS login, nullif(a.role_name, 'none') AS role, a.actor,
       a.client_addr, a.application, a.correlation_id,
       s.incarnation IS NOT NULL AND NOT (a.incarnation >= s.incarnation AND a.xid >= pg_catalog.pg_snapshot_xmax(s.snapshot) OR a.xid = ANY (s.running)) AS sealed,
       a.content_hash IS NOT NULL AS erased
  FROM sync.audit a
  LEFT JOIN sync.object o ON o.name = a.object
  LEFT JOIN LATERAL (SELECT pg_catalog.array_agg(f.field) AS fields FROM sync._hidden_field f WHERE f.object_id = o.id) h ON true
  LEFT JOIN LATERAL (SELECT t.incarnation, t.snapshot, ARRAY(SELECT pg_catalog.pg_snapshot_xip(t.snapshot)) AS running
                       FROM sync.audit_seal t ORDER BY t.id DESC LIMIT 1) s ON true;
COMMENT ON VIEW sync.audit_trail IS 'Who did what, when, from where and why; values of personal fields only for who may read them in the object''s table';
COMMENT ON COLUMN sync.audit_trail.who IS 'The person: sync_ext.actor where an application acts for one, else the login';
COMMENT ON COLUMN sync.audit_trail.login IS 'The role that logged in';
COMMENT ON COLUMN sync.audit_trail.role IS 'The role it had set';
COMMENT ON COLUMN sync.audit_trail.sealed IS 'Whether the row is in the chain; it takes seconds after its commit';
COMMENT ON COLUMN sync.audit_trail.erased IS 'Whether personal data was taken out of detail';
COMMENT ON COLUMN sync.audit_trail.action IS 'What was done, as kind.verb';
COMMENT ON COLUMN sync.audit_trail.detail IS 'What was done, in full: old and new values, arguments';
COMMENT ON COLUMN sync.audit_trail.actor IS 'sync_ext.actor: the person on whose behalf an application acts';
COMMENT ON COLUMN sync.audit_trail.client_addr IS 'Where the session came from; NULL: a local socket';
COMMENT ON COLUMN sync.audit_trail.application IS 'application_name of the session';
COMMENT ON COLUMN sync.audit_trail.correlation_id IS 'sync_ext.correlation_id of the transaction';
