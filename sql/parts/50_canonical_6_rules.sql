/*
 * The rules that are more than one column's: keys, checks, indexes and
 * triggers. They come with a new table only; what a user has dropped on
 * purpose from an older one stays dropped.
 */
CREATE FUNCTION sync._canonical_rules()
RETURNS TABLE (tbl text, kind text, name text, def text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $rules$
VALUES
    ('customer_entity', 'constraint', 'customer_entity_key', 'UNIQUE (customer_id, legal_entity_id)'),
    ('price', 'constraint', 'price_validity', 'CHECK (valid_to > valid_from)'),
    ('contract', 'constraint', 'contract_dates', 'CHECK (end_date >= start_date)'),
    ('subscription', 'constraint', 'subscription_period', 'CHECK (current_period_end >= current_period_start)'),
    ('subscription_item', 'constraint', 'subscription_item_dates', 'CHECK (end_date >= start_date)'),
    ('subscription_item', 'constraint', 'subscription_item_priced', 'CHECK (price_id IS NOT NULL OR unit_price IS NOT NULL)'),
    ('invoice', 'constraint', 'invoice_service_dates', 'CHECK (service_end >= service_start)'),
    ('invoice_line', 'constraint', 'invoice_line_key', 'UNIQUE (invoice_id, line_no)'),
    ('invoice_line', 'constraint', 'invoice_line_service_dates', 'CHECK (service_end >= service_start)'),
    ('credit_note_line', 'constraint', 'credit_note_line_key', 'UNIQUE (credit_note_id, line_no)'),
    ('credit_note_line', 'constraint', 'credit_note_line_service_dates', 'CHECK (service_end >= service_start)'),
    ('payment_allocation', 'constraint', 'payment_allocation_sides', 'CHECK (num_nonnulls(payment_id, invoice_id, credit_note_id) >= 2)'),
    ('tax_determination', 'constraint', 'tax_determination_document_code_key', 'UNIQUE (provider, document_code)'),
    ('revenue_schedule', 'constraint', 'revenue_schedule_dates', 'CHECK (end_date >= start_date)'),
    ('accounting_period', 'constraint', 'accounting_period_key', 'UNIQUE (legal_entity_id, start_date)'),
    ('accounting_period', 'constraint', 'accounting_period_dates', 'CHECK (end_date >= start_date)'),
    ('fx_rate', 'constraint', 'fx_rate_key', 'UNIQUE (from_currency, to_currency, rate_date, source)'),
    ('fx_rate', 'constraint', 'fx_rate_pair', 'CHECK (from_currency <> to_currency)'),
    ('gl_entry', 'constraint', 'gl_entry_number_key', 'UNIQUE (legal_entity_id, number)'),
    ('gl_entry', 'constraint', 'gl_entry_source', 'CHECK (num_nulls(source_object, source_id) <> 1)'),
    ('gl_entry_line', 'constraint', 'gl_entry_line_key', 'UNIQUE (gl_entry_id, line_no)'),
    ('gl_entry_line', 'constraint', 'gl_entry_line_side', 'CHECK ((debit = 0) <> (credit = 0))'),
    ('entitlement', 'constraint', 'entitlement_validity', 'CHECK (valid_to > valid_from)'),
    ('onboarding_milestone', 'constraint', 'onboarding_milestone_key', 'UNIQUE NULLS NOT DISTINCT (customer_id, subscription_id, code)'),
    ('service_status', 'constraint', 'service_status_key', 'UNIQUE NULLS NOT DISTINCT (customer_id, subscription_id, service_code)'),

    -- One schedule a line and standard counts; canceled ones are its history.
    ('revenue_schedule', 'unique index', 'revenue_schedule_line_standard_key', '(invoice_line_id, standard) WHERE status <> ''canceled'''),
    ('gl_entry', 'index', 'gl_entry_source_id_idx', '(source_id, source_object)'),
    ('gl_entry_line', 'index', 'gl_entry_line_account_code_idx', '(account_code)'),

    -- The arguments are the columns that close with the document.
    ('invoice', 'trigger', 'guard_posted', 'BEFORE UPDATE OR DELETE ON %1$I.%2$I FOR EACH ROW
       WHEN (OLD.status NOT IN (''draft'', ''open'') OR OLD.posting_status IN (''posted'', ''reversed''))
       EXECUTE FUNCTION %1$I.guard_posted(customer_id, legal_entity_id, currency, fx_rate,
          net_amount, discount_amount, tax_amount, total_amount, created_at)'),
    ('credit_note', 'trigger', 'guard_posted', 'BEFORE UPDATE OR DELETE ON %1$I.%2$I FOR EACH ROW
       WHEN (OLD.status <> ''draft'')
       EXECUTE FUNCTION %1$I.guard_posted(customer_id, invoice_id, currency, net_amount, tax_amount, total_amount, created_at)'),
    ('gl_entry', 'trigger', 'guard_posted', 'BEFORE UPDATE OR DELETE ON %1$I.%2$I FOR EACH ROW
       WHEN (OLD.status IN (''posted'', ''reversed''))
       EXECUTE FUNCTION %1$I.guard_posted(legal_entity_id, posting_date, accounting_period, currency, fx_rate, created_at)'),
    ('accounting_period', 'trigger', 'keep_closed', 'BEFORE INSERT OR UPDATE ON %1$I.%2$I FOR EACH ROW EXECUTE FUNCTION %1$I.keep_closed()'),
    ('invoice_line', 'trigger', 'guard_posted', 'BEFORE INSERT OR UPDATE OR DELETE ON %1$I.%2$I FOR EACH ROW
       EXECUTE FUNCTION %1$I.guard_posted_invoice_line(invoice_id, line_no, product_id, description, quantity, unit_price,
          net_amount, discount_amount, tax_amount, tax_code, service_start, service_end)'),
    ('credit_note_line', 'trigger', 'guard_posted', 'BEFORE INSERT OR UPDATE OR DELETE ON %1$I.%2$I FOR EACH ROW
       EXECUTE FUNCTION %1$I.guard_posted_credit_note_line(credit_note_id, line_no, product_id, description, quantity, unit_price,
          net_amount, discount_amount, tax_amount, tax_code, service_start, service_end)'),
    ('gl_entry_line', 'trigger', 'guard_posted', 'BEFORE INSERT OR UPDATE OR DELETE ON %1$I.%2$I FOR EACH ROW
       EXECUTE FUNCTION %1$I.guard_posted_gl_entry_line(gl_entry_id, line_no, account_code, debit, credit, customer_id, tax_code, description)'),

    -- Sums over several rows hold at commit, or at the end of the statement
    -- under SET CONSTRAINTS ... IMMEDIATE.
    ('gl_entry_line', 'constraint trigger', 'gl_entry_balance', 'AFTER INSERT OR UPDATE OF gl_entry_id, debit, credit OR DELETE ON %1$I.%2$I
       DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION %1$I.check_gl_entry_balance()'),
    ('revenue_schedule_line', 'constraint trigger', 'revenue_schedule_sum', 'AFTER INSERT OR UPDATE OF schedule_id, amount OR DELETE ON %1$I.%2$I
       DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION %1$I.check_revenue_schedule_sum()'),
    ('revenue_schedule', 'constraint trigger', 'revenue_schedule_sum', 'AFTER UPDATE OF total_amount ON %1$I.%2$I
       DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.total_amount <> NEW.total_amount)
       EXECUTE FUNCTION %1$I.check_revenue_schedule_sum()'),
    ('payment_allocation', 'constraint trigger', 'payment_allocation_sum', 'AFTER INSERT OR UPDATE OF payment_id, amount ON %1$I.%2$I
       DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.payment_id IS NOT NULL)
       EXECUTE FUNCTION %1$I.check_payment_allocation_sum()')
$rules$;
