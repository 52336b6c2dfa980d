-- Rules about the ERP: what the hub holds and the ERP has to hold, too. Compared with its mirror.

-- An ERP is a system that tells how documents are posted: what its connector reads has posting_status.
CREATE VIEW sync._ledger AS
SELECT y.id AS system_id, y.name AS system, o.id AS object_id, o.table_oid, s.options ->> 'legal_entity' AS entity, r.id AS route_id, r.cutover_date
  FROM sync._server s
  JOIN sync.system y ON y.name = s.name
  JOIN sync.connector c ON c.name = s.options ->> 'connector' AND c.current
  JOIN sync.object o ON c.manifest -> 'objects' ? o.name
  LEFT JOIN sync.route r ON r.system_id = y.id AND r.object_id = o.id AND r.state <> 'dropped'
 WHERE pg_catalog.jsonb_path_exists(c.manifest, '$.objects.*.pull.fields.posting_status')
   AND (r.id IS NOT NULL OR EXISTS (SELECT FROM sync.stream t WHERE t.system_id = y.id AND t.object_id = o.id AND t.state = 'active'));
COMMENT ON COLUMN sync._ledger.cutover_date IS 'Cut-over date of its route';
COMMENT ON VIEW sync._ledger IS 'ERPs and the objects that they get or give; entity: code of the legal entity whose books they keep, NULL: of all';

-- Whether the route would send the record as it is now. What cannot be told counts as wanted, and so
-- does what comes by other ways than ours.
CREATE FUNCTION sync._wanted(route integer, record_id text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r sync.route;
    o sync.object;
    body jsonb;
BEGIN
    SELECT t.* INTO r FROM sync.route t WHERE t.id = route;
    IF NOT FOUND OR r.condition IS NULL AND r.cutover_date IS NULL THEN
        RETURN true;
    END IF;
    SELECT t.* INTO o FROM sync.object t WHERE t.id = r.object_id;
    body := sync._record_or_null(o.id, record_id);
    IF body IS NULL OR (sync._accounting_date(o, body)).day < r.cutover_date THEN
        RETURN false;
    END IF;
    RETURN (SELECT h.holds OR h.error IS NOT NULL FROM sync._holds(o.id, r.condition, r.run_as, body, 'insert', NULL) h);
END
$$;
COMMENT ON FUNCTION sync._wanted(integer, text) IS 'Whether a route''s condition and cut-over date let a record pass as it is now';

-- The query for one kind of document: its table, what is due in the ERP, its day where the ERP's period
-- has to be that day's, what the ERP calls final, and its accounting day.
CREATE FUNCTION sync._ledger_query(tbl text, amount text, due text, entity text, day text, final text, same_period boolean, booked text, number text DEFAULT 'd.number')
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($query$
WITH flying AS MATERIALIZED (
    SELECT DISTINCT ON (u.system_id, u.record_id) u.system_id, u.record_id, u.route_id || '/' || u.seq AS delivery,
           u.state NOT IN ('dead', 'conflict') AND u.event_at > now() - interval '7 days' AS moves, u.state, u.event_at
      FROM sync._unfinished u
     WHERE u.object_id IN (SELECT l.object_id FROM sync._ledger l WHERE l.table_oid = 'canonical.%1$s'::regclass)
     ORDER BY u.system_id, u.record_id, u.seq
), due AS (
    SELECT d.id::text COLLATE "C" AS record_id, %8$s AS number, d.currency::text AS currency, d.%2$s AS amount,
           e.code AS entity, c.number AS customer, %5$s AS day, %9$s AS booked
      FROM canonical.%1$s d
      LEFT JOIN canonical.customer c ON c.id = d.customer_id
      LEFT JOIN canonical.legal_entity e ON e.id = %4$s
     WHERE %3$s
), seen AS (
    SELECT d.*, l.system, l.system_id, l.object_id, l.route_id, l.cutover_date, x.remote_id, coalesce(m.deleted, false) AS deleted, m.fields,
           coalesce(m.pushed_at, x.bound_at) AS known_at, q.at AS read_until, q.system_id IS NOT NULL AS read,
           coalesce(m.fields ->> 'posting_status', m.fields ->> 'status') AS status
      FROM due d
      JOIN sync._ledger l ON l.table_oid = 'canonical.%1$s'::regclass AND (l.entity IS NULL OR l.entity = d.entity)
      LEFT JOIN sync.external_id x ON x.object_id = l.object_id AND x.record_id = d.record_id AND x.system_id = l.system_id
      LEFT JOIN sync.mirror m ON m.system_id = x.system_id AND m.object_id = x.object_id AND m.remote_id = x.remote_id
      LEFT JOIN sync._read_until q ON q.system_id = l.system_id AND q.object_id = l.object_id
), wrong AS (
    SELECT s.*, v.*
      FROM seen s
     CROSS JOIN LATERAL (
           SELECT NULL AS field, to_jsonb(s.amount) AS ours, NULL::jsonb AS theirs, NULL::numeric AS difference, s.amount AS at_risk,
                  CASE WHEN s.deleted THEN 'was deleted in the ERP' ELSE 'does not stand in the ERP' END AS detail
            WHERE s.remote_id IS NULL OR s.deleted
           UNION ALL
           -- Bound, and what it is there was never read. Where nothing is ever read, there is nothing to wait for.
           SELECT 'unknown', to_jsonb(s.amount), NULL, NULL, s.amount, 'what it is in the ERP is not known'
            WHERE s.read AND s.remote_id IS NOT NULL AND NOT s.deleted AND NOT coalesce(s.fields ?& '{%2$s,currency}', false)
           UNION ALL
           SELECT '%2$s', to_jsonb(s.amount), s.fields -> '%2$s', (s.fields ->> '%2$s')::numeric - s.amount, (s.fields ->> '%2$s')::numeric - s.amount,
                  'has another amount in the ERP'
            WHERE NOT s.deleted AND (s.fields ->> '%2$s')::numeric <> s.amount
           UNION ALL
           SELECT 'currency', to_jsonb(s.currency), s.fields -> 'currency', NULL, s.amount, 'has another currency in the ERP'
            WHERE NOT s.deleted AND s.fields ->> 'currency' <> s.currency
           UNION ALL
           SELECT 'posting_status', to_jsonb('posted'::text), to_jsonb(s.status), NULL, s.amount, 'is not posted in the ERP'
            WHERE NOT s.deleted AND s.status <> ALL ('%6$s')
           UNION ALL
           SELECT 'accounting_period', to_jsonb(date_trunc('month', s.day::timestamp)::date),
                  to_jsonb(date_trunc('month', (s.fields ->> 'posting_date')::timestamp)::date), NULL, s.amount, 'is posted in another period in the ERP'
            WHERE %7$s AND NOT s.deleted AND s.status = ANY ('%6$s')
              AND date_trunc('month', (s.fields ->> 'posting_date')::timestamp) <> date_trunc('month', s.day::timestamp)) v
)
SELECT '%1$s' AS object, w.record_id, w.number AS record_number, w.system, w.remote_id, w.field, w.ours, w.theirs, w.difference, w.currency, w.at_risk,
       w.entity, w.booked AS period, w.customer, w.detail || CASE WHEN f.state = 'dead' THEN '; its delivery failed' WHEN f.state = 'conflict' THEN '; its delivery is in conflict'
                                                                    WHEN NOT f.moves THEN '; it is on its way since ' || f.event_at::date ELSE '' END AS detail,
       CASE WHEN f.moves THEN 'in_transit' WHEN w.field = 'unknown' AND (w.read_until IS NULL OR w.read_until < w.known_at) THEN 'timing'
            WHEN p.approval_id IS NOT NULL THEN 'explained' ELSE 'break' END AS class,
       CASE w.field WHEN 'unknown' THEN 'warning' END AS severity,
       'its period was closed; moved by approval ' || p.approval_id AS explanation, f.delivery
  FROM wrong w
  LEFT JOIN flying f ON f.system_id = w.system_id AND f.record_id = w.record_id
  LEFT JOIN LATERAL (SELECT max(v.approval_id) AS approval_id FROM sync.period_move v
                      WHERE w.field = 'accounting_period' AND v.object_id = w.object_id AND v.record_id = w.record_id
                        AND to_jsonb(date_trunc('month', v.posted_date::timestamp)::date) = w.theirs) p ON true
 WHERE CASE WHEN w.remote_id IS NOT NULL THEN true WHEN w.day < w.cutover_date THEN false ELSE sync._wanted(w.route_id, w.record_id) END
$query$, tbl, amount, due, entity, day, final, same_period::text, number, booked)
$$;
COMMENT ON FUNCTION sync._ledger_query(text, text, text, text, text, text, boolean, text, text) IS 'Query of a rule that compares documents with the mirror of the ERP';

CREATE FUNCTION sync._rules_ledger()
RETURNS TABLE (name text, severity text, description text, remedy text, query text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
VALUES
    ('invoice_in_erp', 'error',
     'Every issued invoice stands posted in the ERP of its legal entity, with equal total, currency and period; not proforma invoices, drafts and voided ones, nor what the route''s condition or cut-over date leaves out',
     'Missing: push it (sync.repair). Not posted: have it posted there (sync.repair: call_there). Another amount, currency or period: have it reversed there (call_there), then push it again, the hub never changes a posted document; or have the move into another period approved.',
     sync._ledger_query('invoice', 'total_amount', $q$d.type = 'standard' AND d.status IN ('open', 'posted', 'partially_paid', 'paid', 'uncollectible')$q$,
                        'coalesce(d.legal_entity_id, c.legal_entity_id)', 'd.issue_date', '{posted}', true, 'sync._accounting_day(d.posting_date, d.issue_date)')),
    ('credit_note_in_erp', 'error',
     'Every posted credit note stands in the ERP of its invoice''s legal entity, with equal total and currency',
     'As for invoice_in_erp.',
     sync._ledger_query('credit_note', 'total_amount', $q$d.status IN ('posted', 'applied')$q$,
                        'coalesce((SELECT i.legal_entity_id FROM canonical.invoice i WHERE i.id = d.invoice_id), c.legal_entity_id)', 'd.issue_date',
                        '{posted,applied}', false, 'sync._accounting_day(NULL, d.issue_date)')),
    ('payment_in_erp', 'error',
     'Every succeeded payment, refund and chargeback has its payment in the ERP of its legal entity, with equal amount and currency; not credits from a customer''s balance',
     'Missing: push it (sync.repair). Another amount: correct it there, by a payment of the difference or by reversal and a new one.',
     sync._ledger_query('payment', 'amount', $q$d.status = 'succeeded' AND d.kind <> 'credit' AND d.amount <> 0$q$,
                        'coalesce(d.legal_entity_id, c.legal_entity_id)',
                        $q$sync._accounting_day(d.posting_date, NULL, NULL, d.settled_at, coalesce(d.attempted_at, d.created_at), e.timezone)$q$, '{posted}', false,
                        $q$sync._accounting_day(d.posting_date, NULL, NULL, d.settled_at, d.attempted_at, e.timezone)$q$, 'd.processor_ref'))
$$;
COMMENT ON FUNCTION sync._rules_ledger() IS 'Rules about the ERP';
