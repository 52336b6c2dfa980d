-- What the ERPs hold: a line of JSON for each record, as bin/tryton-load takes them. It is what months
-- of pushes would have left: customers, posted invoices with our id as description, their payments.
-- View month.erp lists them.
\set ON_ERROR_STOP on

-- The application knows whose money was given back; billing only says of which payment.
UPDATE canonical.payment r SET customer_id = p.customer_id
  FROM canonical.payment p WHERE p.id = r.original_payment_id AND r.customer_id IS NULL;

CREATE VIEW month.erp_party AS
SELECT e.code AS entity, json_build_object('kind', 'party', 'code', c.number, 'name', c.name, 'email', c.billing_email,
         'street', c.billing_address ->> 'line1', 'city', c.billing_address ->> 'city', 'postal_code', c.billing_address ->> 'postal_code',
         'country', c.billing_address ->> 'country') AS json
  FROM canonical.customer c JOIN canonical.legal_entity e ON e.id = c.legal_entity_id;

CREATE VIEW month.erp_invoice AS
SELECT e.code AS entity, json_build_object('kind', 'invoice', 'reference', i.number, 'description', i.id, 'party', c.number, 'currency', i.currency,
         'date', i.issue_date, 'state', 'posted', 'taken_over', true, 'tax', i.tax_amount::text,
         'lines', (SELECT json_agg(json_build_object('description', l.description, 'quantity', 1, 'unit_price', l.net_amount::text) ORDER BY l.line_no)
                     FROM canonical.invoice_line l WHERE l.invoice_id = i.id)) AS json
  FROM canonical.invoice i JOIN canonical.customer c ON c.id = i.customer_id JOIN canonical.legal_entity e ON e.id = i.legal_entity_id
 WHERE i.status IN ('open', 'posted', 'paid', 'partially_paid', 'uncollectible');

-- A credit note is an invoice of negative quantities.
CREATE VIEW month.erp_credit AS
SELECT e.code AS entity, json_build_object('kind', 'invoice', 'reference', n.number, 'description', n.id, 'party', c.number, 'currency', n.currency,
         'date', n.issue_date, 'state', 'posted', 'taken_over', true, 'tax', (-n.tax_amount)::text,
         'lines', (SELECT json_agg(json_build_object('description', l.description, 'quantity', -1, 'unit_price', l.net_amount::text) ORDER BY l.line_no)
                     FROM canonical.credit_note_line l WHERE l.credit_note_id = n.id)) AS json
  FROM canonical.credit_note n JOIN canonical.customer c ON c.id = n.customer_id JOIN canonical.legal_entity e ON e.id = c.legal_entity_id
 WHERE n.status = 'posted';

CREATE VIEW month.erp_payment AS
SELECT e.code AS entity, json_build_object('kind', 'payment', 'description', coalesce(p.processor_ref, p.id::text), 'party', c.number, 'currency', p.currency,
         'amount', p.amount::text, 'date', (p.attempted_at AT TIME ZONE e.timezone)::date, 'state', 'succeeded',
         'direction', CASE p.kind WHEN 'charge' THEN 'receivable' ELSE 'payable' END) AS json
  FROM canonical.payment p JOIN canonical.customer c ON c.id = p.customer_id JOIN canonical.legal_entity e ON e.id = p.legal_entity_id
 WHERE p.status = 'succeeded';

CREATE VIEW month.erp AS
SELECT entity, 1 AS place, json FROM month.erp_party
UNION ALL SELECT entity, 2, json FROM month.erp_invoice
UNION ALL SELECT entity, 3, json FROM month.erp_credit
UNION ALL SELECT entity, 4, json FROM month.erp_payment;
