-- The connectors that come with the extension, against records and answers as the vendors send them.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS sync_connector_shipped;
CREATE DATABASE sync_connector_shipped;
\c sync_connector_shipped
CREATE EXTENSION sync_ext;
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on

SELECT sync.register_connector('stripe'), sync.register_connector('tryton');
SELECT manifest AS stripe FROM sync.connector WHERE name = 'stripe' \gset
SELECT manifest AS tryton FROM sync.connector WHERE name = 'tryton' \gset

-- Stripe, push.
CREATE FUNCTION push(manifest jsonb, object text, operation text, context jsonb, refs jsonb DEFAULT '{}') RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', r ->> 'status', r ->> 'method', r ->> 'target', r ->> 'body', r ->> 'message', CASE WHEN (r ->> 'takes_key')::boolean THEN '(key)' END)
    FROM sync.test_render(manifest, object, operation, '{"param": {"company": "1", "api_version": "2025-03-31.basil", "days_until_due": "30", "receivable_account": "5", "revenue_account": "6", "tax_account": "7", "journal": "1", "user": "admin"}}'::jsonb || context, refs) r
$$;
SELECT push(:'stripe', 'customer', 'create', '{"id": "c1", "new": {"name": "Ünï & Co", "billing_email": null, "tax_exempt": "none", "number": "C-1", "billing_address": {"line1": "1 High St", "city": "London", "country": "GB"}}}');
SELECT push(:'stripe', 'customer', 'update', '{"id": "c1", "remote": {"id": "cus_1"}, "new": {"name": "Co", "billing_email": null, "tax_exempt": "reverse", "number": "C-1"}}');
SELECT push(:'stripe', 'customer', 'lookup', '{"id": "c''1"}');
SELECT push(:'stripe', 'customer', 'delete', '{"id": "c1", "remote": {"id": "cus_1"}}');
SELECT push(:'stripe', 'price', 'create', jsonb_build_object('id', 'p1', 'new', jsonb_build_object('active', true, 'code', 'B', 'product_id', 'pr1', 'currency', c, 'unit_price', a, 'model', 'flat', 'tax_behavior', 'exclusive', 'billing_interval', 'month', 'interval_count', 1)), '{"product": {"pr1": "prod_1"}}')
FROM (VALUES ('USD', 19.990), ('USD', 0.0125), ('JPY', 980.00), ('BHD', 1.234)) v(c, a);
SELECT push(:'stripe', 'price', 'create', '{"id": "p1", "new": {"currency": "USD", "unit_price": 1, "model": "tiered", "product_id": "pr1"}}', '{"product": {"pr1": "prod_1"}}');
SELECT push(:'stripe', 'subscription', 'create', '{"id": "s1", "new": {"customer_id": "c1", "status": "active", "collection_method": "send_invoice", "lines": [{"id": "i1", "price_id": "p1", "quantity": 3.0000}]}}', '{"customer": {"c1": "cus_1"}, "price": {"p1": "price_1"}}');
SELECT push(:'stripe', 'subscription', 'create', '{"id": "s1", "new": {"customer_id": "c1", "lines": [{"id": "i1", "price_id": "p1", "quantity": 1}]}}', '{"customer": {"c1": "cus_1"}}');
SELECT push(:'stripe', 'subscription', 'create', '{"id": "s1", "new": {"customer_id": "c1", "lines": [{"id": "i1", "price_id": "p1", "quantity": 1.5}]}}', '{"customer": {"c1": "cus_1"}, "price": {"p1": "price_1"}}');
-- One item kept, one new, one gone: remote item ids come from the mirror.
SELECT push(:'stripe', 'subscription', 'update', '{"id": "s1", "remote": {"id": "sub_1"}, "changed": ["lines"], "new": {"status": "active", "lines": [{"id": "i1", "price_id": "p1", "quantity": 4}, {"id": "i3", "price_id": "p1", "quantity": 1}]}, "mirror": {"status": "active", "items": {"data": [{"id": "si_1", "metadata": {"sync_id": "i1"}}, {"id": "si_2", "metadata": {"sync_id": "i2"}}]}}}', '{"price": {"p1": "price_1"}}');
SELECT op, push(:'stripe', 'subscription', op, '{"id": "s1", "remote": {"id": "sub_1"}, "new": {"status": "canceled"}, "mirror": {"status": "active"}}') FROM unnest('{cancel,update}'::text[]) op;

-- Stripe, answers.
SELECT s, sync.test_answer(:'stripe', 'customer', op, s, h::jsonb, b) FROM (VALUES
    ('create', 200, '{"Request-Id": "req_1"}', '{"id": "cus_1", "metadata": {"number": "C-1"}}'),
    ('create', 409, '{}', '{"error": {"type": "invalid_request_error", "code": "idempotency_key_in_use", "message": "in use"}}'),
    ('create', 400, '{}', '{"error": {"type": "idempotency_error", "message": "other parameters"}}'),
    ('create', 402, '{}', '{"error": {"type": "card_error", "code": "card_declined", "decline_code": "lost_card", "message": "declined"}}'),
    ('create', 429, '{"Retry-After": "2"}', '{"error": {"type": "invalid_request_error", "code": "rate_limit"}}'),
    ('create', 409, '{"Stripe-Should-Retry": "true"}', '{"error": {"type": "invalid_request_error"}}'),
    ('create', 500, '{"Idempotent-Replayed": "true"}', '{"error": {"type": "api_error"}}'),
    ('create', 401, '{}', '{"error": {"type": "invalid_request_error", "message": "Invalid API Key"}}'),
    ('delete', 404, '{}', '{"error": {"code": "resource_missing"}}'),
    ('lookup', 200, '{}', '{"data": []}'), ('lookup', 200, '{}', '{"data": [{"id": "cus_1"}, {"id": "cus_2"}]}'), ('lookup', 200, '{}', '{}'),
    ('fetch', 404, '{}', '{"error": {"code": "resource_missing"}}')) v(op, s, h, b);

-- Stripe, pull: the list first, then the journal from when the list was read.
SELECT push(:'stripe', 'customer', 'list', '{"cursor": {}}');
SELECT (sync.test_page(:'stripe', 'customer', '{}', 200, '{"date": "Sat, 31 Jan 2026 23:30:00 GMT"}', '{"has_more": true, "data": [{"id": "cus_2"}, {"id": "cus_1"}]}') #- '{next,page,seen}') - 'items';
SELECT push(:'stripe', 'customer', 'list', '{"cursor": {"full": true, "page": {"kind": "list", "last_id": "cus_1", "answered": "2026-01-31T23:30:00Z"}}}');
SELECT sync.test_page(:'stripe', 'customer', '{"full": true, "page": {"kind": "list", "last_id": "cus_1", "answered": "2026-01-31T23:30:00Z"}}', 200, '{}', '{"has_more": false, "data": []}');
SELECT push(:'stripe', 'customer', 'list', '{"cursor": {"time": "2026-01-31T23:30:00Z"}}');
-- Two changes in one second: nobody knows which came last.
SELECT jsonb_path_query(p, '$.items[*]') - 'record' FROM sync.test_page(:'stripe', 'customer', '{"time": "2026-01-31T23:30:00Z"}', 200, '{}', '{"has_more": false, "data": [
    {"type": "customer.deleted", "created": 1769902300, "data": {"object": {"id": "cus_0"}}},
    {"type": "customer.updated", "created": 1769902201, "data": {"object": {"id": "cus_1"}}},
    {"type": "customer.updated", "created": 1769902201, "data": {"object": {"id": "cus_1"}}}]}') p;
-- A journal is read all the way back once in half a lookback, from where that was done last; a little back otherwise.
CREATE FUNCTION journal(ago interval) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('time', '2026-01-31T23:30:00Z', 'deep', jsonb_build_object('time', '2026-01-31T23:29:40Z',
        'at', to_char((clock_timestamp() - ago) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))
$$;
SELECT ago, substring(push(:'stripe', 'customer', 'list', jsonb_build_object('cursor', journal(ago))) FROM 'created.*$')
  FROM unnest('{10 s, 40 s, -1 h}'::interval[]) ago;
SELECT sync.test_page(:'stripe', 'customer', '{"time": "2026-01-31T23:30:00Z"}', 200, '{"date": "Sat, 31 Jan 2026 23:31:00 GMT"}', '{"has_more": false, "data": []}') -> 'next';
SELECT sync.test_page(:'stripe', 'customer', c, 200, '{"date": "Sat, 31 Jan 2026 23:31:00 GMT"}', '{"has_more": false, "data": []}') #> '{next,deep}' = c -> 'deep' AS kept FROM journal('10 s') c;
SELECT p #> '{next,page,deep}' AS deep, p #> '{next,deep}' = c -> 'deep' AS before FROM journal('40 s') c, sync.test_page(:'stripe', 'customer', c, 200, '{"date": "Sat, 31 Jan 2026 23:31:00 GMT"}', '{"has_more": true, "data": [{"id": "evt_1", "type": "customer.updated", "created": 1769902201, "data": {"object": {"id": "cus_1"}}}]}') p;
SELECT sync.test_page(:'stripe', 'customer', '{"time": "2026-01-31T23:30:00Z", "page": {"kind": "events", "deep": true, "since": "2026-01-31T23:29:00Z", "last_id": "evt_1", "answered": "2026-01-31T23:31:00Z"}}', 200, '{}', '{"has_more": false, "data": []}') -> 'next';
CREATE FUNCTION invoice(currency text, zone text, line text DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('id', 'in_1', 'customer', 'cus_1', 'currency', currency, 'status', 'open', 'number', 'A-1', 'total', 1100, 'total_excluding_tax', 1000, 'amount_paid', 0, 'amount_remaining', 1100,
        'due_date', 1772494199, 'total_discount_amounts', '[{"amount": 20}, {"amount": 30}]'::jsonb, 'parent', '{"subscription_details": {"subscription": "sub_1"}}'::jsonb, 'status_transitions', '{"finalized_at": 1769902200}'::jsonb,
        'lines', jsonb_build_object('has_more', false, 'data', jsonb_build_array('{"amount": 1050, "quantity": 2, "description": "Seats", "period": {"start": 1767225600, "end": 1769904000}, "pricing": {"unit_amount_decimal": "525", "price_details": {"price": "price_1", "product": "prod_x"}}, "discount_amounts": [{"amount": 20}, {"amount": 30}], "taxes": [{"amount": 100, "tax_behavior": "exclusive"}]}'::jsonb || line::jsonb)))
$$;
SELECT z, c, jsonb_pretty(m - 'remote_id' - 'remote_number') FROM (VALUES ('Etc/GMT+8', 'usd'), ('Pacific/Tongatapu', 'jpy'), ('UTC', 'bhd')) v(z, c),
    sync.test_map(:'stripe', 'invoice', invoice(c, z), jsonb_build_object('entity', jsonb_build_object('id', 'e1', 'timezone', z)), '{"customer": {"cus_1": "c1"}, "subscription": {"sub_1": "s1"}, "price": {"price_1": "p1"}}') m;
SELECT sync.test_map(:'stripe', 'invoice', invoice('usd', ''), '{"entity": {"timezone": "UTC"}}', '{}');
SELECT sync.test_map(:'stripe', 'invoice', invoice('usd', ''), '{}', '{"customer": {"cus_1": "c1"}, "subscription": {"sub_1": "s1"}}') - 'fields';
SELECT sync.test_map(:'stripe', 'invoice', invoice('usd', '') || '{"status": "on_the_moon"}', '{"entity": {"timezone": "UTC"}}', '{"customer": {"cus_1": "c1"}, "subscription": {"sub_1": "s1"}}') - 'fields';
SELECT push(:'stripe', 'invoice', 'more', jsonb_build_object('record', jsonb_set(invoice('usd', '', '{"id": "il_9"}'), '{lines,has_more}', 'true')));
SELECT push(:'stripe', 'invoice', 'more', jsonb_build_object('record', invoice('usd', '')));
SELECT s, e, (sync.test_map(:'stripe', 'payment', jsonb_build_object('id', 'pi_1', 'status', s, 'amount', 1234, 'amount_received', 1234, 'currency', 'bhd', 'created', 1769902200, 'last_payment_error', e::jsonb)) -> 'fields') - 'attempted_at' - 'kind' - 'customer_id' - 'processor_ref' - 'method'
FROM (VALUES ('requires_payment_method', NULL), ('requires_payment_method', '{"code": "card_declined", "decline_code": "lost_card"}'), ('processing', NULL), ('succeeded', NULL), ('canceled', NULL)) v(s, e);
-- Refunds and disputes are payments too: three lists one after the other, one journal, a path for each kind of id.
SELECT n, push(:'stripe', 'payment', 'list', jsonb_build_object('cursor', jsonb_build_object('full', true, 'page', '{"kind": "list", "answered": "2026-01-31T23:30:00Z"}'::jsonb || n))) FROM unnest('{"{}","{\"part\": 1}","{\"part\": 2, \"last_id\": \"dp_1\"}","{\"part\": 7}"}'::jsonb[]) n;
SELECT (sync.test_page(:'stripe', 'payment', '{"full": true, "page": {"kind": "list", "answered": "2026-01-31T23:30:00Z", "last_id": "pi_9", "seen": {"n": 1}}}', 200, '{}', '{"has_more": false, "data": [{"id": "pi_1"}]}') - 'items');
SELECT (sync.test_page(:'stripe', 'payment', '{"full": true, "page": {"kind": "list", "answered": "2026-01-31T23:30:00Z", "part": 2}}', 200, '{}', '{"has_more": false, "data": []}') - 'items');
SELECT push(:'stripe', 'payment', 'fetch', jsonb_build_object('id', id)) FROM unnest('{pi_1,re_1,pyr_1,dp_1,du_1}'::text[]) id;
SELECT sync.test_map(:'stripe', 'payment', r::jsonb || '{"currency": "jpy", "created": 1769902200, "metadata": {}}', '{}', '{"payment": {"pi_1": "p1"}, "customer": {"cus_1": "c1"}}') FROM (VALUES
    ('{"object": "refund", "id": "re_1", "amount": 500, "status": "succeeded", "payment_intent": "pi_1", "charge": "ch_1", "customer": "cus_1"}'),
    ('{"object": "refund", "id": "re_2", "amount": 500, "status": "failed", "failure_reason": "expired_or_canceled_card", "payment_intent": "pi_1"}'),
    ('{"object": "refund", "id": "re_3", "amount": 500, "status": null, "payment_intent": null}'),
    ('{"object": "dispute", "id": "dp_1", "amount": 900, "status": "warning_under_review", "reason": "fraudulent", "payment_intent": "pi_1", "charge": "ch_1"}'),
    ('{"object": "dispute", "id": "dp_1", "amount": 900, "status": "lost", "reason": "fraudulent", "payment_intent": "pi_1", "charge": "ch_1"}'),
    ('{"object": "dispute", "id": "dp_1", "amount": 900, "status": "won", "reason": "fraudulent", "payment_intent": "pi_2", "charge": "ch_1"}')) v(r);
SELECT push(:'stripe', 'payment', 'create', jsonb_build_object('id', 'r1', 'new', jsonb_build_object('kind', k, 'amount', 12.34, 'currency', c, 'original_payment_id', 'p1')), '{"payment": {"p1": "pi_1"}}') FROM (VALUES ('refund', 'EUR'), ('refund', 'JPY'), ('charge', 'EUR')) v(k, c);
-- Credit notes with their lines; amounts are positive, tax beside them.
CREATE FUNCTION credit_note(more jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT '{"object": "credit_note", "id": "cn_1", "invoice": "in_1", "customer": "cus_1", "number": "A-1-CN-01", "status": "issued", "currency": "bhd", "reason": "order_change", "memo": null, "created": 1769902200, "effective_at": 1769901000, "total": 1200, "total_excluding_tax": 1000, "pre_payment_amount": 0, "post_payment_amount": 1200, "refunds": [{"amount_refunded": 700, "refund": "re_1"}], "out_of_band_amount": null,
        "lines": {"has_more": false, "data": [{"amount": 1050, "quantity": 2, "description": "Seats", "unit_amount_decimal": "525", "discount_amounts": [{"amount": 50}], "taxes": [{"amount": 200, "tax_behavior": "exclusive"}]}]}}'::jsonb || more
$$;
SELECT z, jsonb_pretty(sync.test_map(:'stripe', 'credit_note', credit_note('{}'), jsonb_build_object('entity', jsonb_build_object('timezone', z)), '{"customer": {"cus_1": "c1"}, "invoice": {"in_1": "i1"}}')) FROM unnest('{UTC,Pacific/Tongatapu}'::text[]) z;
SELECT sync.test_map(:'stripe', 'credit_note', credit_note('{"status": "void", "currency": "jpy", "total_excluding_tax": null, "memo": "wrong price", "lines": {"data": []}}'), '{"entity": {"timezone": "UTC"}}', '{"customer": {"cus_1": "c1"}, "invoice": {"in_1": "i1"}}');
SELECT sync.test_map(:'stripe', 'credit_note', credit_note('{}'), '{"entity": {"timezone": "UTC"}}', '{"customer": {"cus_1": "c1"}}') - 'fields';
SELECT push(:'stripe', 'credit_note', 'more', jsonb_build_object('record', jsonb_set(credit_note('{}'), '{lines}', '{"has_more": true, "data": [{"id": "cnli_9"}]}')));
SELECT push(:'stripe', 'credit_note', op, jsonb_build_object('id', 'n1', 'remote', '{"id": "cn_1"}'::jsonb, 'response', r::jsonb, 'new', jsonb_build_object('invoice_id', 'i1', 'total_amount', 11.9, 'currency', 'EUR', 'reason', 'goodwill', 'number', 'CN-1')), '{"invoice": {"i1": "in_1"}}')
FROM (VALUES ('payments', '{}'), ('create', '{"data": []}'), ('create', '{"data": [{"id": "inpay_1"}]}'), ('verify', '{}')) v(op, r);
SELECT r -> 'body', r -> 'message' FROM unnest('{"{}","{\"tax_rate\": \"txr_1\"}"}'::jsonb[]) p, sync.test_render(:'stripe', 'credit_note', 'create', jsonb_build_object('id', 'n1', 'param', p, 'new', '{"invoice_id": "i1", "total_amount": 119, "currency": "JPY", "reason": "goodwill",
    "lines": [{"quantity": 2.000, "unit_price": 50, "net_amount": 100, "tax_amount": 10, "description": "Seats"}, {"quantity": 0.5, "unit_price": 18, "net_amount": 9, "tax_amount": 0}]}'::jsonb), '{"invoice": {"i1": "in_1"}}') r;
SELECT sync.test_answer(:'stripe', 'credit_note', 'verify', 200, '{}', credit_note(m)::text, '{"id": "n1", "new": {"total_amount": 1.200, "tax_amount": 0.2, "currency": "BHD"}}') -> 'differences' FROM unnest('{"{}","{\"total\": 1201, \"currency\": \"kwd\"}"}'::jsonb[]) m;
-- Payouts, and what each of them took: asked for payout by payout, because a movement does not say.
SELECT sync.test_map(:'stripe', 'payout', p::jsonb || '{"id": "po_1", "arrival_date": 1769904000, "created": 1769902200}', '{"entity": {"id": "e1", "timezone": "America/New_York"}}') FROM (VALUES
    ('{"amount": 123456, "currency": "eur", "status": "paid", "trace_id": {"status": "supported", "value": "STR-77"}}'), ('{"amount": -1500, "currency": "jpy", "status": "in_transit", "trace_id": null}')) v(p);
SELECT push(:'stripe', 'balance_transaction', 'list', '{"cursor": {"time": "2026-01-31T23:30:00Z"}}');
CREATE FUNCTION movements(page jsonb, answer text) RETURNS TABLE (next jsonb, items jsonb) LANGUAGE sql AS $$
    SELECT p #- '{next,page,seen}' #- '{items}' #- '{next,page,outer,seen}', jsonb_path_query_array(p, '$.items[*].record')
      FROM sync.connector c, sync.test_page(c.manifest, 'balance_transaction', jsonb_build_object('time', '2026-01-31T23:30:00Z', 'page', '{"kind": "list", "answered": "2026-02-01T00:00:00Z", "since": "2026-01-28T23:30:00Z"}'::jsonb || page), 200, '{}', answer, '{"param": {"payouts": "automatic"}}') p
     WHERE c.name = 'stripe'
$$;
SELECT * FROM movements('{}', '{"has_more": false, "data": [{"id": "txn_2", "status": "pending"}, {"id": "txn_1", "status": "available"}]}');
SELECT push(:'stripe', 'balance_transaction', 'list', jsonb_build_object('cursor', jsonb_build_object('page', '{"kind": "list", "since": "2026-01-28T23:30:00Z"}'::jsonb || p))) FROM unnest(ARRAY['{"part": 1}', '{"part": 1, "within": "po_2", "outer": {"last_id": "po_2"}}', '{"part": 1, "within": "po_2", "last_id": "txn_8"}']::jsonb[]) p;
SELECT * FROM movements('{"part": 1}', '{"has_more": true, "data": [{"id": "po_2", "automatic": true}]}');
SELECT * FROM movements('{"part": 1, "last_id": "po_2"}', '{"has_more": true, "data": [{"id": "po_m", "automatic": false}]}');
SELECT * FROM movements('{"part": 1, "within": "po_2", "outer": {"last_id": "po_2"}}', '{"has_more": true, "data": [{"id": "txn_9"}, {"id": "txn_8"}]}');
SELECT * FROM movements('{"part": 1, "within": "po_2", "outer": {"last_id": "po_2"}, "last_id": "txn_8"}', '{"has_more": false, "data": [{"id": "txn_7"}]}');
SELECT * FROM movements('{"part": 1, "last_id": "po_2"}', '{"has_more": false, "data": [{"id": "po_1", "automatic": true}]}');
SELECT * FROM movements('{"part": 1, "within": "po_1"}', '{"has_more": false, "data": [{"id": "txn_3"}]}');
SELECT * FROM movements('{"part": 1}', '{"has_more": false, "data": []}');
SELECT next FROM movements('{"part": 1, "last_id": "po_2"}', '{"has_more": true, "data": [{"id": "po_2", "automatic": true}]}');
SELECT next FROM movements('{"part": 1, "within": "po_2", "last_id": "txn_8"}', '{"has_more": true, "data": [{"id": "txn_8"}]}');
SELECT sync.test_map(:'stripe', 'balance_transaction', t::jsonb || '{"id": "txn_1", "created": 1769902200}', '{}', '{"payout": {"po_1": "o1"}, "payment": {"pi_1": "p1", "re_1": "r1", "dp_1": "d1"}}') - 'remote_number' FROM (VALUES
    ('{"amount": 10000, "fee": 320, "net": 9680, "currency": "usd", "type": "charge", "reporting_category": "charge", "exchange_rate": 1.0935, "source": {"object": "charge", "id": "ch_1", "payment_intent": "pi_1"}, "within": "po_1"}'),
    ('{"amount": -500, "fee": 0, "net": -500, "currency": "jpy", "type": "refund", "reporting_category": "refund", "exchange_rate": null, "source": {"object": "refund", "id": "re_1", "payment_intent": "pi_1"}}'),
    ('{"amount": -900, "fee": 1500, "net": -2400, "currency": "eur", "type": "adjustment", "reporting_category": "dispute", "source": {"object": "dispute", "id": "dp_1"}}'),
    ('{"amount": -25, "fee": 0, "net": -25, "currency": "eur", "type": "stripe_fee", "reporting_category": "fee", "source": null}'),
    ('{"amount": 5, "fee": 0, "net": 5, "currency": "eur", "type": "adjustment", "reporting_category": "other_adjustment", "source": null}'),
    ('{"amount": 7, "fee": 0, "net": 7, "currency": "eur", "type": "payout_failure", "reporting_category": "payout_reversal", "source": {"object": "payout", "id": "po_0"}, "within": "po_1"}'),
    ('{"amount": -5, "fee": 0, "net": -5, "currency": "eur", "type": "payout", "reporting_category": "payout", "source": {"object": "payout", "id": "po_1"}, "within": "po_1"}')) v(t);
SELECT sync.test_auth(:'stripe', '{"api_key": "sk_test_1"}');

-- Tryton: session, party, invoice.
SELECT jsonb_pretty(sync.test_auth(:'tryton', '{"password": "pw"}', '{"user": "admin"}', '{"id": 1, "result": [1, "abc"]}'));
SELECT sync.test_auth(:'tryton', '{"password": "pw"}', '{"user": "admin"}', '{"id": 1, "result": null}') -> 'login_error';
SELECT push(:'tryton', 'customer', op, '{"id": "c1", "remote": {"id": "2"}, "new": {"name": "Acme", "number": "C-1", "billing_email": "a@b.example", "billing_address": {"line1": "1 High", "line2": "Floor 2", "city": "London", "country": "GB"}}, "response": {"result": [{"id": 10, "code3": "GBR"}]}, "mirror": {"addresses.": [{"id": 4}], "contact_mechanisms.": [{"id": 8, "type": "phone"}, {"id": 9, "type": "email"}]}}')
FROM unnest('{lookup,country,create,read,update,deactivate}'::text[]) op;
CREATE FUNCTION erp_invoice(more jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('id', 'i1', 'remote', '{"id": "7"}'::jsonb, 'response', '{"result": [{"id": 2, "code": "EUR"}]}'::jsonb, 'new', '{"customer_id": "c1", "number": "INV-1", "issue_date": "2026-11-20", "currency": "EUR", "net_amount": 100.01, "tax_amount": 20.00, "total_amount": 120.01,
        "lines": [{"line_no": 1, "description": "Seats", "quantity": 3, "unit_price": 33.3333, "net_amount": 99.9999}, {"line_no": 2, "description": "Odd", "quantity": 0.333, "unit_price": 0.03, "net_amount": 0.01}]}'::jsonb || more)
$$;
SELECT push(:'tryton', 'invoice', op, erp_invoice('{}'), '{"customer": {"c1": {"id": "2", "raw": {"addresses.": [{"id": 4}]}}}}') FROM unnest('{lookup,currency,create,verify,post,confirm}'::text[]) op;
SELECT push(:'tryton', 'invoice', 'create', erp_invoice('{"currency": "SEK"}'), '{"customer": {"c1": {"id": "2", "raw": {"addresses.": [{"id": 4}]}}}}');
SELECT push(:'tryton', 'invoice', 'create', erp_invoice('{}'), '{"customer": {"c1": {"id": "2"}}}');
\set answer '{"id": 1, "result": [{"id": 7, "number": null, "state": "draft", "invoice_date": {"__class__": "date", "year": 2026, "month": 11, "day": 20}, "currency.": {"code": "EUR"}, "untaxed_amount": {"__class__": "Decimal", "decimal": "100.01"}, "tax_amount": {"__class__": "Decimal", "decimal": "20"}, "total_amount": {"__class__": "Decimal", "decimal": "120.01"}, "write_date": null, "create_date": {"__class__": "datetime", "year": 2026, "month": 11, "day": 20, "hour": 6, "minute": 1, "second": 2, "microsecond": 3}}]}'
SELECT sync.test_answer(:'tryton', 'invoice', 'verify', 200, '{}', :'answer', erp_invoice('{}'));
SELECT sync.test_answer(:'tryton', 'invoice', 'verify', 200, '{}', :'answer', erp_invoice('{"total_amount": 120.02, "issue_date": "2026-12-01"}'));
SELECT sync.test_answer(:'tryton', 'invoice', 'confirm', 200, '{}', :'answer', erp_invoice('{}')) -> 'differences';
SELECT sync.test_answer(:'tryton', 'customer', op, s, '{}', b) FROM (VALUES
    ('create', 200, '{"id": 1, "result": [2]}'), ('update', 200, '{"id": 1, "result": null}'),
    ('create', 200, '{"error": ["UserError", ["The code on party must be unique.", "", null]]}'),
    ('update', 200, '{"error": ["ConcurrencyException", "Records were modified in the meanwhile"]}'),
    ('update', 200, '{"error": ["''nosuch''", ""]}'), ('update', 401, ''), ('update', 500, '<html>'), ('lookup', 200, '{"id": 1, "result": []}')) v(op, s, b);
SELECT push(:'tryton', 'customer', 'list', jsonb_build_object('cursor', c::jsonb)) FROM (VALUES ('{}'), ('{"time": "2026-01-31T23:30:00Z", "page": {"kind": "list", "since": "2026-01-31T23:28:00Z", "last_id": "17"}}')) v(c);
SELECT sync.test_map(:'tryton', 'invoice', '{"id": 7, "number": "2026/00001", "state": "posted", "invoice_date": {"year": 2026, "month": 11, "day": 20}, "accounting_date": null, "move.": {"period.": {"start_date": {"year": 2026, "month": 11, "day": 1}}}}');
-- A document that was moved into another period says so; the day that was agreed on is compared, too.
SELECT r #> '{body,params,0,0,invoice_date}', r #> '{body,params,0,0,accounting_date}' FROM unnest('{"{}","{\"posting_date\": \"2026-12-01\"}","{\"posting_date\": \"2026-11-20\"}"}'::jsonb[]) m,
    sync.test_render(:'tryton', 'invoice', 'create', erp_invoice(m) || '{"param": {"company": "1", "receivable_account": "5", "revenue_account": "6", "tax_account": "7", "journal": "1"}}', '{"customer": {"c1": {"id": "2", "raw": {"addresses.": [{"id": 4}]}}}}') r;
SELECT sync.test_answer(:'tryton', 'invoice', 'verify', 200, '{}', :'answer', erp_invoice('{"posting_date": "2026-12-01"}')) -> 'differences';
-- What billing owns is read to be compared; a record says by its description whose it is.
\set erp_invoice '{"id": 7, "number": "2026/00001", "state": "paid", "reference": "INV-1", "description": "11111111-2222-3333-4444-555555555555", "party": 2, "currency.": {"code": "BHD"}, "invoice_date": {"year": 2026, "month": 11, "day": 20}, "untaxed_amount": {"decimal": "100.010"}, "tax_amount": {"decimal": "0"}, "total_amount": {"decimal": "100.010"}}'
SELECT sync.test_map(:'tryton', 'invoice', :'erp_invoice', '{}', '{"customer": {"2": "c1"}}');
SELECT sync.test_map(:'tryton', 'invoice', :'erp_invoice'::jsonb || '{"description": "to whom it may concern", "state": "cancelled"}') - 'fields';
SELECT sync.test_map(:'tryton', 'credit_note', :'erp_invoice'::jsonb || m, '{}', '{"customer": {"2": "c1"}}') FROM unnest('{"{\"untaxed_amount\": {\"decimal\": \"-10.00\"}, \"tax_amount\": {\"decimal\": \"-1.90\"}, \"total_amount\": {\"decimal\": \"-11.90\"}}"}'::jsonb[]) m;
SELECT object, jsonb_path_query_array(p, '$.items[*].remote_id') FROM unnest('{invoice,credit_note}'::text[]) object, sync.test_page(:'tryton', object, '{}', 200, '{"date": "Sat, 31 Jan 2026 23:30:00 GMT"}',
    '{"id": 1, "result": [{"id": 1, "total_amount": {"decimal": "0"}}, {"id": 2, "total_amount": {"decimal": "-0.01"}, "comment": null}, {"id": 4, "total_amount": {"decimal": "-1"}, "comment": "Invoice"}, {"id": 3, "total_amount": {"decimal": "119.00"}}]}') p;
SELECT object, op, push(:'tryton', object, op, jsonb_set(erp_invoice('{"number": "CN-1"}'), '{cursor}', '{"time": "2026-01-31T23:30:00Z"}'), '{"customer": {"c1": {"id": "2", "raw": {"addresses.": [{"id": 4}]}}}}') FROM (VALUES ('invoice', 'list'), ('credit_note', 'lookup'), ('credit_note', 'create')) v(object, op);
SELECT sync.test_answer(:'tryton', 'credit_note', 'verify', 200, '{}', replace(replace(replace(:'answer', '"100.01"', '"-100.01"'), '"120.01"', '"-120.01"'), '"20"', t), erp_invoice('{}')) -> 'differences' FROM unnest('{"\"-20\"","\"-20.01\""}'::text[]) t;
-- Payments, step by step.
CREATE FUNCTION erp_payment(more jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT '{"id": "11111111-2222-3333-4444-555555555555", "remote": {"id": "7"}, "event": {"at": "2026-02-01T01:00:00Z"}, "entity": {"timezone": "Europe/Berlin"}, "response": {"result": [{"id": 3}]}}'::jsonb
        || jsonb_build_object('new', '{"customer_id": "c1", "kind": "charge", "status": "succeeded", "amount": 120.01, "currency": "EUR", "processor_ref": "ch_1", "attempted_at": "2026-01-31T23:30:00Z"}'::jsonb || more)
$$;
SELECT push(:'tryton', 'payment', op, erp_payment('{}'), '{"customer": {"c1": "2"}}') FROM unnest('{lookup,journal,create,verify,approve,session,succeed,confirm}'::text[]) op;
SELECT push(:'tryton', 'payment', 'process', jsonb_set(erp_payment('{}'), '{response}', '{"result": [4, "start", "end"]}'));
SELECT push(:'tryton', 'payment', 'create', erp_payment('{"kind": "refund", "processor_ref": null, "attempted_at": null}'), '{"customer": {"c1": "2"}}');
SELECT push(:'tryton', 'payment', 'create', jsonb_set(erp_payment('{}'), '{response,result}', '[]'), '{"customer": {"c1": "2"}}');
SELECT r #> '{body,params,0,0,date}' FROM sync.test_render(:'tryton', 'payment', 'create', erp_payment('{"posting_date": "2026-03-01"}') || '{"param": {"company": "1"}, "entity": {"timezone": "America/New_York"}}', '{"customer": {"c1": "2"}}') r;
\set paid '{"id": 1, "result": [{"id": 7, "state": "processing", "kind": "receivable", "amount": {"decimal": "120.01"}, "journal.": {"currency.": {"code": "EUR"}}}]}'
SELECT o, sync.test_answer(:'tryton', 'payment', o, 200, '{}', :'paid', erp_payment(m)) -> 'differences' FROM (VALUES ('verify', '{}'::jsonb), ('verify', '{"currency": "USD", "amount": 120.02}'), ('confirm', '{}')) v(o, m);
SELECT sync.test_map(:'tryton', 'payment', '{"id": 7, "kind": "receivable", "party": 2, "date": {"year": 2026, "month": 2, "day": 1}, "amount": {"decimal": "1500"}, "journal.": {"currency.": {"code": "JPY"}}}'::jsonb || m, '{}', '{"customer": {"2": "c1"}}') FROM (VALUES
    ('{"state": "succeeded", "description": "ch_1"}'::jsonb), ('{"state": "failed", "description": "11111111-2222-3333-4444-555555555555"}'), ('{"state": "processing", "description": null}')) v(m);
SELECT object, push(:'tryton', object, 'count', '{}') FROM unnest('{customer,invoice,credit_note,payment}'::text[]) object;
SELECT sync.test_map(:'tryton', 'customer', '{"id": 2, "code": "C-1", "name": "Acme", "email": "", "active": 0, "addresses.": [{"id": 4, "street": "1 High\nFloor 2", "city": "London", "country.": {"code": "GB"}, "write_date": {"year": 2026, "month": 11, "day": 20, "hour": 6}}]}');
\c postgres
DROP DATABASE sync_connector_shipped;
