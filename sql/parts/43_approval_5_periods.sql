-- Closed accounting periods: documents dated in one wait, or go into the next open one with approval.

-- An id as its column has it, so that an index finds it: what is no uuid is NULL, and found nowhere.
CREATE FUNCTION sync._id_sql(type oid, value_sql text)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE type WHEN 'uuid'::regtype THEN format('CASE WHEN %1$s ~ ''^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'' THEN (%1$s)::uuid END', value_sql) ELSE value_sql END
$$;
COMMENT ON FUNCTION sync._id_sql(oid, text) IS 'The text of an id, as an expression of the type of its column if that is uuid or text';

-- A value of a canonical table's row by id, read with the rights of the table's owner; NULL when there is
-- no such table, column or row.
CREATE FUNCTION sync._look_up(schema_name name, table_name name, column_name name, id text)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner name;
    type oid;
BEGIN
    SELECT pg_get_userbyid(c.relowner), k.atttypid INTO owner, type
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = column_name AND NOT a.attisdropped
      JOIN pg_attribute k ON k.attrelid = c.oid AND k.attname = 'id' AND NOT k.attisdropped
     WHERE n.nspname = schema_name AND c.relname = table_name AND c.relkind IN ('r', 'p');
    IF owner IS NULL OR id IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN sync._run_as(owner, format('SELECT t.%I::text FROM %I.%I t WHERE t.id%s = %s', column_name, schema_name, table_name,
                                      CASE WHEN type NOT IN ('uuid'::regtype, 'text'::regtype) THEN '::text' ELSE '' END, sync._id_sql(type, '$2[1]')), NULL, id, NULL);
END
$$;
COMMENT ON FUNCTION sync._look_up(name, name, name, text) IS 'A value of the row with an id, read as the table''s owner';

-- ---- the accounting day ----
--
-- What findings, totals, rules, certificates and the gate go by: the day of posting, else of issue, else of
-- arrival (of a payout), else of settlement or of the attempt, where the legal entity is. A record that does not
-- say whose it is goes with the invoice that it names, else with its customer.

-- In this form, and without SET, it becomes a part of the query that calls it.
CREATE FUNCTION sync._accounting_day(posting_date date, issue_date date DEFAULT NULL, arrival_date date DEFAULT NULL, settled_at timestamptz DEFAULT NULL,
                                     attempted_at timestamptz DEFAULT NULL, zone text DEFAULT NULL)
RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(posting_date, issue_date, arrival_date, (coalesce(settled_at, attempted_at) AT TIME ZONE coalesce(zone, 'UTC'))::date);
COMMENT ON FUNCTION sync._accounting_day(date, date, date, timestamptz, timestamptz, text) IS
    'Accounting day of a document: of posting, issue, arrival, settlement or attempt, in the time zone of its legal entity';

-- What a system says may be anything.
CREATE FUNCTION sync._date(value text)
RETURNS date
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN value ~ '^[0-9]{4}-(0[1-9]|1[0-2])-([01][0-9]|2[0-8])|^[0-9]{4}-(0[13-9]|1[0-2])-(29|30)|^[0-9]{4}-(0[13578]|1[02])-31|^([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29'
                 AND value !~ '^0000|^.{8}00' THEN left(value, 10)::date END;
COMMENT ON FUNCTION sync._date(text) IS 'The date that a text begins with; NULL: with none';

CREATE FUNCTION sync._instant(value text)
RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN sync._date(value) IS NULL THEN NULL
            WHEN value ~ '^.{10}[T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?(Z|[+-](0[0-9]|1[0-5])(:?[0-5][0-9])?)$' THEN value::timestamptz
            WHEN value ~ '^.{10}[T ]([01][0-9]|2[0-3]):[0-5][0-9]' THEN left(value, 16)::timestamp AT TIME ZONE 'UTC'
            ELSE sync._date(value)::timestamp AT TIME ZONE 'UTC' END;
COMMENT ON FUNCTION sync._instant(text) IS 'The instant that a text says, in UTC unless it says otherwise; NULL: it says none';

CREATE FUNCTION sync._accounting_day(body jsonb, zone text)
RETURNS date
LANGUAGE sql STABLE PARALLEL SAFE
RETURN sync._accounting_day(sync._date(body ->> 'posting_date'), sync._date(body ->> 'issue_date'), sync._date(body ->> 'arrival_date'),
                            sync._instant(body ->> 'settled_at'), sync._instant(body ->> 'attempted_at'), zone);
COMMENT ON FUNCTION sync._accounting_day(jsonb, text) IS 'Accounting day of a document as jsonb; NULL: none that can be read';

CREATE FUNCTION sync._accounting_date(o sync.object, body jsonb, OUT entity text, OUT day date)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    entity := coalesce(body ->> 'legal_entity_id', sync._look_up(o.schema_name, 'invoice', 'legal_entity_id', body ->> 'invoice_id'),
                       sync._look_up(o.schema_name, 'customer', 'legal_entity_id', body ->> 'customer_id'));
    day := sync._accounting_day(body, CASE WHEN coalesce(body ->> 'posting_date', body ->> 'issue_date', body ->> 'arrival_date') IS NULL
                                           THEN sync._look_up(o.schema_name, 'legal_entity', 'timezone', entity) END);
END
$$;
COMMENT ON FUNCTION sync._accounting_date(sync.object, jsonb) IS 'Legal entity and accounting day of a document';

-- Of many documents at once what they do not say themselves: whose the invoices and customers are that they name, and
-- where each entity is.
CREATE FUNCTION sync._look_up_all(schema_name name, table_name name, column_name name, ids jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner name;
    type oid;
BEGIN
    SELECT pg_get_userbyid(c.relowner), k.atttypid INTO owner, type
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = column_name AND NOT a.attisdropped
      JOIN pg_attribute k ON k.attrelid = c.oid AND k.attname = 'id' AND NOT k.attisdropped
     WHERE n.nspname = schema_name AND c.relname = table_name AND c.relkind IN ('r', 'p');
    IF owner IS NULL OR ids = '[]' THEN
        RETURN '{}';
    END IF;
    RETURN coalesce(sync._run_as(owner, format('SELECT jsonb_object_agg(t.id::text, t.%I::text) FROM %I.%I t', column_name, schema_name, table_name)
                                        || CASE WHEN ids IS NULL THEN ''
                                                ELSE format(' WHERE t.id%s IN (SELECT %s FROM jsonb_array_elements_text($1[1]) v (id))',
                                                            CASE WHEN type NOT IN ('uuid'::regtype, 'text'::regtype) THEN '::text' ELSE '' END, sync._id_sql(type, 'v.id')) END,
                                 ids, NULL, NULL)::jsonb, '{}');
END
$$;
COMMENT ON FUNCTION sync._look_up_all(name, name, name, jsonb) IS 'As sync._look_up(), of the rows with the ids of an array, as an object by id; NULL: of all';

CREATE FUNCTION sync._places(schema_name name, bodies jsonb[])
RETURNS jsonb
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('invoice', sync._look_up_all($1, 'invoice', 'legal_entity_id', n.invoices), 'customer', sync._look_up_all($1, 'customer', 'legal_entity_id', n.customers),
                              'zone', sync._look_up_all($1, 'legal_entity', 'timezone', NULL))
      FROM (SELECT coalesce(jsonb_agg(DISTINCT b -> 'invoice_id') FILTER (WHERE b ->> 'invoice_id' IS NOT NULL), '[]') AS invoices,
                   coalesce(jsonb_agg(DISTINCT b -> 'customer_id') FILTER (WHERE b ->> 'customer_id' IS NOT NULL), '[]') AS customers
              FROM unnest(bodies) b WHERE b ->> 'legal_entity_id' IS NULL) n
$$;
COMMENT ON FUNCTION sync._places(name, jsonb[]) IS 'What many documents do not say of themselves: {"invoice": {id: entity}, "customer": {id: entity}, "zone": {entity: time zone}}';

CREATE FUNCTION sync._entity(body jsonb, places jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(body ->> 'legal_entity_id', places -> 'invoice' ->> (body ->> 'invoice_id'), places -> 'customer' ->> (body ->> 'customer_id'));
COMMENT ON FUNCTION sync._entity(jsonb, jsonb) IS 'Id of the legal entity of a document, by what sync._places() says';

CREATE FUNCTION sync._accounting_period(o sync.object, entity text, day date, next_open boolean, OUT status text, OUT first date, OUT last date)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner name;
    found jsonb;
BEGIN
    SELECT pg_get_userbyid(c.relowner) INTO owner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = o.schema_name AND c.relname = 'accounting_period' AND c.relkind IN ('r', 'p');
    IF owner IS NULL OR entity IS NULL OR day IS NULL THEN
        RETURN;
    END IF;
    found := sync._run_as(owner, format(
        'SELECT jsonb_build_object(''status'', t.status, ''first'', t.start_date, ''last'', t.end_date) FROM %I.accounting_period t
          WHERE t.legal_entity_id::text = $1[1] ->> ''entity'' AND %s ORDER BY t.start_date LIMIT 1', o.schema_name,
        CASE WHEN next_open THEN 't.status = ''open'' AND t.start_date > ($1[1] ->> ''day'')::date'
             ELSE '($1[1] ->> ''day'')::date BETWEEN t.start_date AND t.end_date' END),
        jsonb_build_object('entity', entity, 'day', day), NULL, NULL)::jsonb;
    status := found ->> 'status';
    first := found ->> 'first';
    last := found ->> 'last';
END
$$;
COMMENT ON FUNCTION sync._accounting_period(sync.object, text, date, boolean) IS 'The period of a legal entity that a day falls in, or the next open one after it';

CREATE FUNCTION sync.set_period_policy(object text, policy text, reason text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    call jsonb;
    waits bigint;
BEGIN
    PERFORM sync._check_reason(reason);
    SELECT t.* INTO o FROM sync.object t WHERE t.id = sync._object_id(set_period_policy.object);
    IF policy IS NULL OR policy NOT IN ('hold', 'next_open', 'none') THEN
        RAISE EXCEPTION 'invalid policy "%" for closed periods', policy
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'hold waits until the period is opened, next_open moves the document into the next open one with approval, none does not look at periods.';
    END IF;
    IF to_regclass(format('%I.accounting_period', o.schema_name)) IS NULL
       OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = o.table_oid AND NOT a.attisdropped
                         AND a.attname IN ('posting_date', 'issue_date', 'arrival_date', 'settled_at', 'attempted_at')) THEN
        RAISE EXCEPTION 'object "%" has no accounting date, or no periods', o.name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Its table needs posting_date, issue_date, arrival_date, settled_at or attempted_at, and beside it a table accounting_period, as in the canonical model.';
    END IF;
    call := jsonb_build_object('object', o.name, 'policy', policy, 'reason', reason, 'set_by', session_user);
    waits := sync._approval('set_period_policy', o.name, NULL, NULL, NULL, call, reason);
    IF waits IS NULL THEN
        PERFORM sync._approved_set_period_policy(call, NULL);
    ELSE
        RAISE NOTICE 'the period policy of object "%" waits for approval %', o.name, waits
            USING HINT = sync._approve_hint(waits);
    END IF;
    RETURN waits;
END
$$;
COMMENT ON FUNCTION sync.set_period_policy(text, text, text) IS
    'What becomes of documents dated in a closed accounting period: hold, next_open, or none; NULL, or the approval it waits for';

CREATE FUNCTION sync._approved_set_period_policy(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old sync.period_policy;
BEGIN
    DELETE FROM sync.period_policy p WHERE p.object = args ->> 'object' RETURNING p.* INTO old;
    IF args ->> 'policy' <> 'none' THEN
        INSERT INTO sync.period_policy (object, policy, reason, set_by)
        VALUES (args ->> 'object', args ->> 'policy', args ->> 'reason', (args ->> 'set_by')::name);
        UPDATE sync.object o SET attributed = true WHERE o.name = args ->> 'object' AND NOT o.attributed;
    END IF;
    PERFORM sync._audit('period_policy.set', args ->> 'object', NULL, NULL,
                        jsonb_build_object('policy', args ->> 'policy', 'before', old.policy, 'approval', approval), args ->> 'reason');
    PERFORM sync._look_at_held(args ->> 'object');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._approved_set_period_policy(jsonb, bigint) IS 'Puts a policy for closed periods into force';

-- What an approved move changes in a document on its way. The canonical row keeps its own date until the
-- system that posts it reports what it did.
CREATE FUNCTION sync._moved_fields(posted_date date, posted_period date)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('posting_date', posted_date, 'accounting_period', posted_period)
$$;
COMMENT ON FUNCTION sync._moved_fields(date, date) IS 'The fields that a document is sent with when it goes into another period';

CREATE FUNCTION sync._approved_post_in_next_period(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.approval_request;
    o sync.object;
    target record;
BEGIN
    SELECT * INTO STRICT r FROM sync.approval_request a WHERE a.id = approval;
    SELECT * INTO STRICT o FROM sync.object t WHERE t.id = r.object_id;
    target := sync._accounting_period(o, args ->> 'entity', (args ->> 'posted_date')::date, false);
    IF target.status IS DISTINCT FROM 'open' THEN
        RAISE EXCEPTION 'the period that begins on % is not open any more', args ->> 'posted_period'
            USING ERRCODE = 'SE067', DETAIL = format('It is %s.', coalesce(target.status, 'gone')),
                  HINT = 'Reject this request; sync.retry() of the delivery asks for the period that is the next open one now.';
    END IF;
    UPDATE sync.pending p
       SET body = p.body || sync._moved_fields((args ->> 'posted_date')::date, (args ->> 'posted_period')::date),
           state = 'retry', next_attempt_at = clock_timestamp()
     WHERE p.route_id = r.route_id AND p.seq = r.seq AND p.event_at = r.event_at AND p.state IN ('held', 'retry');
    IF NOT FOUND THEN
        PERFORM sync._refuse_gone(r);
    END IF;
    INSERT INTO sync.period_move (object_id, record_id, original_date, original_period, posted_date, posted_period, approval_id)
    VALUES (r.object_id, r.record_id, (args ->> 'original_date')::date, (args ->> 'original_period')::date,
            (args ->> 'posted_date')::date, (args ->> 'posted_period')::date, approval)
        ON CONFLICT (object_id, record_id, original_date) DO UPDATE
            SET posted_date = excluded.posted_date, posted_period = excluded.posted_period, approval_id = excluded.approval_id, moved_at = clock_timestamp();
    PERFORM sync._change();
    RETURN args - '{route,seq,event_at}'::text[];
END
$$;
COMMENT ON FUNCTION sync._approved_post_in_next_period(jsonb, bigint) IS 'Sends a held document with a date in the next open period, and keeps both on record';

CREATE FUNCTION sync._refuse_gone(r sync.approval_request)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'delivery %/% does not wait for approval any more', r.route_id, r.seq
        USING ERRCODE = 'SE067', DETAIL = 'It was discarded, or its route was dropped.', HINT = 'Reject this request.';
END
$$;
COMMENT ON FUNCTION sync._refuse_gone(sync.approval_request) IS 'An error: what was to be approved is not there any more';

CREATE FUNCTION sync._approved_deliver(args jsonb, approval bigint)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.approval_request;
BEGIN
    SELECT * INTO STRICT r FROM sync.approval_request a WHERE a.id = approval;
    UPDATE sync.pending p SET state = 'retry', next_attempt_at = clock_timestamp()
     WHERE p.route_id = r.route_id AND p.seq = r.seq AND p.event_at = r.event_at AND p.state IN ('held', 'retry');
    IF NOT FOUND THEN
        PERFORM sync._refuse_gone(r);
    END IF;
    PERFORM sync._change();
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync._approved_deliver(jsonb, bigint) IS 'Lets a held delivery go';
