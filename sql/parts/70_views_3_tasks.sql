-- What waits for a human.

CREATE VIEW sync.approval WITH (security_barrier) AS
SELECT a.id, a.operation, CASE WHEN a.expires_at <= clock_timestamp() THEN 'expired' ELSE a.state END AS state,
       o.name AS object, a.record_id,
       coalesce(p.body ->> o.number_column, sync._record_number(o.id, a.record_id)) AS record_number,
       a.amount, a.currency, y.name AS system, a.policy, a.reason, a.requested_by, a.requesters, a.requested_at,
       clock_timestamp() - a.requested_at AS age, a.expires_at, a.approvers,
       CASE WHEN a.route_id IS NOT NULL THEN a.route_id || '/' || a.seq END AS delivery, a.call AS asked,
       format('SELECT sync.approve(%s, ''reason'')', a.id) AS how_to_approve
  FROM sync.approval_request a
  LEFT JOIN sync.object o ON o.id = a.object_id
  LEFT JOIN sync.route r ON r.id = a.route_id
  LEFT JOIN sync.system y ON y.id = r.system_id
  LEFT JOIN sync.pending p ON p.route_id = a.route_id AND p.seq = a.seq AND p.event_at = a.event_at
 WHERE a.state = 'open';
COMMENT ON VIEW sync.approval IS 'What waits for a second person: the act, why, for how long, and until when; all that was decided is in sync.approval_request';

-- Ids are unique per kind. Conflicts and held deliveries draw theirs from one sequence.
CREATE VIEW sync._task AS
SELECT 'conflict' AS kind, c.id, c.object_id, c.record_id, c.system_id, c.message AS reason, c.opened_at AS since, c.remote_id, NULL::text AS number
  FROM sync.conflict_entry c
 WHERE c.resolved_at IS NULL
   AND NOT (c.kind = 'match' AND EXISTS (SELECT FROM sync.match_candidate k
                                          WHERE k.system_id = c.system_id AND k.object_id = c.object_id AND k.remote_id = c.remote_id
                                            AND k.verdict = 'ambiguous' AND k.decision IS NULL))
UNION ALL
SELECT 'conflict', p.id, p.object_id, p.record_id, r.system_id, sync._shown_message(p.object_id, p.message, p.body), p.created_at, NULL, p.body ->> o.number_column
  FROM sync.pending p JOIN sync.route r ON r.id = p.route_id JOIN sync.object o ON o.id = p.object_id
 WHERE p.state = 'conflict'
UNION ALL
SELECT 'dead_letter', p.id, p.object_id, p.record_id, r.system_id, concat_ws(': ', p.code, sync._shown_message(p.object_id, p.message, p.body)), p.created_at, NULL, p.body ->> o.number_column
  FROM sync.pending p JOIN sync.route r ON r.id = p.route_id JOIN sync.object o ON o.id = p.object_id
 WHERE p.state = 'dead'
UNION ALL
-- What a guard or a closed period holds goes by itself when somebody has seen to the cause.
SELECT 'held', p.id, p.object_id, p.record_id, r.system_id, p.message, p.created_at, NULL, p.body ->> o.number_column
  FROM sync.pending p JOIN sync.route r ON r.id = p.route_id JOIN sync.object o ON o.id = p.object_id
 WHERE p.state = 'held' AND p.code <> 'approval'
UNION ALL
-- Items that wait for another record, or are about to be read again, need nobody; those whose identity is
-- to be decided are below, and no task each when all of them wait for sync.accept_matches().
SELECT 'inbox', i.id, i.object_id, s.record_id, i.system_id, s.reason, i.received_at, i.remote_id, s.record_number
  FROM sync.inbox i
  JOIN sync.inbox_status s ON s.id = i.id
 WHERE i.wait_remote_id IS NULL AND i.item <> 'null' AND i.sqlstate IS DISTINCT FROM 'SE063'
   AND NOT EXISTS (SELECT FROM sync.match_candidate k
                    WHERE k.system_id = i.system_id AND k.object_id = i.object_id AND k.remote_id = i.remote_id
                      AND k.verdict = 'ambiguous' AND k.decision IS NULL)
UNION ALL
SELECT 'match', k.id, k.object_id, NULL, k.system_id, format('records of ours that it could be: %s', cardinality(k.candidates)), k.found_at, k.remote_id, k.remote_number
  FROM sync.match_candidate k
 WHERE k.verdict = 'ambiguous' AND k.decision IS NULL
UNION ALL
SELECT 'approval', a.id, a.object_id, a.record_id, r.system_id, concat_ws(': ', a.operation, a.policy), a.requested_at, NULL, NULL
  FROM sync.approval_request a
  LEFT JOIN sync.route r ON r.id = a.route_id
 WHERE a.state = 'open' AND a.expires_at > clock_timestamp();
COMMENT ON VIEW sync._task IS 'Everything that waits for a human, by ids';

CREATE VIEW sync.task WITH (security_barrier) AS
SELECT t.kind, t.id, o.name AS object, t.record_id, coalesce(t.number, sync._record_number(o.id, t.record_id)) AS record_number,
       y.name AS system, t.remote_id, t.reason, t.since, clock_timestamp() - t.since AS age, g.assignee, g.due,
       CASE t.kind WHEN 'approval' THEN format('SELECT sync.approve(%s, ''reason'')', t.id)
                   WHEN 'inbox' THEN format('SELECT sync.retry_inbox(%s)', t.id)
                   WHEN 'match' THEN format('SELECT sync.decide_match(%L, %L, %L, ''record id, or NULL for none'', ''reason'')', y.name, o.name, t.remote_id)
                   WHEN 'conflict' THEN 'SELECT * FROM sync.conflict WHERE id = ' || t.id
                   ELSE format('SELECT sync.retry(%s)', t.id) END AS how_to
  FROM sync._task t
  LEFT JOIN sync.object o ON o.id = t.object_id
  LEFT JOIN sync.system y ON y.id = t.system_id
  LEFT JOIN sync.task_assignment g ON g.kind = t.kind AND g.id = t.id;
COMMENT ON VIEW sync.task IS 'Everything that waits for a human: conflicts, inbox, dead letters, candidate matches, what is held, approvals; since when, and who cares for it';

CREATE FUNCTION sync.assign_task(kind text, id bigint, assignee text, due timestamptz DEFAULT NULL, reason text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
BEGIN
    SELECT k.*, o.name AS object, y.name AS system INTO t FROM sync._task k
      LEFT JOIN sync.object o ON o.id = k.object_id LEFT JOIN sync.system y ON y.id = k.system_id
     WHERE k.kind = assign_task.kind AND k.id = assign_task.id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no task % %', kind, id
            USING ERRCODE = 'undefined_object', HINT = 'View sync.task lists them by kind and id.';
    END IF;
    IF NOT isfinite(due) OR length(assignee) > 200 THEN
        RAISE EXCEPTION 'invalid assignee or due time'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'An assignee has at most 200 characters; due is an instant, or NULL.';
    END IF;
    IF nullif(btrim(assignee), '') IS NULL AND due IS NULL THEN
        DELETE FROM sync.task_assignment g WHERE g.kind = t.kind AND g.id = t.id;
    ELSE
        INSERT INTO sync.task_assignment (kind, id, assignee, due) VALUES (t.kind, t.id, nullif(btrim(assign_task.assignee), ''), assign_task.due)
            ON CONFLICT ON CONSTRAINT task_assignment_pkey DO UPDATE
               SET assignee = excluded.assignee, due = excluded.due, assigned_by = excluded.assigned_by, assigned_at = excluded.assigned_at;
    END IF;
    PERFORM sync._audit('task.assigned', t.object, t.record_id, t.system,
                        jsonb_build_object('kind', t.kind, 'id', t.id, 'assignee', assignee, 'due', due), reason);
END
$$;
COMMENT ON FUNCTION sync.assign_task(text, bigint, text, timestamptz, text) IS 'Says who cares for a task, and until when; without both, nobody does';
