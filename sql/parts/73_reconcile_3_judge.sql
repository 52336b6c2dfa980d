-- Reconciliation: what a difference is. Full listings (74_listing) judge by the same functions, so that
-- every mode finds the same break by the same name.

-- As the comparison of values has it (src/pull/same.c): these count to their currency's minor units.
CREATE FUNCTION sync._is_amount(field text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT field IN ('amount', 'total_value') OR field LIKE 'amount\_%' OR field LIKE '%\_amount'
$$;
COMMENT ON FUNCTION sync._is_amount(text) IS 'Whether a field holds money, by its name: amount, amount_…, …_amount, total_value';

CREATE FUNCTION sync._number(value text)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN value ~ '^-?[0-9]{1,100}(\.[0-9]{0,100})?$' THEN value::numeric END
$$;
COMMENT ON FUNCTION sync._number(text) IS 'A number out of a text; NULL: it is none';

-- What a record is about in money, with its sign.
CREATE FUNCTION sync._signed_amount(body jsonb)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(sync._number(coalesce(body ->> 'total_amount', body ->> 'amount', body ->> 'total_value', body ->> 'gross_amount')), (sync._amount(body)).amount)
$$;
COMMENT ON FUNCTION sync._signed_amount(jsonb) IS 'As sync._amount(), with its sign';

-- A record of ours that another remote record of the same number is bound to.
CREATE FUNCTION sync._twin(system_id integer, object_id integer, remote_id text, number text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT x.record_id FROM sync.external_id x
     WHERE x.remote_number = $4 AND x.system_id = $1 AND x.object_id = $2 AND x.remote_id <> $3 LIMIT 1
$$;
COMMENT ON FUNCTION sync._twin(integer, integer, text, text) IS 'Our record that another remote record of the same number is bound to: the one at hand is a duplicate';

-- Lines that differ in nothing but amounts, each by no more than this; by their key, where the system has it, else by
-- their place.
CREATE FUNCTION sync._lines_within(ours jsonb, theirs jsonb, keys text[], tolerance numeric)
RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN jsonb_typeof(ours) = 'array' AND jsonb_typeof(theirs) = 'array' AND jsonb_array_length(ours) = jsonb_array_length(theirs)
                THEN NOT EXISTS (SELECT FROM jsonb_array_elements(theirs) WITH ORDINALITY t (line, n)
                                   LEFT JOIN jsonb_array_elements(ours) WITH ORDINALITY u (line, n)
                                     ON CASE WHEN t.line ?& keys THEN (SELECT bool_and(t.line -> k = u.line -> k) FROM unnest(keys) k) ELSE u.n = t.n END
                                  CROSS JOIN LATERAL jsonb_each(t.line) f
                                  WHERE f.value IS DISTINCT FROM u.line -> f.key
                                    AND NOT coalesce(abs(sync._number(f.value #>> '{}') - sync._number(u.line ->> f.key))
                                                     <= CASE WHEN sync._is_amount(f.key) THEN tolerance ELSE 0 END, false))
                ELSE false END
$$;
COMMENT ON FUNCTION sync._lines_within(jsonb, jsonb, text[], numeric) IS 'Whether lines differ in nothing but amounts, each by no more than a tolerance';

-- What explains a difference, so that it is no break; NULL: nothing does.
CREATE FUNCTION sync._explanation(run sync.reconciliation, o sync.object, kind text, field text, record_id text, difference numeric, currency text, body jsonb, gone boolean,
                                  ours jsonb, theirs jsonb)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    said text;
BEGIN
    IF kind = 'amount_differs' OR field = 'lines' THEN
        SELECT format('rounding: up to %s %s is tolerated (%s)', t.amount, t.currency, t.reason) INTO said FROM sync.tolerance t
         WHERE t.system_id IN (run.system_id, run.other_system_id) AND t.object_id = o.id AND t.currency = $7
           AND CASE WHEN kind = 'amount_differs' THEN t.amount >= abs(difference) ELSE sync._lines_within(ours, theirs, o.line_key_columns::text[], t.amount) END
         ORDER BY t.amount LIMIT 1;
    ELSIF kind = 'field_differs' AND field IN ('posting_date', 'accounting_period') THEN
        SELECT format('moved into the next open period by approval %s', a.id) INTO said FROM sync.approval_request a
         WHERE a.operation = 'post_in_next_period' AND a.object_id = o.id AND a.record_id = $5 AND a.state = 'approved' ORDER BY a.id DESC LIMIT 1;
    ELSIF kind = 'missing_there' AND gone THEN
        SELECT CASE p.on_delete WHEN 'ignore' THEN 'by policy: the hub keeps what the system deletes'
                                WHEN 'deactivate' THEN CASE WHEN body @> p.deactivate THEN 'by policy: what the system deletes is deactivated here' END END
          INTO said FROM sync.record_policy p
         WHERE p.object_id = o.id AND (p.system_id = run.system_id OR p.system_id IS NULL) AND p.on_delete IS NOT NULL ORDER BY p.system_id NULLS LAST LIMIT 1;
        IF NOT FOUND THEN
            SELECT 'by the connector: what the system deletes is deactivated here' INTO said FROM sync.system y
             WHERE y.id = run.system_id AND body @> (sync._manifest(y.name) #> ARRAY['objects', o.name, 'pull', 'on_delete', 'set']);
        END IF;
    END IF;
    RETURN said;
END
$$;
COMMENT ON FUNCTION sync._explanation(sync.reconciliation, sync.object, text, text, text, numeric, text, jsonb, boolean, jsonb, jsonb) IS
    'Which policy explains a difference: rounding, a moved period, what a delete means; NULL: none';

-- A difference with what a person wants to know of it: numbers, amounts, entity, period, customer. `body`:
-- the record, or what is known of it, for these.
CREATE FUNCTION sync._put_finding(run sync.reconciliation, o sync.object, system text, class text, kind text, record_id text, remote_id text,
                                  field text, ours jsonb, theirs jsonb, body jsonb, detail text, explanation text, delivery text, number text,
                                  other_system text DEFAULT NULL, gone boolean DEFAULT false, said jsonb DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dated record := sync._accounting_date(o, body);
    currency text := body ->> 'currency';
    difference numeric;
    amount numeric := sync._signed_amount(body);
    twin text;
BEGIN
    -- A document that the two have in different months is a difference in both.
    IF run.period IS NOT NULL AND dated.day IS NOT NULL AND NOT dated.day <@ run.period
       AND NOT coalesce((sync._accounting_date(o, jsonb_build_object('legal_entity_id', dated.entity) || said)).day <@ run.period, false) THEN
        RETURN;
    END IF;
    number := coalesce(body ->> o.number_column::text, number);
    IF kind = 'amount_differs' THEN
        difference := sync._number(theirs #>> '{}') - sync._number(ours #>> '{}');
    ELSIF kind = 'missing_here' THEN
        difference := amount;
        IF other_system IS NULL THEN
            twin := sync._twin(run.system_id, o.id, remote_id, number);
            record_id := twin;
        END IF;
        IF twin IS NOT NULL THEN
            kind := 'duplicate';
            detail := format('another record of the system has the same number and is bound to %s', twin);
        END IF;
    ELSIF kind = 'orphan' THEN
        difference := amount;
    ELSIF kind IN ('missing_there', 'stale') THEN
        difference := - amount;
    END IF;
    IF class = 'break' THEN
        explanation := sync._explanation(run, o, kind, field, record_id, difference, currency, body, gone, ours, theirs);
        class := CASE WHEN explanation IS NULL THEN 'break' ELSE 'explained' END;
    END IF;
    INSERT INTO sync.finding (reconciliation_id, class, kind, object, record_id, record_number, system, other_system, remote_id, field, ours, theirs, difference,
                              currency, at_risk, entity, period, customer, severity, explanation, delivery, detail)
    VALUES (run.id, class, kind, o.name, record_id, number, system, other_system, remote_id, field,
            CASE WHEN kind <> 'missing_there' THEN ours END, CASE WHEN kind NOT IN ('missing_here', 'duplicate') THEN theirs END, difference,
            currency, coalesce(abs(difference), CASE WHEN kind = 'amount_differs' THEN abs(sync._number(coalesce(nullif(ours, 'null'), theirs) #>> '{}'))
                                                     WHEN field IN ('posting_date', 'accounting_period', 'currency') THEN abs(amount) END),
            sync._look_up(o.schema_name, 'legal_entity', 'code', dated.entity), date_trunc('month', dated.day)::date,
            CASE WHEN o.name <> 'customer' THEN sync._look_up(o.schema_name, 'customer', 'number', body ->> 'customer_id') END,
            CASE WHEN o.financial OR kind <> 'field_differs' THEN 'error' ELSE 'warning' END, explanation, delivery, detail);
END
$$;
COMMENT ON FUNCTION sync._put_finding(sync.reconciliation, sync.object, text, text, text, text, text, text, jsonb, jsonb, jsonb, text, text, text, text, text, boolean, jsonb) IS
    'Writes a finding of a run, unless its day, and theirs, is outside the run''s period';

-- By the rules of a pull, what is not the same to the letter is mostly the same: 10.50 and 10.5, lines in another order.
CREATE FUNCTION sync._drop_equal_suspects(run sync.reconciliation, resolution bigint, refs jsonb, our_refs jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WITH both_sides AS (
        SELECT s.ctid AS place, s.body, s.fields, row_number() OVER () / 500 AS piece FROM pg_temp._sync_suspect s
         WHERE s.bound AND s.mirrored AND NOT s.deleted AND s.body IS NOT NULL AND s.fields IS NOT NULL),
    compared AS (
        SELECT array_agg(b.place) AS places,
               sync._differing(run.object_id, resolution, array_agg(b.body), array_agg(b.fields), refs, coalesce(run.other_system_id, run.system_id), our_refs, run.system_id) AS differs
          FROM both_sides b GROUP BY b.piece)
    DELETE FROM pg_temp._sync_suspect s
     WHERE s.ctid = ANY (ARRAY(SELECT u.place FROM compared c CROSS JOIN LATERAL unnest(c.places, c.differs) u (place, differs) WHERE u.differs IS NULL));
END
$$;
COMMENT ON FUNCTION sync._drop_equal_suspects(sync.reconciliation, bigint, jsonb, jsonb) IS 'Lets go of suspects that are the same by the rules of a pull';

CREATE FUNCTION sync._resolution_ms(system_id integer, object_id integer)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((SELECT (extract(epoch FROM (c.manifest -> 'objects' -> o.name -> 'pull' -> 'cursor' ->> 'resolution')::interval) * 1000)::bigint
                       FROM sync.system y
                       JOIN sync._server s ON s.name = y.name
                       JOIN sync.connector c ON c.name = s.options ->> 'connector' AND c.current
                       JOIN sync.object o ON o.id = $2
                      WHERE y.id = $1), 1);
END
$$;
COMMENT ON FUNCTION sync._resolution_ms(integer, integer) IS 'How precisely a system tells instants of an object, in milliseconds';

-- A suspect of the hub against a system becomes its findings.
CREATE FUNCTION sync._judge_suspect(run sync.reconciliation, o sync.object, system text, route sync.route, resolution bigint, refs jsonb, s record)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known sync.listed_record;
    conflicts text[];
    d record;
BEGIN
    IF s.remote_id IS NULL AND NOT sync._is_expected_there(route, s.body) THEN
        RETURN;
    END IF;
    IF s.mirrored OR NOT s.bound AND s.remote_id IS NOT NULL THEN
        known.job_id := 0;
        known.remote_id := s.remote_id;
        known.fields := coalesce(s.fields, '{}');
        known.deleted := s.deleted;
        known.as_of := clock_timestamp();
        known.expected := true;
        known.problem := s.problem;
    END IF;
    conflicts := ARRAY(SELECT c.field FROM sync.conflict_entry c
                        WHERE c.object_id = o.id AND c.system_id = run.system_id AND c.record_id = s.record_id AND c.resolved_at IS NULL);
    FOR d IN
        SELECT * FROM sync._record_differs(o, run.system_id, refs, resolution, CASE WHEN s.bound THEN s.record_id END, s.body, known, s.agreed, conflicts)
         WHERE s.remote_id IS NOT NULL AND (s.mirrored OR NOT s.bound)
        UNION ALL
        SELECT 'missing_there', NULL, s.body, NULL, 'break', NULL, 'no record of the system is bound to it' WHERE s.remote_id IS NULL
        UNION ALL
        SELECT CASE WHEN s.body IS NULL THEN 'orphan' ELSE 'stale' END, NULL, NULL, NULL, 'break', NULL,
               CASE WHEN s.body IS NULL THEN 'it is bound to a record that the hub no longer has' ELSE 'it is bound, and was never read nor written' END
         WHERE s.bound AND NOT s.mirrored
    LOOP
        PERFORM sync._put_finding(run, o, system, CASE WHEN s.way IS NOT NULL AND d.class = 'break' THEN 'in_transit' ELSE d.class END, d.kind, s.record_id, s.remote_id,
                                  d.field, d.our_value, d.their_value, coalesce(s.body, s.fields, '{}'), concat_ws('; ', d.detail, s.way), d.explanation, s.delivery,
                                  s.remote_number, NULL, s.deleted, s.fields);
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._judge_suspect(sync.reconciliation, sync.object, text, sync.route, bigint, jsonb, record) IS 'Writes the findings about one suspect';

-- A suspect of two systems. The record itself, if there is one, tells entity, period and customer.
CREATE FUNCTION sync._judge_pair(run sync.reconciliation, o sync.object, system text, other text, route sync.route, other_route sync.route, resolution bigint,
                                 refs jsonb, our_refs jsonb, s record)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    canonical jsonb := CASE WHEN s.record_id IS NOT NULL THEN sync._bodies(o.id, ARRAY[s.record_id]) -> s.record_id END;
    body jsonb := coalesce(canonical, s.body, s.fields, '{}');
    class text := CASE WHEN s.way IS NULL THEN 'break' ELSE 'in_transit' END;
    difference record;
BEGIN
    -- Bound, and never read nor written: whether a system has it is not known.
    IF s.other_remote_id IS NULL AND EXISTS (SELECT FROM sync.external_id x WHERE x.object_id = o.id AND x.record_id = s.record_id AND x.system_id = run.system_id)
       OR NOT s.mirrored AND EXISTS (SELECT FROM sync.external_id x WHERE x.object_id = o.id AND x.record_id = s.record_id AND x.system_id = run.other_system_id) THEN
        PERFORM sync._put_finding(run, o, system, class, 'stale', s.record_id, coalesce(s.remote_id, s.other_remote_id), NULL, NULL, NULL, body,
                                  concat_ws('; ', format('it is bound in system "%s", and was never read nor written', CASE WHEN s.mirrored THEN system ELSE other END), s.way),
                                  NULL, s.delivery, NULL, other);
    ELSIF s.body IS NULL THEN
        IF route.id IS NULL OR canonical IS NULL OR sync._is_expected_there(route, canonical) THEN
            PERFORM sync._put_finding(run, o, system, class, 'missing_here', s.record_id, s.remote_id, NULL, NULL, s.fields, body,
                                      concat_ws('; ', format('system "%s" has it, system "%s" does not', other, system), s.way), NULL, s.delivery, NULL, other);
        END IF;
    ELSIF s.fields IS NULL THEN
        IF other_route.id IS NULL OR canonical IS NULL OR sync._is_expected_there(other_route, canonical) THEN
            PERFORM sync._put_finding(run, o, system, class, 'missing_there', s.record_id, s.other_remote_id, NULL, s.body, NULL, body,
                                      concat_ws('; ', format('system "%s" has it, system "%s" does not', system, other), s.way), NULL, s.delivery, NULL, other);
        END IF;
    ELSE
        FOR difference IN
            SELECT f.key AS field, s.fields -> f.key AS theirs
              FROM jsonb_each((sync._differing(o.id, resolution, ARRAY[s.body], ARRAY[s.fields], refs, run.other_system_id, our_refs, run.system_id))[1]) f ORDER BY 1
        LOOP
            PERFORM sync._put_finding(run, o, system, class, CASE WHEN sync._is_amount(difference.field) THEN 'amount_differs' ELSE 'field_differs' END, s.record_id,
                                      s.remote_id, difference.field, s.body -> difference.field, difference.theirs, body,
                                      concat_ws('; ', format('system "%s" says %s, system "%s" says %s', system, s.body -> difference.field, other, difference.theirs), s.way),
                                      NULL, s.delivery, NULL, other, false, s.fields);
        END LOOP;
    END IF;
END
$$;
COMMENT ON FUNCTION sync._judge_pair(sync.reconciliation, sync.object, text, text, sync.route, sync.route, bigint, jsonb, jsonb, record) IS 'Writes the findings about one suspect of two systems';

CREATE FUNCTION sync._judge_suspects(run sync.reconciliation)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    system text := (SELECT y.name FROM sync.system y WHERE y.id = run.system_id);
    other text := (SELECT y.name FROM sync.system y WHERE y.id = run.other_system_id);
    route sync.route := sync._route_of(run.system_id, run.object_id);
    other_route sync.route := sync._route_of(run.other_system_id, run.object_id);
    resolution bigint := greatest(sync._resolution_ms(run.system_id, run.object_id), sync._resolution_ms(run.other_system_id, run.object_id)); -- of two clocks the coarser
    refs jsonb := sync._pull_refs(coalesce(run.other_system_id, run.system_id), run.object_id);
    our_refs jsonb := CASE WHEN run.other_system_id IS NOT NULL THEN sync._pull_refs(run.system_id, run.object_id) END; -- of the first of two systems
    suspect record;
BEGIN
    SELECT t.* INTO STRICT o FROM sync.object t WHERE t.id = run.object_id;
    PERFORM sync._drop_equal_suspects(run, resolution, refs, our_refs);
    FOR suspect IN SELECT s.* FROM pg_temp._sync_suspect s LOOP
        IF other IS NULL THEN
            PERFORM sync._judge_suspect(run, o, system, route, resolution, refs, suspect);
        ELSE
            PERFORM sync._judge_pair(run, o, system, other, route, other_route, resolution, refs, our_refs, suspect);
        END IF;
    END LOOP;
    DROP TABLE pg_temp._sync_suspect;
END
$$;
COMMENT ON FUNCTION sync._judge_suspects(sync.reconciliation) IS 'Writes the findings of what both sides were read';
