-- Records that faults are planted in, with the names they go by in each system. One customer of ten is
-- the traffic's; the others are quiet, so that what is found at them was planted.
\set ON_ERROR_STOP on

CREATE FUNCTION month.remote_of(object text, id uuid, system text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT x.remote_id FROM sync.external_id x JOIN sync.object o ON o.id = x.object_id JOIN sync.system y ON y.id = x.system_id
     WHERE o.name = $1 AND x.record_id = $2::text AND y.name = $3
$$;

-- Invoices of the month before this one that are in the ERP.
CREATE VIEW month.target_invoice AS
SELECT i.id, i.number, i.status, i.currency, i.total_amount, i.issue_date, e.code AS entity, c.id AS customer_id, c.number AS customer, m.n, m.kind, m.id AS plan, m.k, m.period, m.state,
       m.remote AS billing, x.remote_id AS erp
  FROM month.invoice m JOIN canonical.invoice i ON i.number = m.number
  JOIN canonical.customer c ON c.id = i.customer_id JOIN canonical.legal_entity e ON e.id = i.legal_entity_id
  JOIN sync.external_id x ON x.record_id = i.id::text
  JOIN sync.object o ON o.id = x.object_id AND o.name = 'invoice' JOIN sync.system y ON y.id = x.system_id AND y.name = 'erp_' || lower(e.code)
 WHERE m.n % 10 <> 0 AND i.issue_date >= date_trunc('month', month.today()) - interval '1 month' AND i.issue_date < date_trunc('month', month.today())
   AND m.total > 0;

-- Those of the running month, which is open.
CREATE VIEW month.running_invoice AS
SELECT i.id, i.number, i.status, i.currency, i.net_amount, i.total_amount, i.amount_due, i.issue_date, e.code AS entity, m.n, m.kind, m.remote AS billing, x.remote_id AS erp,
       (SELECT l.net_amount FROM canonical.invoice_line l WHERE l.invoice_id = i.id AND l.line_no = 1) AS line_amount
  FROM month.invoice m JOIN canonical.invoice i ON i.number = m.number JOIN canonical.legal_entity e ON e.id = i.legal_entity_id
  JOIN sync.external_id x ON x.record_id = i.id::text
  JOIN sync.object o ON o.id = x.object_id AND o.name = 'invoice' JOIN sync.system y ON y.id = x.system_id AND y.name = 'erp_' || lower(e.code)
 WHERE m.n % 10 <> 0 AND i.issue_date >= date_trunc('month', month.today()) AND m.total > 0 AND m.discount = 0;

CREATE VIEW month.target_payment AS
SELECT p.id, p.status, p.amount, p.currency, t.entity, t.n, t.customer, t.id AS invoice_id, t.number AS invoice, t.erp AS invoice_erp, m.remote AS billing, m.id AS plan,
       a.id AS allocation_id, month.remote_of('payment_allocation', a.id, 'billing_' || lower(t.entity)) AS allocation
  FROM month.target_invoice t JOIN month.payment m ON m.invoice = t.plan
  JOIN sync.external_id x ON x.remote_id = m.remote JOIN sync.object o ON o.id = x.object_id AND o.name = 'payment'
  JOIN canonical.payment p ON p.id::text = x.record_id
  LEFT JOIN canonical.payment_allocation a ON a.payment_id = p.id;

CREATE VIEW month.target_subscription AS
SELECT s.id, s.number, s.status, m.k, m.n, m.entity, m.remote AS billing, m.upgrade, c.number AS customer, s.customer_id
  FROM month.subscription m JOIN canonical.subscription s ON s.id = m.id JOIN canonical.customer c ON c.id = s.customer_id
 WHERE m.n % 10 <> 0;
