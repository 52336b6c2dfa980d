-- What the hub runs for itself besides its own statements.

CREATE FUNCTION sync._upkeep_history()
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    instant constant timestamptz := clock_timestamp();
    late record;
BEGIN
    -- Only the newest checkpoint of a route counts; a second one stays for whoever reads history.
    DELETE FROM sync.checkpoint c
     USING (SELECT route_id, id, row_number() OVER (PARTITION BY route_id ORDER BY id DESC) AS n
              FROM sync.checkpoint) old
     WHERE c.id = old.id AND old.n > 2;

    -- What was replayed is known as long as what came of it.
    DELETE FROM sync.replay_run r
     WHERE r.requested_at < instant - current_setting('sync_ext.history_retention')::interval - interval '1 day'
       AND NOT EXISTS (SELECT FROM sync.job j WHERE j.id = r.job_id AND j.state IN ('queued', 'running', 'paused'));
    DELETE FROM sync.payload_edit e
     WHERE e.edited_at < instant - current_setting('sync_ext.history_retention')::interval - interval '1 day'
       AND NOT EXISTS (SELECT FROM sync.pending p WHERE p.route_id = e.route_id AND p.seq = e.seq);
    PERFORM sync._clear_listed();

    -- A route that lags past max_lag stops pinning the outbox and needs a backfill. A financial one
    -- never does: its events exist nowhere else as they were, so it goes on pinning, with an alarm.
    FOR late IN
        SELECT r.id, r.name, o.financial
          FROM sync.route r
          JOIN sync.object o ON o.id = r.object_id
         WHERE r.state = 'active'
           -- With a million events waiting the queue is long, but those of the last days are in partitions of their own.
           AND CASE WHEN EXISTS (SELECT FROM sync.outbox e WHERE e.object_id = r.object_id AND e.at < instant - r.max_lag)
                    THEN EXISTS (SELECT FROM sync._queue q WHERE q.route_id = r.id AND q.at < instant - r.max_lag) END
    LOOP
        IF NOT late.financial THEN
            UPDATE sync.route SET state = 'needs_backfill' WHERE id = late.id;
        END IF;
        INSERT INTO sync.notice (key, severity, message, hint)
        VALUES ('lag:' || late.name, 'error',
                CASE WHEN late.financial
                     THEN format('route "%s" is further behind than its max_lag; its financial events are kept', late.name)
                     ELSE format('route "%s" fell further behind than its max_lag and needs a backfill', late.name) END,
                CASE WHEN late.financial
                     THEN 'Find out why it stands still (sync.route_status, sync.health()); the outbox grows until it moves.'
                     ELSE 'Find out why it stood still (sync.health()); then SELECT sync.backfill(''<system>'', ''<object>'').' END)
            ON CONFLICT (key) DO UPDATE SET last_at = clock_timestamp(), count = notice.count + 1;
    END LOOP;

    DELETE FROM sync.notice n
     WHERE n.key LIKE 'lag:%'
       AND NOT EXISTS (SELECT FROM sync.route r
                        WHERE n.key = 'lag:' || r.name
                          AND (r.state = 'needs_backfill'
                               OR (r.state = 'active'
                                   AND EXISTS (SELECT FROM sync._queue q
                                                WHERE q.route_id = r.id AND q.at < clock_timestamp() - r.max_lag))));
END
$$;
COMMENT ON FUNCTION sync._upkeep_history() IS 'Prunes checkpoints and stops routes that lag past max_lag; run by the hub every ten minutes';
REVOKE ALL ON FUNCTION sync._upkeep_history() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync._upkeep_history() TO sync_worker, sync_admin;

-- Not SECURITY DEFINER: it checks its caller's rights and changes the user itself.
CREATE FUNCTION sync.preview(system text, object text, id text)
RETURNS TABLE (n integer, step text, state text, method text, url text, headers jsonb, body text, message text)
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_preview';
COMMENT ON FUNCTION sync.preview(text, text, text) IS 'The exact requests that a system would get for a record as it stands, uncommitted changes included; sends nothing. Needs SELECT on the record''s table';
REVOKE ALL ON FUNCTION sync.preview(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.preview(text, text, text) TO sync_admin, sync_operator, sync_app;
