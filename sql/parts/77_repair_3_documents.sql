-- Repair: credit notes and journals that correct the books. A second person sees the whole document before it is
-- made; once he agrees it is posted, and goes by its routes as any other.

-- A document's day: today where the entity is, or the first day of the next period that takes postings. An
-- approval is of the day that was shown.
CREATE FUNCTION sync._document_day(s sync._break_subject, entity text, wanted text)
RETURNS date
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    day date;
    period record;
BEGIN
    SELECT t.* INTO o FROM sync.object t WHERE t.id = s.object_id;
    o.schema_name := coalesce(o.schema_name, sync._canonical_schema());
    BEGIN
        IF wanted !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' THEN
            RAISE invalid_datetime_format;
        END IF;
        day := coalesce(wanted::date, (now() AT TIME ZONE coalesce(sync._look_up(o.schema_name, 'legal_entity', 'timezone', entity), 'UTC'))::date);
    EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format THEN
        PERFORM sync._no_repair(s.break_id, format('"%s" is no day.', wanted), 'Write it as in options => ''{"day": "2026-10-31"}''.');
    END;
    period := sync._accounting_period(o, entity, day, false);
    IF period.status <> 'open' THEN
        period := sync._accounting_period(o, entity, day, true);
        day := period.first;
    END IF;
    IF day IS NULL THEN
        PERFORM sync._no_repair(s.break_id, 'No accounting period of the legal entity takes postings.', 'Have the controller open one in accounting_period.');
    END IF;
    RETURN day;
END
$$;
COMMENT ON FUNCTION sync._document_day(sync._break_subject, text, text) IS 'The accounting day of a document that is made now, in an open period';

-- Unless another system owns the numbers: then that one gives it. The break's id makes it the same for the same
-- repair, so that nothing is credited twice.
CREATE FUNCTION sync._document_number(s sync._break_subject, doc text, number text, entity text)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    made jsonb;
BEGIN
    SELECT t.* INTO STRICT o FROM sync.object t WHERE t.name = doc;
    IF EXISTS (SELECT FROM sync.ownership w WHERE w.object = doc AND w.field = 'number' AND w.owner <> 'hub') THEN
        RETURN NULL;
    END IF;
    made := sync._as_owner(o.table_oid, format('SELECT to_jsonb(t.id) FROM %s t WHERE t.number = $1 ->> ''number''%s LIMIT 1', o.table_oid::regclass,
                                               CASE doc WHEN 'gl_entry' THEN ' AND t.legal_entity_id::text IS NOT DISTINCT FROM $1 ->> ''entity''' ELSE '' END),
                           jsonb_build_object('number', number, 'entity', entity));
    IF made IS NOT NULL THEN
        PERFORM sync._no_repair(s.break_id, format('There is a document "%s" already.', number), 'If another one is meant, give it a number: options => ''{"number": "…"}''.');
    END IF;
    RETURN number;
END
$$;
COMMENT ON FUNCTION sync._document_number(sync._break_subject, text, text, text) IS 'The number of a document, if it is free; NULL: another system gives it';

-- The amount that was asked for, or what the break is about: its difference, or all of the document.
CREATE FUNCTION sync._document_amount(s sync._break_subject, doc text, body jsonb, options jsonb, OUT amount numeric, OUT currency text, OUT digits integer)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM sync.object o WHERE o.name = doc AND o.line_table IS NOT NULL) THEN
        PERFORM sync._no_repair(s.break_id, format('There is no object "%s" with lines.', doc), 'Track its table, as sync.create_canonical_model() makes it.');
    END IF;
    currency := coalesce(options ->> 'currency', s.currency, body ->> 'currency');
    amount := CASE WHEN options ->> 'amount' ~ '^[0-9]+(\.[0-9]+)?$' THEN (options ->> 'amount')::numeric WHEN options ? 'amount' THEN 0
                   ELSE abs(coalesce(s.difference, CASE WHEN s.object = 'invoice' THEN sync._number(body ->> 'total_amount') END)) END;
    IF amount IS NULL OR amount = 0 OR currency IS NULL THEN
        PERFORM sync._no_repair(s.break_id, 'An amount and its currency are needed.', 'Say them: options => ''{"amount": "12.50", "currency": "EUR"}''.');
    END IF;
    SELECT sync._as_owner(o.table_oid, format('SELECT to_jsonb(%I.minor_units($1 ->> ''currency''))', o.schema_name), jsonb_build_object('currency', currency))::integer
      INTO digits FROM sync.object o WHERE o.name = doc;
    IF amount <> round(amount, digits) THEN
        PERFORM sync._no_repair(s.break_id, format('%s %s has more digits than the currency.', amount, currency), format('%s decimals are the most.', digits));
    END IF;
END
$$;
COMMENT ON FUNCTION sync._document_amount(sync._break_subject, text, jsonb, jsonb) IS 'Amount and currency of a document that repairs a break';

-- All of a document is credited line by line; a part of it as one line, with the document's share of tax.
CREATE FUNCTION sync._credit_lines(body jsonb, net numeric, tax numeric, digits integer, memo text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH line AS (
        SELECT l.value AS line, sync._number(l.value ->> 'net_amount') AS net, sync._number(l.value ->> 'tax_amount') AS tax
          FROM jsonb_array_elements(CASE jsonb_typeof(body -> 'lines') WHEN 'array' THEN body -> 'lines' ELSE '[]' END) l),
    whole AS (
        SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('line_no', l.line -> 'line_no', 'product_id', l.line -> 'product_id', 'price_id', l.line -> 'price_id',
                   'description', l.line -> 'description', 'quantity', l.line -> 'quantity', 'unit_price', l.line -> 'unit_price', 'net_amount', l.line -> 'net_amount',
                   'tax_amount', l.line -> 'tax_amount', 'tax_code', l.line -> 'tax_code', 'service_start', l.line -> 'service_start', 'service_end', l.line -> 'service_end',
                   'account_code', l.line -> 'account_code')) ORDER BY sync._number(l.line ->> 'line_no')) AS lines,
               round(sum(l.net), digits) AS net, round(sum(l.tax), digits) AS tax, bool_and(l.net >= 0 AND l.tax >= 0 AND coalesce(sync._number(l.line ->> 'quantity') >= 0, false)
                   AND coalesce(sync._number(l.line ->> 'unit_price'), 0) >= 0) AS positive
          FROM line l)
    SELECT CASE WHEN w.positive AND w.net = $2 AND w.tax IN (0, $3) THEN w.lines
                ELSE jsonb_build_array(jsonb_build_object('line_no', 1, 'description', memo, 'quantity', 1, 'unit_price', $2, 'net_amount', $2, 'tax_amount', $3)) END
      FROM whole w
$$;
COMMENT ON FUNCTION sync._credit_lines(jsonb, numeric, numeric, integer, text) IS 'Lines of a credit note over a net amount and its tax';

CREATE FUNCTION sync._plan_credit_note(s sync._break_subject, options jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    body jsonb := sync._record_or_null(s.object_id, s.record_id);
    memo text := format('break %s: %s %s', s.break_id, s.object, coalesce(s.number, s.record_id));
    sum record;
    dated record;
    day date;
    number text;
    tax numeric;
BEGIN
    sum := sync._document_amount(s, 'credit_note', body, options);
    IF body ->> 'customer_id' IS NULL THEN
        PERFORM sync._no_repair(s.break_id, 'It is not known whom to credit.', 'A credit note is for a record with a customer.');
    END IF;
    SELECT d.* INTO dated FROM sync.object o CROSS JOIN LATERAL sync._accounting_date(o, body) d WHERE o.id = s.object_id;
    day := sync._document_day(s, dated.entity, options ->> 'day');
    number := sync._document_number(s, 'credit_note', coalesce(options ->> 'number', format('%s-C%s', coalesce(s.number, s.object), s.break_id)), NULL);
    tax := CASE WHEN sync._number(body ->> 'total_amount') > 0 THEN round(sum.amount * sync._number(body ->> 'tax_amount') / sync._number(body ->> 'total_amount'), sum.digits) ELSE 0 END;
    RETURN jsonb_build_array(sync._act('insert', NULL, format('credit note %s over %s %s', coalesce(number, 'without number'), sum.amount, sum.currency), jsonb_build_object(
        'books', true, 'object', 'credit_note',
        'row', jsonb_strip_nulls(jsonb_build_object('number', number, 'customer_id', body -> 'customer_id', 'invoice_id', CASE WHEN s.object = 'invoice' THEN s.record_id END, 'status', 'posted',
                   'reason', memo, 'issue_date', day, 'currency', sum.currency, 'net_amount', sum.amount - tax, 'tax_amount', tax, 'total_amount', sum.amount)),
        'lines', sync._credit_lines(body, sum.amount - tax, tax, sum.digits, memo))));
END
$$;
COMMENT ON FUNCTION sync._plan_credit_note(sync._break_subject, jsonb) IS 'The act that makes a credit note';

-- A journal of two lines, in the books of the record's legal entity.
CREATE FUNCTION sync._plan_adjustment(s sync._break_subject, options jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    body jsonb := sync._record_or_null(s.object_id, s.record_id);
    memo text := format('break %s: %s %s', s.break_id, s.object, coalesce(s.number, s.record_id));
    sum record;
    dated record;
    day date;
    number text;
BEGIN
    sum := sync._document_amount(s, 'gl_entry', body, options);
    IF options ->> 'debit_account' IS NULL OR options ->> 'credit_account' IS NULL THEN
        PERFORM sync._no_repair(s.break_id, 'An adjustment is a journal with two accounts.', 'Say them: options => ''{"debit_account": "6500", "credit_account": "1200"}''.');
    END IF;
    SELECT d.* INTO dated FROM sync.object o CROSS JOIN LATERAL sync._accounting_date(o, body) d WHERE o.id = s.object_id;
    day := sync._document_day(s, dated.entity, options ->> 'day');
    number := sync._document_number(s, 'gl_entry', coalesce(options ->> 'number', format('ADJ-%s', s.break_id)), dated.entity);
    RETURN jsonb_build_array(sync._journal_act(s, format('journal %s over %s %s', coalesce(number, 'without number'), sum.amount, sum.currency), number, dated.entity, day, sum.currency, memo,
        s.object, s.record_id,
        jsonb_build_array(jsonb_build_object('line_no', 1, 'account_code', options ->> 'debit_account', 'debit', sum.amount, 'credit', 0, 'description', memo),
                          jsonb_build_object('line_no', 2, 'account_code', options ->> 'credit_account', 'debit', 0, 'credit', sum.amount, 'description', memo))));
END
$$;
COMMENT ON FUNCTION sync._plan_adjustment(sync._break_subject, jsonb) IS 'The act that makes a journal';

-- Posted when it is made: the instant and who approved it are added then.
CREATE FUNCTION sync._journal_act(s sync._break_subject, detail text, number text, entity text, day date, currency text, memo text, source text, source_id text, lines jsonb, more jsonb DEFAULT '{}')
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stands constant name := coalesce((SELECT o.schema_name FROM sync.object o WHERE o.name = 'gl_entry'), sync._canonical_schema());
    functional text := sync._look_up(stands, 'legal_entity', 'functional_currency', entity);
    rate numeric;
BEGIN
    IF functional IS NOT NULL AND to_regclass(format('%I.fx_rate', stands)) IS NOT NULL THEN
        rate := CASE WHEN functional = currency THEN 1 ELSE sync._as_owner(to_regclass(format('%I.fx_rate', stands)), format(
            'SELECT to_jsonb(r.rate) FROM %I.fx_rate r WHERE r.from_currency = $1 ->> ''from'' AND r.to_currency = $1 ->> ''to'' AND r.rate_date <= ($1 ->> ''day'')::date ORDER BY r.rate_date DESC, r.source LIMIT 1',
            stands), jsonb_build_object('from', currency, 'to', functional, 'day', day))::numeric END;
    END IF;
    RETURN sync._act('insert', NULL, detail, jsonb_build_object('books', true, 'object', 'gl_entry',
        'row', jsonb_strip_nulls(jsonb_build_object('number', number, 'legal_entity_id', entity, 'posting_date', day, 'accounting_period', date_trunc('month', day::timestamp)::date,
                   'currency', currency, 'fx_rate', rate, 'memo', memo, 'status', 'posted', 'source_object', source, 'source_id', source_id)) || more,
        'lines', lines));
END
$$;
COMMENT ON FUNCTION sync._journal_act(sync._break_subject, text, text, text, date, text, text, text, text, jsonb, jsonb) IS 'The act that makes a posted journal';
