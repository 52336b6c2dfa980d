-- Manifests side by side: one is current, others wait beside it or have been current before.

CREATE VIEW sync.connector_version AS
SELECT c.name AS connector, c.version, c.id, c.current, c.registered_at, c.registered_by,
       (SELECT jsonb_object_agg(o.key, o.value #>> '{pull,contract,version}')
          FROM jsonb_each(c.manifest -> 'objects') o WHERE o.value #> '{pull,contract}' IS NOT NULL) AS contracts,
       ARRAY(SELECT s.name FROM sync._server s WHERE s.options ->> 'connector' = c.name ORDER BY s.name) AS systems
  FROM sync.connector c;
COMMENT ON VIEW sync.connector_version IS 'Registered manifests, the current and the others, with the contract versions of their objects';
COMMENT ON COLUMN sync.connector_version.current IS 'Whether requests are rendered and records mapped with it';
COMMENT ON COLUMN sync.connector_version.contracts IS 'Versions of the vendor''s contracts, by object';
COMMENT ON COLUMN sync.connector_version.systems IS 'Systems that use the connector';
GRANT SELECT ON sync.connector_version TO sync_admin, sync_operator, sync_auditor;

-- Of several manifests that call themselves by one version, the one that was registered last.
CREATE FUNCTION sync._connector_id(connector text, version text)
RETURNS integer
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_id integer;
BEGIN
    SELECT c.id INTO found_id FROM sync.connector c
     WHERE c.name = _connector_id.connector AND c.version = _connector_id.version
     ORDER BY c.id DESC LIMIT 1;
    IF found_id IS NULL THEN
        RAISE EXCEPTION 'connector "%" has no version "%"', _connector_id.connector, _connector_id.version
            USING ERRCODE = 'SE012',
                  DETAIL = coalesce('Its versions are: ' || (SELECT string_agg(DISTINCT c.version, ', ')
                                                              FROM sync.connector c WHERE c.name = _connector_id.connector) || '.',
                                    'No connector of that name is registered.'),
                  HINT = 'sync.register_connector(manifest, activate => false) puts a version beside the current one.';
    END IF;
    RETURN found_id;
END
$$;
COMMENT ON FUNCTION sync._connector_id(text, text) IS 'The manifest of a connector and version, or an error';

-- The only place where a manifest becomes current.
CREATE FUNCTION sync._activate_connector(id integer)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c sync.connector;
    old text;
BEGIN
    SELECT * INTO STRICT c FROM sync.connector t WHERE t.id = _activate_connector.id;
    UPDATE sync.connector t SET current = false WHERE t.current AND t.name = c.name AND t.id <> c.id RETURNING t.version INTO old;
    UPDATE sync.connector t SET current = true WHERE t.id = c.id AND NOT t.current;
    -- What the old one could not map, this one may; the hub reads it before it looks into the inbox.
    UPDATE sync.inbox i SET retry_at = clock_timestamp()
      FROM sync.system y
      JOIN sync._server s ON s.name = y.name
     WHERE i.system_id = y.id AND s.options ->> 'connector' = c.name;
    UPDATE sync.drift_entry d SET resolved_at = clock_timestamp()
      FROM sync.system y
      JOIN sync._server s ON s.name = y.name
     WHERE d.system_id = y.id AND d.resolved_at IS NULL AND s.options ->> 'connector' = c.name;
    PERFORM sync._audit('connector.activated', detail => jsonb_build_object('connector', c.name, 'version', c.version, 'id', c.id, 'before', old));
END
$$;
COMMENT ON FUNCTION sync._activate_connector(integer) IS 'Makes a manifest the current one of its name, and has the inbox tried again with it';

CREATE FUNCTION sync.activate_connector(connector text, version text)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted integer;
BEGIN
    PERFORM sync._lock_connector(activate_connector.connector);
    wanted := sync._connector_id(activate_connector.connector, activate_connector.version);
    IF NOT (SELECT c.current FROM sync.connector c WHERE c.id = wanted) THEN
        PERFORM sync._activate_connector(wanted);
        PERFORM sync._change();
    END IF;
    RETURN activate_connector.connector || ' ' || activate_connector.version;
END
$$;
COMMENT ON FUNCTION sync.activate_connector(text, text) IS
    'Makes a registered version of a connector the current one; requests that are frozen keep the one that rendered them. Returns name and version';

-- ---- what would change ----

CREATE FUNCTION sync._map_records(system_id integer, object_id integer, connector_id integer, records jsonb)
RETURNS SETOF jsonb
LANGUAGE c VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
AS 'MODULE_PATHNAME', 'se_map_records';
COMMENT ON FUNCTION sync._map_records(integer, integer, integer, jsonb) IS
    'What a manifest makes of each of an array of remote records of a system: as sync.test_map(), with the system''s own references';

CREATE FUNCTION sync._preview_with(system text, object text, id text, connector_id integer)
RETURNS TABLE (n integer, step text, state text, method text, url text, headers jsonb, body text, message text)
LANGUAGE c VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_preview';
COMMENT ON FUNCTION sync._preview_with(text, text, text, integer) IS 'sync.preview() with a manifest other than the current one';

-- The members of two objects that differ.
CREATE FUNCTION sync._differences(current jsonb, candidate jsonb)
RETURNS TABLE (field text, current jsonb, candidate jsonb)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(a.key, b.key), a.value, b.value
      FROM jsonb_each($1) a FULL JOIN jsonb_each($2) b ON b.key = a.key
     WHERE a.value IS DISTINCT FROM b.value
     ORDER BY 1
$$;
COMMENT ON FUNCTION sync._differences(jsonb, jsonb) IS 'Members in which two objects differ';

CREATE FUNCTION sync._preview_pull(from_id integer, to_id integer, connector text, records integer)
RETURNS TABLE (system text, object text, record_id text, remote_id text, field text, current jsonb, candidate jsonb)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    s record;
    items jsonb;
    ids text[];
BEGIN
    FOR s IN
        SELECT t.system_id, t.object_id, y.name AS system, o.name AS object
          FROM sync.stream t
          JOIN sync.system y ON y.id = t.system_id
          JOIN sync.object o ON o.id = t.object_id
          JOIN sync._server v ON v.name = y.name AND v.options ->> 'connector' = _preview_pull.connector
          JOIN sync.connector f ON f.id = from_id AND f.manifest #> ARRAY['objects', o.name, 'pull'] IS NOT NULL
          JOIN sync.connector n ON n.id = to_id AND n.manifest #> ARRAY['objects', o.name, 'pull'] IS NOT NULL
         WHERE t.state = 'active' ORDER BY y.name, o.name
    LOOP
        -- What waits in the inbox is what a new manifest is for.
        SELECT jsonb_agg(r.item ORDER BY r.n), array_agg(r.remote_id ORDER BY r.n) INTO items, ids
          FROM (SELECT u.*, row_number() OVER () AS n
                  FROM ((SELECT i.remote_id, i.item FROM sync.inbox i
                          WHERE i.system_id = s.system_id AND i.object_id = s.object_id AND i.item <> 'null'
                          ORDER BY i.received_at DESC LIMIT records)
                        UNION ALL
                        (SELECT m.remote_id, m.raw FROM sync.mirror m
                          WHERE m.system_id = s.system_id AND m.object_id = s.object_id AND m.raw IS NOT NULL AND NOT m.deleted
                          ORDER BY m.seen_at DESC LIMIT records)) u) r;
        CONTINUE WHEN items IS NULL;
        RETURN QUERY
        SELECT s.system, s.object, x.record_id, ids[a.n], d.field, d.current, d.candidate
          FROM (SELECT r.mapped, row_number() OVER () AS n FROM sync._map_records(s.system_id, s.object_id, from_id, items) r (mapped)) a
          JOIN (SELECT r.mapped, row_number() OVER () AS n FROM sync._map_records(s.system_id, s.object_id, to_id, items) r (mapped)) b ON b.n = a.n
          LEFT JOIN sync.external_id x ON x.system_id = s.system_id AND x.object_id = s.object_id AND x.remote_id = ids[a.n]
         CROSS JOIN LATERAL (
                SELECT f.field, f.current, f.candidate
                  FROM sync._differences(coalesce(a.mapped -> 'fields', '{}'), coalesce(b.mapped -> 'fields', '{}')) f
                 UNION ALL
                SELECT '(' || f.field || ')', f.current, f.candidate
                  FROM sync._differences(a.mapped - 'fields', b.mapped - 'fields') f) d;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._preview_pull(integer, integer, text, integer) IS 'What two manifests make of the remote records that came last';

CREATE FUNCTION sync._preview_targets(from_id integer, to_id integer, connector text, records integer)
RETURNS TABLE (system text, object text, record_id text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT y.name, o.name, x.record_id
      FROM sync.route r
      JOIN sync.system y ON y.id = r.system_id
      JOIN sync.object o ON o.id = r.object_id
      JOIN sync._server v ON v.name = y.name AND v.options ->> 'connector' = $3
      JOIN sync.connector f ON f.id = $1 AND f.manifest #> ARRAY['objects', o.name, 'push'] IS NOT NULL
      JOIN sync.connector n ON n.id = $2 AND n.manifest #> ARRAY['objects', o.name, 'push'] IS NOT NULL
     -- By the index of deliveries, from the newest; several attempts and events may be of one record.
     CROSS JOIN LATERAL (
            SELECT c.record_id
              FROM (SELECT l.record_id, l.seq FROM sync.claim l WHERE l.route_id = r.id ORDER BY l.seq DESC LIMIT 4 * $4) c
             GROUP BY c.record_id ORDER BY max(c.seq) DESC LIMIT $4) x
     WHERE r.state <> 'dropped'
$$;
COMMENT ON FUNCTION sync._preview_targets(integer, integer, text, integer) IS 'The records that were sent last, by route';

-- Runs as its caller, who needs SELECT on the tables whose records are rendered.
CREATE FUNCTION sync._preview_push(from_id integer, to_id integer, connector text, records integer)
RETURNS TABLE (system text, object text, record_id text, field text, current jsonb, candidate jsonb)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    t record;
    before jsonb;
    after jsonb;
BEGIN
    FOR t IN SELECT * FROM sync._preview_targets(from_id, to_id, connector, records)
    LOOP
        BEGIN
            SELECT jsonb_object_agg(p.n || ' ' || p.step, to_jsonb(p) - 'n' - 'step') INTO before
              FROM sync._preview_with(t.system, t.object, t.record_id, from_id) p;
            SELECT jsonb_object_agg(p.n || ' ' || p.step, to_jsonb(p) - 'n' - 'step') INTO after
              FROM sync._preview_with(t.system, t.object, t.record_id, to_id) p;
        EXCEPTION WHEN no_data_found THEN
            CONTINUE; -- deleted since
        END;
        RETURN QUERY
        SELECT t.system, t.object, t.record_id, d.field, d.current, d.candidate
          FROM sync._differences(coalesce(before, '{}'), coalesce(after, '{}')) d;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._preview_push(integer, integer, text, integer) IS 'What two manifests would send of the records that were sent last';

CREATE FUNCTION sync.manifest_preview(connector text, version text, records integer DEFAULT 100)
RETURNS TABLE (direction text, system text, object text, record_id text, record_number text, remote_id text,
               field text, current jsonb, candidate jsonb)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    to_id constant integer := sync._connector_id(connector, version);
    from_id constant integer := sync._current_connector(connector);
BEGIN
    IF records IS NULL OR records < 1 OR records > 10000 THEN
        RAISE EXCEPTION 'records must be between 1 and 10000'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'So many of the newest records of each object are rendered with both versions.';
    END IF;
    RETURN QUERY
    SELECT 'pull', p.system, p.object, p.record_id, sync._record_number(sync._object_id(p.object), p.record_id), p.remote_id, p.field, p.current, p.candidate
      FROM sync._preview_pull(from_id, to_id, connector, records) p
    UNION ALL
    SELECT 'push', p.system, p.object, p.record_id, sync._record_number(sync._object_id(p.object), p.record_id), NULL, p.field, p.current, p.candidate
      FROM sync._preview_push(from_id, to_id, connector, records) p;
END
$$;
COMMENT ON FUNCTION sync.manifest_preview(text, text, integer) IS
    'What a registered version of a connector would do otherwise than the current one, over what came and went last; sends and changes nothing. No row: nothing';

CREATE FUNCTION sync._current_connector(connector text)
RETURNS integer
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_id integer;
BEGIN
    SELECT c.id INTO found_id FROM sync.connector c WHERE c.name = _current_connector.connector AND c.current;
    IF found_id IS NULL THEN
        RAISE EXCEPTION 'connector "%" has no current version', _current_connector.connector
            USING ERRCODE = 'SE012', HINT = 'There is nothing to compare with. Make one current with sync.activate_connector().';
    END IF;
    RETURN found_id;
END
$$;
COMMENT ON FUNCTION sync._current_connector(text) IS 'The current manifest of a connector, or an error';
