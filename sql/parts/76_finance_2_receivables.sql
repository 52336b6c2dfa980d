-- What customers owe, and what processors paid out, at the end of a day.

-- What mirrors say of invoices, of systems that post them (or one of any name), as it was known at a
-- moment: the last state of the history until then, else the mirror. For readers of reports, hence amounts only.
CREATE FUNCTION sync._mirrored_invoices(system text, known_at timestamptz)
RETURNS TABLE (record_id text, currency text, posted boolean, total_amount numeric, amount_due numeric)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    WITH o AS (
        -- Where row security shows the caller some invoices only, the mirror would show him all.
        SELECT t.id FROM sync.object t
         WHERE t.schema_name = (SELECT sync._canonical_schema()) AND t.table_name = 'invoice' AND sync._role_reads(sync._caller(), t.table_oid)
    ), state AS (
        SELECT m.system_id, m.object_id, m.remote_id, m.fields, m.deleted
          FROM sync.mirror m JOIN o ON o.id = m.object_id
         WHERE known_at >= now() OR NOT EXISTS (
               SELECT FROM sync.mirror_history h
                WHERE h.system_id = m.system_id AND h.object_id = m.object_id AND h.remote_id = m.remote_id AND h.fields IS NOT NULL)
        UNION ALL
        (SELECT DISTINCT ON (h.system_id, h.object_id, h.remote_id) h.system_id, h.object_id, h.remote_id, h.fields, h.deleted
           FROM sync.mirror_history h JOIN o ON o.id = h.object_id
          WHERE known_at < now() AND h.at < known_at AND h.fields IS NOT NULL
          ORDER BY h.system_id, h.object_id, h.remote_id, h.at DESC)
    )
    SELECT x.record_id, s.fields ->> 'currency', bool_or(s.fields ->> 'posting_status' = 'posted'), sum((s.fields ->> 'total_amount')::numeric), sum((s.fields ->> 'amount_due')::numeric)
      FROM state s
      JOIN sync.system y ON y.id = s.system_id
      JOIN sync.external_id x ON x.system_id = s.system_id AND x.object_id = s.object_id AND x.remote_id = s.remote_id
     WHERE NOT s.deleted AND (y.name = $1 OR $1 IS NULL AND s.fields ? 'posting_status')
     GROUP BY x.record_id, s.fields ->> 'currency'
$$;
COMMENT ON FUNCTION sync._mirrored_invoices(text, timestamptz) IS 'What systems that post invoices said of ours at a moment, by currency where they tell it';

-- Open invoices at the end of a day, where the legal entity is (until); whoever asks, wherever he is, gets the same.
-- An allocation in another currency than the invoice's counts at the rate of its day there; without a rate it does
-- not count, so that the claim stays and is seen. A credit note that names its invoice and was applied without an allocation counts from its
-- day of issue, up to what the invoice leaves open.
CREATE FUNCTION sync._open_invoices(as_of date)
RETURNS TABLE (id uuid, number text, entity text, customer_id uuid, currency text, due date, status text, total_amount numeric, settled numeric, open numeric, until timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
AS $$
BEGIN
    RETURN QUERY EXECUTE sync._model_query($q$
        WITH bill AS MATERIALIZED (
            SELECT i.id, i.number, e.code, i.customer_id, i.currency, coalesce(i.due_date, i.issue_date) AS due, i.status, i.total_amount, z.zone, u.until
              FROM canonical.invoice i
              JOIN canonical.customer c ON c.id = i.customer_id
              LEFT JOIN canonical.legal_entity e ON e.id = coalesce(i.legal_entity_id, c.legal_entity_id)
             CROSS JOIN LATERAL (SELECT coalesce(e.timezone, 'UTC')) z (zone)
             CROSS JOIN LATERAL (SELECT ($1 + 1)::timestamp AT TIME ZONE z.zone) u (until)
             WHERE i.type = 'standard' AND i.status <> 'draft' AND i.issue_date <= $1
               AND (i.status <> 'void' OR i.voided_at >= u.until)
        ), allocated AS (
            SELECT b.id,
                   sum(a.amount * CASE WHEN p.kind IN ('refund', 'chargeback') THEN -1 ELSE 1 END
                       * CASE WHEN coalesce(p.currency, n.currency) = b.currency THEN 1
                              ELSE coalesce(sync._rate(coalesce(p.currency, n.currency), b.currency, (a.applied_at AT TIME ZONE b.zone)::date), 0) END) AS amount
              FROM bill b
              JOIN canonical.payment_allocation a ON a.invoice_id = b.id AND a.applied_at < b.until
              LEFT JOIN canonical.payment p ON p.id = a.payment_id
              LEFT JOIN canonical.credit_note n ON n.id = a.credit_note_id
             WHERE CASE WHEN a.payment_id IS NULL THEN n.status IN ('posted', 'applied') ELSE p.status IN ('succeeded', 'disputed') END
             GROUP BY b.id
        ), credited AS (
            SELECT b.id, sum(n.amount_applied) AS amount
              FROM bill b JOIN canonical.credit_note n ON n.invoice_id = b.id AND n.currency = b.currency
             WHERE n.status IN ('posted', 'applied') AND n.issue_date <= $1
               AND NOT EXISTS (SELECT FROM canonical.payment_allocation a WHERE a.credit_note_id = n.id)
             GROUP BY b.id
        )
        SELECT b.id, b.number, b.code, b.customer_id, b.currency::text, b.due, b.status, b.total_amount, s.settled, b.total_amount - s.settled, b.until
          FROM bill b
          LEFT JOIN allocated l ON l.id = b.id
          LEFT JOIN credited c ON c.id = b.id
         CROSS JOIN LATERAL (SELECT round(coalesce(l.amount, 0), canonical.minor_units(b.currency)) AS paid) p
         CROSS JOIN LATERAL (SELECT p.paid + greatest(0, least(coalesce(c.amount, 0), b.total_amount - p.paid)) AS settled) s $q$)
    USING as_of;
END
$$;
COMMENT ON FUNCTION sync._open_invoices(date) IS 'Invoices as they stood at the end of a day, and what of each was settled';

CREATE FUNCTION sync.ar_aging(as_of date DEFAULT current_date, system text DEFAULT NULL)
RETURNS TABLE (entity text, customer text, customer_name text, currency text, not_due numeric, days_1_30 numeric, days_31_60 numeric,
               days_61_90 numeric, days_over_90 numeric, total numeric, written_off numeric, invoices bigint,
               erp_amount numeric, difference numeric, erp_unknown bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF as_of IS NULL OR NOT isfinite(as_of) THEN
        RAISE EXCEPTION 'a day is needed' USING ERRCODE = 'invalid_parameter_value', HINT = 'For example SELECT * FROM sync.ar_aging(''2026-10-31'').';
    END IF;
    PERFORM sync._check_day(as_of);
    IF system IS NOT NULL THEN
        PERFORM sync._check_report_system(system);
    END IF;
    RETURN QUERY EXECUTE sync._model_query($q$
        WITH bill AS MATERIALIZED (
            SELECT o.*, $1 - o.due AS late, CASE WHEN o.status = 'uncollectible' THEN 0 ELSE o.open END AS live FROM sync._open_invoices($1) o
        ), cut AS (
            -- Their history ends where ours does, at the midnight of the entity. All that is still to come is now.
            SELECT DISTINCT CASE WHEN b.until >= now() THEN 'infinity' ELSE b.until END AS until FROM bill b
        ), erp AS MATERIALIZED (
            SELECT c.until, m.* FROM cut c CROSS JOIN LATERAL sync._mirrored_invoices($2, c.until) m
        ), tied AS (
            -- What is not posted over there, or is in another currency, is no claim of those books in this one. A system that does not tell what is
            -- open is held to its total, less what was settled or written off here; one that tells no amount is unknown.
            SELECT b.*, m.record_id IS NOT NULL AND m.posted AND coalesce(m.amount_due, m.total_amount) IS NULL AS unknown,
                   CASE WHEN m.record_id IS NULL OR m.posted IS NOT TRUE THEN 0 ELSE coalesce(m.amount_due, m.total_amount - b.settled - (b.open - b.live)) END AS theirs
              FROM bill b LEFT JOIN erp m ON m.record_id = b.id::text AND coalesce(m.currency, b.currency) = b.currency AND m.until = CASE WHEN b.until >= now() THEN 'infinity' ELSE b.until END
        )
        SELECT t.entity, c.number, c.name, t.currency,
               coalesce(sum(t.live) FILTER (WHERE t.late <= 0), 0), coalesce(sum(t.live) FILTER (WHERE t.late BETWEEN 1 AND 30), 0),
               coalesce(sum(t.live) FILTER (WHERE t.late BETWEEN 31 AND 60), 0), coalesce(sum(t.live) FILTER (WHERE t.late BETWEEN 61 AND 90), 0),
               coalesce(sum(t.live) FILTER (WHERE t.late > 90), 0), sum(t.live), sum(t.open - t.live), count(*) FILTER (WHERE t.live <> 0),
               sum(t.theirs), sum(t.theirs) FILTER (WHERE NOT t.unknown) - sum(t.live) FILTER (WHERE NOT t.unknown), count(*) FILTER (WHERE t.unknown)
          FROM tied t JOIN canonical.customer c ON c.id = t.customer_id
         GROUP BY t.entity, c.id, c.number, c.name, t.currency
        HAVING bool_or(t.open <> 0 OR t.theirs <> 0)
         ORDER BY t.entity, c.number, t.currency $q$)
    USING as_of, system;
END
$$;
COMMENT ON FUNCTION sync.ar_aging(date, text) IS
    'What customers owe at the end of a day by age, per entity, customer and currency, and what the ERP says (or the system named)';

CREATE FUNCTION sync._check_report_system(name text)
RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM sync.system y WHERE y.name = $1) THEN
        RAISE EXCEPTION 'there is no system "%"', $1 USING ERRCODE = 'undefined_object', HINT = 'SELECT system FROM sync.system_status lists them.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync._check_report_system(text) IS 'An error unless there is such a system';

-- The same by entity and currency, against the ledger's receivable accounts as well: the lines that name a customer.
CREATE FUNCTION sync.ar_aging_tie_out(as_of date DEFAULT current_date, system text DEFAULT NULL)
RETURNS TABLE (entity text, currency text, customers bigint, invoices bigint, total numeric, written_off numeric, erp_amount numeric, difference numeric,
               erp_unknown bigint, ledger numeric, ledger_difference numeric)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE sync._model_query($q$
        WITH aged AS (
            SELECT a.entity, a.currency, count(*) AS customers, sum(a.invoices)::bigint AS invoices, sum(a.total) AS total, sum(a.written_off) AS written_off,
                   sum(a.erp_amount) AS erp_amount, sum(a.difference) AS difference, sum(a.erp_unknown)::bigint AS erp_unknown
              FROM sync.ar_aging($1, $2) a GROUP BY a.entity, a.currency
        ), books AS (
            SELECT e.code AS entity, g.currency::text AS currency, sum(l.debit - l.credit) AS amount
              FROM canonical.gl_entry g
              JOIN canonical.gl_entry_line l ON l.gl_entry_id = g.id AND l.customer_id IS NOT NULL
              JOIN canonical.legal_entity e ON e.id = g.legal_entity_id
             WHERE g.status IN ('posted', 'reversed') AND g.posting_date <= $1
             GROUP BY e.code, g.currency
        )
        SELECT coalesce(a.entity, b.entity), coalesce(a.currency, b.currency), coalesce(a.customers, 0), coalesce(a.invoices, 0), coalesce(a.total, 0),
               coalesce(a.written_off, 0), coalesce(a.erp_amount, 0), a.difference, coalesce(a.erp_unknown, 0),
               coalesce(b.amount, 0), coalesce(a.total, 0) - coalesce(b.amount, 0)
          FROM aged a FULL JOIN books b ON b.entity = a.entity AND b.currency = a.currency
         ORDER BY 1, 2 $q$)
    USING as_of, system;
END
$$;
COMMENT ON FUNCTION sync.ar_aging_tie_out(date, text) IS 'Totals of ar_aging() per entity and currency, against the ERP and the receivables of the ledger';

-- A charge in another currency than the balance's counts as gross at our rate of its day; what the
-- processor's rate made of it is fx. So gross + refunds + disputes + adjustments + fx - fees = net.
CREATE FUNCTION sync.payout_reconciliation(period daterange)
RETURNS TABLE (payout_id uuid, entity text, number text, currency text, arrival_date date, status text, transactions bigint, gross numeric, refunds numeric,
               disputes numeric, adjustments numeric, fx numeric, fees numeric, net numeric, amount numeric, difference numeric,
               bank_account text, ledger numeric, ledger_difference numeric)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync._check_period(period);
    RETURN QUERY EXECUTE sync._model_query($q$
        WITH out AS MATERIALIZED (
            SELECT p.*, e.code, coalesce(e.timezone, 'UTC') AS zone, canonical.minor_units(p.currency) AS digits FROM canonical.payout p LEFT JOIN canonical.legal_entity e ON e.id = p.legal_entity_id
             WHERE p.arrival_date <@ $1
        ), moved AS (
            SELECT o.id, b.kind, b.gross_amount, b.fee_amount, b.net_amount,
                   CASE WHEN b.fx_rate IS NOT NULL AND p.currency <> b.currency
                        THEN b.gross_amount - coalesce(round(p.amount * sign(b.gross_amount) * sync._rate(p.currency, b.currency, (b.occurred_at AT TIME ZONE o.zone)::date), o.digits), b.gross_amount)
                        ELSE 0 END AS fx
              FROM out o JOIN canonical.balance_transaction b ON b.payout_id = o.id AND b.currency = o.currency
              LEFT JOIN canonical.payment p ON p.id = b.payment_id
        ), summed AS (
            SELECT m.id, count(*) AS n, coalesce(sum(m.gross_amount - m.fx) FILTER (WHERE m.kind = 'charge'), 0) AS gross,
                   coalesce(sum(m.gross_amount - m.fx) FILTER (WHERE m.kind = 'refund'), 0) AS refunds,
                   coalesce(sum(m.gross_amount - m.fx) FILTER (WHERE m.kind = 'dispute'), 0) AS disputes,
                   coalesce(sum(m.gross_amount - m.fx) FILTER (WHERE m.kind = 'adjustment'), 0) AS adjustments, sum(m.fx) AS fx,
                   coalesce(sum(m.fee_amount), 0) - coalesce(sum(m.gross_amount - m.fx) FILTER (WHERE m.kind = 'fee'), 0) AS fees, sum(m.net_amount) AS net
              FROM moved m GROUP BY m.id
        ), booked AS (
            SELECT o.id, sum(l.debit - l.credit) AS amount
              FROM out o JOIN canonical.gl_entry g ON g.source_object = 'payout' AND g.source_id = o.id AND g.currency = o.currency AND g.status IN ('posted', 'reversed')
              JOIN canonical.gl_entry_line l ON l.gl_entry_id = g.id AND l.account_code = o.bank_account_code
             GROUP BY o.id
        )
        SELECT o.id, o.code, o.number, o.currency::text, o.arrival_date, o.status, coalesce(s.n, 0), coalesce(s.gross, 0), coalesce(s.refunds, 0), coalesce(s.disputes, 0),
               coalesce(s.adjustments, 0), coalesce(s.fx, 0), coalesce(s.fees, 0), coalesce(s.net, 0), o.amount, o.amount - coalesce(s.net, 0),
               o.bank_account_code, b.amount, CASE WHEN o.status = 'paid' THEN coalesce(b.amount, 0) - o.amount ELSE coalesce(b.amount, 0) END
          FROM out o LEFT JOIN summed s ON s.id = o.id LEFT JOIN booked b ON b.id = o.id
         ORDER BY o.code, o.arrival_date, o.number, o.id $q$)
    USING period;
END
$$;
COMMENT ON FUNCTION sync.payout_reconciliation(daterange) IS
    'Payouts that arrive in a period, with what they are made of, what they came to, and what the bank account in the books says';
