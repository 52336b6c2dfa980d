-- Reconciliation: the two sides of a comparison, as SQL.

CREATE FUNCTION sync._row_agrees(record, fields jsonb)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 50
AS 'MODULE_PATHNAME', 'se_row_agrees';
COMMENT ON FUNCTION sync._row_agrees(record, jsonb) IS
    'Whether each member of fields is the row''s column of that name, to the letter; false also where that cannot be told without a closer look';

-- How much two amounts may differ and still be the same: what rounding explains.
CREATE TABLE sync.tolerance (
    system_id       integer NOT NULL REFERENCES sync.system ON DELETE CASCADE,
    object_id       integer NOT NULL REFERENCES sync.object ON DELETE CASCADE,
    currency        text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    amount          numeric NOT NULL CHECK (amount > 0),
    reason          text NOT NULL,
    set_by          name NOT NULL DEFAULT session_user,
    set_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (system_id, object_id, currency)
);
CREATE INDEX tolerance_object_idx ON sync.tolerance (object_id);
COMMENT ON TABLE sync.tolerance IS 'Differences of amounts that are explained as rounding';
COMMENT ON COLUMN sync.tolerance.amount IS 'In currency: a difference up to this is explained';

CREATE FUNCTION sync.set_tolerance(system text, object text, amount numeric, currency text, reason text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_system integer := sync._system_id($1);
    the_object integer := sync._object_id($2);
    before numeric;
BEGIN
    PERFORM sync._check_reason($5);
    IF $4 IS NULL OR $4 !~ '^[A-Z]{3}$' OR $3 IS NULL OR $3 < 0 OR $3 = 'NaN' OR $3 = 'Infinity' THEN
        RAISE EXCEPTION 'a tolerance is an amount in a currency'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example 0.01 and EUR; 0 takes a tolerance back.';
    END IF;
    DELETE FROM sync.tolerance t WHERE t.system_id = the_system AND t.object_id = the_object AND t.currency = $4 RETURNING t.amount INTO before;
    IF $3 > 0 THEN
        INSERT INTO sync.tolerance (system_id, object_id, currency, amount, reason) VALUES (the_system, the_object, $4, $3, $5);
    END IF;
    PERFORM sync._audit('tolerance.set', $2, NULL, $1, jsonb_build_object('amount', $3, 'currency', $4, 'before', before), $5);
END
$$;
COMMENT ON FUNCTION sync.set_tolerance(text, text, numeric, text, text) IS
    'Up to which difference amounts of an object count as rounded, in a currency; 0: not at all. A difference within it is explained, not a break';

-- Columns of an object's table by what they mean to a comparison, as expressions over alias c. Only
-- built-in types: comparing runs with the rights of the extension's owner, and no function of
-- somebody else's may. record_sql NULL: the table has to be read as its owner, record by record.
CREATE FUNCTION sync._side(object_id integer, OUT relation regclass, OUT record_sql text, OUT number_sql text, OUT amount_sql text, OUT amount_key text,
                           OUT currency_sql text, OUT entity_sql text, OUT day_sql text, OUT made_sql text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH col AS (
        SELECT a.attname, b.oid AS type
          FROM sync.object o
          JOIN pg_attribute a ON a.attrelid = o.table_oid AND a.attnum > 0 AND NOT a.attisdropped
          JOIN pg_type y ON y.oid = a.atttypid
          JOIN pg_type b ON b.oid = CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.oid END AND b.typnamespace = 'pg_catalog'::regnamespace
         WHERE o.id = $1),
    has AS (
        SELECT coalesce(array_agg(attname::text), '{}') AS names,
               coalesce(array_agg(attname::text) FILTER (WHERE type = 'numeric'::regtype), '{}') AS numbers,
               coalesce(array_agg(attname::text) FILTER (WHERE type = 'date'::regtype), '{}') AS dates,
               coalesce(array_agg(attname::text) FILTER (WHERE type = 'timestamptz'::regtype), '{}') AS instants FROM col)
    SELECT o.table_oid,
           CASE WHEN NOT o.key_columns::text[] <@ h.names OR NOT has_table_privilege(o.table_oid, 'SELECT') OR row_security_active(o.table_oid) THEN NULL
                WHEN cardinality(o.key_columns) = 1 THEN format('c.%I::text COLLATE "C"', o.key_columns[1])
                ELSE (SELECT 'jsonb_build_array(' || string_agg(format('c.%I::text', k), ', ' ORDER BY n) || ')::text COLLATE "C"'
                        FROM unnest(o.key_columns) WITH ORDINALITY u (k, n)) END,
           CASE WHEN o.number_column::text = ANY (h.names) THEN format('c.%I::text', o.number_column) ELSE 'NULL::text' END,
           coalesce(format('c.%I', m.amount), 'NULL::numeric'), m.amount,
           CASE WHEN 'currency' = ANY (h.names) THEN 'c.currency::text' ELSE 'NULL::text' END,
           CASE WHEN 'legal_entity_id' = ANY (h.names) THEN 'c.legal_entity_id::text' ELSE 'NULL::text' END,
           'coalesce(' || concat_ws(', ', (SELECT string_agg('c.' || d, ', ' ORDER BY n)
                                             FROM unnest(ARRAY['posting_date', 'issue_date']) WITH ORDINALITY u (d, n) WHERE d = ANY (h.dates)),
                                          CASE WHEN 'settled_at' = ANY (h.instants) THEN '(c.settled_at AT TIME ZONE ''UTC'')::date' END, 'NULL::date') || ')',
           CASE WHEN 'created_at' = ANY (h.instants) THEN 'c.created_at' ELSE 'NULL::timestamptz' END
      FROM sync.object o
     CROSS JOIN has h
     CROSS JOIN LATERAL (SELECT (SELECT a FROM unnest(ARRAY['total_amount', 'amount', 'total_value', 'gross_amount']) WITH ORDINALITY u (a, n)
                                  WHERE a = ANY (h.numbers) ORDER BY n LIMIT 1)) m (amount)
     WHERE o.id = $1
$$;
COMMENT ON FUNCTION sync._side(integer) IS 'The table of an object, and its key, number, amount, currency, entity and day as expressions over alias c';
