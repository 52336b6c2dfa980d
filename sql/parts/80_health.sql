-- Is all well? health() for operators, check_system() before a system is used, check_invariants()
-- for tests and for the suspicious.

-- Parses what pg_get_expr() prints, in the session's own date style.
CREATE FUNCTION sync._partitions(parent regclass)
RETURNS TABLE (partition regclass, is_default boolean, lower_bound timestamptz, upper_bound timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT i.inhrelid::regclass, b.bound = 'DEFAULT',
           substring(b.bound FROM 'FROM \(''([^'']+)''\)')::timestamptz,
           substring(b.bound FROM 'TO \(''([^'']+)''\)')::timestamptz
      FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid
     CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) b
     WHERE i.inhparent = parent AND NOT i.inhdetachpending;
END
$$;
COMMENT ON FUNCTION sync._partitions(regclass) IS 'Partitions of a log table with their bounds';

CREATE FUNCTION sync._default_partition_used(parent regclass)
RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    spare regclass;
    used boolean;
BEGIN
    SELECT p.partition INTO spare FROM sync._partitions(parent) p WHERE p.is_default;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', spare) INTO used;
    RETURN used;
END
$$;
COMMENT ON FUNCTION sync._default_partition_used(regclass) IS 'Whether rows fell into a log table''s default partition';

CREATE FUNCTION sync.health()
RETURNS TABLE ("check" text, status text, detail text, hint text)
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'preloaded', CASE WHEN sync._preloaded() THEN 'ok' ELSE 'error' END,
           CASE WHEN sync._preloaded() THEN 'workers can run' ELSE 'the library was not preloaded: nothing is sent or pulled' END,
           CASE WHEN NOT sync._preloaded() THEN 'Add sync_ext to shared_preload_libraries in postgresql.conf and restart the server.' END
    UNION ALL
    SELECT 'version', CASE WHEN sync._library_version() = e.extversion THEN 'ok' ELSE 'error' END,
           format('library %s, SQL objects %s', sync._library_version(), e.extversion),
           CASE WHEN sync._library_version() <> e.extversion
                THEN 'Run ALTER EXTENSION sync_ext UPDATE in each database; restart the server when the library is the older one.' END
      FROM pg_extension e WHERE e.extname = 'sync_ext'
    UNION ALL
    SELECT 'identity', CASE WHEN h.speaks THEN 'ok' ELSE 'error' END,
           CASE WHEN h.speaks THEN format('hub %s, incarnation %s', h.hub_id, h.incarnation) ELSE 'silent: ' || h.reason END, h.hint
      FROM sync.hub_status() h
    UNION ALL
    SELECT 'takeover ' || y.name, 'warning',
           format('what a server before %s told it last may be unknown here, and was not compared since: %s', date_trunc('second', h.suspect_before),
                  string_agg(o.name, ', ' ORDER BY o.name)),
           format('For each: SELECT sync.reconcile(%L, object, mode => ''full'').', y.name)
      FROM sync.hub h
     CROSS JOIN sync.route r
      JOIN sync.system y ON y.id = r.system_id
      JOIN sync.object o ON o.id = r.object_id
      JOIN sync._server v ON v.name = y.name
      JOIN sync.connector c ON c.name = v.options ->> 'connector' AND c.current
     WHERE r.state = 'active' AND r.created_at < h.suspect_before
       AND c.manifest #> ARRAY['objects', o.name, 'pull', 'list'] IS NOT NULL
       AND NOT EXISTS (SELECT FROM sync.reconciliation n
                        WHERE n.system_id = r.system_id AND n.object_id = r.object_id AND n.mode = 'full' AND n.period IS NULL
                          AND n.other_system_id IS NULL AND n.state = 'done' AND n.started_at >= h.suspect_before)
     GROUP BY y.name, h.suspect_before
    UNION ALL
    SELECT 'worker', CASE WHEN s.state = 'running' THEN 'ok' WHEN s.state IN ('starting', 'idle') THEN 'warning' ELSE 'error' END,
           CASE WHEN s.database IS NULL THEN 'no hub is registered for this database'
                ELSE concat_ws(', ', 'the hub is ' || s.state, 'pid ' || s.pid, s.reason,
                               CASE WHEN s.failures > 0 THEN format('%s failed starts', s.failures) END,
                               'next start ' || s.restart_at) END,
           CASE WHEN s.database IS NULL THEN 'Run SELECT sync.start_workers(). If all slots are taken, raise sync_ext.max_databases and max_worker_processes.'
                WHEN s.state <> 'running' THEN 'See the server log; the launcher starts a hub again by itself.' END
      FROM (VALUES (1)) one
      LEFT JOIN sync._hub_slots() s ON s.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
     WHERE sync._preloaded()
    UNION ALL
    SELECT 'workers enabled', 'error', 'sync_ext.enabled is off for this database', 'Run SELECT sync.adopt_cluster(), or ALTER DATABASE … SET sync_ext.enabled = on.'
     WHERE current_setting('sync_ext.enabled', true) = 'off'
    UNION ALL
    SELECT 'connector ' || s.name, 'error', format('connector "%s" is not registered', s.options ->> 'connector'),
           'Register its manifest with sync.register_connector().'
      FROM sync._server s
     WHERE NOT EXISTS (SELECT FROM sync.connector c WHERE c.name = s.options ->> 'connector' AND c.current)
    UNION ALL
    SELECT 'system ' || s.system, 'warning', concat_ws(': ', format('mode %s', s.mode), s.paused_reason),
           CASE WHEN s.paused_at IS NOT NULL THEN format('SELECT sync.resume(%L) lets it go on.', s.system)
                ELSE format('ALTER SERVER %I OPTIONS (SET mode ''live'') lets it go on.', s.system) END
      FROM (SELECT v.name AS system, CASE WHEN y.paused THEN 'paused' ELSE coalesce(v.options ->> 'mode', 'live') END AS mode,
                   y.paused_reason, y.paused_at
              FROM sync._server v LEFT JOIN sync.system y ON y.name = v.name) s
     WHERE s.mode <> 'live'
    UNION ALL
    SELECT 'route ' || r.route, CASE WHEN r.state = 'needs_backfill' OR r.lag_time > r.max_lag / 2 THEN 'error' ELSE 'warning' END,
           CASE WHEN r.state = 'needs_backfill' THEN 'fell behind further than max_lag and stopped'
                ELSE format('%s events behind, the oldest for %s', r.lag_events, date_trunc('second', r.lag_time)) END,
           'See sync.system_status for what holds it up; past max_lag it stops and needs a backfill.'
      FROM sync.route_status r
     WHERE r.state = 'needs_backfill' OR r.lag_time > least(r.max_lag / 2, interval '15 min')
    UNION ALL
    SELECT 'held ' || s.system, 'warning',
           concat_ws(', ', CASE WHEN s.dead > 0 THEN format('%s dead letters', s.dead) END,
                           CASE WHEN s.conflict > 0 THEN format('%s conflicts', s.conflict) END,
                           CASE WHEN s.inbox > 0 THEN format('%s records in the inbox', s.inbox) END),
           'See sync.dead_letter, sync.conflict and sync.inbox; sync.retry() or sync.discard() settles a delivery.'
      FROM (SELECT y.name AS system, coalesce(p.dead, 0) AS dead, coalesce(p.conflict, 0) AS conflict, coalesce(i.inbox, 0) AS inbox
              FROM sync.system y
              LEFT JOIN (SELECT r.system_id, count(*) FILTER (WHERE p.state = 'dead') AS dead,
                                count(*) FILTER (WHERE p.state = 'conflict') AS conflict
                           FROM sync.pending p JOIN sync.route r ON r.id = p.route_id
                          WHERE p.state IN ('dead', 'conflict') GROUP BY r.system_id) p ON p.system_id = y.id
              LEFT JOIN (SELECT i.system_id, count(*) AS inbox FROM sync.inbox i GROUP BY i.system_id) i ON i.system_id = y.id) s
     WHERE s.dead + s.conflict + s.inbox > 0
    UNION ALL
    SELECT 'conflicts', 'warning', format('%s wait for a decision, the oldest for %s', count(*), date_trunc('second', clock_timestamp() - min(c.opened_at))),
           'View sync.conflict has them; sync.resolve_conflict() decides.'
      FROM sync.conflict_entry c WHERE c.resolved_at IS NULL HAVING count(*) > 0
    UNION ALL
    SELECT format('stream %s %s', t.system, t.object), 'warning', format('failed %s times: %s', t.failures, t.last_error),
           'It is tried again by itself.'
      FROM sync.stream_status t WHERE t.failures > 0
    UNION ALL
    SELECT format('drift %s %s', d.system, d.object), 'warning',
           format('%s: expected %s, got otherwise (%s records since %s)', d.path, coalesce(d.expected, 'what the mapping takes'), d.records, date_trunc('second', d.first_at)),
           'The records wait in the inbox. Register a manifest that fits (sync.drift, sync.manifest_preview), or have the other side corrected.'
      FROM sync.drift d WHERE d.state = 'open'
    UNION ALL
    SELECT 'erasure', 'warning', format('%s records wait to be erased, the first for %s', count(*), date_trunc('second', clock_timestamp() - min(e.requested_at))),
           'Deliveries of them have not ended: settle what is held (sync.dead_letter, sync.conflict); sync.erasure lists the records.'
      FROM sync.erasure e WHERE e.done_at IS NULL HAVING min(e.requested_at) < clock_timestamp() - interval '1 hour'
    UNION ALL
    SELECT 'partitions ' || l.name,
           CASE WHEN u.used OR p.ahead IS NULL OR p.ahead < clock_timestamp() THEN 'error'
                WHEN p.ahead < clock_timestamp() + interval '1 day' THEN 'warning' ELSE 'ok' END,
           CASE WHEN u.used THEN 'rows fell into the default partition' ELSE format('made up to %s', coalesce(p.ahead::text, 'nowhere')) END,
           CASE WHEN u.used OR p.ahead IS NULL OR p.ahead < clock_timestamp() + interval '1 day'
                THEN 'The hub makes partitions days ahead; see that it runs.' END
      FROM (VALUES ('outbox', 'sync.outbox'::regclass), ('claim', 'sync.claim'), ('outcome', 'sync.outcome')) l (name, parent)
     CROSS JOIN LATERAL (SELECT max(p.upper_bound) AS ahead FROM sync._partitions(l.parent) p) p
     CROSS JOIN LATERAL (SELECT sync._default_partition_used(l.parent) AS used) u
    UNION ALL
    SELECT 'audit', CASE WHEN w.since < clock_timestamp() - interval '1 min' THEN 'warning' ELSE 'ok' END,
           concat_ws(', ', format('%s rows sealed', coalesce(s.total, 0)), format('last at %s', date_trunc('second', s.sealed_at)),
                     CASE WHEN w.since < clock_timestamp() - interval '1 min' THEN format('rows wait to be sealed since %s', date_trunc('second', w.since)) END,
                     CASE WHEN current_setting('sync_ext.audit_anchor_dir', true) = '' THEN 'anchored in the server log only' END),
           CASE WHEN w.since < clock_timestamp() - interval '1 min' THEN 'The hub seals them within seconds; see that it runs.' END
      FROM (VALUES (1)) one
      LEFT JOIN LATERAL (SELECT * FROM sync.audit_seal t ORDER BY t.id DESC LIMIT 1) s ON true
     CROSS JOIN LATERAL (SELECT min(a.at) AS since FROM sync.audit a
                          WHERE s.id IS NULL OR a.incarnation >= s.incarnation AND a.xid >= pg_snapshot_xmax(s.snapshot)) w
    UNION ALL
    SELECT 'pg_cron', CASE WHEN count(t.id) = 0 OR c.there THEN 'ok' ELSE 'error' END,
           CASE WHEN c.there THEN 'installed' ELSE 'not installed' END || format(', %s streams are scheduled by it', count(t.id)),
           CASE WHEN count(t.id) > 0 AND NOT c.there THEN 'Create the extension, or make these streams again with an interval.' END
      FROM (SELECT EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_cron') AS there) c
      LEFT JOIN sync.stream t ON t.state = 'active' AND t.schedule IS NOT NULL
     GROUP BY c.there
    UNION ALL
    SELECT 'ownership ' || g.object, 'error', format('trigger "%s" of table %s is missing or disabled', g.trigger_name, g.relation),
           'Let the table''s owner call sync.track() for it again: applications are not held to the owners of its fields.'
      FROM sync._guard_gap g
    UNION ALL
    SELECT 'notice ' || n.key, CASE n.severity WHEN 'info' THEN 'ok' ELSE n.severity END,
           format('%s (%s times, last %s)', n.message, n.count, date_trunc('second', n.last_at)), n.hint
      FROM sync.notice n
$$;
COMMENT ON FUNCTION sync.health() IS 'One row per check: ok, warning or error, with what to do';

-- ---- before a system is used ----

CREATE FUNCTION sync.check_system(system text)
RETURNS TABLE ("check" text, ok boolean, detail text, hint text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    options jsonb := sync._system_options(check_system.system);
    manifest jsonb := sync._manifest(check_system.system);
    secrets jsonb := sync._system_secrets(check_system.system);
    host text;
    allowed text[];
    missing text;
BEGIN
    RETURN QUERY SELECT 'server', options IS NOT NULL,
        CASE WHEN options IS NOT NULL THEN 'declared' ELSE 'there is no such foreign server' END,
        CASE WHEN options IS NULL THEN 'CREATE SERVER name FOREIGN DATA WRAPPER sync_ext OPTIONS (connector ''…'').' END;
    IF options IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT 'connector', manifest IS NOT NULL,
        concat_ws(' ', options ->> 'connector', coalesce(manifest ->> 'version', 'is not registered')),
        CASE WHEN manifest IS NULL THEN 'Register its manifest with sync.register_connector().' END;
    RETURN QUERY SELECT 'mode', options ->> 'mode' <> 'paused' AND NOT coalesce(y.paused, false),
        concat_ws(': ', CASE WHEN y.paused THEN 'paused' ELSE options ->> 'mode' END, y.paused_reason),
        CASE WHEN y.paused THEN 'SELECT sync.resume(…) lets it go on.' END
      FROM (VALUES (1)) one LEFT JOIN sync.system y ON y.name = check_system.system;
    RETURN QUERY SELECT 'hub', h.speaks, coalesce(h.reason, 'speaks'), h.hint FROM sync.hub_status() h;
    IF manifest IS NULL THEN
        RETURN;
    END IF;

    SELECT string_agg(p.key, ', ' ORDER BY p.key) INTO missing
      FROM jsonb_each(CASE jsonb_typeof(manifest -> 'parameters') WHEN 'object' THEN manifest -> 'parameters' ELSE '{}' END) p
     WHERE p.value ->> 'required' = 'true' AND NOT options -> 'param' ? p.key;
    RETURN QUERY SELECT 'parameters', missing IS NULL, coalesce('missing: ' || missing, 'complete'),
        CASE WHEN missing IS NOT NULL THEN format('ALTER SERVER %I OPTIONS (ADD %s ''…'').', check_system.system, split_part(missing, ', ', 1)) END;
    SELECT string_agg(k, ', ' ORDER BY k) INTO missing FROM jsonb_object_keys(options -> 'param') k
     WHERE NOT coalesce(manifest -> 'parameters' ? k, false);
    IF missing IS NOT NULL THEN
        RETURN QUERY SELECT 'options', false, 'the connector does not know: ' || missing,
            format('ALTER SERVER %I OPTIONS (DROP %s).', check_system.system, split_part(missing, ', ', 1));
    END IF;

    RETURN QUERY
    SELECT 'secret ' || n.name, r.problem IS NULL, coalesce(r.problem, 'readable'),
           CASE WHEN r.problem IS NULL THEN NULL
                WHEN n.ref IS NULL THEN format('CREATE USER MAPPING FOR PUBLIC SERVER %I OPTIONS (%s ''file:%s'').', check_system.system, n.name, n.name)
                ELSE 'The file is secrets_dir/SYSTEM/NAME, with mode 0600, of the server''s user.' END
      FROM (SELECT s.key AS name, secrets ->> s.key AS ref, s.value ->> 'required' IS DISTINCT FROM 'true' AS optional
              FROM jsonb_each(CASE jsonb_typeof(manifest -> 'secrets') WHEN 'object' THEN manifest -> 'secrets' ELSE '{}' END) s) n
     CROSS JOIN LATERAL (SELECT CASE WHEN n.ref IS NULL THEN 'not given'
                                     WHEN n.name = 'user' AND n.ref !~ '^(file|env):' THEN NULL
                                     ELSE sync._secret_ok(check_system.system, n.ref) END AS problem) r
     WHERE NOT (n.ref IS NULL AND n.optional);
    SELECT string_agg(k, ', ' ORDER BY k) INTO missing FROM jsonb_object_keys(secrets) k
     WHERE k <> 'user' AND NOT coalesce(manifest -> 'secrets' ? k, false);
    IF missing IS NOT NULL THEN
        RETURN QUERY SELECT 'user mapping', false, 'the connector does not know: ' || missing,
            format('ALTER USER MAPPING FOR PUBLIC SERVER %I OPTIONS (DROP %s).', check_system.system, split_part(missing, ', ', 1));
    END IF;

    -- The egress guard itself decides when a request is made; this compares names only.
    host := substring(coalesce(options ->> 'base_url', manifest ->> 'base_url') FROM '^https?://([^/:?#]+|\[[^]]+\])');
    allowed := ARRAY(SELECT regexp_replace(trim(a), '^https?://|:[0-9]+$', '', 'g')
                       FROM unnest(ARRAY(SELECT jsonb_array_elements_text(CASE jsonb_typeof(manifest -> 'hosts') WHEN 'array' THEN manifest -> 'hosts' ELSE '[]' END))
                                   || string_to_array(options ->> 'allowed_hosts', ',')
                                   || string_to_array(nullif(current_setting('sync_ext.allowed_hosts', true), ''), ',')) a);
    RETURN QUERY SELECT 'host', h.ok, concat_ws(' ', coalesce(host, 'no base_url'), CASE WHEN NOT h.ok AND host IS NOT NULL THEN 'is not allowed' END),
        CASE WHEN NOT h.ok AND host IS NULL THEN format('ALTER SERVER %I OPTIONS (ADD base_url ''https://…'').', check_system.system)
             WHEN NOT h.ok THEN 'Have a superuser list it in sync_ext.allowed_hosts or in the server''s option allowed_hosts.' END
      FROM (SELECT host IS NOT NULL AND EXISTS (SELECT FROM unnest(allowed) a
                    WHERE lower(a) = lower(host) OR a LIKE '*.%' AND lower(host) LIKE '%' || lower(substr(a, 2)) OR a LIKE '%/%') AS ok) h;

    RETURN QUERY
    SELECT 'route ' || r.name, w.problem IS NULL, coalesce(w.problem, o.name), CASE WHEN w.problem IS NOT NULL THEN 'Update the connector, or drop the route.' END
      FROM sync.route r
      JOIN sync.system y ON y.id = r.system_id AND y.name = check_system.system
      JOIN sync.object o ON o.id = r.object_id
     CROSS JOIN LATERAL (SELECT CASE WHEN manifest -> 'objects' -> o.name -> 'push' IS NULL THEN format('the connector cannot push "%s"', o.name)
                                     WHEN NOT o.captured THEN format('changes of "%s" are not captured', o.name) END AS problem) w
     WHERE r.state <> 'dropped' ORDER BY r.name;
END
$$;
COMMENT ON FUNCTION sync.check_system(text) IS 'Whether a system is ready to be used: server, connector, options, secrets, host, routes; sends nothing';
