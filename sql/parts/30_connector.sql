-- Connectors: registering manifests, and trying them out without a system.

CREATE FUNCTION sync._check_manifest(manifest jsonb) RETURNS jsonb
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'se_check_manifest';
COMMENT ON FUNCTION sync._check_manifest IS 'Validates and compiles a manifest; an error begins with the JSON pointer of the fault. Returns what it can do';

CREATE FUNCTION sync._shipped_manifest(name text) RETURNS jsonb
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'se_shipped_manifest';
COMMENT ON FUNCTION sync._shipped_manifest IS 'A manifest that was installed with the extension, by plain name';

CREATE FUNCTION sync.register_connector(manifest jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_summary jsonb := sync._check_manifest(manifest);
    v_name text := v_summary ->> 'name';
    v_version text := v_summary ->> 'version';
BEGIN
    IF manifest IS NULL THEN
        RAISE EXCEPTION 'manifest is null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- Two sessions registering one name would both find none that is current.
    PERFORM pg_advisory_xact_lock(hashtextextended('sync.connector ' || v_name, 0));
    IF EXISTS (SELECT FROM sync.connector c
               WHERE c.current AND c.name = v_name AND c.manifest = register_connector.manifest) THEN
        RETURN v_name || ' ' || v_version;
    END IF;
    UPDATE sync.connector c SET current = false WHERE c.current AND c.name = v_name;
    -- Workers read requests frozen under the older row by its id, so rows are added and never changed.
    INSERT INTO sync.connector (name, version, manifest) VALUES (v_name, v_version, manifest);
    -- What the old one could not map, this one may; the hub reads it before it looks into the inbox.
    UPDATE sync.inbox i SET retry_at = clock_timestamp()
      FROM sync.system y
      JOIN sync._server s ON s.name = y.name
     WHERE i.system_id = y.id AND s.options ->> 'connector' = v_name;
    RETURN v_name || ' ' || v_version;
END
$$;
COMMENT ON FUNCTION sync.register_connector(jsonb) IS 'Validates a manifest and makes it the current one of its name; an equal one is kept. Returns name and version';

CREATE FUNCTION sync.register_connector(name text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- An untyped literal arrives here, also when it is a whole manifest.
    IF name ~ '^\s*\{' THEN
        RETURN sync.register_connector(name::jsonb);
    END IF;
    RETURN sync.register_connector(sync._shipped_manifest(name));
END
$$;
COMMENT ON FUNCTION sync.register_connector(text) IS 'Registers a connector that was installed with the extension, for example ''stripe''';

CREATE FUNCTION sync.test_render(manifest jsonb, object text, operation text, context jsonb DEFAULT '{}', refs jsonb DEFAULT '{}')
    RETURNS jsonb LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'se_test_render';
COMMENT ON FUNCTION sync.test_render IS 'The request that an operation makes of a context, or why it makes none; sends nothing. refs: {"customer": {"<our id>": "<remote id>"}}. An array of contexts makes a batch';

CREATE FUNCTION sync.test_map(manifest jsonb, object text, record jsonb, vars jsonb DEFAULT '{}', refs jsonb DEFAULT '{}')
    RETURNS jsonb LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'se_test_map';
COMMENT ON FUNCTION sync.test_map IS 'What a remote record becomes: canonical fields and lines. vars: {"param": …, "entity": …}; refs: {"customer": {"<remote id>": "<our id>"}}';

CREATE FUNCTION sync.test_answer(manifest jsonb, object text, operation text, status integer, headers jsonb, body text, context jsonb DEFAULT NULL)
    RETURNS jsonb LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'se_test_answer';
COMMENT ON FUNCTION sync.test_answer IS 'How an answer to an operation is judged, and what is read from it. An array of contexts stands for the batch that was answered';

CREATE FUNCTION sync.test_classify(manifest jsonb, status integer, headers jsonb, body text)
    RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE
    RETURN sync.test_answer(manifest, NULL, NULL, status, headers, body);
COMMENT ON FUNCTION sync.test_classify IS 'How an answer is judged by the rules of the whole manifest';

CREATE FUNCTION sync.test_page(manifest jsonb, object text, cursor jsonb, status integer, headers jsonb, body text, vars jsonb DEFAULT '{}')
    RETURNS jsonb LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'se_test_page';
COMMENT ON FUNCTION sync.test_page IS 'Items of a page and the cursor after it';

CREATE FUNCTION sync.test_auth(manifest jsonb, secrets jsonb, param jsonb DEFAULT '{}', login_answer text DEFAULT NULL)
    RETURNS jsonb LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'se_test_auth';
COMMENT ON FUNCTION sync.test_auth IS 'Login request and credential headers made of made-up secrets; never pass real ones';

REVOKE ALL ON FUNCTION
    sync._check_manifest(jsonb), sync._shipped_manifest(text),
    sync.register_connector(jsonb), sync.register_connector(text),
    sync.test_render(jsonb, text, text, jsonb, jsonb), sync.test_map(jsonb, text, jsonb, jsonb, jsonb),
    sync.test_answer(jsonb, text, text, integer, jsonb, text, jsonb),
    sync.test_classify(jsonb, integer, jsonb, text),
    sync.test_page(jsonb, text, jsonb, integer, jsonb, text, jsonb), sync.test_auth(jsonb, jsonb, jsonb, text)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    sync._check_manifest(jsonb), sync._shipped_manifest(text),
    sync.register_connector(jsonb), sync.register_connector(text), sync.test_auth(jsonb, jsonb, jsonb, text)
    TO sync_admin;
GRANT EXECUTE ON FUNCTION
    sync.test_render(jsonb, text, text, jsonb, jsonb), sync.test_map(jsonb, text, jsonb, jsonb, jsonb),
    sync.test_answer(jsonb, text, text, integer, jsonb, text, jsonb),
    sync.test_classify(jsonb, integer, jsonb, text),
    sync.test_page(jsonb, text, jsonb, integer, jsonb, text, jsonb)
    TO sync_admin, sync_operator;
