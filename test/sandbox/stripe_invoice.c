/*
 * stripe_invoice.c
 *		Invoices, their lines, and the life of an invoice:
 *
 *		draft --finalize--> open --pay--> paid
 *		  '--delete           |---------> void
 *		                      '---------> uncollectible --pay--> paid
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "pipeline.h"
#include "stripe.h"

static json_t *
lines_of(const json_t *invoice)
{
	return json_object_get(json_object_get(invoice, "lines"), "data");
}

static bool
has_status(const Obj *obj, const char *status)
{
	return strcmp(get_string(obj->json, "status"), status) == 0;
}

/* A line of a price; its parent is the caller's to add. */
json_t *
invoice_line(const json_t *price, int64_t quantity, int64_t start, int64_t end)
{
	const char *decimal = get_string(price, "unit_amount_decimal");
	int64_t amount = multiply_decimal(decimal, quantity);
	char id[64];

	make_id(id, sizeof(id), "il_1", 23);
	return json_pack("{s:s, s:s, s:I, s:s, s:n, s:[], s:b, s:[], s:b, s:{}, s:{s:I, s:I}, s:[],"
					 " s:{s:{s:s?, s:s?}, s:s, s:s}, s:I, s:I, s:[]}",
					 "id", id, "object", "line_item", "amount", (json_int_t) amount, "currency",
					 get_string(price, "currency"), "description", "discount_amounts",
					 "discountable", 1, "discounts", "livemode", 0, "metadata", "period", "start",
					 (json_int_t) start, "end", (json_int_t) end, "pretax_credit_amounts",
					 "pricing", "price_details", "price", get_string(price, "id"), "product",
					 get_string(price, "product"), "type", "price_details", "unit_amount_decimal",
					 decimal, "quantity", (json_int_t) quantity, "subtotal", (json_int_t) amount,
					 "taxes");
}

void
invoice_add_line(json_t *invoice, json_t *line)
{
	json_object_set(line, "invoice", json_object_get(invoice, "id"));
	json_array_append_new(lines_of(invoice), line);
}

/* One exclusive tax on each line, rounded by line, half away from zero. */
static int64_t
tax_line(json_t *line, double percent)
{
	int64_t amount = get_int(line, "amount");
	int64_t tax = llround((double) amount * percent / 100.0);

	if (percent <= 0)
		return 0;
	json_object_set_new(line, "taxes",
						json_pack("[{s:I, s:s, s:{s:s}, s:s, s:I, s:s}]", "amount",
								  (json_int_t) tax, "tax_behavior", "exclusive", "tax_rate_details",
								  "tax_rate", "txr_sandbox", "taxability_reason", "standard_rated",
								  "taxable_amount", (json_int_t) amount, "type",
								  "tax_rate_details"));
	return tax;
}

static double
tax_percent(const json_t *invoice)
{
	const Obj *customer = store_get(&customers.coll, get_string(invoice, "customer"));
	const char *exempt = customer ? get_string(customer->json, "tax_exempt") : NULL;

	return exempt == NULL || strcmp(exempt, "none") == 0 ? config.tax_percent : 0;
}

/* Works out the totals of a draft from its lines. */
void
invoice_total(json_t *invoice)
{
	int64_t subtotal = 0;
	int64_t tax = 0;
	json_t *line;
	json_t *taxes = json_array();
	double percent = tax_percent(invoice);
	size_t i;

	json_array_foreach (lines_of(invoice), i, line)
	{
		subtotal += get_int(line, "amount");
		tax += tax_line(line, percent);
	}
	if (percent > 0)
		json_array_append_new(taxes,
							  json_pack("{s:I, s:s, s:{s:s}, s:s, s:I, s:s}", "amount",
										(json_int_t) tax, "tax_behavior", "exclusive",
										"tax_rate_details", "tax_rate", "txr_sandbox",
										"taxability_reason", "standard_rated", "taxable_amount",
										(json_int_t) subtotal, "type", "tax_rate_details"));
	json_object_set_new(invoice, "total_taxes", taxes);
	set_int(invoice, "subtotal", subtotal);
	set_int(invoice, "subtotal_excluding_tax", subtotal);
	set_int(invoice, "total", subtotal + tax);
	set_int(invoice, "total_excluding_tax", subtotal);
	set_int(invoice, "amount_due", subtotal + tax > 0 ? subtotal + tax : 0);
	set_int(invoice, "amount_remaining", subtotal + tax > 0 ? subtotal + tax : 0);
	set_int(json_object_get(invoice, "lines"), "total_count",
			(int64_t) json_array_size(lines_of(invoice)));
}

static void
add_defaults(json_t *json)
{
	int64_t now = clock_seconds();
	char url[128];
	json_t *defaults =
		json_pack("{s:s, s:i, s:i, s:b, s:{s:b}, s:s, s:s, s:s, s:n, s:[], s:[], s:n, s:I}",
				  "account_country", "US", "amount_paid", 0, "attempt_count", 0, "attempted", 0,
				  "automatic_tax", "enabled", 0, "billing_reason", "manual", "collection_method",
				  "charge_automatically", "currency", "usd", "description", "discounts",
				  "default_tax_rates", "due_date", "effective_at", (json_int_t) now);
	json_t *more =
		json_pack("{s:n, s:n, s:b, s:n, s:I, s:I, s:i, s:i, s:s, s:{s:n, s:n, s:n, s:n}, s:{}}",
				  "next_payment_attempt", "number", "auto_advance", 0, "parent", "period_start",
				  (json_int_t) now, "period_end", (json_int_t) now, "starting_balance", 0,
				  "amount_overpaid", 0, "status", "draft", "status_transitions", "finalized_at",
				  "marked_uncollectible_at", "paid_at", "voided_at", "metadata");

	snprintf(url, sizeof(url), "/v1/invoices/%s/lines", get_string(json, "id"));
	add_missing(json, defaults);
	add_missing(json, more);
	json_object_set_new(json, "lines",
						json_pack("{s:s, s:[], s:b, s:i, s:s}", "object", "list", "data",
								  "has_more", 0, "total_count", 0, "url", url));
}

/* A draft as the billing engine makes it; not yet in the collection. */
json_t *
invoice_new(const char *customer, const char *currency, const char *collection)
{
	json_t *json = stripe_new_json(&invoices);

	set_string(json, "customer", customer);
	set_string(json, "currency", currency);
	set_string(json, "collection_method", collection);
	add_defaults(json);
	return json;
}

static void
set_due_date(json_t *json, int64_t days)
{
	set_int(json, "due_date", clock_seconds() + days * 86400);
}

static bool
create_invoice(Call *call, json_t *json)
{
	const Obj *customer = stripe_find(call, &customers, "customer", param_string(call, "customer"));

	if (customer == NULL)
		return false;
	add_defaults(json);
	json_object_set(json, "customer_email", json_object_get(customer->json, "email"));
	json_object_set(json, "customer_name", json_object_get(customer->json, "name"));
	json_object_set(json, "customer_address", json_object_get(customer->json, "address"));
	if (param_given(call, "days_until_due"))
		set_due_date(json, param_int(call, "days_until_due", 0));
	invoice_total(json);
	return true;
}

static bool
created_invoice(Call *call, Obj *obj)
{
	const char *pending = param_string(call, "pending_invoice_items_behavior");

	if (pending != NULL && strcmp(pending, "include") == 0)
		(void) invoice_collect_items(call, obj);
	return true;
}

static bool
update_invoice(Call *call, Obj *obj)
{
	bool plain = true;
	const char *name;
	json_t *value;

	json_object_foreach (call->params, name, value)
		plain = plain && in_list("metadata,description,auto_advance,expand", name);
	if (!has_status(obj, "draft") && !plain)
		return stripe_error(call, 400, "invalid_request_error", "invoice_not_editable", NULL,
							"Finalized invoices can't be updated in this way");
	if (param_given(call, "days_until_due"))
		set_due_date(obj->json, param_int(call, "days_until_due", 0));
	return true;
}

static bool
remove_invoice(Call *call, Obj *obj)
{
	if (!has_status(obj, "draft"))
		return stripe_error(call, 400, "invalid_request_error", "invoice_not_editable", "id",
							"You can only delete draft invoices.");
	change_remove(call, &invoices, obj);
	return true;
}

static void
set_transition(json_t *invoice, const char *name)
{
	set_int(json_object_get(invoice, "status_transitions"), name, clock_seconds());
}

/* Numbers run by customer, without gaps: PREFIX-0001, … */
static void
give_number(json_t *invoice)
{
	Obj *customer = store_get(&customers.coll, get_string(invoice, "customer"));
	const char *prefix = customer ? get_string(customer->json, "invoice_prefix") : NULL;
	int64_t next = customer ? get_int(customer->json, "next_invoice_sequence") : 1;

	json_object_set_new(invoice, "number",
						json_sprintf("%s-%04lld", prefix ? prefix : "DELETED", (long long) next));
	if (prefix != NULL)
		set_int(customer->json, "next_invoice_sequence", next + 1);
}

static void
mark_paid(Call *call, Obj *obj)
{
	json_t *before = change_begin(obj);

	set_string(obj->json, "status", "paid");
	set_int(obj->json, "amount_paid", get_int(obj->json, "amount_due"));
	set_int(obj->json, "amount_remaining", 0);
	json_object_set_new(obj->json, "attempted", json_true());
	set_transition(obj->json, "paid_at");
	change_end(call, &invoices, obj, before, "updated");
	stripe_emit(call, "invoice.paid", obj, NULL);
	stripe_emit(call, "invoice.payment_succeeded", obj, NULL);
}

bool
invoice_finalize(Call *call, Obj *obj)
{
	json_t *before;

	if (!has_status(obj, "draft"))
		return stripe_error(call, 400, "invalid_request_error", "invoice_not_editable", NULL,
							"This invoice is already finalized, you can't re-finalize a non-draft "
							"invoice.");
	before = change_begin(obj);
	invoice_total(obj->json);
	give_number(obj->json);
	set_string(obj->json, "status", "open");
	set_int(obj->json, "effective_at", clock_seconds());
	set_transition(obj->json, "finalized_at");
	change_end(call, &invoices, obj, before, "updated");
	stripe_emit(call, "invoice.finalized", obj, NULL);
	if (get_int(obj->json, "amount_due") == 0)
		mark_paid(call, obj);
	return true;
}

/* A subscription follows the payment of its invoices. */
static void
tell_subscription(Call *call, const json_t *invoice, bool paid)
{
	const json_t *details =
		json_object_get(json_object_get(invoice, "parent"), "subscription_details");
	const char *id = get_string(details, "subscription");
	Obj *sub = id ? store_get(&subscriptions.coll, id) : NULL;
	const char *from = paid ? "past_due" : "active";
	json_t *before;

	if (sub == NULL || strcmp(get_string(sub->json, "status"), from) != 0)
		return;
	before = change_begin(sub);
	set_string(sub->json, "status", paid ? "active" : "past_due");
	change_end(call, &subscriptions, sub, before, "updated");
}

static void
record_payment(Call *call, const Obj *invoice, const Obj *intent)
{
	json_t *json = stripe_new_json(&invoice_payments);
	int64_t received = get_int(intent->json, "amount_received");
	Obj *payment;
	json_t *rest = json_pack("{s:I, s:I, s:O, s:s, s:b, s:{s:s, s:s}, s:s}", "amount_paid",
							 (json_int_t) received, "amount_requested",
							 (json_int_t) get_int(intent->json, "amount"), "currency",
							 json_object_get(intent->json, "currency"), "invoice", invoice->id,
							 "is_default", 1, "payment", "payment_intent", intent->id, "type",
							 "payment_intent", "status", received > 0 ? "paid" : "open");

	add_missing(json, rest);
	payment = stripe_insert(call, &invoice_payments, json);
	if (received > 0)
		stripe_emit(call, "invoice_payment.paid", payment, NULL);
}

/* Tries to take the money. False: the payment failed, the invoice stays open. */
bool
invoice_collect_payment(Call *call, Obj *obj)
{
	Obj *intent = payment_attempt(call, obj->json);
	bool paid = strcmp(get_string(intent->json, "status"), "succeeded") == 0;
	json_t *before = change_begin(obj);

	record_payment(call, obj, intent);
	set_int(obj->json, "attempt_count", get_int(obj->json, "attempt_count") + 1);
	json_object_set_new(obj->json, "attempted", json_true());
	change_end(call, &invoices, obj, before, "updated");
	if (paid)
		mark_paid(call, obj);
	else
		stripe_emit(call, "invoice.payment_failed", obj, NULL);
	tell_subscription(call, obj->json, paid);
	return paid;
}

static bool
run_finalize(Call *call, Obj *obj)
{
	return invoice_finalize(call, obj);
}

static bool
run_pay(Call *call, Obj *obj)
{
	if (has_status(obj, "paid"))
		return stripe_error(call, 400, "invalid_request_error", "invoice_already_paid", NULL,
							"Invoice is already paid");
	if (has_status(obj, "void"))
		return stripe_error(call, 400, "invalid_request_error", "invoice_not_editable", NULL,
							"Invoice is voided");
	if (has_status(obj, "draft"))
		(void) invoice_finalize(call, obj);
	if (has_status(obj, "paid"))
		return true;
	if (param_bool(call, "paid_out_of_band"))
		mark_paid(call, obj);
	else if (!invoice_collect_payment(call, obj))
	{
		/* the attempt itself, with its objects, has happened */
		stripe_effect(call, "invoice", obj);
		return stripe_error(call, 402, "card_error", "card_declined", NULL,
							"Your card was declined.");
	}
	return true;
}

static bool
change_status(Call *call, Obj *obj, const char *status, const char *transition, const char *event)
{
	json_t *before;

	if (!has_status(obj, "open") && !has_status(obj, "uncollectible"))
		return stripe_error(call, 400, "invalid_request_error", "invoice_not_open", NULL,
							"This invoice is %s: it cannot become %s.",
							get_string(obj->json, "status"), status);
	before = change_begin(obj);
	set_string(obj->json, "status", status);
	set_transition(obj->json, transition);
	change_end(call, &invoices, obj, before, "updated");
	stripe_emit(call, event, obj, NULL);
	return true;
}

static bool
run_void(Call *call, Obj *obj)
{
	return change_status(call, obj, "void", "voided_at", "invoice.voided");
}

static bool
run_mark_uncollectible(Call *call, Obj *obj)
{
	return change_status(call, obj, "uncollectible", "marked_uncollectible_at",
						 "invoice.marked_uncollectible");
}

static const Param invoice_params[] = {
	{"auto_advance", P_BOOL, PF_STORE, NULL},
	{"automatic_tax", P_HASH, 0, "enabled,liability"},
	{"collection_method", P_ENUM, PF_STORE, "charge_automatically,send_invoice"},
	{"currency", P_CURRENCY, PF_STORE | PF_CREATE, NULL},
	{"custom_fields", P_LIST, PF_STORE, "name,value"},
	{"customer", P_TEXT, PF_STORE | PF_REQUIRED | PF_CREATE, NULL},
	{"days_until_due", P_AMOUNT, 0, NULL},
	{"description", P_TEXT, PF_STORE, NULL},
	{"due_date", P_TIME, PF_STORE, NULL},
	{"footer", P_TEXT, PF_STORE, NULL},
	{"metadata", P_METADATA, PF_STORE, NULL},
	{"pending_invoice_items_behavior", P_ENUM, PF_CREATE, "include,exclude"},
	{"statement_descriptor", P_TEXT, PF_STORE, NULL},
	{.name = NULL},
};

static const Param pay_params[] = {
	{"off_session", P_BOOL, 0, NULL},
	{"paid_out_of_band", P_BOOL, 0, NULL},
	{"payment_method", P_TEXT, 0, NULL},
	{"source", P_TEXT, 0, NULL},
	{.name = NULL},
};

static const Param finalize_params[] = {{"auto_advance", P_BOOL, 0, NULL}, {.name = NULL}};

static const Action invoice_actions[] = {
	{"finalize", finalize_params, run_finalize},
	{"pay", pay_params, run_pay},
	{"void", NULL, run_void},
	{"mark_uncollectible", NULL, run_mark_uncollectible},
	{.verb = NULL},
};

Resource invoices = {
	.object = "invoice",
	.path = "invoices",
	.prefix = "in_1",
	.digits = 23,
	.event = "invoice",
	.params = invoice_params,
	.filters = "customer,status,subscription,collection_method",
	.searchable = true,
	.create = create_invoice,
	.created = created_invoice,
	.update = update_invoice,
	.remove = remove_invoice,
	.actions = invoice_actions,
	.coll = {.indexed = "customer,subscription"},
};

Resource invoice_payments = {
	.object = "invoice_payment",
	.path = "invoice_payments",
	.prefix = "inpay_1",
	.digits = 23,
	.filters = "invoice,status",
	.coll = {.indexed = "invoice"},
};
