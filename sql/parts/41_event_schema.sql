-- Schemas of outgoing events: what the body of an object's events looks like, as JSON Schema, in versions
-- that change with the table. Who reads events can rely on a version; who changes the table is told what
-- that breaks.

CREATE TABLE sync.event_schema_version (
    object_id   integer NOT NULL REFERENCES sync.object ON DELETE CASCADE,
    version     integer NOT NULL,
    schema      jsonb NOT NULL,
    changes     jsonb NOT NULL DEFAULT '[]',
    breaking    boolean NOT NULL DEFAULT false,
    made_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    made_by     name NOT NULL DEFAULT session_user,
    PRIMARY KEY (object_id, version)
);
COMMENT ON TABLE sync.event_schema_version IS 'Versions of the schemas of events; a new one is added when a change of the table changes what events hold';
COMMENT ON COLUMN sync.event_schema_version.version IS 'Counts from 1 for each object';
COMMENT ON COLUMN sync.event_schema_version.schema IS 'JSON Schema 2020-12 of the body of an event of an insert or update';
COMMENT ON COLUMN sync.event_schema_version.changes IS 'What changed since the version before: [{"path", "change", "breaking"}]';
COMMENT ON COLUMN sync.event_schema_version.breaking IS 'Whether one who reads the version before may fail on this one';
COMMENT ON COLUMN sync.event_schema_version.made_at IS 'When the table changed';
COMMENT ON COLUMN sync.event_schema_version.made_by IS 'Who changed it';

CREATE TABLE sync.event_compatibility (
    object_id   integer PRIMARY KEY REFERENCES sync.object ON DELETE CASCADE,
    on_breaking text NOT NULL CHECK (on_breaking IN ('warn', 'refuse'))
);
COMMENT ON TABLE sync.event_compatibility IS 'Objects whose tables may not be changed so that readers of events break; made by sync.set_event_compatibility()';
COMMENT ON COLUMN sync.event_compatibility.on_breaking IS 'warn (as without a row), or refuse the change of the table';

-- The values that a CHECK of its own allows for a text column: status IN ('open', 'paid').
CREATE FUNCTION sync._checked_values(relation oid, attnum smallint)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (SELECT jsonb_agg(replace(v.m[1], '''''', '''') ORDER BY v.n)
              FROM regexp_matches(d.definition, '''((?:[^'']|'''')*)''::text', 'g') WITH ORDINALITY v (m, n))
      FROM pg_constraint c
     CROSS JOIN LATERAL (SELECT pg_get_constraintdef(c.oid) AS definition) d
     WHERE c.conrelid = relation AND c.contype = 'c' AND c.conkey = ARRAY[attnum] AND c.convalidated
       AND d.definition ~ '^CHECK \(\(\(?"?\w+"?\)?(::text)? = ANY \(\(?ARRAY\[(''(?:[^'']|'''')*''::(text|character varying)(::text)?(, )?)+\]\)?(::text\[\])?\)\)\)$'
     ORDER BY c.oid LIMIT 1
$$;
COMMENT ON FUNCTION sync._checked_values(oid, smallint) IS 'The texts that a CHECK constraint allows in a column, or NULL';

-- As src/capture/render.c writes values of the type.
CREATE FUNCTION sync._type_schema(type oid)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t pg_type;
BEGIN
    SELECT * INTO STRICT t FROM pg_type p WHERE p.oid = type;
    IF t.typtype = 'd' THEN
        RETURN sync._type_schema(t.typbasetype);
    ELSIF t.typcategory = 'A' AND t.typelem <> 0 THEN
        RETURN jsonb_build_object('type', 'array', 'items', sync._nullable(sync._type_schema(t.typelem)));
    ELSIF t.typtype = 'e' THEN
        RETURN jsonb_build_object('type', 'string', 'enum',
                                  (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = type));
    END IF;
    RETURN CASE type::regtype::text
        WHEN 'boolean' THEN '{"type": "boolean"}'
        WHEN 'smallint' THEN '{"type": "integer"}'
        WHEN 'integer' THEN '{"type": "integer"}'
        WHEN 'bigint' THEN '{"type": "integer"}'
        WHEN 'numeric' THEN '{"type": "number"}'
        WHEN 'real' THEN '{"type": "number"}'
        WHEN 'double precision' THEN '{"type": "number"}'
        WHEN 'json' THEN '{}'
        WHEN 'jsonb' THEN '{}'
        WHEN 'uuid' THEN '{"type": "string", "format": "uuid"}'
        WHEN 'date' THEN '{"type": "string", "format": "date"}'
        WHEN 'timestamp with time zone' THEN '{"type": "string", "format": "date-time"}'
        ELSE '{"type": "string"}' END;
END
$$;
COMMENT ON FUNCTION sync._type_schema(oid) IS 'JSON Schema of the values of a type, as events hold them';

CREATE FUNCTION sync._nullable(schema jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN $1 ? 'type' THEN $1 || jsonb_build_object('type', jsonb_build_array($1 -> 'type', 'null'))
                                     || CASE WHEN $1 ? 'enum' THEN jsonb_build_object('enum', $1 -> 'enum' || '[null]') ELSE '{}' END
                ELSE $1 END
$$;
COMMENT ON FUNCTION sync._nullable(jsonb) IS 'The schema of a value that may also be null';

CREATE FUNCTION sync._row_schema(relation oid)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object(
               'type', 'object',
               'properties', coalesce(jsonb_object_agg(a.attname, CASE WHEN a.attnotnull THEN s.schema ELSE sync._nullable(s.schema) END), '{}'),
               'required', coalesce(jsonb_agg(a.attname ORDER BY a.attnum), '[]'))
      FROM pg_attribute a
     CROSS JOIN LATERAL (SELECT sync._type_schema(a.atttypid)
                                || coalesce(jsonb_build_object('enum', sync._checked_values(relation, a.attnum))
                                            - CASE WHEN sync._checked_values(relation, a.attnum) IS NULL THEN 'enum' ELSE '' END, '{}') AS schema) s
     WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION sync._row_schema(oid) IS 'JSON Schema of the rows of a table, as events hold them';

CREATE FUNCTION sync._event_schema(object_id integer)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('$schema', 'https://json-schema.org/draft/2020-12/schema', 'title', o.name)
           || CASE WHEN o.line_oid IS NULL THEN r.schema
                   ELSE jsonb_set(jsonb_set(r.schema, '{properties,lines}',
                                            jsonb_build_object('type', 'array', 'items', sync._row_schema(o.line_oid))),
                                  '{required}', r.schema -> 'required' || '["lines"]') END
      FROM sync.object o
     CROSS JOIN LATERAL (SELECT sync._row_schema(o.table_oid) AS schema) r
     WHERE o.id = $1 AND o.table_oid IS NOT NULL
$$;
COMMENT ON FUNCTION sync._event_schema(integer) IS 'JSON Schema of an object''s events by the catalog';

-- A reader of the old schema breaks when a member goes or changes its type, may suddenly be null, or
-- takes values that were not among the listed ones. New members, and less values than before, do no harm.
CREATE FUNCTION sync._schema_changes(old jsonb, new jsonb, at text DEFAULT '')
RETURNS TABLE (path text, change text, breaking boolean)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH member AS (
        SELECT $3 || '/' || coalesce(o.key, n.key) AS path, o.value AS old, n.value AS new
          FROM jsonb_each($1 -> 'properties') o FULL JOIN jsonb_each($2 -> 'properties') n ON n.key = o.key)
    SELECT m.path, 'removed', true FROM member m WHERE m.new IS NULL
    UNION ALL
    SELECT m.path, 'added', false FROM member m WHERE m.old IS NULL
    UNION ALL
    SELECT m.path, format('type %s becomes %s', sync._type_words(m.old), sync._type_words(m.new)), true
      FROM member m WHERE m.old IS NOT NULL AND m.new IS NOT NULL AND sync._type_words(m.old) <> sync._type_words(m.new)
    UNION ALL
    SELECT m.path, CASE WHEN m.new -> 'type' @> '"null"' THEN 'may be null now' ELSE 'is never null now' END, m.new -> 'type' @> '"null"'
      FROM member m
     WHERE m.old ? 'type' AND m.new ? 'type' AND (m.old -> 'type' @> '"null"') <> (m.new -> 'type' @> '"null"')
    UNION ALL
    SELECT m.path, format('new values: %s', coalesce(v.added, 'any')), true
      FROM member m
     CROSS JOIN LATERAL (SELECT string_agg(e.value #>> '{}', ', ') AS added FROM jsonb_array_elements(m.new -> 'enum') e
                          WHERE NOT m.old -> 'enum' @> jsonb_build_array(e.value) AND e.value <> 'null') v
     WHERE m.old ? 'enum' AND m.new IS NOT NULL AND (NOT m.new ? 'enum' OR v.added IS NOT NULL)
       AND sync._type_words(m.old) = sync._type_words(m.new)
    UNION ALL
    SELECT m.path, 'values are listed, or fewer, now', false
      FROM member m
     WHERE m.old IS NOT NULL AND m.new ? 'enum' AND m.new -> 'enum' IS DISTINCT FROM m.old -> 'enum'
       AND (NOT m.old ? 'enum' OR m.old -> 'enum' @> (m.new -> 'enum'))
    UNION ALL
    SELECT l.path, l.change, l.breaking
      FROM member m CROSS JOIN LATERAL sync._schema_changes(m.old -> 'items', m.new -> 'items', m.path || '/*') l
     WHERE m.old #> '{items,properties}' IS NOT NULL AND m.new #> '{items,properties}' IS NOT NULL
     ORDER BY 1, 2
$$;
COMMENT ON FUNCTION sync._schema_changes(jsonb, jsonb, text) IS 'In what two schemas of events differ, and whether that breaks who reads the old one';

CREATE FUNCTION sync._type_words(schema jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(concat_ws(' ', (SELECT string_agg(t.word, ' or ') FROM jsonb_array_elements_text(
                                       CASE jsonb_typeof($1 -> 'type') WHEN 'array' THEN $1 -> 'type'
                                            WHEN 'string' THEN jsonb_build_array($1 -> 'type') ELSE '["any"]' END) t (word)
                                     WHERE t.word <> 'null'),
                                   $1 ->> 'format',
                                   CASE WHEN $1 -> 'items' ? 'type' AND NOT $1 -> 'items' ? 'properties'
                                        THEN 'of ' || sync._type_words($1 -> 'items') END), 'any')
$$;
COMMENT ON FUNCTION sync._type_words(jsonb) IS 'Type and format of a schema, in words';

CREATE FUNCTION sync._note_event_schema(object_id integer)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    o sync.object;
    last sync.event_schema_version;
    now_schema jsonb;
    list jsonb;
    breaks text;
BEGIN
    SELECT * INTO o FROM sync.object t WHERE t.id = _note_event_schema.object_id AND t.captured;
    now_schema := sync._event_schema(o.id);
    IF now_schema IS NULL THEN
        RETURN;
    END IF;
    SELECT * INTO last FROM sync.event_schema_version v WHERE v.object_id = o.id ORDER BY v.version DESC LIMIT 1;
    IF last.schema = now_schema THEN
        RETURN;
    END IF;
    SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]'), string_agg(c.path || ' ' || c.change, ', ') FILTER (WHERE c.breaking)
      INTO list, breaks
      FROM sync._schema_changes(last.schema, now_schema) c WHERE last.version IS NOT NULL;
    IF breaks IS NOT NULL AND EXISTS (SELECT FROM sync.event_compatibility e WHERE e.object_id = o.id AND e.on_breaking = 'refuse') THEN
        RAISE EXCEPTION 'the change of the table breaks readers of events of object "%"', o.name
            USING ERRCODE = 'SE069', DETAIL = format('Against version %s of their schema: %s.', last.version, breaks),
                  HINT = format('Change it so that readers of the old events can read the new ones, or run SELECT sync.set_event_compatibility(%L, ''warn'') first.', o.name);
    END IF;
    INSERT INTO sync.event_schema_version (object_id, version, schema, changes, breaking)
    VALUES (o.id, coalesce(last.version, 0) + 1, now_schema, list, breaks IS NOT NULL);
    IF breaks IS NOT NULL THEN
        PERFORM sync._audit('event_schema.broken', o.name, detail => jsonb_build_object('version', last.version + 1, 'changes', list));
        RAISE WARNING 'the change of the table breaks readers of events of object "%"', o.name
            USING DETAIL = format('Version %s of their schema against the one before: %s.', last.version + 1, breaks),
                  HINT = 'Tell those who read them; sync.event_schema() has both versions.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._note_event_schema(integer) IS 'Adds a version when events of an object look otherwise now; refuses or warns when that breaks readers';

CREATE FUNCTION sync.event_schema(object text, version integer DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted integer := sync._object_id(event_schema.object);
    found_schema jsonb;
BEGIN
    SELECT v.schema || jsonb_build_object('$id', format('urn:sync_ext:event:%s:%s', event_schema.object, v.version)) INTO found_schema
      FROM sync.event_schema_version v
     WHERE v.object_id = wanted AND (event_schema.version IS NULL OR v.version = event_schema.version)
     ORDER BY v.version DESC LIMIT 1;
    IF found_schema IS NULL THEN
        RAISE EXCEPTION 'events of object "%" have no schema%', event_schema.object, coalesce(' of version ' || event_schema.version, '')
            USING ERRCODE = 'undefined_object',
                  HINT = CASE WHEN event_schema.version IS NULL THEN 'Its changes are not captured.' ELSE 'sync.event_schema_version lists the versions.' END;
    END IF;
    RETURN found_schema;
END
$$;
COMMENT ON FUNCTION sync.event_schema(text, integer) IS 'JSON Schema of the body of an object''s events, of a version (the newest without one)';

CREATE FUNCTION sync.set_event_compatibility(object text, on_breaking text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted integer := sync._object_id(set_event_compatibility.object);
BEGIN
    IF on_breaking IS NULL OR on_breaking NOT IN ('warn', 'refuse') THEN
        RAISE EXCEPTION 'on_breaking must be warn or refuse'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'warn: a breaking change of the table makes a new version, with a warning; refuse: it is an error.';
    END IF;
    INSERT INTO sync.event_compatibility AS e (object_id, on_breaking) VALUES (wanted, set_event_compatibility.on_breaking)
    ON CONFLICT (object_id) DO UPDATE SET on_breaking = excluded.on_breaking;
    PERFORM sync._audit('event_schema.compatibility', set_event_compatibility.object,
                        detail => jsonb_build_object('on_breaking', set_event_compatibility.on_breaking));
END
$$;
COMMENT ON FUNCTION sync.set_event_compatibility(text, text) IS 'What becomes of a change of an object''s table that breaks readers of its events: warn, or refuse (SE069)';

REVOKE ALL ON FUNCTION sync.event_schema(text, integer), sync.set_event_compatibility(text, text) FROM PUBLIC;
