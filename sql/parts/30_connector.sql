-- Connectors: registering manifests, and trying them out without a system.

CREATE FUNCTION sync._check_manifest(manifest jsonb) RETURNS jsonb
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'se_check_manifest';
COMMENT ON FUNCTION sync._check_manifest IS 'Validates and compiles a manifest; an error begins with the JSON pointer of the fault. Returns what it can do';

CREATE FUNCTION sync._shipped_manifest(name text) RETURNS jsonb
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'se_shipped_manifest';
COMMENT ON FUNCTION sync._shipped_manifest IS 'A manifest that was installed with the extension, by plain name';

-- Two sessions that register or activate versions of one name would both find none that is current.
CREATE FUNCTION sync._lock_connector(name text) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT pg_advisory_xact_lock(hashtextextended('sync.connector ' || name, 0)) $$;
COMMENT ON FUNCTION sync._lock_connector IS 'Lets one transaction at a time choose the current version of a connector';

CREATE FUNCTION sync.register_connector(manifest jsonb, activate boolean DEFAULT true) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_summary jsonb := sync._check_manifest(manifest);
    v_name text := v_summary ->> 'name';
    v_version text := v_summary ->> 'version';
    v_newest sync.connector;
    v_id integer;
BEGIN
    IF manifest IS NULL THEN
        RAISE EXCEPTION 'manifest is null'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Give a manifest as jsonb, or the name of one that is shipped.';
    END IF;
    activate := coalesce(activate, true);
    PERFORM sync._lock_connector(v_name);
    IF EXISTS (SELECT FROM sync.connector c
               WHERE c.current AND c.name = v_name AND c.manifest = register_connector.manifest) THEN
        RETURN v_name || ' ' || v_version;
    END IF;
    -- Beside the current one a version is found by its name, so it must have one of its own.
    SELECT * INTO v_newest FROM sync.connector c WHERE c.name = v_name AND c.version = v_version ORDER BY c.id DESC LIMIT 1;
    IF NOT activate AND v_newest.current THEN
        RAISE EXCEPTION 'the current manifest of connector "%" is version "%", too', v_name, v_version
            USING ERRCODE = 'duplicate_object', HINT = 'Give the new manifest another version.';
    END IF;
    IF v_newest.manifest = manifest THEN
        v_id := v_newest.id;
    ELSE
        -- Workers read requests frozen under the older row by its id, so rows are added and never changed.
        INSERT INTO sync.connector (name, version, manifest, current) VALUES (v_name, v_version, manifest, false)
        RETURNING id INTO v_id;
        PERFORM sync._audit('connector.registered',
                            detail => jsonb_build_object('connector', v_name, 'version', v_version, 'id', v_id,
                                                         'sha256', encode(sha256(convert_to(manifest::text, 'UTF8')), 'hex')));
    END IF;
    IF activate THEN
        PERFORM sync._activate_connector(v_id);
    END IF;
    RETURN v_name || ' ' || v_version;
END
$$;
COMMENT ON FUNCTION sync.register_connector(jsonb, boolean) IS
    'Validates a manifest and makes it the current one of its name (not without activate: then it waits beside it); an equal one is kept. Returns name and version';

CREATE FUNCTION sync.register_connector(name text, activate boolean DEFAULT true) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- An untyped literal arrives here, also when it is a whole manifest.
    IF name ~ '^\s*\{' THEN
        RETURN sync.register_connector(name::jsonb, activate);
    END IF;
    RETURN sync.register_connector(sync._shipped_manifest(name), activate);
END
$$;
COMMENT ON FUNCTION sync.register_connector(text, boolean) IS 'Registers a connector that was installed with the extension, for example ''stripe''';

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

CREATE FUNCTION sync.test_count(manifest jsonb, object text, status integer, headers jsonb, body text, vars jsonb DEFAULT '{}')
    RETURNS jsonb LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'se_test_count';
COMMENT ON FUNCTION sync.test_count IS 'The request that asks how many records there are, and what an answer to it says';

CREATE FUNCTION sync.test_auth(manifest jsonb, secrets jsonb, param jsonb DEFAULT '{}', login_answer text DEFAULT NULL)
    RETURNS jsonb LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'se_test_auth';
COMMENT ON FUNCTION sync.test_auth IS 'Login request and credential headers made of made-up secrets; never pass real ones';

REVOKE ALL ON FUNCTION
    sync._check_manifest(jsonb), sync._shipped_manifest(text),
    sync.register_connector(jsonb, boolean), sync.register_connector(text, boolean),
    sync.test_render(jsonb, text, text, jsonb, jsonb), sync.test_map(jsonb, text, jsonb, jsonb, jsonb),
    sync.test_answer(jsonb, text, text, integer, jsonb, text, jsonb),
    sync.test_classify(jsonb, integer, jsonb, text),
    sync.test_page(jsonb, text, jsonb, integer, jsonb, text, jsonb), sync.test_count(jsonb, text, integer, jsonb, text, jsonb), sync.test_auth(jsonb, jsonb, jsonb, text)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    sync._check_manifest(jsonb), sync._shipped_manifest(text),
    sync.register_connector(jsonb, boolean), sync.register_connector(text, boolean), sync.test_auth(jsonb, jsonb, jsonb, text)
    TO sync_admin;
GRANT EXECUTE ON FUNCTION
    sync.test_render(jsonb, text, text, jsonb, jsonb), sync.test_map(jsonb, text, jsonb, jsonb, jsonb),
    sync.test_answer(jsonb, text, text, integer, jsonb, text, jsonb),
    sync.test_classify(jsonb, integer, jsonb, text),
    sync.test_page(jsonb, text, jsonb, integer, jsonb, text, jsonb), sync.test_count(jsonb, text, integer, jsonb, text, jsonb)
    TO sync_admin, sync_operator;
