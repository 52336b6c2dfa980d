-- The invariants of doc/architecture.md. One query looks at one snapshot, and the hub changes what
-- belongs together in one transaction, so nothing here is wrong for a moment only. What a running
-- hub does a little later by itself is reported when it is overdue.

CREATE FUNCTION sync.check_invariants()
RETURNS TABLE (invariant text, detail text)
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off -- it takes longer to compile this than to run it
AS $$
    WITH hub AS (
        SELECT s.started_at FROM sync._hub_slots() s JOIN pg_database d ON d.oid = s.database
         WHERE d.datname = current_database() AND s.state = 'running'),
    final AS (
        SELECT f.route_id, f.seq, f.attempt_id, f.at, f.state, c.issue,
               -- An end without an attempt (discarded, merged) is that of the issue that was claimed last before it.
               coalesce(c.issue, (SELECT max(b.issue) FROM sync.claim b
                                   WHERE b.route_id = f.route_id AND b.seq = f.seq AND b.at <= f.at), 1) AS ended_issue
          FROM sync.outcome f
          LEFT JOIN sync.claim c ON f.attempt_id <> 0 AND c.route_id = f.route_id AND c.seq = f.seq AND c.attempt_id = f.attempt_id
         WHERE f.final),
    -- A replay under the same key makes the same issue end once more. One under a new key that is discarded
    -- before it is claimed ends, by what can be told, as the issue before.
    replayed AS (
        SELECT r.route_id, i.seq, CASE WHEN i.action <> 'issue' THEN i.issue END AS issue, i.acted_at
          FROM sync.replay_item i JOIN sync.replay_run r ON r.id = i.replay_id
         WHERE i.state = 'issued' AND r.route_id IS NOT NULL),
    sent AS (
        SELECT c.route_id, c.record_id, c.seq, c.first_at, e.ended_at
          FROM (SELECT c.route_id, c.record_id, c.seq, min(c.at) AS first_at
                  FROM sync.claim c GROUP BY c.route_id, c.record_id, c.seq) c
          LEFT JOIN (SELECT f.route_id, f.seq, max(f.at) AS ended_at
                       FROM final f GROUP BY f.route_id, f.seq) e USING (route_id, seq))

    SELECT 'pending_not_final', format('delivery %s/%s is %s, yet it ended as %s', p.route_id, p.seq, p.state, f.state)
      FROM sync.pending p JOIN final f ON f.route_id = p.route_id AND f.seq = p.seq
     WHERE (f.issue IS NULL OR f.issue = p.issue)
       AND NOT EXISTS (SELECT FROM replayed x WHERE x.route_id = p.route_id AND x.seq = p.seq AND (x.issue = p.issue OR f.issue IS NULL) AND x.acted_at >= f.at)
    UNION ALL
    SELECT 'one_final_outcome', format('delivery %s/%s ended %s times', f.route_id, f.seq, f.n)
      FROM (SELECT f.route_id, f.seq, f.ended_issue, count(*) AS n, count(*) FILTER (WHERE f.attempt_id = 0) AS unsent
              FROM final f GROUP BY f.route_id, f.seq, f.ended_issue HAVING count(*) > 1) f
      LEFT JOIN replayed x ON x.route_id = f.route_id AND x.seq = f.seq
     GROUP BY f.route_id, f.seq, f.ended_issue, f.n, f.unsent
    HAVING f.n > 1 + count(*) FILTER (WHERE x.issue = f.ended_issue) + least(f.unsent, count(*) FILTER (WHERE x.seq IS NOT NULL AND x.issue IS NULL))
    UNION ALL
    SELECT 'head_of_record', format('delivery %s/%s is %s, yet %s/%s of the same record is before it', p.route_id, p.seq, p.state, p.route_id, p.head)
      FROM (SELECT p.route_id, p.seq, p.state, min(p.seq) OVER (PARTITION BY p.route_id, p.record_id) AS head FROM sync.pending p) p
     WHERE p.seq <> p.head AND p.state <> 'behind'
    UNION ALL
    -- Attempt ids grow: what is older than the oldest claim kept has lost its claim to retention.
    SELECT 'outcome_has_claim', format('attempt %s of delivery %s/%s has an outcome and no claim', f.attempt_id, f.route_id, f.seq)
      FROM sync.outcome f
     WHERE f.attempt_id <> 0 AND f.attempt_id >= (SELECT min(c.attempt_id) FROM sync.claim c)
       AND NOT EXISTS (SELECT FROM sync.claim c WHERE c.route_id = f.route_id AND c.seq = f.seq AND c.attempt_id = f.attempt_id)
    UNION ALL
    -- A claim from before the hub's start was seen when it loaded; a later one may be in flight.
    SELECT 'claim_is_known', format('attempt %s of delivery %s/%s has no outcome and nobody waits for it', c.attempt_id, c.route_id, c.seq)
      FROM (SELECT c.*
              FROM sync.claim c
             WHERE NOT EXISTS (SELECT FROM sync.outcome f WHERE f.route_id = c.route_id AND f.seq = c.seq AND f.attempt_id = c.attempt_id)
               AND NOT EXISTS (SELECT FROM sync.pending p WHERE p.route_id = c.route_id AND p.seq = c.seq)
               AND NOT EXISTS (SELECT FROM sync.route r WHERE r.id = c.route_id AND r.state = 'dropped')
            OFFSET 0) c -- these few first, and then what follows for each of them
     WHERE EXISTS (SELECT FROM final f WHERE f.route_id = c.route_id AND f.seq = c.seq AND f.at > c.at)
        OR EXISTS (SELECT FROM hub WHERE c.at < hub.started_at AND hub.started_at < clock_timestamp() - interval '1 min')
    UNION ALL
    SELECT 'effects_in_order', format('delivery %s/%s of record %s was claimed at %s, before an earlier one ended', s.route_id, s.seq, s.record_id, s.first_at)
      FROM (SELECT s.route_id, s.record_id, s.seq, s.first_at,
                   max(s.ended_at) OVER before AS earlier_ended, count(*) OVER before - count(s.ended_at) OVER before AS earlier_open
              FROM sent s
            WINDOW before AS (PARTITION BY s.route_id, s.record_id ORDER BY s.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) s
     WHERE s.earlier_ended > s.first_at OR s.earlier_open > 0
    UNION ALL
    SELECT 'cursor_monotone', format('checkpoint %s of route %s lies before the one before it', k.id, k.route_id)
      FROM (SELECT c.id, c.route_id, c.finished, c.finished_seq, c.window_end, c.position,
                   lag(c.finished) OVER w AS old_finished, lag(c.finished_seq) OVER w AS old_seq,
                   lag(c.window_end) OVER w AS old_window, lag(c.position) OVER w AS old_position
              FROM sync.checkpoint c WINDOW w AS (PARTITION BY c.route_id, c.incarnation ORDER BY c.id)) k
     WHERE pg_snapshot_xmax(k.finished) < pg_snapshot_xmax(k.old_finished)
        OR pg_snapshot_xmin(k.finished) < pg_snapshot_xmin(k.old_finished)
        OR pg_snapshot_xmax(k.window_end) < pg_snapshot_xmax(k.old_window)
        OR k.finished_seq < k.old_seq
        OR k.window_end::text = k.old_window::text AND k.finished::text = k.old_finished::text AND k.position < k.old_position
    UNION ALL
    SELECT 'cursor_monotone', format('checkpoint %s of route %s falls back to incarnation %s', k.id, k.route_id, k.incarnation)
      FROM (SELECT c.id, c.route_id, c.incarnation, lag(c.incarnation) OVER (PARTITION BY c.route_id ORDER BY c.id) AS old
              FROM sync.checkpoint c) k
     WHERE k.incarnation < k.old
    UNION ALL
    SELECT 'bound_once', format('%s %s of system %s: mirror says record %s, cross-reference says %s', o.name, m.remote_id, y.name, m.record_id, coalesce(x.record_id, 'none'))
      FROM sync.mirror m
      JOIN sync.object o ON o.id = m.object_id
      JOIN sync.system y ON y.id = m.system_id
      LEFT JOIN sync.external_id x ON x.system_id = m.system_id AND x.object_id = m.object_id AND x.remote_id = m.remote_id
     WHERE NOT m.deleted AND m.record_id IS NOT NULL AND m.record_id IS DISTINCT FROM x.record_id
    UNION ALL
    SELECT 'bound_once', format('%s %s of system %s is bound to record %s and an alias of record %s', o.name, a.remote_id, y.name, x.record_id, a.record_id)
      FROM sync.external_alias a
      JOIN sync.external_id x ON x.system_id = a.system_id AND x.object_id = a.object_id AND x.remote_id = a.remote_id
      JOIN sync.object o ON o.id = a.object_id
      JOIN sync.system y ON y.id = a.system_id
    UNION ALL
    -- What a push in flight brought is moved by the hub within ten minutes.
    SELECT 'merged_is_unbound', format('%s %s was merged into %s and is bound to %s', o.name, m.loser, m.survivor, x.remote_id)
      FROM sync.merge m
      JOIN sync.external_id x ON x.object_id = m.object_id AND x.record_id = m.loser AND x.bound_at < clock_timestamp() - interval '30 min'
      JOIN sync.object o ON o.id = m.object_id
     WHERE m.undone_at IS NULL AND m.merged_at < clock_timestamp() - interval '30 min'
    UNION ALL
    SELECT 'bound_once', format('%s %s of system %s is mirrored under %s remote records', o.name, m.record_id, y.name, count(*))
      FROM sync.mirror m
      JOIN sync.object o ON o.id = m.object_id
      JOIN sync.system y ON y.id = m.system_id
     WHERE NOT m.deleted AND m.record_id IS NOT NULL
     GROUP BY o.name, y.name, m.record_id HAVING count(*) > 1
    UNION ALL
    SELECT 'waiting_is_blocked', format('delivery %s/%s waits for %s %s, which is bound since %s', p.route_id, p.seq, o.name, p.wait_record_id, x.bound_at)
      FROM sync.pending p
      JOIN sync.route r ON r.id = p.route_id
      JOIN sync.system y ON y.id = r.system_id AND NOT y.paused
      JOIN sync.object o ON o.id = p.wait_object_id
      JOIN sync.external_id x ON x.system_id = r.system_id AND x.object_id = p.wait_object_id AND x.record_id = p.wait_record_id
     WHERE p.state = 'waiting' AND p.wait_state IS NULL
       AND EXISTS (SELECT FROM hub WHERE greatest(x.bound_at, hub.started_at, p.created_at) < clock_timestamp() - interval '30 s')
    UNION ALL
    SELECT 'held_is_asked', format('delivery %s/%s waits for an approval that nobody was asked for', p.route_id, p.seq)
      FROM sync.pending p
     WHERE p.state = 'held' AND p.code = 'approval' AND p.next_attempt_at > clock_timestamp() + interval '2 s'
       AND NOT EXISTS (SELECT FROM sync.approval_request a WHERE a.route_id = p.route_id AND a.seq = p.seq AND a.event_at = p.event_at AND a.state = 'open')
    UNION ALL
    SELECT 'approved_before_sent', format('delivery %s/%s was claimed at %s, and its approval %s is %s', c.route_id, c.seq, c.at, a.id, a.state)
      FROM (SELECT DISTINCT ON (a.route_id, a.seq, a.event_at) a.* FROM sync.approval_request a
             WHERE a.route_id IS NOT NULL ORDER BY a.route_id, a.seq, a.event_at, a.id DESC) a
      JOIN sync.claim c ON c.route_id = a.route_id AND c.seq = a.seq AND c.event_at = a.event_at AND c.at >= a.requested_at
     WHERE a.state IN ('open', 'rejected', 'expired')
    UNION ALL
    SELECT 'key_is_one_request', format('key %s stands for %s requests', c.idempotency_key, count(DISTINCT c.request_hash))
      FROM sync.claim c WHERE c.idempotency_key IS NOT NULL
     GROUP BY c.idempotency_key HAVING count(DISTINCT c.request_hash) > 1
    UNION ALL
    -- The log is dropped by partitions: a cursor written before the oldest one that is left began may have missed some.
    SELECT 'outbox_complete', format('route %s stopped at %s, the outbox begins at %s', r.name, k.at, o.oldest)
      FROM sync.route r
     CROSS JOIN LATERAL (SELECT c.at FROM sync.checkpoint c WHERE c.route_id = r.id ORDER BY c.id DESC LIMIT 1) k
     CROSS JOIN (SELECT min(p.lower_bound) AS oldest FROM sync._partitions('sync.outbox') p) o
     WHERE r.state = 'active' AND k.at < o.oldest
    UNION ALL
    SELECT 'outbox_complete', format('route %s has no cursor', r.name)
      FROM sync.route r
     WHERE r.state = 'active' AND NOT EXISTS (SELECT FROM sync.checkpoint c WHERE c.route_id = r.id)
    UNION ALL
    SELECT 'outbox_complete', format('held delivery %s/%s has lost its event', p.route_id, p.seq)
      FROM sync.pending p WHERE p.body IS NULL AND p.op IN ('I', 'U', 'D')
    UNION ALL
    SELECT 'audit_sealed_once', format('audit row %s is in seals %s', i.id, string_agg(s.id::text, ', ' ORDER BY s.id))
      FROM sync.audit_seal s CROSS JOIN LATERAL unnest(s.ids) i (id) GROUP BY i.id HAVING count(*) > 1
    UNION ALL
    -- Since the first one that was audited: before, the object was not financial, or retention has cut it.
    SELECT 'audit_complete', format('delivery %s/%s of financial object "%s" ended as %s and has no audit row', f.route_id, f.seq, o.name, f.state)
      FROM sync.outcome f
      JOIN sync.route r ON r.id = f.route_id
      JOIN sync.object o ON o.id = r.object_id AND o.financial
      JOIN (SELECT a.object, min(a.at) AS since FROM sync.audit a
             WHERE a.action LIKE 'delivery.%' AND a.session_user_name = 'sync_worker' GROUP BY a.object) known ON known.object = o.name
     WHERE f.final AND f.state IN ('done', 'ignored', 'dry_run') AND f.at > known.since
       AND NOT EXISTS (SELECT FROM sync.audit a WHERE a.action = 'delivery.' || f.state AND a.object = o.name
                          AND a.detail ->> 'delivery' = f.route_id || '/' || f.seq)
    UNION ALL
    SELECT 'mirror_is_history', format('the history of %s %s of system %s does not end with what the mirror says', o.name, m.remote_id, y.name)
      FROM sync.mirror m
      JOIN sync.object o ON o.id = m.object_id AND o.financial
      JOIN sync.system y ON y.id = m.system_id
      LEFT JOIN LATERAL (SELECT h.* FROM sync.mirror_history h
                          WHERE h.system_id = m.system_id AND h.object_id = m.object_id AND h.remote_id = m.remote_id AND h.fields IS NOT NULL
                          ORDER BY h.at DESC, h.xid DESC LIMIT 1) h ON true
     WHERE (h.fields, h.deleted, h.record_id) IS DISTINCT FROM (m.fields, m.deleted, m.record_id)
$$;
COMMENT ON FUNCTION sync.check_invariants() IS 'Violated invariants of doc/architecture.md; no rows when all hold. Reads the whole history: for tests and investigations';
