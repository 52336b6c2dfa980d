-- Repair: what the hub's own books and rights need. The shipped rules speak of canonical tables, so these remedies
-- change rows of those, by plans that show each value before and after.

CREATE FUNCTION sync._is_own_remedy(remedy text)
RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT remedy IN ('reschedule', 'restore', 'correct_tax', 'suspend', 'revoke', 'open_case')
$$;
COMMENT ON FUNCTION sync._is_own_remedy(text) IS 'Whether a remedy changes canonical rows only';

-- A query over the canonical tables, as their owner.
CREATE FUNCTION sync._canonical_facts(query text, args jsonb, tbl text DEFAULT 'invoice')
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN sync._as_owner(to_regclass(format('%I.%I', sync._canonical_schema(), tbl)), sync._model_query(query), args);
END
$$;
COMMENT ON FUNCTION sync._canonical_facts(text, jsonb, text) IS 'What a query over the canonical tables says, run as the owner of one of them';

CREATE FUNCTION sync._change_act(tbl text, id text, was jsonb, change jsonb, detail text, books boolean)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('act', 'change', 'detail', detail, 'table', tbl, 'id', id, 'was', was, 'set', change) || CASE WHEN books THEN '{"books": true}' ELSE '{}' END::jsonb
$$;
COMMENT ON FUNCTION sync._change_act(text, text, jsonb, jsonb, text, boolean) IS 'The act that changes a row of a canonical table';

-- ---- rights of use and collections ----

CREATE FUNCTION sync._plan_right(s sync._break_subject, remedy text)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    f jsonb := sync._canonical_facts($q$
        SELECT jsonb_build_object('status', n.status, 'reason', n.reason, 'subscription', s.number, 'is', s.status)
          FROM canonical.entitlement n LEFT JOIN canonical.subscription s ON s.id = n.subscription_id WHERE n.id::text = $1 ->> 'id' $q$, jsonb_build_object('id', s.record_id));
    becomes constant text := CASE remedy WHEN 'suspend' THEN 'suspended' ELSE 'revoked' END;
BEGIN
    IF s.object <> 'entitlement' OR f IS NULL OR f ->> 'status' IN (becomes, 'revoked') THEN
        PERFORM sync._no_repair(s.break_id, 'It is about no right of use that is in force.', 'Run the rule again.');
    END IF;
    RETURN jsonb_build_array(sync._change_act('entitlement', s.record_id, f - '{subscription,is}'::text[], jsonb_build_object('status', becomes, 'reason',
               CASE remedy WHEN 'suspend' THEN 'not paid' ELSE format('subscription %s is %s', f ->> 'subscription', f ->> 'is') END), format('the right is %s', becomes), false));
END
$$;
COMMENT ON FUNCTION sync._plan_right(sync._break_subject, text) IS 'The act that suspends or revokes a right of use';

CREATE FUNCTION sync._plan_case(s sync._break_subject)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    f jsonb := sync._canonical_facts($q$
        SELECT jsonb_strip_nulls(jsonb_build_object('customer_id', p.customer_id, 'payment_id', p.id,
                   'invoice_id', (SELECT a.invoice_id FROM canonical.payment_allocation a WHERE a.payment_id = p.id AND a.invoice_id IS NOT NULL ORDER BY a.id LIMIT 1)))
          FROM canonical.payment p
         WHERE p.id::text = $1 ->> 'id' AND p.status = 'failed' AND NOT EXISTS (SELECT FROM canonical.collection_case k WHERE k.payment_id = p.id) $q$, jsonb_build_object('id', s.record_id));
BEGIN
    IF s.object <> 'payment' OR f ->> 'customer_id' IS NULL THEN
        PERFORM sync._no_repair(s.break_id, 'It is about no failed payment of a customer that nobody pursues.', 'Run the rule again.');
    END IF;
    RETURN jsonb_build_array(sync._act('insert', NULL, format('a collection case for payment %s', coalesce(s.number, s.record_id)),
                                       jsonb_build_object('object', 'collection_case', 'row', f || '{"stage": "reminder"}')));
END
$$;
COMMENT ON FUNCTION sync._plan_case(sync._break_subject) IS 'The act that opens a collection case';

-- ---- tax ----

-- The invoice is what the customer got. What was committed for it follows, and goes to the tax system by its route.
CREATE FUNCTION sync._plan_tax(s sync._break_subject)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    f jsonb := sync._canonical_facts($q$
        SELECT jsonb_build_object('number', i.number, 'void', i.status = 'void', 'currency', i.currency, 'tax', i.tax_amount, 'net', i.net_amount,
                   'committed', (SELECT jsonb_agg(jsonb_build_object('id', d.id, 'code', d.document_code, 'status', d.status, 'currency', d.currency, 'tax', d.tax_amount) ORDER BY d.created_at, d.id)
                                   FROM canonical.tax_determination d WHERE d.invoice_id = i.id AND d.kind = 'recorded' AND d.status = 'committed'))
          FROM canonical.invoice i WHERE i.id::text = $1 ->> 'id' $q$, jsonb_build_object('id', s.record_id));
    committed constant jsonb := coalesce(nullif(f -> 'committed', 'null'), '[]');
    last jsonb := committed -> -1;
    others numeric;
BEGIN
    IF s.object <> 'invoice' OR jsonb_array_length(committed) = 0 THEN
        PERFORM sync._no_repair(s.break_id, 'No tax is committed for it.', 'Have the tax system calculate and commit it.');
    ELSIF (f ->> 'void')::boolean THEN
        RETURN (SELECT jsonb_agg(sync._change_act('tax_determination', d ->> 'id', jsonb_build_object('status', d -> 'status'), '{"status": "voided"}',
                                                  format('determination %s is voided, as its invoice was', d ->> 'code'), true)) FROM jsonb_array_elements(committed) d);
    END IF;
    SELECT coalesce(sum((d.value ->> 'tax')::numeric), 0) INTO others FROM jsonb_array_elements(committed) WITH ORDINALITY d (value, n) WHERE d.n < jsonb_array_length(committed);
    IF EXISTS (SELECT FROM jsonb_array_elements(committed - (-1)) d WHERE d ->> 'currency' <> f ->> 'currency') THEN
        PERFORM sync._no_repair(s.break_id, 'Several determinations are committed, in more than one currency.', 'Void the wrong one in the tax system.');
    END IF;
    RETURN jsonb_build_array(sync._change_act('tax_determination', last ->> 'id', jsonb_build_object('currency', last -> 'currency', 'tax_amount', last -> 'tax'),
               jsonb_build_object('currency', f -> 'currency', 'tax_amount', (f ->> 'tax')::numeric - others), format('determination %s is what invoice %s says', last ->> 'code', f ->> 'number'), true));
END
$$;
COMMENT ON FUNCTION sync._plan_tax(sync._break_subject) IS 'Acts that make the committed tax the invoice''s';

-- What another system owns is corrected there.
CREATE FUNCTION sync._plan_own(s sync._break_subject, remedy text, options jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed constant text := CASE remedy WHEN 'reschedule' THEN 'revenue_schedule' WHEN 'restore' THEN s.object WHEN 'correct_tax' THEN 'tax_determination'
                                         WHEN 'open_case' THEN 'collection_case' ELSE 'entitlement' END;
    owner constant text := (SELECT min(w.owner) FROM sync.ownership w WHERE w.object = changed AND w.field IN ('*', 'lines', 'status', 'total_amount', 'tax_amount') AND w.owner <> 'hub');
BEGIN
    IF owner IS NOT NULL THEN
        PERFORM sync._no_repair(s.break_id, format('System "%s" owns object "%s".', owner, changed), 'Have it corrected there; then remedy => ''pull_again''.');
    END IF;
    RETURN CASE WHEN remedy IN ('suspend', 'revoke') THEN sync._plan_right(s, remedy)
                WHEN remedy = 'open_case' THEN sync._plan_case(s)
                WHEN remedy = 'correct_tax' THEN sync._plan_tax(s)
                WHEN remedy = 'restore' THEN sync._plan_restored(s)
                ELSE sync._plan_reschedule(s, options) END;
END
$$;
COMMENT ON FUNCTION sync._plan_own(sync._break_subject, text, jsonb) IS 'Acts of a remedy that changes canonical rows only';

-- ---- done ----

-- Only if the row still is what was shown.
CREATE FUNCTION sync._change_row(s sync._break_subject, act jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation constant regclass := to_regclass(format('%I.%I', sync._canonical_schema(), act ->> 'table'));
    names constant text := (SELECT string_agg(quote_ident(k), ', ' ORDER BY k) FROM jsonb_object_keys(act -> 'set') k);
BEGIN
    PERFORM sync._fire_deferred();
    IF sync._as_owner(relation, format('WITH c AS (UPDATE %1$s t SET (%2$s) = (SELECT %2$s FROM jsonb_populate_record(NULL::%1$s, $1 -> ''set'')) '
                                       'WHERE t.id = ($1 ->> ''id'')::uuid AND to_jsonb(t) @> ($1 -> ''was'') RETURNING t.id) SELECT to_jsonb(c.id) FROM c', relation, names), act) IS NULL THEN
        PERFORM sync._no_repair(s.break_id, format('The row %s of %s is no longer what it was.', act ->> 'id', act ->> 'table'), 'Run the rule again.');
    END IF;
END
$$;
COMMENT ON FUNCTION sync._change_row(sync._break_subject, jsonb) IS 'Changes a row of a canonical table, as its owner';
