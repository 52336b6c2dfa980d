-- Repair: revenue schedules, made right from the invoice; and journals, put back as they were recorded.
--
-- What a posted journal has recognized stays, and what a journal recognized that no line says is a line's again.
-- The rest is planned month by month; what belongs into a month that takes no postings any more goes, with
-- whatever difference is left, into the first one that does (a catch-up, as ASC 606 has it).

-- Of each line and standard that the break is about: the invoice, the schedule with its lines, and the journals
-- that recognize revenue in its months; slack: what such a journal recognized beyond what schedules say.
CREATE FUNCTION sync._schedule_facts(object text, id text, standard text)
RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $facts$
    SELECT sync._canonical_facts($q$
        WITH line AS MATERIALIZED (
            SELECT l.id AS line, l.line_no, i.id AS invoice, i.number, i.status = 'void' AS void, i.currency::text, canonical.minor_units(i.currency) AS digits,
                   round(l.net_amount, canonical.minor_units(i.currency)) AS total, e.id AS entity, e.timezone, i.contract_id, l.service_start AS first,
                   coalesce(l.service_end, l.service_start) AS last, coalesce(p.model = 'usage', false) AS usage, d.deferred_account, d.revenue_account
              FROM canonical.invoice_line l
              JOIN canonical.invoice i ON i.id = l.invoice_id AND i.type = 'standard' AND i.status <> 'draft'
              JOIN canonical.customer c ON c.id = i.customer_id
              JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
              LEFT JOIN canonical.product d ON d.id = l.product_id
              LEFT JOIN canonical.price p ON p.id = l.price_id
             WHERE l.service_start IS NOT NULL
               AND l.id IN (SELECT x.id FROM canonical.invoice_line x WHERE x.id = ($1 ->> 'invoice_line')::uuid
                            UNION ALL SELECT x.id FROM canonical.invoice_line x WHERE x.invoice_id = ($1 ->> 'invoice')::uuid
                            UNION ALL SELECT r.invoice_line_id FROM canonical.revenue_schedule r WHERE r.id = ($1 ->> 'revenue_schedule')::uuid)
        ), plan AS MATERIALIZED (
            SELECT t.*, r.id AS schedule, coalesce(r.standard, $1 ->> 'standard') AS standard, r.total_amount AS planned_total, r.status AS state
              FROM line t
              LEFT JOIN canonical.revenue_schedule r ON r.invoice_line_id = t.line AND r.status <> 'canceled'
             WHERE ($1 ->> 'revenue_schedule' IS NULL OR r.id = ($1 ->> 'revenue_schedule')::uuid) AND (r.id IS NOT NULL OR NOT t.void AND t.total <> 0)
        ), journal AS MATERIALIZED (
            SELECT g.id, g.number, g.legal_entity_id, g.currency::text, date_trunc('month', g.posting_date::timestamp)::date AS period, g.posted_at,
                   (SELECT sum(x.credit - x.debit) FROM canonical.gl_entry_line x WHERE x.gl_entry_id = g.id AND x.account_code IN (SELECT p.revenue_account FROM plan p))
                   - coalesce((SELECT sum(y.amount) FROM canonical.revenue_schedule_line y WHERE y.gl_entry_id = g.id AND y.status <> 'planned'), 0) AS slack
              FROM canonical.gl_entry g
             WHERE g.status = 'posted' AND g.reversal_of IS NULL AND EXISTS (SELECT FROM plan p WHERE p.entity = g.legal_entity_id AND p.currency = g.currency
                       AND g.posting_date BETWEEN date_trunc('month', p.first::timestamp)::date AND (date_trunc('month', p.last::timestamp) + interval '1 month')::date - 1)
               AND EXISTS (SELECT FROM canonical.gl_entry_line x WHERE x.gl_entry_id = g.id AND x.account_code IN (SELECT p.revenue_account FROM plan p))
        )
        SELECT jsonb_agg(to_jsonb(p) || jsonb_build_object(
                   'lines', (SELECT coalesce(jsonb_agg(jsonb_build_object('id', r.id, 'period', r.period, 'amount', r.amount, 'status', r.status, 'gl_entry_id', r.gl_entry_id,
                                 'recognized_at', r.recognized_at, 'posted', g.id IS NOT NULL, 'journal', g.number, 'slack', j.slack,
                                 'early', r.period > current_date OR (r.period + interval '1 month')::date <= p.first OR (r.recognized_at AT TIME ZONE p.timezone)::date < p.first)
                                 ORDER BY r.period, r.id), '[]')
                               FROM canonical.revenue_schedule_line r
                               LEFT JOIN canonical.gl_entry g ON g.id = r.gl_entry_id AND g.status IN ('posted', 'reversed')
                               LEFT JOIN journal j ON j.id = r.gl_entry_id
                              WHERE r.schedule_id = p.schedule),
                   'journals', (SELECT coalesce(jsonb_agg(to_jsonb(j) ORDER BY j.posted_at, j.id), '[]') FROM journal j
                                 WHERE j.slack <> 0 AND j.legal_entity_id = p.entity AND j.currency = p.currency),
                   'keeps_journals', EXISTS (SELECT FROM canonical.gl_entry g WHERE g.legal_entity_id = p.entity),
                   'closed', (SELECT coalesce(jsonb_agg(m::date), '[]') FROM generate_series(date_trunc('month', p.first::timestamp), p.last, interval '1 month') m
                               WHERE EXISTS (SELECT FROM canonical.accounting_period a WHERE a.legal_entity_id = p.entity AND m::date BETWEEN a.start_date AND a.end_date AND a.status <> 'open')),
                   'used', (SELECT coalesce(jsonb_agg(jsonb_build_object('period', u.period, 'rated', u.rated)), '[]')
                              FROM (SELECT date_trunc('month', x.occurred_at AT TIME ZONE p.timezone)::date AS period, sum(x.rated_amount) AS rated
                                      FROM canonical.usage_record x WHERE p.usage AND x.invoice_line_id = p.line AND x.rated_amount IS NOT NULL GROUP BY 1) u))
                   ORDER BY p.line_no, p.standard DESC) -- what reports follow has the journals first
          FROM plan p $q$, jsonb_build_object(object, id, 'standard', standard))
$facts$;
COMMENT ON FUNCTION sync._schedule_facts(text, text, text) IS 'What is known of the revenue schedules that a break is about';

-- As sync.build_revenue_schedules() shares it out.
CREATE FUNCTION sync._schedule_target(f jsonb)
RETURNS TABLE (period date, amount numeric)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH used AS (
        SELECT array_agg((u.value ->> 'period')::date) AS months, array_agg((u.value ->> 'rated')::numeric) AS rated, sum((u.value ->> 'rated')::numeric) > 0 AS weighs
          FROM jsonb_array_elements(f -> 'used') u)
    SELECT s.period, s.amount
      FROM used w CROSS JOIN LATERAL sync._by_usage((f ->> 'total')::numeric, w.months, w.rated, (f ->> 'digits')::integer) s
     WHERE w.weighs AND NOT (f ->> 'void')::boolean
    UNION ALL
    SELECT s.period, s.amount
      FROM used w CROSS JOIN LATERAL sync._straight_line((f ->> 'total')::numeric, (f ->> 'first')::date, (f ->> 'last')::date, (f ->> 'digits')::integer) s
     WHERE w.weighs IS NOT TRUE AND NOT (f ->> 'void')::boolean
$$;
COMMENT ON FUNCTION sync._schedule_target(jsonb) IS 'Months of a line''s term and what each takes of its amount';

-- What is shown of a line before it is changed or dropped, and must hold of it when that is done.
CREATE FUNCTION sync._line_was(line jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('period', line -> 'period', 'amount', line -> 'amount', 'status', line -> 'status', 'gl_entry_id', line -> 'gl_entry_id')
$$;
COMMENT ON FUNCTION sync._line_was(jsonb) IS 'What a plan saw of a schedule''s line';

-- What journals have recognized beyond what schedules say, by journal: each has it once, whichever lines ask for it.
CREATE FUNCTION sync._journal_slack(facts jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_object_agg(j.journal, j.slack), '{}')
      FROM jsonb_array_elements(facts) f
     CROSS JOIN LATERAL (SELECT e.value ->> 'id', e.value -> 'slack' FROM jsonb_array_elements(f.value -> 'journals') e
                         UNION ALL SELECT e.value ->> 'gl_entry_id', e.value -> 'slack' FROM jsonb_array_elements(f.value -> 'lines') e WHERE e.value ->> 'slack' IS NOT NULL) j (journal, slack)
$$;
COMMENT ON FUNCTION sync._journal_slack(jsonb) IS 'What each journal has recognized that no schedule says';

-- What stays recognized, by what is changed for it: a line that a journal bears out is what the journal says, one
-- that none bears out is planned again.
CREATE FUNCTION sync._recognized_lines(s sync._break_subject, f jsonb, target jsonb, INOUT slack jsonb, OUT kept numeric, OUT months text[], OUT change jsonb, OUT again jsonb)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    line jsonb;
    shift numeric;
    unsaid numeric;
BEGIN
    kept := 0;
    months := '{}';
    change := '[]';
    again := '[]';
    FOR line IN SELECT l.value FROM jsonb_array_elements(f -> 'lines') l WHERE l.value ->> 'status' <> 'planned' LOOP
        shift := coalesce((target ->> (line ->> 'period'))::numeric, 0) - (line ->> 'amount')::numeric;
        unsaid := (slack ->> (line ->> 'gl_entry_id'))::numeric;
        IF line ->> 'status' = 'recognized' AND NOT (line ->> 'posted')::boolean AND ((f ->> 'keeps_journals')::boolean OR (line ->> 'early')::boolean) THEN
            again := again || line;
            CONTINUE;
        ELSIF line ->> 'status' = 'recognized' AND (line ->> 'early')::boolean THEN
            PERFORM sync._no_repair(s.break_id, format('Journal %s has recognized %s too early.', coalesce(line ->> 'journal', line ->> 'gl_entry_id'), line ->> 'period'),
                                    'Have the journal reversed first; then the month is planned again.');
        ELSIF NOT (f ->> 'void')::boolean AND shift <> 0 AND sign(shift) = sign(unsaid) AND abs(unsaid) >= abs(shift) THEN
            slack := slack || jsonb_build_object(line ->> 'gl_entry_id', unsaid - shift);
            change := change || jsonb_build_object('id', line -> 'id', 'was', sync._line_was(line), 'amount', (line ->> 'amount')::numeric + shift, 'status', line -> 'status',
                                                   'gl_entry_id', line -> 'gl_entry_id', 'recognized_at', line -> 'recognized_at');
            kept := kept + shift;
        END IF;
        kept := kept + (line ->> 'amount')::numeric;
        months := months || (line ->> 'period');
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync._recognized_lines(sync._break_subject, jsonb, jsonb, jsonb) IS 'What of a schedule stays recognized, what is changed for that, and what slack of journals it leaves';

-- Months of which a journal has recognized what no line says: a journal for each, of that month.
CREATE FUNCTION sync._found_in_journals(f jsonb, target jsonb, months text[], slack jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object('period', t.key, 'amount', t.value, 'status', 'recognized', 'gl_entry_id', j.journal -> 'id', 'recognized_at', j.journal -> 'posted_at')
                              ORDER BY t.key), '[]')
      FROM jsonb_each(target) t
     CROSS JOIN LATERAL (SELECT e.value AS journal FROM jsonb_array_elements(f -> 'journals') WITH ORDINALITY e (value, n) CROSS JOIN LATERAL (SELECT (slack ->> (e.value ->> 'id'))::numeric) u (unsaid)
                          WHERE e.value ->> 'period' = t.key AND sign(u.unsaid) = sign(t.value::numeric) AND abs(u.unsaid) >= abs(t.value::numeric)
                          ORDER BY e.n LIMIT 1) j
     WHERE t.key <> ALL (months) AND NOT EXISTS (SELECT FROM jsonb_array_elements(f -> 'lines') l WHERE l.value ->> 'period' = t.key)
$$;
COMMENT ON FUNCTION sync._found_in_journals(jsonb, jsonb, text[], jsonb) IS 'Lines of a schedule that posted journals show to have been recognized';

-- What is still to be recognized, by month: the shares of months that are open, and in the first open one what is left.
CREATE FUNCTION sync._planned_months(f jsonb, target jsonb, months text[], rest numeric, open_month text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH due AS (
        SELECT CASE WHEN f -> 'closed' @> to_jsonb(t.key) THEN open_month ELSE t.key END AS period, t.value::numeric AS amount
          FROM jsonb_each(target) t WHERE t.key <> ALL (months)),
    catch_up AS (
        SELECT coalesce((SELECT min(d.period) FROM due d WHERE d.period >= open_month), open_month) AS period,
               rest - coalesce((SELECT sum(d.amount) FROM due d), 0) AS amount)
    SELECT coalesce(jsonb_object_agg(m.period, m.amount), '{}')
      FROM (SELECT u.period, sum(u.amount) AS amount FROM (SELECT * FROM due UNION ALL SELECT * FROM catch_up) u GROUP BY u.period) m WHERE m.amount <> 0
$$;
COMMENT ON FUNCTION sync._planned_months(jsonb, jsonb, text[], numeric, text) IS 'What a schedule still plans, by month';

-- Of a voided invoice nothing is earned: what was recognized is taken back by a journal of today.
CREATE FUNCTION sync._plan_void_schedule(s sync._break_subject, f jsonb, day date)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    recognized numeric := (SELECT coalesce(sum((l.value ->> 'amount')::numeric), 0) FROM jsonb_array_elements(f -> 'lines') l WHERE l.value ->> 'status' <> 'planned');
    journal constant text := md5(format('break %s schedule %s', s.break_id, f ->> 'schedule'))::uuid::text;
    memo constant text := format('break %s: invoice %s was voided', s.break_id, f ->> 'number');
BEGIN
    IF recognized = 0 THEN
        RETURN jsonb_build_array(sync._change_act('revenue_schedule', f ->> 'schedule', jsonb_build_object('status', f -> 'state'), '{"status": "canceled"}',
                                                  format('line %s: nothing is earned of a voided invoice', f ->> 'line_no'), true));
    END IF;
    RETURN jsonb_build_array(
        sync._journal_act(s, format('line %s: %s %s of revenue taken back', f ->> 'line_no', recognized, f ->> 'currency'), NULL, f ->> 'entity', day, f ->> 'currency', memo, NULL, NULL,
            jsonb_build_array(
                jsonb_build_object('line_no', 1, 'account_code', f ->> 'revenue_account', 'debit', greatest(recognized, 0), 'credit', greatest(-recognized, 0), 'description', memo),
                jsonb_build_object('line_no', 2, 'account_code', f ->> 'deferred_account', 'debit', greatest(-recognized, 0), 'credit', greatest(recognized, 0), 'description', memo)),
            jsonb_build_object('id', journal)),
        sync._act('rewrite', NULL, format('line %s: nothing is earned of a voided invoice', f ->> 'line_no'), jsonb_build_object('books', true, 'id', f -> 'schedule',
            'was', jsonb_build_object('total_amount', f -> 'planned_total', 'status', f -> 'state'), 'set', '{"total_amount": 0, "status": "canceled"}'::jsonb, 'change', '[]'::jsonb,
            'add', jsonb_build_array(jsonb_build_object('period', date_trunc('month', day::timestamp)::date, 'amount', -recognized, 'status', 'recognized', 'gl_entry_id', journal)),
            'drop', (SELECT coalesce(jsonb_agg(jsonb_build_object('id', l.value -> 'id', 'was', sync._line_was(l.value))), '[]') FROM jsonb_array_elements(f -> 'lines') l WHERE l.value ->> 'status' = 'planned'))));
END
$$;
COMMENT ON FUNCTION sync._plan_void_schedule(sync._break_subject, jsonb, date) IS 'Acts that end the schedule of a voided invoice''s line';

CREATE FUNCTION sync._plan_schedule(s sync._break_subject, f jsonb, day date, INOUT slack jsonb, OUT acts jsonb)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target constant jsonb := (SELECT coalesce(jsonb_object_agg(to_char(t.period, 'YYYY-MM-DD'), t.amount), '{}') FROM sync._schedule_target(f) t WHERE t.amount <> 0);
    r record := sync._recognized_lines(s, f, target, slack);
    found_lines jsonb := sync._found_in_journals(f, target, r.months, r.slack);
    months text[] := r.months || ARRAY(SELECT l.value ->> 'period' FROM jsonb_array_elements(found_lines) l);
    planned jsonb;
    line jsonb;
    change jsonb := r.change;
    gone jsonb := '[]';
    state text;
BEGIN
    slack := r.slack || (SELECT coalesce(jsonb_object_agg(l.value ->> 'gl_entry_id', (r.slack ->> (l.value ->> 'gl_entry_id'))::numeric - (l.value ->> 'amount')::numeric), '{}')
                           FROM jsonb_array_elements(found_lines) l);
    planned := sync._planned_months(f, target, months, (f ->> 'total')::numeric - r.kept - (SELECT coalesce(sum((l.value ->> 'amount')::numeric), 0) FROM jsonb_array_elements(found_lines) l),
                                    to_char(day, 'YYYY-MM-01'));
    state := CASE WHEN planned = '{}' THEN 'completed' WHEN f ->> 'state' = 'completed' OR f -> 'schedule' = 'null' THEN 'active' ELSE f ->> 'state' END;
    FOR line IN SELECT l.value FROM jsonb_array_elements((SELECT coalesce(jsonb_agg(p.value), '[]') FROM jsonb_array_elements(f -> 'lines') p WHERE p.value ->> 'status' = 'planned') || r.again) l LOOP
        IF NOT planned ? (line ->> 'period') THEN
            gone := gone || jsonb_build_object('id', line -> 'id', 'was', sync._line_was(line));
        ELSIF (planned ->> (line ->> 'period'))::numeric <> (line ->> 'amount')::numeric OR line ->> 'status' <> 'planned' THEN
            change := change || jsonb_build_object('id', line -> 'id', 'was', sync._line_was(line), 'amount', planned -> (line ->> 'period'), 'status', 'planned', 'gl_entry_id', NULL, 'recognized_at', NULL);
        END IF;
        planned := planned - (line ->> 'period');
    END LOOP;
    found_lines := found_lines || (SELECT coalesce(jsonb_agg(jsonb_build_object('period', p.key, 'amount', p.value, 'status', 'planned') ORDER BY p.key), '[]') FROM jsonb_each(planned) p);
    acts := '[]';
    IF f -> 'schedule' = 'null' THEN
        acts := jsonb_build_array(sync._act('insert', NULL, format('line %s: a schedule over %s %s', f ->> 'line_no', f ->> 'total', f ->> 'currency'), jsonb_build_object(
            'books', true, 'object', 'revenue_schedule',
            'row', jsonb_strip_nulls(jsonb_build_object('invoice_line_id', f -> 'line', 'contract_id', f -> 'contract_id', 'legal_entity_id', f -> 'entity', 'currency', f -> 'currency',
                       'method', CASE WHEN (f ->> 'usage')::boolean THEN 'usage' WHEN f -> 'first' = f -> 'last' THEN 'point_in_time' ELSE 'straight_line' END, 'total_amount', f -> 'total',
                       'start_date', f -> 'first', 'end_date', f -> 'last', 'standard', f -> 'standard', 'status', state)),
            'lines', found_lines)));
    ELSIF change <> '[]' OR gone <> '[]' OR found_lines <> '[]' OR f -> 'planned_total' <> f -> 'total' THEN
        acts := jsonb_build_array(sync._act('rewrite', NULL, format('line %s: its schedule is that of %s %s', f ->> 'line_no', f ->> 'total', f ->> 'currency'), jsonb_build_object('books', true,
            'id', f -> 'schedule', 'was', jsonb_build_object('total_amount', f -> 'planned_total', 'status', f -> 'state'),
            'set', jsonb_build_object('total_amount', f -> 'total', 'status', state), 'change', change, 'add', found_lines, 'drop', gone)));
    END IF;
END
$$;
COMMENT ON FUNCTION sync._plan_schedule(sync._break_subject, jsonb, date, jsonb) IS 'Acts that make a schedule what its invoice line says, and what slack of journals they leave';

-- The journals that booked a voided invoice are reversed with it, on the day of the repair.
CREATE FUNCTION sync._plan_reversals(s sync._break_subject, invoice text, day date)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    g jsonb;
    acts jsonb := '[]';
BEGIN
    FOR g IN SELECT e.value FROM jsonb_array_elements(sync._canonical_facts($q$
        SELECT coalesce(jsonb_agg(jsonb_build_object('id', g.id, 'number', g.number, 'entity', g.legal_entity_id, 'currency', g.currency, 'rate', g.fx_rate, 'lines', (
                   SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('line_no', l.line_no, 'account_code', l.account_code, 'debit', l.credit, 'credit', l.debit, 'customer_id', l.customer_id,
                              'tracking', l.tracking, 'tax_code', l.tax_code, 'description', l.description)) ORDER BY l.line_no)
                     FROM canonical.gl_entry_line l WHERE l.gl_entry_id = g.id)) ORDER BY g.posting_date, g.id), '[]')
          FROM canonical.gl_entry g
         WHERE g.source_object = 'invoice' AND g.source_id = ($1 ->> 'id')::uuid AND g.status = 'posted' AND g.reversal_of IS NULL
           AND NOT EXISTS (SELECT FROM canonical.gl_entry r WHERE r.reversal_of = g.id)
           AND EXISTS (SELECT FROM canonical.gl_entry_line l WHERE l.gl_entry_id = g.id) $q$, jsonb_build_object('id', invoice))) e LOOP
        acts := acts || jsonb_build_array(
            sync._journal_act(s, format('journal %s is reversed', coalesce(g ->> 'number', g ->> 'id')), (g ->> 'number') || '-R', g ->> 'entity', day, g ->> 'currency',
                              format('break %s: reversal of %s', s.break_id, coalesce(g ->> 'number', g ->> 'id')), 'invoice', invoice, g -> 'lines',
                              jsonb_strip_nulls(jsonb_build_object('reversal_of', g -> 'id', 'fx_rate', g -> 'rate'))),
            sync._change_act('gl_entry', g ->> 'id', '{"status": "posted"}', '{"status": "reversed"}', format('journal %s was reversed', coalesce(g ->> 'number', g ->> 'id')), true));
    END LOOP;
    RETURN acts;
END
$$;
COMMENT ON FUNCTION sync._plan_reversals(sync._break_subject, text, date) IS 'Acts that reverse the journals of a voided invoice';

CREATE FUNCTION sync._plan_reschedule(s sync._break_subject, options jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    facts jsonb;
    f jsonb;
    day date;
    slack jsonb;
    made jsonb;
    acts jsonb := '[]';
BEGIN
    IF s.object NOT IN ('invoice', 'invoice_line', 'revenue_schedule') THEN
        PERFORM sync._no_repair(s.break_id, format('"%s" has no revenue schedule.', s.object), 'Repair the breaks of the invoices that it is about; a journal is corrected by an adjustment.');
    ELSIF options ? 'standard' AND options ->> 'standard' NOT IN ('ASC606', 'IFRS15') THEN
        PERFORM sync._no_repair(s.break_id, format('"%s" is no accounting standard.', options ->> 'standard'), 'It is ASC606 or IFRS15.');
    END IF;
    facts := coalesce(sync._schedule_facts(s.object, s.record_id, coalesce(options ->> 'standard', 'IFRS15')), '[]');
    day := sync._document_day(s, facts -> 0 ->> 'entity', options ->> 'day');
    slack := sync._journal_slack(facts);
    FOR f IN SELECT e.value FROM jsonb_array_elements(facts) WITH ORDINALITY e (value, n) ORDER BY e.n LOOP
        IF (f ->> 'void')::boolean THEN
            made := sync._plan_void_schedule(s, f, day);
        ELSE
            SELECT p.slack, p.acts INTO slack, made FROM sync._plan_schedule(s, f, day, slack) p;
        END IF;
        acts := acts || made;
    END LOOP;
    IF (facts -> 0 ->> 'void')::boolean THEN
        acts := acts || sync._plan_reversals(s, facts -> 0 ->> 'invoice', day);
    END IF;
    IF acts = '[]' THEN
        PERFORM sync._no_repair(s.break_id, 'Its schedules are what the invoice says.', 'Run the rule again; what a journal says otherwise is corrected by an adjustment.');
    END IF;
    RETURN acts;
END
$$;
COMMENT ON FUNCTION sync._plan_reschedule(sync._break_subject, jsonb) IS 'Acts that make revenue schedules what the invoice says';

-- ---- journals that somebody has altered ----

-- A posted journal is closed; one that was altered past its guards is put back as its last change was recorded.
-- Everybody was told that, so nobody is told again.
CREATE FUNCTION sync._plan_restored(s sync._break_subject)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    body constant jsonb := sync._record_or_null(s.object_id, s.record_id);
    known record;
    o sync.object;
    differs jsonb;
BEGIN
    SELECT t.* INTO o FROM sync.object t WHERE t.id = s.object_id;
    SELECT e.body, e.at, e.seq INTO known FROM sync.outbox e
     WHERE e.object_id = s.object_id AND e.record_id = s.record_id AND e.op IN ('I', 'U') ORDER BY e.seq DESC LIMIT 1;
    IF body IS NULL OR known.body IS NULL THEN
        PERFORM sync._no_repair(s.break_id, CASE WHEN body IS NULL THEN 'The record is gone.' ELSE 'No change of it is kept any more.' END,
                                'What it was stands in a backup, or with the system that owns it: remedy => ''pull_again''.');
    END IF;
    SELECT jsonb_object_agg(k.key, k.value) INTO differs FROM jsonb_each(known.body - o.volatile_columns::text[]) k WHERE body ? k.key AND k.value IS DISTINCT FROM body -> k.key;
    IF differs IS NULL THEN
        PERFORM sync._no_repair(s.break_id, 'It stands as its last change was recorded.', 'Have it reversed and posted again in the system that owns it.');
    END IF;
    RETURN jsonb_build_array(sync._act('put_back', NULL, format('%s as recorded at %s UTC', (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(differs) k), to_char(known.at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')),
                                       jsonb_build_object('books', true, 'set', differs)));
END
$$;
COMMENT ON FUNCTION sync._plan_restored(sync._break_subject) IS 'The act that puts a record back as its last change was recorded';

-- ---- done ----

-- What is no longer what the plan saw stays: others may write schedules without that lock. Locked first and looked at
-- then; and written by one statement, for the lines sum to the schedule's total when it ends.
CREATE FUNCTION sync._rewrite_schedule(s sync._break_subject, act jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync._fire_deferred();
    IF sync._canonical_facts($q$
        WITH h AS (
            SELECT t.id FROM canonical.revenue_schedule t
             WHERE t.id = ($1 ->> 'id')::uuid AND t.total_amount = ($1 #>> '{was,total_amount}')::numeric AND t.status = $1 #>> '{was,status}' FOR UPDATE
        ), l AS (
            SELECT l.id FROM canonical.revenue_schedule_line l JOIN jsonb_to_recordset(($1 -> 'change') || ($1 -> 'drop')) n (id uuid, was jsonb) ON n.id = l.id
             WHERE l.schedule_id = ($1 ->> 'id')::uuid AND l.period = (n.was ->> 'period')::date AND l.amount = (n.was ->> 'amount')::numeric AND l.status = n.was ->> 'status'
               AND l.gl_entry_id IS NOT DISTINCT FROM (n.was ->> 'gl_entry_id')::uuid FOR UPDATE OF l
        )
        SELECT to_jsonb(ARRAY[(SELECT count(*) FROM h), (SELECT count(*) FROM l)]) $q$, act, 'revenue_schedule')
       <> jsonb_build_array(1, jsonb_array_length(act -> 'change') + jsonb_array_length(act -> 'drop')) THEN
        PERFORM sync._no_repair(s.break_id, 'The schedule, or a line of it, is no longer what it was.', 'Somebody else has changed it meanwhile: look at sync.repair() again, with dry_run.');
    END IF;
    PERFORM sync._canonical_facts($q$
        WITH h AS (
            UPDATE canonical.revenue_schedule t SET total_amount = ($1 #>> '{set,total_amount}')::numeric, status = $1 #>> '{set,status}' WHERE t.id = ($1 ->> 'id')::uuid RETURNING t.id
        ), c AS (
            UPDATE canonical.revenue_schedule_line l SET amount = n.amount, status = n.status, gl_entry_id = n.gl_entry_id, recognized_at = n.recognized_at
              FROM jsonb_to_recordset($1 -> 'change') n (id uuid, amount numeric, status text, gl_entry_id uuid, recognized_at timestamptz) WHERE l.id = n.id
        ), a AS (
            INSERT INTO canonical.revenue_schedule_line (schedule_id, period, amount, status, gl_entry_id, recognized_at)
            SELECT h.id, n.period, n.amount, n.status, n.gl_entry_id, coalesce(n.recognized_at, CASE n.status WHEN 'recognized' THEN now() END)
              FROM h CROSS JOIN jsonb_to_recordset($1 -> 'add') n (period date, amount numeric, status text, gl_entry_id uuid, recognized_at timestamptz)
        ), d AS (
            DELETE FROM canonical.revenue_schedule_line l USING jsonb_to_recordset($1 -> 'drop') n (id uuid) WHERE l.id = n.id
        )
        SELECT to_jsonb(h.id) FROM h $q$, act, 'revenue_schedule');
END
$$;
COMMENT ON FUNCTION sync._rewrite_schedule(sync._break_subject, jsonb) IS 'Changes a revenue schedule and its lines, as their owner, unless somebody else has meanwhile';
