-- Repair: credit notes and journals that correct the books. A second person sees the whole document before it is
-- made; once he agrees it is posted, and goes by its routes as any other.

-- A document's day: today where the entity is, or the first day of the next period that takes postings. An
-- approval is of the day that was shown, so that one may be asked for, too, though it is still to come. Where an
-- entity has no periods at all, nobody has said which days are closed.
CREATE FUNCTION sync._document_day(s sync._break_subject, entity text, wanted text)
RETURNS date
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o sync.object;
    today date;
    usual date;
    day date;
    later date;
    has_periods boolean;
    period record;
    why text;
BEGIN
    SELECT t.* INTO o FROM sync.object t WHERE t.id = s.object_id;
    o.schema_name := coalesce(o.schema_name, sync._canonical_schema());
    today := (now() AT TIME ZONE coalesce(sync._look_up(o.schema_name, 'legal_entity', 'timezone', entity), 'UTC'))::date;
    has_periods := to_regclass(format('%I.accounting_period', o.schema_name)) IS NOT NULL
        AND sync._as_owner(to_regclass(format('%I.accounting_period', o.schema_name)),
                           format('SELECT to_jsonb(t.start_date) FROM %I.accounting_period t WHERE t.legal_entity_id::text = $1 ->> ''entity'' LIMIT 1', o.schema_name),
                           jsonb_build_object('entity', entity)) IS NOT NULL;
    period := sync._accounting_period(o, entity, today, false);
    usual := CASE WHEN NOT has_periods OR period.status = 'open' THEN today ELSE (sync._accounting_period(o, entity, today, true)).first END;
    BEGIN
        IF wanted !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' THEN
            RAISE invalid_datetime_format;
        END IF;
        day := coalesce(wanted::date, usual);
    EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format THEN
        PERFORM sync._no_repair(s.break_id, format('"%s" is no day.', wanted), 'Write it as in options => ''{"day": "2026-10-31"}''.');
    END;
    IF day IS NULL THEN
        PERFORM sync._no_repair(s.break_id, 'No accounting period of the legal entity takes postings, from today on.', 'Have the controller open one in accounting_period, or say a day: options => ''{"day": "2026-10-31"}''.');
    ELSIF day = usual THEN
        RETURN day;
    END IF;
    period := sync._accounting_period(o, entity, day, false);
    why := CASE WHEN day > today THEN format('%s is still to come where the legal entity is.', to_char(day, 'YYYY-MM-DD'))
                WHEN has_periods AND period.status IS NULL THEN format('%s is in no accounting period of the legal entity.', to_char(day, 'YYYY-MM-DD'))
                WHEN has_periods AND period.status <> 'open' THEN format('The accounting period of %s takes no postings: it is %s.', to_char(day, 'YYYY-MM-DD'), period.status) END;
    IF why IS NOT NULL THEN
        later := CASE WHEN day > today THEN usual ELSE least((sync._accounting_period(o, entity, day, true)).first, usual) END;
        PERFORM sync._no_repair(s.break_id, why, CASE WHEN later IS NULL THEN 'Have the controller open a period in accounting_period.'
                                                      ELSE format('%s is %s: options => ''{"day": "%2$s"}''.', CASE WHEN day > today THEN 'The latest day' ELSE 'The next day that does' END, to_char(later, 'YYYY-MM-DD')) END);
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
    amount := CASE WHEN options ? 'amount' THEN sync._number(options ->> 'amount')
                   ELSE abs(coalesce(s.difference, CASE WHEN s.object = 'invoice' THEN sync._number(body ->> 'total_amount') END)) END;
    -- NaN is more than Infinity.
    IF options ? 'amount' AND amount IS NULL OR amount <= 0 OR amount >= 'Infinity' THEN
        PERFORM sync._no_repair(s.break_id, format('A document is not over %s.', coalesce(amount::text, format('"%s"', options ->> 'amount'))),
                                'Say an amount of more than 0: options => ''{"amount": "12.50", "currency": "EUR"}''.');
    ELSIF amount IS NULL OR currency IS NULL THEN
        PERFORM sync._no_repair(s.break_id, 'An amount and its currency are needed.', 'Say them: options => ''{"amount": "12.50", "currency": "EUR"}''.');
    ELSIF currency !~ '^[A-Z]{3}$' THEN
        PERFORM sync._no_repair(s.break_id, format('"%s" is no currency.', currency), 'Three capital letters: options => ''{"currency": "EUR"}''.');
    END IF;
    SELECT sync._as_owner(o.table_oid, format('SELECT to_jsonb(%I.minor_units($1 ->> ''currency''))', o.schema_name), jsonb_build_object('currency', currency))::integer
      INTO digits FROM sync.object o WHERE o.name = doc;
    IF amount <> round(amount, digits) THEN
        PERFORM sync._no_repair(s.break_id, format('%s %s has more digits than the currency.', amount, currency), format('%s decimals are the most.', digits));
    END IF;
END
$$;
COMMENT ON FUNCTION sync._document_amount(sync._break_subject, text, jsonb, jsonb) IS 'Amount and currency of a document that repairs a break';

-- What approvers see and policies go by is what is made, however small the difference is that it is made for.
CREATE FUNCTION sync._amount_made(acts jsonb, difference numeric, break_currency text, OUT amount numeric, OUT currency text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN m.currency = $3 THEN greatest(m.amount, abs($2)) ELSE coalesce(m.amount, abs($2)) END, CASE WHEN m.amount IS NULL THEN $3 ELSE m.currency END
      FROM (VALUES (1)) one
      LEFT JOIN (SELECT d.amount, d.currency
                   FROM (SELECT coalesce(sync._number(a.value #>> '{row,total_amount}'),
                                         (SELECT sum(sync._number(l.value ->> 'debit')) FROM jsonb_array_elements(a.value -> 'lines') l)) AS amount, a.value #>> '{row,currency}' AS currency
                           FROM jsonb_array_elements(acts) a WHERE a.value ->> 'act' = 'insert') d
                  WHERE d.amount IS NOT NULL AND d.currency IS NOT NULL ORDER BY d.amount DESC LIMIT 1) m ON true
$$;
COMMENT ON FUNCTION sync._amount_made(jsonb, numeric, text) IS 'Amount of the largest document that a plan makes, if that is more than the break''s difference or in another currency';

-- What may still be credited. Credit notes in another currency are rule currency_agrees' business.
CREATE FUNCTION sync._check_credit(s sync._break_subject, body jsonb, amount numeric, currency text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    total constant numeric := sync._number(body ->> 'total_amount');
    credited numeric;
BEGIN
    IF currency IS DISTINCT FROM body ->> 'currency' AND body ? 'currency' THEN
        PERFORM sync._no_repair(s.break_id, format('The %s is in %s, the credit note would be in %s.', s.object, coalesce(body ->> 'currency', 'no currency'), currency),
                                format('Credit it in its own: options => ''{"amount": "…", "currency": "%s"}''.', body ->> 'currency'));
    ELSIF s.object <> 'invoice' THEN
        RETURN;
    END IF;
    SELECT sync._as_owner(o.table_oid, format('SELECT to_jsonb(coalesce(sum(t.total_amount), 0)) FROM %1$s t WHERE t.invoice_id = (jsonb_populate_record(NULL::%1$s, $1)).invoice_id '
                                              'AND t.currency = $1 ->> ''currency'' AND t.status IN (''posted'', ''applied'')', o.table_oid::regclass),
                          jsonb_build_object('invoice_id', s.record_id, 'currency', currency))::numeric
      INTO credited FROM sync.object o WHERE o.name = 'credit_note';
    IF amount > coalesce(total, 0) - credited THEN
        PERFORM sync._no_repair(s.break_id, format('Of %s %s of the invoice, %s are credited already: %s more is too much.', coalesce(total, 0), currency, credited, amount),
                                CASE WHEN total > credited THEN format('Credit %s at the most: options => ''{"amount": "%1$s"}''.', total - credited)
                                     ELSE 'Nothing is left to credit: choose another remedy.' END);
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_credit(sync._break_subject, jsonb, numeric, text) IS 'An error when a credit note is in another currency than its record, or over more than is left of its invoice';

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
    PERFORM sync._check_credit(s, body, sum.amount, sum.currency);
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
    ELSIF btrim(options ->> 'debit_account') = btrim(options ->> 'credit_account') THEN
        PERFORM sync._no_repair(s.break_id, format('Account %s would be debited and credited: nothing would change.', options ->> 'debit_account'), 'Say two accounts: options => ''{"debit_account": "6500", "credit_account": "1200"}''.');
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
