/*
 * billing.c
 *		The engine that bills subscriptions when a test tells it to.
 *
 * A subscription is due when its current period has started and has no invoice
 * yet; the start of the period billed last is kept with the subscription, out
 * of the API's sight. Invoices are made in advance, as Stripe does for licensed
 * prices.
 */
#include <string.h>

#include "billing.h"
#include "clock.h"
#include "journal.h"
#include "stripe.h"

typedef struct Counts
{
	int64_t invoices;
	int64_t paid;
	int64_t open;
	int64_t failed;
	int64_t canceled;
	json_t *made; /* ids */
	json_t *currencies;
} Counts;

static void
add_to(json_t *object, const char *name, int64_t amount)
{
	set_int(object, name, get_int(object, name) + amount);
}

static json_t *
currency_entry(json_t *currencies, const char *currency)
{
	json_t *entry = json_object_get(currencies, currency);

	if (entry == NULL)
	{
		entry = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i}", "count", 0, "subtotal", 0, "tax", 0,
						  "total", 0, "amount_paid", 0, "amount_remaining", 0);
		json_object_set_new(currencies, currency, entry);
	}
	return entry;
}

static void
sum_invoice(json_t *currencies, const json_t *invoice)
{
	json_t *entry = currency_entry(currencies, get_string(invoice, "currency"));
	int64_t total = get_int(invoice, "total");
	int64_t subtotal = get_int(invoice, "subtotal");

	add_to(entry, "count", 1);
	add_to(entry, "subtotal", subtotal);
	add_to(entry, "tax", total - subtotal);
	add_to(entry, "total", total);
	add_to(entry, "amount_paid", get_int(invoice, "amount_paid"));
	add_to(entry, "amount_remaining", get_int(invoice, "amount_remaining"));
}

static void
add_subscription_lines(json_t *invoice, const json_t *sub)
{
	json_t *item;
	size_t i;

	json_array_foreach (json_object_get(json_object_get(sub, "items"), "data"), i, item)
	{
		json_t *line = invoice_line(json_object_get(item, "price"), get_int(item, "quantity"),
									get_int(item, "current_period_start"),
									get_int(item, "current_period_end"));

		json_object_set_new(line, "parent",
							json_pack("{s:n, s:{s:n, s:b, s:{s:n}, s:O, s:O}, s:s}",
									  "invoice_item_details", "subscription_item_details",
									  "invoice_item", "proration", 0, "proration_details",
									  "credited_items", "subscription", json_object_get(sub, "id"),
									  "subscription_item", json_object_get(item, "id"), "type",
									  "subscription_item_details"));
		invoice_add_line(invoice, line);
	}
}

static Obj *
draft_invoice(Call *call, const json_t *sub)
{
	const char *method = get_string(sub, "collection_method");
	const json_t *item = json_array_get(json_object_get(json_object_get(sub, "items"), "data"), 0);
	json_t *json = invoice_new(get_string(sub, "customer"), get_string(sub, "currency"), method);
	const Obj *customer = store_get(&customers.coll, get_string(sub, "customer"));
	Obj *invoice;

	json_object_set_new(json, "parent",
						json_pack("{s:n, s:{s:o, s:O}, s:s}", "quote_details",
								  "subscription_details", "metadata",
								  json_deep_copy(json_object_get(sub, "metadata")), "subscription",
								  json_object_get(sub, "id"), "type", "subscription_details"));
	set_string(json, "billing_reason", "subscription_cycle");
	json_object_set_new(json, "auto_advance", json_true());
	json_object_set(json, "period_start", json_object_get(item, "current_period_start"));
	json_object_set(json, "period_end", json_object_get(item, "current_period_end"));
	if (customer != NULL)
	{
		json_object_set(json, "customer_email", json_object_get(customer->json, "email"));
		json_object_set(json, "customer_name", json_object_get(customer->json, "name"));
	}
	if (strcmp(method, "send_invoice") == 0)
		set_int(json, "due_date", clock_seconds() + get_int(sub, "days_until_due") * 86400);
	add_subscription_lines(json, sub);
	invoice_total(json);
	invoice = stripe_insert(call, &invoices, json);
	(void) invoice_collect_items(call, invoice);
	return invoice;
}

/* The invoice of the subscription's current period, from draft to payment. */
static void
bill_period(Call *call, Obj *sub, Counts *counts)
{
	Obj *invoice = draft_invoice(call, sub->json);
	json_t *before;
	json_t *effect;
	const char *status;

	(void) invoice_finalize(call, invoice);
	before = change_begin(sub);
	set_string(sub->json, "latest_invoice", invoice->id);
	change_end(call, &subscriptions, sub, before, "updated");
	if (strcmp(get_string(invoice->json, "status"), "open") == 0 &&
		strcmp(get_string(sub->json, "collection_method"), "charge_automatically") == 0 &&
		!invoice_collect_payment(call, invoice))
		counts->failed++;
	status = get_string(invoice->json, "status");
	counts->invoices++;
	counts->paid += strcmp(status, "paid") == 0;
	counts->open += strcmp(status, "open") == 0;
	json_array_append_new(counts->made, json_string(invoice->id));
	sum_invoice(counts->currencies, invoice->json);
	effect = json_pack("{s:s, s:s, s:{}}", "object", "invoice", "id", invoice->id, "metadata");
	journal_effect("BILL", "/_sandbox/bill", NULL, NULL, effect);
	json_decref(effect);
}

/* The next period begins; or the subscription ends with the current one. */
static void
advance_period(Call *call, Obj *sub, Counts *counts)
{
	json_t *items = json_object_get(json_object_get(sub->json, "items"), "data");
	int64_t start = get_int(json_array_get(items, 0), "current_period_end");
	json_t *before;
	json_t *item;
	size_t i;

	if (json_is_true(json_object_get(sub->json, "cancel_at_period_end")))
	{
		(void) subscription_end(call, sub);
		counts->canceled++;
		return;
	}
	before = change_begin(sub);
	json_array_foreach (items, i, item)
	{
		set_int(item, "current_period_start", start);
		set_int(item, "current_period_end", subscription_next(sub->json, start));
	}
	change_end(call, &subscriptions, sub, before, "updated");
}

/* A trial that is over: the first paid period starts where the trial ended. */
static void
end_trial(Call *call, Obj *sub, int64_t now)
{
	json_t *items = json_object_get(json_object_get(sub->json, "items"), "data");
	int64_t start = get_int(sub->json, "trial_end");
	json_t *before;
	json_t *item;
	size_t i;

	if (strcmp(get_string(sub->json, "status"), "trialing") != 0 || start > now)
		return;
	before = change_begin(sub);
	set_string(sub->json, "status", "active");
	json_array_foreach (items, i, item)
	{
		set_int(item, "current_period_start", start);
		set_int(item, "current_period_end", subscription_next(sub->json, start));
	}
	change_end(call, &subscriptions, sub, before, "updated");
}

static bool
is_due(const Obj *sub, int64_t now)
{
	const json_t *items = json_object_get(json_object_get(sub->json, "items"), "data");
	int64_t start = get_int(json_array_get(items, 0), "current_period_start");

	return start <= now && (sub->hidden == NULL || get_int(sub->hidden, "billed") < start);
}

static void
bill_subscription(Call *call, Obj *sub, bool advance, Counts *counts)
{
	const json_t *items = json_object_get(json_object_get(sub->json, "items"), "data");
	int64_t now = clock_seconds();

	end_trial(call, sub, now);
	if (!in_list("active,past_due", get_string(sub->json, "status")) || !is_due(sub, now))
		return;
	if (sub->hidden == NULL)
		sub->hidden = json_object();
	set_int(sub->hidden, "billed", get_int(json_array_get(items, 0), "current_period_start"));
	bill_period(call, sub, counts);
	if (advance)
		advance_period(call, sub, counts);
}

json_t *
billing_run(const json_t *options)
{
	Call call = {.version = STRIPE_VERSION};
	const json_t *at = json_object_get(options, "at");
	const char *only = get_string(options, "subscription");
	bool advance = json_is_true(json_object_get(options, "advance"));
	Counts counts = {.made = json_array(), .currencies = json_object()};

	if (json_is_number(at))
		clock_override((int64_t) (json_number_value(at) * 1000));
	for (size_t i = 0; i < subscriptions.coll.count; i++)
	{
		const char *id = subscriptions.coll.rows[i]->id;

		if (only == NULL || strcmp(only, id) == 0)
			bill_subscription(&call, store_get(&subscriptions.coll, id), advance, &counts);
	}
	clock_override(0);
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "invoices",
					 (json_int_t) counts.invoices, "paid", (json_int_t) counts.paid, "open",
					 (json_int_t) counts.open, "failed", (json_int_t) counts.failed, "canceled",
					 (json_int_t) counts.canceled, "ids", counts.made, "totals", counts.currencies);
}

json_t *
billing_totals(void)
{
	json_t *currencies = json_object();

	for (size_t i = 0; i < invoices.coll.count; i++)
	{
		json_t *invoice = store_read(invoices.coll.rows[i]);

		if (!invoices.coll.rows[i]->deleted &&
			in_list("open,paid,uncollectible", get_string(invoice, "status")))
			sum_invoice(currencies, invoice);
		json_decref(invoice);
	}
	return currencies;
}
