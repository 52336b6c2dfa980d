-- Where systems, routes, streams and workers stand.

CREATE FUNCTION sync._hub_slots()
RETURNS TABLE (database oid, pid integer, state text, started_at timestamptz, failures integer,
               restart_at timestamptz, reason text)
LANGUAGE c
AS 'MODULE_PATHNAME', 'se_hub_slots';
COMMENT ON FUNCTION sync._hub_slots() IS 'Shared memory of the cluster''s hubs; no rows when the library was not preloaded';

CREATE VIEW sync.worker AS
SELECT d.datname::text AS database, s.pid, s.state, a.query AS activity, s.started_at, s.failures, s.restart_at, s.reason
  FROM sync._hub_slots() s
  LEFT JOIN pg_catalog.pg_database d ON d.oid = s.database
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.pid;
COMMENT ON VIEW sync.worker IS 'Workers of the cluster: what each does now, and when one that ended starts again';

CREATE VIEW sync._kept_counts AS
SELECT h.system_id, h.route_id, min(h.event_at) FILTER (WHERE h.state = 'in_flight') AS oldest,
       count(*) FILTER (WHERE h.state = 'in_flight') AS in_flight,
       count(*) FILTER (WHERE h.state = 'retry') AS retry,
       count(*) FILTER (WHERE h.state = 'waiting') AS waiting,
       count(*) FILTER (WHERE h.state = 'held') AS held,
       count(*) FILTER (WHERE h.state = 'ambiguous') AS ambiguous,
       count(*) FILTER (WHERE h.state = 'behind') AS behind,
       count(*) FILTER (WHERE h.state = 'dead') AS dead,
       count(*) FILTER (WHERE h.state = 'conflict') AS conflict
  FROM sync._kept h GROUP BY h.system_id, h.route_id;
COMMENT ON VIEW sync._kept_counts IS 'How many deliveries of each route are kept in sync.pending, by state';

CREATE VIEW sync.system_status AS
SELECT s.name AS system, s.options ->> 'connector' AS connector, c.version AS connector_version,
       coalesce(s.options ->> 'base_url', c.manifest ->> 'base_url') AS base_url,
       CASE WHEN y.paused THEN 'paused' ELSE coalesce(s.options ->> 'mode', 'live') END AS mode,
       y.paused_reason, y.paused_by, y.paused_at,
       coalesce(r.routes, 0) AS routes, coalesce(t.streams, 0) AS streams,
       coalesce(b.queued, 0)::bigint AS queued, (coalesce(u.in_flight, 0) + coalesce(b.in_flight, 0))::bigint AS in_flight,
       coalesce(u.retry, 0)::bigint AS retry, coalesce(u.waiting, 0)::bigint AS waiting, coalesce(u.held, 0)::bigint AS held, coalesce(u.ambiguous, 0)::bigint AS ambiguous,
       coalesce(u.behind, 0)::bigint AS behind, coalesce(u.dead, 0)::bigint AS dead, coalesce(u.conflict, 0)::bigint AS conflict,
       coalesce(i.inbox, 0) AS inbox, coalesce(x.bound, 0) AS bound, n.message AS notice
  FROM sync._server s
  LEFT JOIN sync.connector c ON c.name = s.options ->> 'connector' AND c.current
  LEFT JOIN sync.system y ON y.name = s.name
  LEFT JOIN (SELECT r.system_id, count(*) AS routes FROM sync.route r WHERE r.state <> 'dropped' GROUP BY r.system_id) r
         ON r.system_id = y.id
  LEFT JOIN (SELECT t.system_id, count(*) AS streams FROM sync.stream t WHERE t.state <> 'dropped' GROUP BY t.system_id) t
         ON t.system_id = y.id
  LEFT JOIN (SELECT u.system_id, sum(u.retry) AS retry, sum(u.waiting) AS waiting, sum(u.held) AS held, sum(u.ambiguous) AS ambiguous, sum(u.behind) AS behind,
                    sum(u.dead) AS dead, sum(u.conflict) AS conflict, sum(u.in_flight) AS in_flight
               FROM sync._kept_counts u GROUP BY u.system_id) u ON u.system_id = y.id
  LEFT JOIN LATERAL (SELECT sum(b.queued) AS queued, sum(b.in_flight) AS in_flight
                       FROM sync.route r CROSS JOIN LATERAL sync._backlog(r.id) b
                      WHERE r.system_id = y.id AND r.state = 'active') b ON true
  LEFT JOIN (SELECT i.system_id, count(*) AS inbox FROM sync.inbox i GROUP BY i.system_id) i ON i.system_id = y.id
  LEFT JOIN (SELECT x.system_id, count(*) AS bound FROM sync.external_id x GROUP BY x.system_id) x ON x.system_id = y.id
  LEFT JOIN LATERAL (SELECT n.message FROM sync.notice n
                      WHERE n.severity <> 'info'
                        AND (n.key IN (s.name, 'system ' || s.name) OR right(n.key, length(s.name) + 1) = ':' || s.name
                             OR right(n.key, length(y.id::text) + 1) = ':' || y.id)
                      ORDER BY n.last_at DESC LIMIT 1) n ON true;
COMMENT ON VIEW sync.system_status IS 'Each external system: mode, connector, and how much is queued, in flight and held for it';

CREATE VIEW sync.route_status AS
SELECT r.id AS route_id, r.name AS route, y.name AS system, o.name AS object, r.state, r.condition, r.operations,
       r.run_as, r.max_lag,
       b.queued AS lag_events, clock_timestamp() - least(b.oldest, u.oldest) AS lag_time,
       b.queued, b.in_flight + coalesce(u.in_flight, 0) AS in_flight, coalesce(u.retry, 0) AS retry,
       coalesce(u.waiting, 0) AS waiting, coalesce(u.held, 0) AS held, coalesce(u.ambiguous, 0) AS ambiguous, coalesce(u.behind, 0) AS behind,
       coalesce(u.dead, 0) AS dead, coalesce(u.conflict, 0) AS conflict,
       (SELECT count(*) FROM sync.outcome f
         WHERE f.route_id = r.id AND f.final AND f.at > clock_timestamp() - interval '1 min') AS ended_last_minute,
       k.finished AS cursor, k.position AS cursor_seq, k.at AS cursor_at
  FROM sync.route r
  JOIN sync.system y ON y.id = r.system_id
  JOIN sync.object o ON o.id = r.object_id
  LEFT JOIN sync._kept_counts u ON u.route_id = r.id
 CROSS JOIN LATERAL sync._backlog(r.id) b
  LEFT JOIN LATERAL (SELECT k.finished, k.position, k.at FROM sync.checkpoint k
                      WHERE k.route_id = r.id ORDER BY k.id DESC LIMIT 1) k ON true
 WHERE r.state <> 'dropped';
COMMENT ON VIEW sync.route_status IS 'Each route: how far it lags, what is held on it, and its cursor';

CREATE VIEW sync.stream_status AS
SELECT t.id AS stream_id, y.name AS system, o.name AS object, t.every, t.schedule, t.since,
       CASE WHEN k.failures > 0 THEN 'failing'
            WHEN k.requested_at IS NOT NULL AND (k.started_at IS NULL OR k.started_at < k.requested_at) THEN 'requested'
            WHEN k.started_at IS NOT NULL AND (k.finished_at IS NULL OR k.finished_at < k.started_at) THEN 'reading'
            WHEN k.finished_at IS NULL THEN 'new'
            ELSE 'idle' END AS state,
       k.requested_at, k.started_at, k.finished_at, k.next_at, k.pages, k.records, k.applied,
       (SELECT count(*) FROM sync.inbox i WHERE i.system_id = t.system_id AND i.object_id = t.object_id) AS inbox,
       k.failures, k.last_error, k.cursor, k.read_until
  FROM sync.stream t
  JOIN sync.system y ON y.id = t.system_id
  JOIN sync.object o ON o.id = t.object_id
  LEFT JOIN sync.stream_cursor k ON k.stream_id = t.id
 WHERE t.state <> 'dropped';
COMMENT ON VIEW sync.stream_status IS 'Each stream: when it last read, how much, and what went wrong';
COMMENT ON COLUMN sync.stream_status.read_until IS 'As of when it is known what the system has: when the last walk began that came to its end; NULL: none has';

-- Up to when a stream has read everything: what is younger may have parts that are not here yet.
CREATE VIEW sync._read_until AS
SELECT t.system_id, t.object_id, o.table_oid, k.read_until AS at
  FROM sync.stream t
  JOIN sync.object o ON o.id = t.object_id
  LEFT JOIN sync.stream_cursor k ON k.stream_id = t.id
 WHERE t.state = 'active';
COMMENT ON VIEW sync._read_until IS 'Up to when each stream has read what its system held; NULL: it has not read all yet';

-- How fast a job goes is taken from its phase, whose records it counts; pauses count as time.
CREATE VIEW sync.progress AS
SELECT 'push' AS kind, r.system, r.object, r.ended_last_minute AS done_last_minute,
       r.queued + r.in_flight + r.retry AS remaining, r.waiting + r.held + r.ambiguous + r.behind + r.dead + r.conflict AS held,
       CASE WHEN r.ended_last_minute > 0
            THEN (r.queued + r.in_flight + r.retry)::double precision / r.ended_last_minute * interval '1 min' END AS time_left,
       r.cursor_at AS as_of,
       NULL::bigint AS job, NULL::text AS phase, NULL::bigint AS done, NULL::bigint AS total, NULL::numeric AS rate,
       NULL::timestamptz AS estimate, r.state
  FROM sync.route_status r
UNION ALL
SELECT 'pull', s.system, s.object, NULL, NULL, s.inbox, NULL, coalesce(s.finished_at, s.started_at),
       NULL, NULL, NULL, NULL, NULL, NULL, s.state
  FROM sync.stream_status s
UNION ALL
SELECT j.kind, y.name, o.name, NULL, CASE WHEN j.finished_at IS NULL THEN greatest(j.total - j.done, 0) END, NULL,
       CASE WHEN j.state = 'running' AND p.rate > 0 THEN interval '1 s' * (greatest(j.total - j.done, 0) / p.rate)::double precision END,
       coalesce(j.step_at, j.requested_at),
       j.id, j.phase, j.done, j.total, round(p.rate, 1),
       CASE WHEN j.state = 'running' AND p.rate > 0
            THEN clock_timestamp() + interval '1 s' * (greatest(j.total - j.done, 0) / p.rate)::double precision END, j.state
  FROM sync.job j
  LEFT JOIN sync.system y ON y.id = j.system_id
  LEFT JOIN sync.object o ON o.id = j.object_id
 CROSS JOIN LATERAL (SELECT j.done / nullif(extract(epoch FROM coalesce(j.step_at, clock_timestamp()) - coalesce((j.cursor ->> 'phase_at')::timestamptz, j.started_at)), 0)) p (rate)
 WHERE j.finished_at IS NULL OR j.finished_at > clock_timestamp() - interval '1 day';
COMMENT ON VIEW sync.progress IS 'How fast each flow and each job moves and how long it still needs at that rate; jobs that ended stay for a day';
COMMENT ON COLUMN sync.progress.job IS 'Job: for pause_job(), resume_job(), stop_job(); NULL: a route or stream';
COMMENT ON COLUMN sync.progress.done IS 'Records that the job''s phase has been through; of a full listing that has ended, those that it compared';
COMMENT ON COLUMN sync.progress.total IS 'How many it is about, as far as known';
COMMENT ON COLUMN sync.progress.rate IS 'Records a second';
COMMENT ON COLUMN sync.progress.estimate IS 'When the phase will have ended, at that rate';
COMMENT ON COLUMN sync.progress.state IS 'Of the job: queued, running, paused, done, failed, stopped; of a route or stream as in their views';
