-- Questions that business people ask, as views. They read the canonical tables, wherever these are, as the
-- caller; systems come from the routes. No rows when the object is not tracked, or the caller may not read it.

-- A table of the canonical model beside the object's own, quoted; NULL: there is none that the caller may read.
CREATE FUNCTION sync._beside(object text, relation text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found text;
BEGIN
    SELECT format('%I.%I', n.nspname, c.relname) INTO found
      FROM sync.object o
      JOIN pg_class b ON b.oid = o.table_oid
      JOIN pg_class c ON c.relnamespace = b.relnamespace AND c.relname = coalesce(_beside.relation, b.relname)
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE o.name = _beside.object AND sync._may_read(c.oid);
    RETURN found;
END
$$;
COMMENT ON FUNCTION sync._beside(text, text) IS 'A table in the schema of an object''s table, when the caller may read it';

-- Systems that get an object, and where each of its records stands there.
CREATE VIEW sync._sent_to AS
SELECT DISTINCT o.name AS object, o.id AS object_id, y.name AS system
  FROM sync.route r JOIN sync.object o ON o.id = r.object_id JOIN sync.system y ON y.id = r.system_id
 WHERE r.state <> 'dropped';
COMMENT ON VIEW sync._sent_to IS 'Which objects are sent to which systems';

CREATE VIEW sync._remote_amount WITH (security_barrier) AS
SELECT y.name AS system, o.name AS object, m.record_id, (m.fields ->> 'total_amount')::numeric AS amount, m.fields ->> 'posting_status' AS posting_status,
       m.pushed_at, m.deleted
  FROM sync.mirror m
  JOIN sync._visible_object o ON o.id = m.object_id
  JOIN sync.system y ON y.id = m.system_id
 WHERE m.record_id IS NOT NULL
   AND (m.fields ->> 'total_amount' IS NULL OR m.fields ->> 'total_amount' ~ '^-?[0-9]+(\.[0-9]+)?$')
   AND NOT EXISTS (SELECT FROM sync._hidden_field f WHERE f.object_id = m.object_id AND f.field IN ('total_amount', 'posting_status'));
COMMENT ON VIEW sync._remote_amount IS 'What systems say of the amounts of records';
COMMENT ON COLUMN sync._remote_amount.amount IS 'total_amount as the system has it; NULL: it does not say';
COMMENT ON COLUMN sync._remote_amount.posting_status IS 'posting_status as the system has it';
COMMENT ON COLUMN sync._remote_amount.pushed_at IS 'When our last push of it ended';
COMMENT ON COLUMN sync._remote_amount.deleted IS 'Whether it is gone over there';

CREATE FUNCTION sync._amendment_reached()
RETURNS TABLE (amendment_id text, subscription_number text, customer_number text, kind text, status text, effective_at timestamptz, delta_mrr numeric, currency text,
               system text, via text, document_number text, reached boolean, state text, reached_at timestamptz, remote_id text, last_error text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    amendment text := sync._beside('amendment');
    subscription text := sync._beside('amendment', 'subscription');
    customer text := sync._beside('amendment', 'customer');
    invoice text := sync._beside('amendment', 'invoice');
BEGIN
    IF amendment IS NULL OR subscription IS NULL OR customer IS NULL THEN
        RETURN;
    END IF;
    -- Through itself, through the subscription that it changed, or through what was billed after it.
    RETURN QUERY EXECUTE format($sql$
        WITH a AS (SELECT a.*, s.number AS subscription_number, s.currency::text AS currency, c.number AS customer_number
                     FROM %s a JOIN %s s ON s.id = a.subscription_id JOIN %s c ON c.id = s.customer_id),
             way AS (SELECT a.id, 'amendment' AS via, a.id::text AS record_id, NULL::text AS number FROM a
                     UNION ALL SELECT a.id, 'subscription', a.subscription_id::text, NULL FROM a
                     %s)
        SELECT a.id::text, a.subscription_number, a.customer_number, a.kind, a.status, a.effective_at, a.delta_mrr, a.currency,
               t.system, w.via, w.number,
               coalesce(s.state = 'synced' AND (w.via <> 'subscription' OR m.pushed_at >= a.created_at), false),
               CASE WHEN s.state = 'synced' AND w.via = 'subscription' AND m.pushed_at IS NULL THEN 'not sent'
                    WHEN s.state = 'synced' AND w.via = 'subscription' AND m.pushed_at < a.created_at THEN 'not sent since' ELSE coalesce(s.state, 'not sent') END,
               CASE WHEN s.state = 'synced' AND m.pushed_at >= a.created_at THEN m.pushed_at END, s.remote_id, s.last_error
          FROM a JOIN way w ON w.id = a.id
          JOIN sync._sent_to t ON t.object = w.via
          LEFT JOIN sync.record_status s ON s.object = w.via AND s.record_id = w.record_id AND s.system = t.system
          LEFT JOIN sync._remote_amount m ON m.object = w.via AND m.record_id = w.record_id AND m.system = t.system$sql$,
        amendment, subscription, customer,
        CASE WHEN invoice IS NOT NULL
             THEN format('UNION ALL SELECT a.id, ''invoice'', i.id::text, i.number FROM a JOIN %s i ON i.subscription_id = a.subscription_id AND i.created_at >= a.created_at', invoice)
             ELSE '' END);
END
$$;
COMMENT ON FUNCTION sync._amendment_reached() IS 'Rows of sync.amendment_reached';

CREATE VIEW sync.amendment_reached AS SELECT * FROM sync._amendment_reached();
COMMENT ON VIEW sync.amendment_reached IS 'Did this amendment reach the systems? By itself, through the subscription that it changed, and through what was billed after it';
COMMENT ON COLUMN sync.amendment_reached.amendment_id IS 'The amendment';
COMMENT ON COLUMN sync.amendment_reached.subscription_number IS 'The subscription that it changes';
COMMENT ON COLUMN sync.amendment_reached.customer_number IS 'The customer';
COMMENT ON COLUMN sync.amendment_reached.kind IS 'upgrade, downgrade, …';
COMMENT ON COLUMN sync.amendment_reached.status IS 'Where it stands here';
COMMENT ON COLUMN sync.amendment_reached.effective_at IS 'From when it holds';
COMMENT ON COLUMN sync.amendment_reached.delta_mrr IS 'Change of monthly recurring revenue, in currency';
COMMENT ON COLUMN sync.amendment_reached.currency IS 'Currency of delta_mrr';
COMMENT ON COLUMN sync.amendment_reached.via IS 'amendment, subscription or invoice: what is sent there of it';
COMMENT ON COLUMN sync.amendment_reached.document_number IS 'Number of the invoice, via invoice';
COMMENT ON COLUMN sync.amendment_reached.reached IS 'Whether the system has it: what is sent there was confirmed since the amendment was made';
COMMENT ON COLUMN sync.amendment_reached.state IS 'As in sync.record_status; not sent: nothing is on its way either';
COMMENT ON COLUMN sync.amendment_reached.reached_at IS 'When the last push of it was confirmed';
COMMENT ON COLUMN sync.amendment_reached.last_error IS 'What the system said against it last';

CREATE FUNCTION sync._invoice_posted_in_erp()
RETURNS TABLE (invoice_id text, invoice_number text, customer_number text, entity text, issue_date date, currency text, total_amount numeric, status text,
               posting_status text, posting_date date, accounting_period date, system text, posted boolean, state text, remote_id text, remote_number text,
               amount_there numeric, difference numeric, waiting_for text, last_error text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    invoice text := sync._beside('invoice');
    customer text := sync._beside('invoice', 'customer');
    entity text := sync._beside('invoice', 'legal_entity');
BEGIN
    IF invoice IS NULL OR customer IS NULL OR entity IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY EXECUTE format($sql$
        SELECT i.id::text, i.number, c.number, e.code, i.issue_date, i.currency::text, i.total_amount, i.status, i.posting_status, i.posting_date, i.accounting_period,
               t.system,
               coalesce(s.state = 'synced' AND 'posted' IN (i.posting_status, m.posting_status), false), coalesce(s.state, 'not sent'),
               s.remote_id, s.remote_number, m.amount, m.amount - i.total_amount, s.waiting_for, s.last_error
          FROM %s i
          JOIN %s c ON c.id = i.customer_id
          LEFT JOIN %s e ON e.id = i.legal_entity_id
          JOIN sync._sent_to t ON t.object = 'invoice'
          LEFT JOIN sync.record_status s ON s.object = 'invoice' AND s.record_id = i.id::text AND s.system = t.system
          LEFT JOIN sync._remote_amount m ON m.object = 'invoice' AND m.record_id = i.id::text AND m.system = t.system AND NOT m.deleted$sql$,
        invoice, customer, entity);
END
$$;
COMMENT ON FUNCTION sync._invoice_posted_in_erp() IS 'Rows of sync.invoice_posted_in_erp';

CREATE VIEW sync.invoice_posted_in_erp AS SELECT * FROM sync._invoice_posted_in_erp();
COMMENT ON VIEW sync.invoice_posted_in_erp IS 'Was this invoice posted? A row for each system that invoices are sent to';
COMMENT ON COLUMN sync.invoice_posted_in_erp.invoice_id IS 'The invoice';
COMMENT ON COLUMN sync.invoice_posted_in_erp.invoice_number IS 'Its number';
COMMENT ON COLUMN sync.invoice_posted_in_erp.customer_number IS 'The customer';
COMMENT ON COLUMN sync.invoice_posted_in_erp.issue_date IS 'Day of issue';
COMMENT ON COLUMN sync.invoice_posted_in_erp.currency IS 'Currency of the amounts';
COMMENT ON COLUMN sync.invoice_posted_in_erp.total_amount IS 'Total as it stands here';
COMMENT ON COLUMN sync.invoice_posted_in_erp.status IS 'What billing says of it';
COMMENT ON COLUMN sync.invoice_posted_in_erp.posting_status IS 'What the ERP says of it, as the canonical row has it';
COMMENT ON COLUMN sync.invoice_posted_in_erp.posting_date IS 'Accounting day that it was posted with';
COMMENT ON COLUMN sync.invoice_posted_in_erp.accounting_period IS 'First day of the accounting period';
COMMENT ON COLUMN sync.invoice_posted_in_erp.posted IS 'Whether the system has its last state and it is posted';
COMMENT ON COLUMN sync.invoice_posted_in_erp.state IS 'As in sync.record_status; not sent: nothing is on its way either';
COMMENT ON COLUMN sync.invoice_posted_in_erp.amount_there IS 'Total as the system has it, where it says';
COMMENT ON COLUMN sync.invoice_posted_in_erp.difference IS 'amount_there - total_amount';
COMMENT ON COLUMN sync.invoice_posted_in_erp.last_error IS 'What the system said against it last';
COMMENT ON COLUMN sync.invoice_posted_in_erp.waiting_for IS 'What it waits for';

CREATE FUNCTION sync._payment_failure_collections()
RETURNS TABLE (payment_id text, processor_ref text, customer_number text, invoice_number text, attempted_at timestamptz, amount numeric, currency text, failure_code text,
               collections_started boolean, found_by text, stage text, opened_at timestamptz, hours_after numeric, closed_at timestamptz, outcome text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    payment text := sync._beside('payment');
    customer text := sync._beside('payment', 'customer');
    allocation text := sync._beside('payment', 'payment_allocation');
    invoice text := sync._beside('payment', 'invoice');
    pursuit text := sync._beside('payment', 'collection_case');
BEGIN
    IF payment IS NULL OR customer IS NULL OR allocation IS NULL OR invoice IS NULL OR pursuit IS NULL THEN
        RETURN;
    END IF;
    -- A case of the payment itself counts before one of its invoice, that before one of the customer.
    RETURN QUERY EXECUTE format($sql$
        SELECT p.id::text, p.processor_ref, c.number, coalesce(i.numbers, n.number), p.attempted_at, p.amount, p.currency::text, p.failure_code,
               k.id IS NOT NULL, k.found_by, k.stage, k.opened_at, round(extract(epoch FROM k.opened_at - coalesce(p.attempted_at, p.created_at)) / 3600, 1),
               k.closed_at, k.outcome
          FROM %1$s p
          LEFT JOIN %2$s c ON c.id = p.customer_id
          LEFT JOIN LATERAL (SELECT string_agg(DISTINCT v.number, ', ') AS numbers, array_agg(v.id) AS ids
                               FROM %3$s a JOIN %4$s v ON v.id = a.invoice_id WHERE a.payment_id = p.id) i ON true
          LEFT JOIN LATERAL (SELECT t.*, CASE WHEN t.payment_id = p.id THEN 'payment' WHEN t.invoice_id = ANY (i.ids) THEN 'invoice' ELSE 'customer' END AS found_by
                               FROM %5$s t
                              WHERE t.payment_id = p.id
                                 OR (t.invoice_id = ANY (i.ids) OR t.customer_id = p.customer_id AND t.payment_id IS NULL AND t.invoice_id IS NULL)
                                    AND t.opened_at >= coalesce(p.attempted_at, p.created_at)
                              ORDER BY t.payment_id = p.id DESC NULLS LAST, t.invoice_id = ANY (i.ids) DESC NULLS LAST, t.opened_at, t.id LIMIT 1) k ON true
          LEFT JOIN %4$s n ON n.id = k.invoice_id
         WHERE p.status = 'failed'$sql$, payment, customer, allocation, invoice, pursuit);
END
$$;
COMMENT ON FUNCTION sync._payment_failure_collections() IS 'Rows of sync.payment_failure_collections';

CREATE VIEW sync.payment_failure_collections AS SELECT * FROM sync._payment_failure_collections();
COMMENT ON VIEW sync.payment_failure_collections IS 'Did this payment failure start collections? A row for each failed payment';
COMMENT ON COLUMN sync.payment_failure_collections.payment_id IS 'The payment';
COMMENT ON COLUMN sync.payment_failure_collections.processor_ref IS 'Its name at the payment processor';
COMMENT ON COLUMN sync.payment_failure_collections.customer_number IS 'The customer';
COMMENT ON COLUMN sync.payment_failure_collections.invoice_number IS 'Invoices that it was for, or that the case is about';
COMMENT ON COLUMN sync.payment_failure_collections.attempted_at IS 'When it was tried';
COMMENT ON COLUMN sync.payment_failure_collections.amount IS 'Amount, in currency';
COMMENT ON COLUMN sync.payment_failure_collections.currency IS 'Currency of the amount';
COMMENT ON COLUMN sync.payment_failure_collections.failure_code IS 'Why it failed, in the processor''s words';
COMMENT ON COLUMN sync.payment_failure_collections.collections_started IS 'Whether there is a case';
COMMENT ON COLUMN sync.payment_failure_collections.found_by IS 'payment, invoice or customer: what the case names';
COMMENT ON COLUMN sync.payment_failure_collections.stage IS 'How far the case has come';
COMMENT ON COLUMN sync.payment_failure_collections.opened_at IS 'When the case was opened';
COMMENT ON COLUMN sync.payment_failure_collections.hours_after IS 'Hours from the failure to the case';
COMMENT ON COLUMN sync.payment_failure_collections.closed_at IS 'When the case was closed';
COMMENT ON COLUMN sync.payment_failure_collections.outcome IS 'How it ended';

CREATE FUNCTION sync._provisioning_paused()
RETURNS TABLE (subscription_id text, subscription_number text, customer_number text, status text, mrr numeric, currency text, paused boolean,
               entitlements bigint, still_active bigint, features text, services text, not_told text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    subscription text := sync._beside('subscription');
    customer text := sync._beside('subscription', 'customer');
    entitlement text := sync._beside('subscription', 'entitlement');
    service text := sync._beside('subscription', 'service_status');
BEGIN
    IF subscription IS NULL OR customer IS NULL OR entitlement IS NULL OR service IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY EXECUTE format($sql$
        SELECT s.id::text, s.number, c.number, s.status, s.mrr, s.currency::text,
               coalesce(e.active, 0) = 0 AND coalesce(v.running, 0) = 0 AND e.pending IS NULL, coalesce(e.n, 0), coalesce(e.active, 0), e.features, v.services, e.pending
          FROM %s s
          JOIN %s c ON c.id = s.customer_id
          LEFT JOIN LATERAL (SELECT count(*) AS n, count(*) FILTER (WHERE t.status = 'active') AS active,
                                    string_agg(t.feature_code, ', ' ORDER BY t.feature_code) FILTER (WHERE t.status = 'active') AS features,
                                    (SELECT string_agg(DISTINCT r.system || ' ' || r.state, ', ') FROM sync.record_status r
                                      WHERE r.object = 'entitlement' AND r.record_id = ANY (array_agg(t.id::text)) AND r.state NOT IN ('synced', 'unsynced')) AS pending
                               FROM %s t WHERE t.subscription_id = s.id) e ON true
          LEFT JOIN LATERAL (SELECT count(*) FILTER (WHERE t.status <> 'paused') AS running, string_agg(t.service_code || ' ' || t.status, ', ' ORDER BY t.service_code) AS services
                               FROM %s t WHERE t.subscription_id = s.id) v ON true
         WHERE s.status IN ('past_due', 'paused', 'canceled', 'expired') OR c.status IN ('suspended', 'churned')$sql$,
        subscription, customer, entitlement, service);
END
$$;
COMMENT ON FUNCTION sync._provisioning_paused() IS 'Rows of sync.provisioning_paused';

CREATE VIEW sync.provisioning_paused AS SELECT * FROM sync._provisioning_paused();
COMMENT ON VIEW sync.provisioning_paused IS 'Was provisioning paused? A row for each subscription that is past due, paused or over, or whose customer is suspended or has left';
COMMENT ON COLUMN sync.provisioning_paused.subscription_id IS 'The subscription';
COMMENT ON COLUMN sync.provisioning_paused.subscription_number IS 'Its number';
COMMENT ON COLUMN sync.provisioning_paused.customer_number IS 'The customer';
COMMENT ON COLUMN sync.provisioning_paused.status IS 'Status of the subscription';
COMMENT ON COLUMN sync.provisioning_paused.mrr IS 'Monthly recurring revenue, in currency';
COMMENT ON COLUMN sync.provisioning_paused.currency IS 'Currency of mrr';
COMMENT ON COLUMN sync.provisioning_paused.paused IS 'Whether no entitlement is active, no service runs, and every system has been told';
COMMENT ON COLUMN sync.provisioning_paused.entitlements IS 'How many entitlements it has';
COMMENT ON COLUMN sync.provisioning_paused.still_active IS 'How many of them are active';
COMMENT ON COLUMN sync.provisioning_paused.features IS 'Their features';
COMMENT ON COLUMN sync.provisioning_paused.services IS 'Its services and how they run';
COMMENT ON COLUMN sync.provisioning_paused.not_told IS 'Systems that have not confirmed the last state of an entitlement';
