-- What is on record about one record, each thing as a line of its history.
--
-- The view is read for one record (object_id and record_id are in an index of each table it is made of).
-- No value of a field is in it: what changed is told by the names of fields, messages as
-- sync._shown_message() lets the caller see them.

CREATE FUNCTION sync._changed_names(before jsonb, after jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(k.name, ', ' ORDER BY k.name)
      FROM (SELECT jsonb_object_keys($1) UNION SELECT jsonb_object_keys($2)) k (name)
     WHERE $1 -> k.name IS DISTINCT FROM $2 -> k.name
$$;
COMMENT ON FUNCTION sync._changed_names(jsonb, jsonb) IS 'Names of the members that differ';

-- An event that its application gave no correlation id is followed by its own.
CREATE VIEW sync._hub_mark AS
SELECT left(h.hub_id::text, 8) AS mark FROM sync.hub h;
COMMENT ON VIEW sync._hub_mark IS 'What ids of this hub''s events begin with';
COMMENT ON COLUMN sync._hub_mark.mark IS 'The first eight digits of the hub''s id';

-- Attempts and outcomes, from a partition for each day; see src/push/attempts.c.
CREATE FUNCTION sync._attempts(object_id integer, record_id text, correlation_ids text[] DEFAULT NULL, route_id integer DEFAULT NULL, seq bigint DEFAULT NULL)
RETURNS TABLE (at timestamptz, the_route integer, the_seq bigint, incarnation integer, the_object integer, the_record text, event_at timestamptz, step text,
               method text, target text, context jsonb, outcome text, state text, status integer, latency_us bigint, code text, message text, request_id text)
LANGUAGE c STABLE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_attempts';
COMMENT ON FUNCTION sync._attempts(integer, text, text[], integer, bigint) IS 'Attempts of a record with their outcomes; or all that carry one of some correlation ids, or those of a delivery, without outcomes. As the caller may see them';

CREATE FUNCTION sync._outcomes(route_id integer, seq bigint, since timestamptz)
RETURNS TABLE (at timestamptz, outcome text, state text, code text, message text)
LANGUAGE c STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_outcomes';
COMMENT ON FUNCTION sync._outcomes(integer, bigint, timestamptz) IS 'How a delivery ended for which nothing was sent, as the caller may see it';

CREATE VIEW sync._lineage_entry WITH (security_barrier) AS
-- who wrote the row
SELECT e.object_id, e.record_id, e.at, 'event' AS kind, y.name AS system,
       concat_ws(' ', CASE e.op WHEN 'I' THEN 'created' WHEN 'U' THEN 'changed' WHEN 'D' THEN 'deleted' WHEN 'T' THEN 'truncated' ELSE 'written' END,
                 CASE WHEN e.op = 'U' THEN (SELECT string_agg(k.name, ', ' ORDER BY k.name) FROM jsonb_object_keys(e.old) k (name)
                                            WHERE k.name <> ALL (b.volatile_columns)) END,
                 CASE WHEN e.origin > 0 THEN 'as ' || coalesce(y.name, 'a system') || ' says' WHEN e.origin < 0 THEN 'again, for ' || y.name END) AS what,
       coalesce(e.context ->> 'actor', e.context ->> 'user') AS actor, NULL::integer AS status, NULL::numeric AS latency_ms,
       NULL::text AS remote_id, NULL::text AS request_id,
       coalesce(e.context ->> 'correlation_id', concat_ws('-', h.mark, e.incarnation, e.seq)) AS correlation_id, e.context ->> 'causation_id' AS causation_id,
       NULL::text AS delivery, e.context ->> 'reason' AS reason, concat_ws('-', h.mark, e.incarnation, e.seq) AS event_id
  FROM sync.outbox e
  JOIN sync._visible_object o ON o.id = e.object_id
  JOIN sync.object b ON b.id = e.object_id
  LEFT JOIN sync._hub_mark h ON true
  LEFT JOIN sync.system y ON y.id = abs(e.origin)
UNION ALL
-- what ended without a request
SELECT e.object_id, e.record_id, f.at, 'outcome', y.name, concat_ws(', ', f.outcome, nullif(f.state, f.outcome), f.code, f.message),
       NULL, NULL, NULL, NULL, NULL,
       coalesce(e.context ->> 'correlation_id', concat_ws('-', h.mark, e.incarnation, e.seq)), e.context ->> 'causation_id',
       r.id || '/' || e.seq, NULL, concat_ws('-', h.mark, e.incarnation, e.seq)
  FROM sync.outbox e
  JOIN sync._visible_object o ON o.id = e.object_id
  JOIN sync.route r ON r.object_id = e.object_id
  JOIN sync.system y ON y.id = r.system_id
 CROSS JOIN LATERAL sync._outcomes(r.id, e.seq, e.at) f
  LEFT JOIN sync._hub_mark h ON true
UNION ALL
-- what left the steady flow
SELECT r.object_id, p.record_id, p.created_at, 'delivery', y.name,
       concat_ws(', ', CASE p.state WHEN 'waiting' THEN concat_ws(' ', 'waits for', w.name, coalesce(sync._record_number(w.id, p.wait_record_id), p.wait_record_id),
                                                              'to be ' || coalesce(p.wait_state, 'known there'))
                             WHEN 'behind' THEN 'behind an earlier change' ELSE p.state END,
                 p.code, CASE WHEN o.hides THEN sync._shown_message(o.id, p.message, p.body) ELSE p.message END),
       coalesce(p.context ->> 'actor', p.context ->> 'user'), NULL, NULL, NULL, NULL,
       coalesce(p.context ->> 'correlation_id', concat_ws('-', h.mark, p.incarnation, p.seq)), p.context ->> 'causation_id',
       p.route_id || '/' || p.seq, p.context ->> 'reason', concat_ws('-', h.mark, p.incarnation, p.seq)
  FROM sync.route r
  JOIN sync.pending p ON p.route_id = r.id
  JOIN sync._visible_object o ON o.id = r.object_id
  JOIN sync.system y ON y.id = r.system_id
  LEFT JOIN sync.object w ON w.id = p.wait_object_id
  LEFT JOIN sync._hub_mark h ON true
UNION ALL
-- what people had issued again, and edited
SELECT r.object_id, i.record_id, i.acted_at, 'replay', y.name,
       concat_ws(' ', CASE i.action WHEN 'issue' THEN 'made anew' WHEN 'look_up' THEN 'looked up' ELSE 'repeated' END, 'by replay', r.id),
       r.requested_by::text, NULL, NULL, NULL, NULL, NULL, NULL, r.route_id || '/' || i.seq, r.reason, NULL
  FROM sync.replay_item i
  JOIN sync.replay_run r ON r.id = i.replay_id AND r.direction = 'out'
  JOIN sync._visible_object o ON o.id = r.object_id
  JOIN sync.system y ON y.id = r.system_id
 WHERE i.state = 'issued'
UNION ALL
SELECT p.object_id, p.record_id, p.edited_at, 'edit', y.name, 'payload edited: ' || (SELECT string_agg(k.name, ', ' ORDER BY k.name) FROM jsonb_object_keys(p.patch) k (name)),
       p.edited_by::text, NULL, NULL, NULL, NULL, NULL, NULL, p.route_id || '/' || p.seq, p.reason, NULL
  FROM sync.payload_edit p
  JOIN sync._visible_object o ON o.id = p.object_id
  JOIN sync.route r ON r.id = p.route_id
  JOIN sync.system y ON y.id = r.system_id
UNION ALL
-- what it is over there
SELECT x.object_id, x.record_id, x.bound_at, 'bound', y.name, concat_ws(' ', 'is', x.remote_id, 'number ' || x.remote_number),
       NULL, NULL, NULL, x.remote_id, NULL, NULL, NULL, NULL, NULL, NULL
  FROM sync.external_id x
  JOIN sync._visible_object o ON o.id = x.object_id
  JOIN sync.system y ON y.id = x.system_id
UNION ALL
SELECT x.object_id, x.record_id, m.at, 'remote', y.name,
       CASE WHEN m.deleted THEN 'deleted' WHEN m.fields IS NULL THEN 'as known last'
            WHEN m.before IS NULL THEN 'known' ELSE 'changed ' || coalesce(sync._changed_names(m.before, m.fields), 'its record') END,
       NULL, NULL, NULL, x.remote_id, NULL, NULL, NULL, NULL, NULL, NULL
  FROM sync.external_id x
  JOIN sync._visible_object o ON o.id = x.object_id
  JOIN sync.system y ON y.id = x.system_id
 CROSS JOIN LATERAL (
       SELECT t.at, t.fields, t.deleted, lag(t.fields) OVER (ORDER BY t.at, t.xid) AS before
         FROM sync.mirror_history t
        WHERE t.system_id = x.system_id AND t.object_id = x.object_id AND t.remote_id = x.remote_id AND t.fields IS NOT NULL
       UNION ALL
       SELECT t.seen_at, NULL, t.deleted, NULL
         FROM sync.mirror t
        WHERE t.system_id = x.system_id AND t.object_id = x.object_id AND t.remote_id = x.remote_id
          AND NOT EXISTS (SELECT FROM sync.object f WHERE f.id = t.object_id AND f.financial)) m
UNION ALL
SELECT x.object_id, x.record_id, i.received_at, 'inbox', y.name,
       CASE WHEN i.item = 'null' THEN 'to be read by id' WHEN i.wait_remote_id IS NOT NULL THEN 'waits for another record' ELSE 'could not be applied' END,
       NULL, NULL, NULL, x.remote_id, NULL, NULL, NULL, NULL, NULL, NULL
  FROM sync.external_id x
  JOIN sync._visible_object o ON o.id = x.object_id
  JOIN sync.system y ON y.id = x.system_id
  JOIN sync.inbox i ON i.system_id = x.system_id AND i.object_id = x.object_id AND i.remote_id = x.remote_id
UNION ALL
-- what people were asked, and decided
SELECT c.object_id, c.record_id, v.at, 'conflict', y.name, v.what, v.actor, NULL, NULL, c.remote_id, NULL, NULL, NULL, NULL, v.reason, NULL
  FROM sync.conflict_entry c
  JOIN sync._visible_object o ON o.id = c.object_id
  LEFT JOIN sync.system y ON y.id = c.system_id
 CROSS JOIN LATERAL (VALUES
       (c.opened_at, concat_ws(' ', c.kind, 'of', c.field), NULL::text, NULL::text),
       (c.resolved_at, concat_ws(' ', c.kind, 'of', c.field, 'resolved:', c.taken), c.resolved_by::text, c.reason)) v (at, what, actor, reason)
 WHERE v.at IS NOT NULL
UNION ALL
SELECT a.object_id, a.record_id, v.at, 'approval', NULL, v.what, v.actor, NULL, NULL, NULL, NULL, NULL, NULL,
       a.route_id || '/' || a.seq, v.reason, NULL
  FROM sync.approval_request a
  JOIN sync._visible_object o ON o.id = a.object_id
 CROSS JOIN LATERAL (VALUES
       (a.requested_at, concat_ws(' ', 'asked for', a.operation, 'of', a.amount, a.currency) || ': ' || a.policy, a.requested_by::text, a.reason),
       (a.decided_at, concat_ws(' ', a.state, a.operation), a.decided_by::text, a.decision_reason)) v (at, what, actor, reason)
 WHERE v.at IS NOT NULL
UNION ALL
-- What became of deliveries stands there as attempts, as long as these are kept.
SELECT o.id, a.record_id, a.at, 'audit', a.system, a.action, coalesce(a.actor, a.session_user_name::text), NULL, NULL, NULL, NULL,
       a.correlation_id, NULL, a.detail ->> 'delivery', a.reason, NULL
  FROM sync._visible_object o
  JOIN sync.audit a ON a.object = o.name
 WHERE (SELECT sync._sees_all() OR pg_has_role('sync_approver', 'USAGE'))
   AND NOT (a.action LIKE 'delivery.%' AND a.session_user_name = 'sync_worker'
            AND a.at > clock_timestamp() - coalesce(current_setting('sync_ext.history_retention', true), '90 days')::interval)
UNION ALL
SELECT o.id, b.record_id, v.at, 'break', b.system, v.what, v.actor, NULL, NULL, b.remote_id, NULL, NULL, NULL, NULL, v.reason, NULL
  FROM sync._visible_object o
  JOIN sync.break_entry b ON b.object = o.name
 CROSS JOIN LATERAL (VALUES
       (b.first_seen, concat_ws(' ', b.kind, b.field, 'found by', b.source, '(' || b.difference || ' ' || b.currency || ')'), NULL::text, NULL::text),
       (b.resolved_at, concat_ws(' ', b.kind, b.field, 'of', b.source, 'occurs no longer'), b.resolved_by::text, b.explanation)) v (at, what, actor, reason)
 WHERE v.at IS NOT NULL
UNION ALL
SELECT m.object_id, v.record_id, v.at, 'merge', y.name, v.what, v.actor, NULL, NULL, NULL, NULL, NULL, NULL, NULL, v.reason, NULL
  FROM (SELECT t.object_id, t.survivor AS record_id, 'took in ' || t.loser AS what, t.merged_at, t.merged_by, t.reason, t.undone_at, t.undone_by, t.undo_reason, t.reported_by
          FROM sync.merge t
        UNION ALL
        SELECT t.object_id, t.loser, 'was merged into ' || t.survivor, t.merged_at, t.merged_by, t.reason, t.undone_at, t.undone_by, t.undo_reason, t.reported_by
          FROM sync.merge t) m
  JOIN sync._visible_object o ON o.id = m.object_id
  LEFT JOIN sync.system y ON y.id = m.reported_by
 CROSS JOIN LATERAL (VALUES (m.record_id, m.merged_at, m.what, m.merged_by::text, m.reason),
                            (m.record_id, m.undone_at, m.what || ': undone', m.undone_by::text, m.undo_reason)) v (record_id, at, what, actor, reason)
 WHERE v.at IS NOT NULL
UNION ALL
SELECT p.object_id, p.record_id, p.moved_at, 'period', NULL,
       format('dated %s, posted %s because %s was closed', to_char(p.original_date, 'YYYY-MM-DD'), to_char(p.posted_date, 'YYYY-MM-DD'), to_char(p.original_period, 'YYYY-MM')),
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'approval ' || p.approval_id, NULL
  FROM sync.period_move p
  JOIN sync._visible_object o ON o.id = p.object_id;
COMMENT ON VIEW sync._lineage_entry IS 'The history of each record but for its attempts; to be read for one record';
COMMENT ON COLUMN sync._lineage_entry.kind IS 'As in sync.lineage_row';
COMMENT ON COLUMN sync._lineage_entry.what IS 'What happened, in words';
COMMENT ON COLUMN sync._lineage_entry.actor IS 'Who did it';
COMMENT ON COLUMN sync._lineage_entry.correlation_id IS 'That of the event, or its own id';
COMMENT ON COLUMN sync._lineage_entry.causation_id IS 'The event that caused it';
COMMENT ON COLUMN sync._lineage_entry.event_id IS 'The event''s own id';

CREATE VIEW sync._attempt_place WITH (security_barrier) AS
SELECT r.id AS route_id, y.id AS system_id, y.name AS system FROM sync.route r JOIN sync.system y ON y.id = r.system_id;
COMMENT ON VIEW sync._attempt_place IS 'Systems of routes';

-- The whole of one record's history.
CREATE FUNCTION sync._lineage_entries(the_object integer, the_record text)
RETURNS SETOF sync._lineage_entry
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET jit = off
AS $$
BEGIN
    RETURN QUERY SELECT e.* FROM sync._lineage_entry e WHERE e.object_id = $1 AND e.record_id = $2;
    RETURN QUERY
    SELECT $1, $2, c.at, 'attempt'::text, y.system,
           concat_ws(' ', c.step, c.method, c.target) || ': ' || concat_ws(', ', coalesce(c.outcome, 'open'), nullif(c.state, c.outcome), c.code, c.message),
           coalesce(c.context ->> 'actor', c.context ->> 'user'), c.status, round(c.latency_us / 1000.0, 3), x.remote_id, c.request_id,
           coalesce(c.context ->> 'correlation_id', concat_ws('-', h.mark, c.incarnation, c.the_seq)), c.context ->> 'causation_id',
           c.the_route || '/' || c.the_seq, c.context ->> 'reason', concat_ws('-', h.mark, c.incarnation, c.the_seq)
      FROM sync._attempts($1, $2) c
      JOIN sync._attempt_place y ON y.route_id = c.the_route
      LEFT JOIN sync._hub_mark h ON true
      LEFT JOIN sync.external_id x ON x.object_id = $1 AND x.record_id = $2 AND x.system_id = y.system_id;
END
$$;
COMMENT ON FUNCTION sync._lineage_entries(integer, text) IS 'All that is on record about a record';
