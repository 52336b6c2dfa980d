-- What the hub runs for itself besides its own statements.

CREATE FUNCTION sync._upkeep_history()
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    late record;
BEGIN
    -- Only the newest checkpoint of a route counts; a second one stays for whoever reads history.
    DELETE FROM sync.checkpoint c
     USING (SELECT route_id, id, row_number() OVER (PARTITION BY route_id ORDER BY id DESC) AS n
              FROM sync.checkpoint) old
     WHERE c.id = old.id AND old.n > 2;

    -- A route that lags past max_lag stops pinning the outbox: what is financial is copied aside
    -- first, the rest needs a backfill.
    FOR late IN
        SELECT r.id, r.name, o.financial, o.id AS object_id, c.finished, c.incarnation
          FROM sync.route r
          JOIN sync.object o ON o.id = r.object_id
          JOIN LATERAL (SELECT k.finished, k.incarnation FROM sync.checkpoint k
                         WHERE k.route_id = r.id ORDER BY k.id DESC LIMIT 1) c ON true
         WHERE r.state = 'active'
           AND EXISTS (SELECT FROM sync.outbox e
                        WHERE e.object_id = r.object_id
                          AND e.at < clock_timestamp() - r.max_lag
                          AND e.at >= coalesce(r.start_at, '-infinity')
                          AND (e.incarnation > c.incarnation
                               OR (e.incarnation = c.incarnation
                                   AND NOT pg_visible_in_snapshot(e.xid, c.finished)))
                          AND NOT EXISTS (SELECT FROM sync.outcome x
                                           WHERE x.route_id = r.id AND x.seq = e.seq AND x.final)
                          AND NOT EXISTS (SELECT FROM sync.pending p
                                           WHERE p.route_id = r.id AND p.seq = e.seq))
    LOOP
        IF late.financial THEN
            INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, record_id, op, origin,
                                      body, old, context, state, next_attempt_at)
            SELECT late.id, e.seq, e.incarnation, e.at, e.object_id, e.record_id, e.op, e.origin, e.body, e.old,
                   e.context, 'behind', NULL
              FROM sync.outbox e
             WHERE e.object_id = late.object_id
               AND (e.incarnation > late.incarnation
                    OR (e.incarnation = late.incarnation AND NOT pg_visible_in_snapshot(e.xid, late.finished)))
               AND NOT EXISTS (SELECT FROM sync.outcome x
                                WHERE x.route_id = late.id AND x.seq = e.seq AND x.final)
                ON CONFLICT (route_id, seq) DO NOTHING;
            UPDATE sync.pending p
               SET state = 'retry', next_attempt_at = clock_timestamp()
             WHERE p.route_id = late.id AND p.state = 'behind'
               AND NOT EXISTS (SELECT FROM sync.pending q
                                WHERE q.route_id = p.route_id AND q.record_id = p.record_id AND q.seq < p.seq);
        END IF;
        UPDATE sync.route SET state = 'needs_backfill' WHERE id = late.id;
        INSERT INTO sync.notice (key, severity, message, hint)
        VALUES ('lag:' || late.name, 'error',
                format('route "%s" fell further behind than its max_lag and needs a backfill', late.name),
                'Find out why it stood still (sync.route_status, sync.health()), then run sync.backfill().')
            ON CONFLICT (key) DO UPDATE SET last_at = clock_timestamp(), count = notice.count + 1;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._upkeep_history() IS 'Prunes checkpoints and stops routes that lag past max_lag; run by the hub every ten minutes';
REVOKE ALL ON FUNCTION sync._upkeep_history() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync._upkeep_history() TO sync_worker, sync_admin;

CREATE FUNCTION sync.preview(system text, object text, id text)
RETURNS TABLE (n integer, step text, state text, method text, url text, headers jsonb, body text, message text)
LANGUAGE c STRICT VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_preview';
COMMENT ON FUNCTION sync.preview(text, text, text) IS 'The exact requests that a system would get for a record as it stands, uncommitted changes included; sends nothing. Needs SELECT on the record''s table';
REVOKE ALL ON FUNCTION sync.preview(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.preview(text, text, text) TO sync_admin, sync_operator, sync_app;
