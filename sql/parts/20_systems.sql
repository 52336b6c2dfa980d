-- Systems: the foreign-data wrapper, and the functions that find a system, an object, a manifest by
-- name. A wrapper of ours is recognised by its validator, so that it may be renamed too.

CREATE FUNCTION sync.fdw_validator(options text[], catalog oid)
RETURNS void
LANGUAGE c STRICT
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'se_fdw_validator';
COMMENT ON FUNCTION sync.fdw_validator(text[], oid) IS 'Checks the options of systems and of their user mappings';

CREATE FOREIGN DATA WRAPPER sync_ext VALIDATOR sync.fdw_validator NO HANDLER;
COMMENT ON FOREIGN DATA WRAPPER sync_ext IS 'External systems that sync_ext speaks to';

CREATE FUNCTION sync._secret_ok(system text, ref text)
RETURNS text
LANGUAGE c STRICT
AS 'MODULE_PATHNAME', 'se_secret_ok';
COMMENT ON FUNCTION sync._secret_ok(text, text) IS 'NULL when the reference to a secret resolves, else the reason why not';

-- Waking. These are cheap and take effect when the transaction commits.
CREATE FUNCTION sync._wake()
RETURNS void
LANGUAGE c
AS 'MODULE_PATHNAME', 'se_wake';
COMMENT ON FUNCTION sync._wake() IS 'Wakes the hub of this database at commit and has it look for calls, requested pulls and inbox items';

CREATE FUNCTION sync._change()
RETURNS void
LANGUAGE c
AS 'MODULE_PATHNAME', 'se_change';
COMMENT ON FUNCTION sync._change() IS 'Wakes the hub at commit and has it read configuration and pending deliveries again';

CREATE FUNCTION sync._register()
RETURNS void
LANGUAGE c
AS 'MODULE_PATHNAME', 'se_register';
COMMENT ON FUNCTION sync._register() IS 'Has the launcher start a hub for this database at commit';

CREATE FUNCTION sync.start_workers()
RETURNS void
LANGUAGE c
AS 'MODULE_PATHNAME', 'se_start';
COMMENT ON FUNCTION sync.start_workers() IS 'Has the launcher start a hub for this database; an error when the library was not preloaded';

CREATE FUNCTION sync._change_trigger()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'se_change_trigger';
COMMENT ON FUNCTION sync._change_trigger() IS 'Wakes the hub when the registry changes';

DO $$
DECLARE
    registry text;
BEGIN
    FOREACH registry IN ARRAY ARRAY['hub', 'connector', 'system', 'object', 'route', 'stream'] LOOP
        EXECUTE format('CREATE TRIGGER tell_hub AFTER INSERT OR UPDATE OR DELETE ON sync.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION sync._change_trigger()', registry);
        EXECUTE format('COMMENT ON TRIGGER tell_hub ON sync.%I IS %L', registry,
                       'Has the hub read its configuration again');
    END LOOP;
END
$$;

CREATE VIEW sync._server AS
SELECT s.oid, s.srvname::text AS name, s.srvowner AS owner,
       coalesce((SELECT pg_catalog.jsonb_object_agg(o.option_name, o.option_value)
                   FROM pg_catalog.pg_options_to_table(s.srvoptions) o), '{}') AS options
  FROM pg_catalog.pg_foreign_server s
  JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
 WHERE w.fdwvalidator = 'sync.fdw_validator(text[],oid)'::pg_catalog.regprocedure;
COMMENT ON VIEW sync._server IS 'Foreign servers of our wrapper';

CREATE FUNCTION sync._connector_names(section jsonb)
RETURNS SETOF text
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k FROM jsonb_object_keys(CASE jsonb_typeof(section) WHEN 'object' THEN section ELSE '{}' END) k
$$;
COMMENT ON FUNCTION sync._connector_names(jsonb) IS 'Names declared in a section of a manifest';

CREATE FUNCTION sync._manifest(system text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT c.manifest
      FROM sync._server s
      JOIN sync.connector c ON c.name = s.options ->> 'connector' AND c.current
     WHERE s.name = system);
END
$$;
COMMENT ON FUNCTION sync._manifest(text) IS 'Current manifest of a system''s connector; NULL when it is not registered';

CREATE FUNCTION sync._system_id(name text)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    server sync._server;
    found_id integer;
    found_oid oid;
BEGIN
    SELECT s.* INTO server FROM sync._server s WHERE s.name = _system_id.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'system "%" does not exist', _system_id.name
            USING ERRCODE = 'SE010',
                  DETAIL = coalesce('Systems are: '
                           || (SELECT string_agg(s.name, ', ' ORDER BY s.name) FROM sync._server s) || '.',
                           'No system was declared yet.'),
                  HINT = 'Declare it: CREATE SERVER name FOREIGN DATA WRAPPER sync_ext OPTIONS (connector ''…'').';
    END IF;
    SELECT y.id, y.server_oid INTO found_id, found_oid FROM sync.system y WHERE y.name = _system_id.name;
    IF FOUND AND found_oid = server.oid THEN
        RETURN found_id;
    END IF;
    INSERT INTO sync.system AS y (name, server_oid)
    VALUES (_system_id.name, server.oid)
    ON CONFLICT ON CONSTRAINT system_name_key DO UPDATE SET server_oid = EXCLUDED.server_oid
    RETURNING y.id INTO found_id;
    RETURN found_id;
END
$$;
COMMENT ON FUNCTION sync._system_id(text) IS 'Id of a system, registered on first use; an error when there is no such foreign server';

CREATE FUNCTION sync._system_options(name text)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('mode', 'live')
           || (SELECT coalesce(jsonb_object_agg(o.key, o.value) FILTER (WHERE o.key = ANY (known.names)), '{}')
                 FROM jsonb_each(s.options) o)
           || jsonb_build_object('param',
                (SELECT coalesce(jsonb_object_agg(p.key, p.value -> 'default')
                                 FILTER (WHERE p.value ? 'default'), '{}')
                   FROM jsonb_each(CASE jsonb_typeof(c.manifest -> 'parameters')
                                   WHEN 'object' THEN c.manifest -> 'parameters' ELSE '{}' END) p)
                || (SELECT coalesce(jsonb_object_agg(o.key, o.value) FILTER (WHERE o.key <> ALL (known.names)), '{}')
                      FROM jsonb_each(s.options) o))
      FROM sync._server s
      LEFT JOIN sync.connector c ON c.name = s.options ->> 'connector' AND c.current
     CROSS JOIN (VALUES (ARRAY['allowed_hosts', 'base_url', 'ca_file', 'connect_timeout', 'connector', 'http2',
                               'legal_entity', 'max_attempts', 'max_in_flight', 'mode', 'proxy', 'rate_limit',
                               'settle_time', 'timeout'])) AS known (names)
     WHERE s.name = _system_options.name
$$;
COMMENT ON FUNCTION sync._system_options(text) IS 'Options of a system; the connector''s parameters, declared defaults included, under "param"';

-- References to secrets, never secrets: {"password": "file:password"}. Only mappings for PUBLIC count.
CREATE FUNCTION sync._system_secrets(name text)
RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_object_agg(o.option_name, o.option_value), '{}')
      FROM sync._server s
      JOIN pg_user_mapping m ON m.umserver = s.oid AND m.umuser = 0
     CROSS JOIN LATERAL pg_options_to_table(m.umoptions) o
     WHERE s.name = _system_secrets.name
$$;
COMMENT ON FUNCTION sync._system_secrets(text) IS 'References to the secrets of a system, from its user mapping for PUBLIC';

CREATE FUNCTION sync._object_id(name text)
RETURNS integer
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_id integer;
BEGIN
    SELECT o.id INTO found_id FROM sync.object o WHERE o.name = _object_id.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'object "%" is not known', _object_id.name
            USING ERRCODE = 'SE011',
                  DETAIL = coalesce('Objects are: '
                           || (SELECT string_agg(o.name, ', ' ORDER BY o.name) FROM sync.object o) || '.',
                           'No table is tracked yet.'),
                  HINT = 'Track its table first: SELECT sync.track(''schema.table'', ''object'').';
    END IF;
    RETURN found_id;
END
$$;
COMMENT ON FUNCTION sync._object_id(text) IS 'Id of an object; an error when it is not tracked';

-- A record id as events and external ids have it, whatever spelling somebody gave: a uuid in capitals, a number
-- with zeros before it. Each part goes through its column's type, where that is one of those below (or a domain over
-- one): their text is known, and no code of a table's owner runs here. Of any other type an id stays as it was given.
-- A value that the column would cut or round is no key of it.
CREATE FUNCTION sync._record_id(object_id integer, record_id text, strict boolean DEFAULT true)
RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET extra_float_digits = 1
AS $$
DECLARE
    o sync.object;
    parts text[] := ARRAY[$2];
    part text;
    k record;
BEGIN
    SELECT * INTO o FROM sync.object t WHERE t.id = $1;
    BEGIN
        IF $2 IS NULL THEN
            RAISE data_exception;
        ELSIF cardinality(o.key_columns) > 1 THEN
            parts := ARRAY(SELECT jsonb_array_elements_text($2::jsonb));
            IF cardinality(parts) <> cardinality(o.key_columns) THEN
                RAISE data_exception;
            END IF;
        END IF;
        FOR k IN
            WITH RECURSIVE d (n, type, typmod) AS (
                SELECT u.n, a.atttypid, a.atttypmod FROM unnest(o.key_columns) WITH ORDINALITY u (name, n)
                  JOIN pg_attribute a ON a.attrelid = o.table_oid AND a.attname = u.name AND NOT a.attisdropped
                UNION ALL
                SELECT d.n, y.typbasetype, y.typtypmod FROM d JOIN pg_type y ON y.oid = d.type AND y.typtype = 'd')
            SELECT d.n, format_type(d.type, -1) AS any_value, format_type(d.type, d.typmod) AS of_column
              FROM d
             WHERE d.type = ANY ('{int2,int4,int8,numeric,float4,float8,bool,uuid,varchar,bpchar,date,timestamp,timestamptz}'::regtype[])
        LOOP
            -- Text as events have it: of the value in JSON, but without the blanks that fill up a character(n).
            EXECUTE format('SELECT CASE WHEN CAST($1 AS %1$s) = CAST($1 AS %2$s) THEN %3$s(to_jsonb(CAST($1 AS %2$s)) #>> ''{}'') END',
                           k.any_value, k.of_column, CASE WHEN k.any_value = 'bpchar' THEN 'rtrim' END)
               INTO part USING parts[k.n];
            parts[k.n] := part;
        END LOOP;
        IF array_position(parts, NULL) IS NOT NULL THEN
            RAISE data_exception;
        END IF;
        RETURN CASE cardinality(parts) WHEN 1 THEN parts[1]
                    ELSE '[' || (SELECT string_agg(to_json(p)::text, ', ' ORDER BY n) FROM unnest(parts) WITH ORDINALITY u (p, n)) || ']' END;
    EXCEPTION WHEN data_exception OR statement_too_complex OR undefined_table OR undefined_object THEN
        IF NOT strict THEN
            RETURN $2;
        END IF;
    END;
    RAISE EXCEPTION USING
        MESSAGE = CASE WHEN $2 IS NULL THEN format('the id of a record of object "%s" is required', o.name)
                       ELSE format('"%s" is no record id of object "%s"', $2, o.name) END,
        ERRCODE = CASE WHEN $2 IS NULL THEN 'null_value_not_allowed' ELSE 'invalid_text_representation' END,
        DETAIL = format('Its key is %s.', (SELECT string_agg(concat_ws(' ', u.name, (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
                                             WHERE a.attrelid = o.table_oid AND a.attname = u.name AND NOT a.attisdropped)), ', ' ORDER BY u.n)
                                             FROM unnest(o.key_columns) WITH ORDINALITY u (name, n))),
        HINT = CASE cardinality(o.key_columns) WHEN 1 THEN 'Give the value of that column; sync.find() looks for a record by its business number or remote id.'
                    ELSE 'Give a JSON array of the values of these columns, in that order, each a string: ["10", "2"].' END;
END
$$;
COMMENT ON FUNCTION sync._record_id(integer, text, boolean) IS
    'A record id as it is kept, from any spelling of a number, uuid, boolean, date, instant or character type, other types as given; one that is none is an error, else (not strict) it stays as it is';

CREATE FUNCTION sync._key_text_sql(operands text[], types oid[])
RETURNS text
LANGUAGE c STABLE STRICT
AS 'MODULE_PATHNAME', 'se_key_text_sql';
COMMENT ON FUNCTION sync._key_text_sql(text[], oid[]) IS
    'Expression over the columns of a key, of these types, that makes the record id which events have, whatever DateStyle and TimeZone say';

CREATE FUNCTION sync._key_sql(relation oid, columns name[], alias text)
RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sync._key_text_sql(array_agg(format('%s.%I', alias, u.name) ORDER BY u.n), array_agg(a.atttypid ORDER BY u.n))
      FROM unnest(columns) WITH ORDINALITY u (name, n) JOIN pg_attribute a ON a.attrelid = relation AND a.attname = u.name
$$;
COMMENT ON FUNCTION sync._key_sql(oid, name[], text) IS 'The same over columns of a table, which the expression calls by an alias';

-- The section of the manifest that says how a system speaks of an object, or an error that says why
-- there is none. direction: push or pull.
CREATE FUNCTION sync._manifest_object(system text, object text, direction text)
RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    manifest jsonb := sync._manifest(system);
    connector text := sync._system_options(system) ->> 'connector';
BEGIN
    IF manifest IS NULL THEN
        RAISE EXCEPTION 'connector "%" of system "%" is not registered', connector, system
            USING ERRCODE = 'SE012',
                  HINT = 'Register its manifest with sync.register_connector().';
    END IF;
    IF manifest -> 'objects' -> object -> direction IS NULL THEN
        RAISE EXCEPTION 'connector "%" cannot % object "%"', connector, direction, object
            USING ERRCODE = 'SE011',
                  DETAIL = coalesce((SELECT format('It can %s: %s.', direction, string_agg(k, ', ' ORDER BY k))
                                       FROM sync._connector_names(manifest -> 'objects') k
                                      WHERE manifest -> 'objects' -> k -> direction IS NOT NULL
                                      HAVING count(*) > 0),
                                    format('It can %s nothing.', direction)),
                  HINT = 'The names of objects are those of the connector''s manifest.';
    END IF;
    RETURN manifest -> 'objects' -> object;
END
$$;
COMMENT ON FUNCTION sync._manifest_object(text, text, text) IS 'What a system''s manifest says about an object that it can push or pull; an error when it cannot';
