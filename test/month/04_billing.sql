-- What billing holds: a line of JSON for each object, as its API shows them. Two accounts, one for each
-- entity; prices and products went there by the hub's own push, so they are referred to by their ids.
-- month.billing(entity) lists them in an order in which each follows what it refers to.
\set ON_ERROR_STOP on

CREATE FUNCTION month.epoch(at timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN extract(epoch FROM at)::bigint;

-- Remote ids of catalogue objects, by account.
CREATE TABLE month.bound AS
SELECT right(y.name, 2) AS entity, o.name AS object, x.record_id::uuid AS id, x.remote_id AS remote
  FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id JOIN sync.object o ON o.id = x.object_id
 WHERE y.name LIKE 'billing\_%' AND o.name IN ('product', 'price');
UPDATE month.bound SET entity = upper(entity);
CREATE TABLE month.catalogue AS
SELECT b.entity, p.code, b.remote AS price, q.remote AS product, p.unit, p.currency, p.recurring,
       json_build_object('id', b.remote, 'object', 'price', 'livemode', false, 'metadata', json_build_object('sync_id', p.id, 'code', p.code), 'currency', lower(p.currency),
                         'unit_amount_decimal', p.unit::text, 'unit_amount', CASE WHEN p.unit % 1 = 0 THEN p.unit::bigint END,
                         'recurring', CASE WHEN p.recurring IS NOT NULL THEN json_build_object('interval', p.recurring, 'interval_count', 1, 'usage_type', 'licensed') END,
                         'product', q.remote, 'active', true, 'billing_scheme', 'per_unit', 'type', CASE WHEN p.recurring IS NULL THEN 'one_time' ELSE 'recurring' END) AS json
  FROM month.price p JOIN month.bound b ON b.object = 'price' AND b.id = p.id
  JOIN month.bound q ON q.object = 'product' AND q.entity = b.entity AND q.id = month.id('product ' || p.product);

CREATE VIEW month.billing_customer AS
SELECT c.entity, json_build_object('id', c.remote, 'object', 'customer', 'livemode', false, 'metadata', json_build_object('sync_id', c.id, 'number', c.number),
         'address', json_build_object('line1', c.n || ' High Street', 'city', 'City ' || c.n % 97, 'postal_code', to_char(c.n, 'FM00000'), 'country', c.country),
         'email', c.email, 'name', c.name, 'balance', 0, 'currency', lower(c.currency), 'delinquent', false, 'invoice_prefix', c.number, 'next_invoice_sequence', 1000,
         'tax_exempt', CASE c.tax_percent WHEN 0 THEN 'exempt' ELSE 'none' END, 'created', month.epoch(month.midnight(month.today() - 200, c.entity)) + c.n) AS json
  FROM month.customer c;

CREATE VIEW month.billing_subscription AS
SELECT s.entity, json_build_object('id', s.remote, 'object', 'subscription', 'livemode', false, 'metadata', json_build_object('sync_id', s.id, 'number', s.number),
         'customer', c.remote, 'billing_cycle_anchor', month.epoch(w.began), 'cancel_at', NULL, 'cancel_at_period_end', false,
         'canceled_at', CASE s.state WHEN 'canceled' THEN month.epoch(w.period_end) END, 'collection_method', s.method,
         'days_until_due', CASE s.method WHEN 'send_invoice' THEN 30 END, 'currency', lower(s.currency), 'start_date', month.epoch(w.began), 'status', s.state,
         'trial_start', CASE s.state WHEN 'trialing' THEN month.epoch(w.began) END, 'trial_end', CASE s.state WHEN 'trialing' THEN month.epoch(w.period_end) END,
         'latest_invoice', (SELECT i.remote FROM month.invoice i WHERE i.k = s.k ORDER BY i.issued DESC LIMIT 1), 'created', month.epoch(w.began),
         'items', json_build_object('object', 'list', 'has_more', false, 'total_count', (SELECT count(*) FROM month.item t WHERE t.k = s.k),
             'data', (SELECT json_agg(json_build_object('id', t.remote, 'object', 'subscription_item', 'created', month.epoch(w.began),
                                                        'current_period_start', month.epoch(w.period_start), 'current_period_end', month.epoch(w.period_end),
                                                        'discounts', '[]'::json, 'metadata', json_build_object('sync_id', t.id), 'price', g.json,
                                                        'quantity', coalesce(t.upgraded, t.quantity), 'subscription', s.remote, 'tax_rates', '[]'::json) ORDER BY t.place)
                        FROM month.item t JOIN month.catalogue g ON g.entity = s.entity AND g.code = t.price WHERE t.k = s.k)),
         '_hidden', json_build_object('billed', month.epoch(w.period_start))) AS json
  FROM month.subscription s JOIN month.running w USING (k) JOIN month.customer c USING (n);

CREATE FUNCTION month.tax(amount bigint, base bigint) RETURNS json LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN json_build_object('amount', amount, 'tax_behavior', 'exclusive', 'tax_rate_details', json_build_object('tax_rate', 'txr_standard'),
                         'taxability_reason', 'standard_rated', 'taxable_amount', base, 'type', 'tax_rate_details');
CREATE VIEW month.billing_line AS
SELECT l.invoice, l.line_no, json_build_object('id', l.remote, 'object', 'line_item', 'amount', l.amount, 'currency', lower(i.currency), 'description', l.description,
         'discount_amounts', CASE WHEN l.discount = 0 THEN '[]'::json ELSE json_build_array(json_build_object('amount', l.discount, 'discount', 'di_loyal')) END,
         'discountable', true, 'invoice', i.remote, 'livemode', false, 'metadata', '{}'::json,
         'period', json_build_object('start', month.epoch(month.midnight(i.service_start, i.entity)),
                                     'end', month.epoch(month.midnight(i.service_end + CASE i.kind WHEN 'fee' THEN 0 ELSE 1 END, i.entity))),
         'pricing', json_build_object('price_details', json_build_object('price', g.price, 'product', g.product), 'type', 'price_details', 'unit_amount_decimal', l.unit::text),
         'quantity', l.quantity, 'subtotal', l.amount, 'taxes', CASE WHEN l.tax = 0 THEN '[]'::json ELSE json_build_array(month.tax(l.tax, l.amount - l.discount)) END,
         'parent', CASE WHEN l.item IS NOT NULL THEN json_build_object('type', 'subscription_item_details', 'subscription_item_details',
                        json_build_object('proration', l.proration, 'subscription', s.remote, 'subscription_item', l.item_remote)) END) AS json
  FROM month.line l JOIN month.invoice i ON i.id = l.invoice JOIN month.catalogue g ON g.entity = i.entity AND g.code = l.price
  LEFT JOIN month.subscription s ON s.k = i.k;

CREATE VIEW month.billing_invoice AS
SELECT i.entity, json_build_object('id', i.remote, 'object', 'invoice', 'livemode', false, 'customer', c.remote, 'currency', lower(i.currency), 'collection_method', i.method,
         'amount_paid', i.paid, 'amount_due', i.total, 'amount_remaining', CASE i.state WHEN 'void' THEN i.total ELSE i.total - i.paid - i.credited END, 'amount_overpaid', 0,
         'attempt_count', CASE WHEN i.state IN ('paid', 'failed') THEN 1 ELSE 0 END, 'attempted', i.state IN ('paid', 'failed'), 'auto_advance', true,
         'billing_reason', CASE i.kind WHEN 'period' THEN 'subscription_cycle' WHEN 'upgrade' THEN 'subscription_update' ELSE 'manual' END,
         'customer_email', c.email, 'customer_name', c.name, 'discounts', '[]'::json, 'due_date', CASE i.method WHEN 'send_invoice' THEN month.epoch(f.at + interval '30 days') END,
         'effective_at', month.epoch(f.at), 'number', i.number, 'period_start', month.epoch(month.midnight(i.service_start, i.entity)), 'starting_balance', 0,
         'period_end', month.epoch(month.midnight(i.service_end, i.entity)), 'metadata', '{}'::json,
         'status', CASE i.state WHEN 'partial' THEN 'open' WHEN 'failed' THEN 'open' ELSE i.state END,
         'status_transitions', json_build_object('finalized_at', month.epoch(f.at), 'paid_at', CASE i.state WHEN 'paid' THEN month.epoch(month.midnight(i.settled, i.entity)) END,
             'voided_at', CASE i.state WHEN 'void' THEN month.epoch(f.at + interval '1 day') END,
             'marked_uncollectible_at', CASE i.state WHEN 'uncollectible' THEN month.epoch(f.at + interval '50 days') END),
         'parent', CASE WHEN s.k IS NOT NULL THEN json_build_object('type', 'subscription_details', 'subscription_details',
                        json_build_object('metadata', json_build_object('sync_id', s.id), 'subscription', s.remote)) END,
         'subtotal', i.net + i.discount, 'subtotal_excluding_tax', i.net + i.discount, 'total', i.total, 'total_excluding_tax', i.net,
         'total_discount_amounts', CASE WHEN i.discount = 0 THEN '[]'::json ELSE json_build_array(json_build_object('amount', i.discount, 'discount', 'di_loyal')) END,
         'total_taxes', CASE WHEN i.tax = 0 THEN '[]'::json ELSE json_build_array(month.tax(i.tax, i.net)) END,
         'pre_payment_credit_notes_amount', i.credited, 'post_payment_credit_notes_amount', coalesce(p.total, 0),
         'lines', json_build_object('object', 'list', 'has_more', false, 'total_count', l.many, 'data', l.lines, 'url', format('/v1/invoices/%s/lines', i.remote)),
         'created', month.epoch(f.at)) AS json
  FROM month.invoice i JOIN month.customer c USING (n) LEFT JOIN month.subscription s USING (k)
  LEFT JOIN month.credit p ON p.invoice = i.id AND p.refund IS NOT NULL,
       LATERAL (SELECT month.midnight(i.issued, i.entity) + interval '50 minutes') f (at),
       LATERAL (SELECT json_agg(b.json ORDER BY b.line_no) AS lines, count(*) AS many FROM month.billing_line b WHERE b.invoice = i.id) l;

CREATE VIEW month.billing_payment AS
SELECT p.entity, json_build_object('id', p.remote, 'object', 'payment_intent', 'livemode', false, 'amount', p.amount, 'currency', lower(p.currency), 'customer', c.remote,
         'metadata', '{}'::json, 'payment_details', json_build_object('order_reference', i.remote), 'amount_capturable', 0,
         'amount_received', CASE p.state WHEN 'succeeded' THEN p.amount ELSE 0 END, 'latest_charge', p.charge, 'payment_method_types', json_build_array('card'),
         'last_payment_error', CASE p.state WHEN 'failed' THEN json_build_object('type', 'card_error', 'code', 'card_declined', 'decline_code', 'generic_decline', 'charge', p.charge) END,
         'status', CASE p.state WHEN 'succeeded' THEN 'succeeded' ELSE 'requires_payment_method' END, 'created', month.epoch(p.instant)) AS json,
       json_build_object('id', p.charge, 'object', 'charge', 'livemode', false, 'amount', p.amount, 'currency', lower(p.currency), 'customer', c.remote, 'metadata', '{}'::json,
         'payment_intent', p.remote, 'amount_captured', CASE p.state WHEN 'succeeded' THEN p.amount ELSE 0 END, 'amount_refunded', coalesce(r.amount, 0),
         'captured', p.state = 'succeeded', 'paid', p.state = 'succeeded', 'refunded', coalesce(r.amount, 0) = p.amount, 'disputed', d.id IS NOT NULL,
         'failure_code', CASE p.state WHEN 'failed' THEN 'card_declined' END, 'status', p.state, 'balance_transaction', b.remote, 'created', month.epoch(p.instant)) AS charge,
       json_build_object('id', 'inpay_' || substr(p.remote, 4), 'object', 'invoice_payment', 'livemode', false, 'amount_paid', CASE p.state WHEN 'succeeded' THEN p.amount ELSE 0 END,
         'amount_requested', p.amount, 'currency', lower(p.currency), 'invoice', i.remote, 'is_default', p.state = 'succeeded',
         'payment', json_build_object('payment_intent', p.remote, 'type', 'payment_intent'), 'status', CASE p.state WHEN 'succeeded' THEN 'paid' ELSE 'open' END,
         'status_transitions', json_build_object('paid_at', CASE p.state WHEN 'succeeded' THEN month.epoch(p.instant) END), 'created', month.epoch(p.instant)) AS used
  FROM month.payment p JOIN month.invoice i ON i.id = p.invoice JOIN month.customer c ON c.n = p.n
  LEFT JOIN month.refund r ON r.payment = p.id LEFT JOIN month.dispute d ON d.payment = p.id LEFT JOIN month.balance b ON b.source = p.charge;

CREATE VIEW month.billing_rest AS
SELECT r.entity, 1 AS place, json_build_object('id', r.remote, 'object', 'refund', 'amount', r.amount, 'currency', lower(r.currency), 'charge', p.charge, 'payment_intent', p.remote,
         'metadata', '{}'::json, 'reason', 'requested_by_customer', 'status', 'succeeded', 'balance_transaction', b.remote, 'created', month.epoch(r.instant)) AS json
  FROM month.refund r JOIN month.payment p ON p.id = r.payment JOIN month.balance b ON b.source = r.remote
UNION ALL
SELECT d.entity, 2, json_build_object('id', d.remote, 'object', 'dispute', 'amount', d.amount, 'currency', lower(d.currency), 'charge', p.charge, 'payment_intent', p.remote,
         'metadata', '{}'::json, 'reason', 'fraudulent', 'status', d.state, 'balance_transactions', json_build_array(json_build_object('id', b.remote)), 'created', month.epoch(d.instant))
  FROM month.dispute d JOIN month.payment p ON p.id = d.payment JOIN month.balance b ON b.source = d.remote
UNION ALL
SELECT o.entity, 3, json_build_object('id', o.remote, 'object', 'payout', 'amount', o.amount, 'currency', lower(o.currency), 'arrival_date', month.epoch(o.arrives::timestamp AT TIME ZONE 'UTC'),
         'automatic', true, 'method', 'standard', 'type', 'bank_account', 'metadata', '{}'::json, 'status', 'paid', 'trace_id', json_build_object('status', 'supported', 'value', o.id), 'created', month.epoch(o.instant))
  FROM month.payout o
UNION ALL
SELECT b.entity, 4, json_build_object('id', b.remote, 'object', 'balance_transaction', 'amount', b.gross, 'fee', b.fee, 'net', b.gross - b.fee, 'currency', lower(b.currency),
         'exchange_rate', NULL, 'source', b.source, 'type', b.kind, 'reporting_category', CASE b.kind WHEN 'adjustment' THEN 'dispute' ELSE b.kind END,
         'status', CASE WHEN o.id IS NULL THEN 'pending' ELSE 'available' END, '_hidden', json_build_object('payout', o.remote), 'created', month.epoch(b.instant))
  FROM month.balance b LEFT JOIN month.payout o ON o.id = b.payout
UNION ALL
SELECT c.entity, 5, json_build_object('id', c.remote, 'object', 'credit_note', 'customer', k.remote, 'invoice', i.remote, 'number', c.number, 'currency', lower(c.currency),
         'amount', c.total, 'total', c.total, 'subtotal', c.net, 'total_excluding_tax', c.net, 'subtotal_excluding_tax', c.net, 'status', 'issued', 'reason', c.reason, 'metadata', '{}'::json,
         'type', CASE WHEN c.refund IS NULL THEN 'pre_payment' ELSE 'post_payment' END, 'total_taxes', CASE WHEN c.tax = 0 THEN '[]'::json ELSE json_build_array(month.tax(c.tax, c.net)) END,
         'pre_payment_amount', CASE WHEN c.refund IS NULL THEN c.total ELSE 0 END, 'post_payment_amount', CASE WHEN c.refund IS NULL THEN 0 ELSE c.total END,
         'refunds', CASE WHEN r.id IS NULL THEN '[]'::json ELSE json_build_array(json_build_object('refund', r.remote, 'amount_refunded', c.total)) END,
         'effective_at', month.epoch(c.instant), 'created', month.epoch(c.instant),
         'lines', json_build_object('object', 'list', 'has_more', false, 'total_count', 1, 'url', format('/v1/credit_notes/%s/lines', c.remote), 'data',
             json_build_array(json_build_object('id', 'cnli_' || substr(c.remote, 4), 'object', 'credit_note_line_item', 'amount', c.net, 'description', 'Credit', 'discount_amounts', '[]'::json,
                 'quantity', 1, 'unit_amount', c.net, 'unit_amount_decimal', c.net::text, 'type', 'custom_line_item',
                 'taxes', CASE WHEN c.tax = 0 THEN '[]'::json ELSE json_build_array(month.tax(c.tax, c.net)) END))))
  FROM month.credit c JOIN month.customer k USING (n) JOIN month.invoice i ON i.id = c.invoice LEFT JOIN month.refund r ON r.id = c.refund;

CREATE VIEW month.billing AS
SELECT entity, 10 AS place, json FROM month.billing_customer
UNION ALL SELECT entity, 20, json FROM month.billing_subscription
UNION ALL SELECT entity, 30, json FROM month.billing_invoice
UNION ALL SELECT entity, 40, json FROM month.billing_payment
UNION ALL SELECT entity, 41, charge FROM month.billing_payment
UNION ALL SELECT entity, 42, used FROM month.billing_payment
UNION ALL SELECT entity, 50 + place, json FROM month.billing_rest;
