/* Canonical model: what a customer may use, how it runs and who helps. */
CREATE FUNCTION sync._canonical_service()
RETURNS TABLE (tbl text, col text, def text, refs text, note text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $service$
VALUES
    ('entitlement', '', NULL, NULL, 'A right of a customer to use a feature'),
    ('entitlement', 'subscription_id', 'uuid', 'subscription', 'The subscription that grants it; empty: granted by hand'),
    ('entitlement', 'customer_id', 'uuid NOT NULL', 'customer', 'The customer that may use it'),
    ('entitlement', 'feature_code', 'text NOT NULL', NULL, 'The feature, as the product names it'),
    ('entitlement', 'quantity', 'decimal CHECK (%2$I >= 0)', NULL, 'Units granted; empty: without limit'),
    ('entitlement', 'status', 'enum(pending active suspended revoked) NOT NULL DEFAULT ''pending''', NULL, 'pending: not yet provided; active: usable; suspended: withheld for a time; revoked: ended'),
    ('entitlement', 'valid_from', 'timestamptz', NULL, 'Instant from which it may be used; empty: at once'),
    ('entitlement', 'valid_to', 'timestamptz', NULL, 'Instant at which it ends; empty: open end'),
    ('entitlement', 'activated_at', 'timestamptz', NULL, 'Instant at which it became usable'),
    ('entitlement', 'reason', 'text', NULL, 'Why it has its status'),

    ('onboarding_milestone', '', NULL, NULL, 'A step on the way of a new customer into service'),
    ('onboarding_milestone', 'customer_id', 'uuid NOT NULL', 'customer', 'The customer'),
    ('onboarding_milestone', 'subscription_id', 'uuid', 'subscription', 'The subscription brought into service'),
    ('onboarding_milestone', 'code', 'text NOT NULL', NULL, 'The step, for instance kickoff, data_import, go_live'),
    ('onboarding_milestone', 'status', 'enum(pending in_progress done blocked) NOT NULL DEFAULT ''pending''', NULL, 'pending: not begun; in_progress; done; blocked: waits for someone'),
    ('onboarding_milestone', 'due_date', 'date', NULL, 'Day by which it shall be done'),
    ('onboarding_milestone', 'completed_at', 'timestamptz', NULL, 'Instant at which it was done'),

    ('collection_case', '', NULL, NULL, 'The pursuit of an unpaid claim'),
    ('collection_case', 'customer_id', 'uuid NOT NULL', 'customer', 'The customer that owes'),
    ('collection_case', 'invoice_id', 'uuid', 'invoice', 'The unpaid invoice'),
    ('collection_case', 'payment_id', 'uuid', 'payment', 'The failed payment that began it'),
    ('collection_case', 'stage', 'enum(reminder call suspend agency legal) NOT NULL DEFAULT ''reminder''', NULL, 'reminder: written to; call: spoken to; suspend: service withheld; agency: handed over; legal: before a court'),
    ('collection_case', 'opened_at', 'timestamptz NOT NULL DEFAULT now()', NULL, 'Instant at which it was opened'),
    ('collection_case', 'closed_at', 'timestamptz', NULL, 'Instant at which it was closed; empty while open'),
    ('collection_case', 'outcome', 'text', NULL, 'How it ended, for instance paid, written_off'),

    ('service_status', '', NULL, NULL, 'How a customer''s service runs now'),
    ('service_status', 'customer_id', 'uuid NOT NULL', 'customer', 'The customer'),
    ('service_status', 'subscription_id', 'uuid', 'subscription', 'The subscription; empty: all of the customer''s'),
    ('service_status', 'service_code', 'text NOT NULL', NULL, 'The service'),
    ('service_status', 'status', 'enum(ok degraded down paused) NOT NULL DEFAULT ''ok''', NULL, 'ok; degraded: runs badly; down: does not run; paused: stopped on purpose'),
    ('service_status', 'since', 'timestamptz NOT NULL DEFAULT now()', NULL, 'Instant from which it has had this status'),
    ('service_status', 'source', 'text', NULL, 'Who reported it'),

    ('support_case', '', NULL, NULL, 'A customer''s question or complaint'),
    ('support_case', 'customer_id', 'uuid', 'customer', 'The customer; empty while unknown'),
    ('support_case', 'contact_id', 'uuid', 'contact', 'The person who asked'),
    ('support_case', 'subscription_id', 'uuid', 'subscription', 'The subscription it is about'),
    ('support_case', 'number', 'text', NULL, 'Case number told to the customer; one system owns it'),
    ('support_case', 'subject', 'text', NULL, 'What it is about, in a line'),
    ('support_case', 'status', 'enum(new open pending on_hold solved closed) NOT NULL DEFAULT ''new''', NULL, 'new: unread; open: with us; pending: with the customer; on_hold: with a third party; solved: answered; closed: for good'),
    ('support_case', 'priority', 'enum(low normal high urgent) NOT NULL DEFAULT ''normal''', NULL, 'low, normal, high or urgent'),
    ('support_case', 'channel', 'text', NULL, 'How it came in, for instance email, phone, chat'),
    ('support_case', 'opened_at', 'timestamptz NOT NULL DEFAULT now()', NULL, 'Instant at which it came in'),
    ('support_case', 'first_response_at', 'timestamptz', NULL, 'Instant of the first answer'),
    ('support_case', 'resolved_at', 'timestamptz', NULL, 'Instant at which it was solved; empty while open')
$service$;
