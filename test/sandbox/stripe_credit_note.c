/*
 * stripe_credit_note.c
 *		Credit notes on finalised invoices.
 *
 * On an open invoice they reduce what is still to be paid; on a paid one they are refunded
 * (refund_amount), kept for the customer (credit_amount) or settled elsewhere (out_of_band_amount).
 * A line that credits a line of the invoice credits its tax in proportion.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "form.h"
#include "stripe.h"

static Obj *
invoice_of(Call *call)
{
	Obj *invoice = stripe_find(call, &invoices, "invoice", param_string(call, "invoice"));

	if (invoice == NULL || in_list("open,paid", get_string(invoice->json, "status")))
		return invoice;
	(void)
		stripe_error(call, 400, "invalid_request_error", NULL, "invoice",
					 "Credit notes can only be created on open or paid invoices; this one is %s.",
					 get_string(invoice->json, "status"));
	return NULL;
}

static const json_t *
find_line(const json_t *invoice, const char *id)
{
	json_t *line;
	size_t i;

	json_array_foreach (json_object_get(json_object_get(invoice, "lines"), "data"), i, line)
	{
		if (id != NULL && strcmp(get_string(line, "id"), id) == 0)
			return line;
	}
	return NULL;
}

/* The part of a line's tax that belongs to the part of its amount. */
static json_t *
credited_taxes(const json_t *line, int64_t amount, int64_t *sum)
{
	json_t *taxes = json_deep_copy(json_object_get(line, "taxes"));
	int64_t whole = get_int(line, "amount");
	json_t *tax;
	size_t i;

	json_array_foreach (taxes, i, tax)
	{
		int64_t part = llround((double) get_int(tax, "amount") * (double) amount /
							   (double) (whole != 0 ? whole : 1));

		set_int(tax, "amount", part);
		set_int(tax, "taxable_amount", amount);
		*sum += part;
	}
	return taxes ? taxes : json_array();
}

static json_t *
new_line(const char *type, const json_t *of, const char *description, int64_t amount,
		 int64_t quantity)
{
	char id[64];
	json_t *line;

	make_id(id, sizeof(id), "cnli_1", 23);
	line =
		json_pack("{s:s, s:s, s:I, s:s?, s:i, s:[], s:b, s:{}, s:[], s:I, s:[], s:s, s:n, s:n}",
				  "id", id, "object", "credit_note_line_item", "amount", (json_int_t) amount,
				  "description", description, "discount_amount", 0, "discount_amounts", "livemode",
				  0, "metadata", "pretax_credit_amounts", "quantity", (json_int_t) quantity,
				  "tax_rates", "type", type, "unit_amount", "unit_amount_decimal");
	if (of != NULL)
		set_string(line, "invoice_line_item", get_string(of, "id"));
	return line;
}

static int64_t
number_of(const json_t *json, const char *name)
{
	const char *text = get_string(json, name);

	return text ? strtoll(text, NULL, 10) : 0;
}

/* The taxes that a line of its own is to have, as they are given. */
static json_t *
given_taxes(const json_t *wish, int64_t *sum)
{
	json_t *wishes = form_list(json_object_get(wish, "tax_amounts"));
	json_t *taxes = json_array();
	json_t *one;
	size_t i;

	json_array_foreach (wishes, i, one)
	{
		int64_t amount = number_of(one, "amount");

		*sum += amount;
		json_array_append_new(taxes,
							  json_pack("{s:I, s:s, s:{s:s?}, s:s, s:I, s:s}", "amount",
										(json_int_t) amount, "tax_behavior", "exclusive",
										"tax_rate_details", "tax_rate", get_string(one, "tax_rate"),
										"taxability_reason", "standard_rated", "taxable_amount",
										(json_int_t) number_of(one, "taxable_amount"), "type",
										"tax_rate_details"));
	}
	json_decref(wishes);
	return taxes;
}

static json_t *
custom_line(const json_t *wish, int64_t quantity, int64_t *tax)
{
	const char *unit = get_string(wish, "unit_amount_decimal");
	json_t *line;

	if (unit == NULL)
		unit = get_string(wish, "unit_amount");
	line = new_line("custom_line_item", NULL, get_string(wish, "description"),
					unit ? multiply_decimal(unit, quantity) : number_of(wish, "amount"), quantity);
	set_string(line, "unit_amount_decimal", unit);
	json_object_set_new(line, "taxes", given_taxes(wish, tax));
	return line;
}

/* One line as asked for. NULL: an error has been answered. */
static json_t *
credited_line(Call *call, const json_t *invoice, const json_t *wish, int64_t *tax)
{
	const char *type = get_string(wish, "type");
	const char *amount_text = get_string(wish, "amount");
	const char *quantity_text = get_string(wish, "quantity");
	int64_t quantity = quantity_text ? strtoll(quantity_text, NULL, 10) : 1;
	int64_t amount = amount_text ? strtoll(amount_text, NULL, 10) : 0;
	const json_t *of = find_line(invoice, get_string(wish, "invoice_line_item"));
	json_t *line;

	if (type != NULL && strcmp(type, "custom_line_item") == 0)
		return custom_line(wish, quantity, tax);
	if (of == NULL)
	{
		(void) stripe_missing(call, "line_item", "lines[invoice_line_item]",
							  get_string(wish, "invoice_line_item"));
		call->reply->status = 400;
		return NULL;
	}
	if (amount_text == NULL)
		amount = get_int(of, "amount") * quantity /
				 (get_int(of, "quantity") ? get_int(of, "quantity") : 1);
	line = new_line("invoice_line_item", of, get_string(of, "description"), amount, quantity);
	json_object_set_new(line, "taxes", credited_taxes(of, amount, tax));
	return line;
}

static bool
add_lines(Call *call, const json_t *invoice, json_t *json, int64_t *net, int64_t *tax)
{
	json_t *wishes = param_list(call, "lines");
	json_t *lines = json_array();
	bool ok = true;
	json_t *wish;
	size_t i;

	json_array_foreach (wishes, i, wish)
	{
		json_t *line = credited_line(call, invoice, wish, tax);

		ok = line != NULL;
		if (!ok)
			break;
		*net += get_int(line, "amount");
		json_array_append_new(lines, line);
	}
	json_decref(wishes);
	if (ok && json_array_size(lines) == 0)
	{
		json_t *line =
			new_line("custom_line_item", NULL, "Credit", param_int(call, "amount", 0), 1);

		json_object_set_new(line, "taxes", json_array());
		*net = get_int(line, "amount");
		json_array_append_new(lines, line);
	}
	json_object_set_new(
		json, "lines",
		json_pack("{s:s, s:o, s:b, s:o}", "object", "list", "data", lines, "has_more", 0, "url",
				  json_sprintf("/v1/credit_notes/%s/lines", get_string(json, "id"))));
	return ok;
}

/* Numbers run by invoice: A-0001-CN-01, … */
static void
give_number(json_t *json, Obj *invoice)
{
	int64_t next;

	if (invoice->hidden == NULL)
		invoice->hidden = json_object();
	next = get_int(invoice->hidden, "credit_notes") + 1;
	set_int(invoice->hidden, "credit_notes", next);
	json_object_set_new(json, "number",
						json_sprintf("%s-CN-%02lld", get_string(invoice->json, "number"),
									 (long long) next));
}

static void
set_totals(json_t *json, const json_t *invoice, int64_t net, int64_t tax)
{
	bool open = strcmp(get_string(invoice, "status"), "open") == 0;
	json_t *taxes = json_array();
	json_t *line;
	size_t i;

	json_array_foreach (json_object_get(json_object_get(json, "lines"), "data"), i, line)
		json_array_extend(taxes, json_object_get(line, "taxes"));
	add_missing(json, json_pack("{s:I, s:i, s:n, s:n, s:i, s:[], s:n, s:I, s:I, s:[], s:[], s:n}",
								"amount", (json_int_t) (net + tax), "amount_shipping", 0,
								"customer_account", "customer_balance_transaction",
								"discount_amount", 0, "discount_amounts", "out_of_band_amount",
								"post_payment_amount", (json_int_t) (open ? 0 : net + tax),
								"pre_payment_amount", (json_int_t) (open ? net + tax : 0),
								"pretax_credit_amounts", "refunds", "shipping_cost"));
	add_missing(json,
				json_pack("{s:s, s:I, s:I, s:I, s:I, s:o, s:s, s:n, s:n, s:n, s:s}", "status",
						  "issued", "subtotal", (json_int_t) net, "subtotal_excluding_tax",
						  (json_int_t) net, "total", (json_int_t) (net + tax),
						  "total_excluding_tax", (json_int_t) net, "total_taxes", taxes, "type",
						  open ? "pre_payment" : "post_payment", "voided_at", "memo", "reason",
						  "pdf", "https://pay.stripe.com/credit_notes/sandbox/pdf"));
}

static bool
create_credit_note(Call *call, json_t *json)
{
	Obj *invoice = invoice_of(call);
	int64_t net = 0;
	int64_t tax = 0;

	if (invoice == NULL || !add_lines(call, invoice->json, json, &net, &tax))
		return false;
	if (net + tax < 1)
		return stripe_error(call, 400, "invalid_request_error", "parameter_missing", "amount",
							"You must pass either `amount` or `lines`.");
	if (strcmp(get_string(invoice->json, "status"), "open") == 0 &&
		net + tax > get_int(invoice->json, "amount_remaining"))
		return stripe_error(call, 400, "invalid_request_error", NULL, "amount",
							"The credit note total is greater than what remains of the invoice.");
	json_object_set(json, "currency", json_object_get(invoice->json, "currency"));
	json_object_set(json, "customer", json_object_get(invoice->json, "customer"));
	if (!param_given(call, "effective_at"))
		set_int(json, "effective_at", clock_seconds());
	give_number(json, invoice);
	set_totals(json, invoice->json, net, tax);
	return true;
}

static void
credit_invoice(Call *call, const json_t *json, int sign)
{
	Obj *invoice = store_get(&invoices.coll, get_string(json, "invoice"));
	int64_t before_payment = sign * get_int(json, "pre_payment_amount");
	int64_t after_payment = sign * get_int(json, "post_payment_amount");
	json_t *inv = invoice->json;
	json_t *before = change_begin(invoice);

	set_int(inv, "pre_payment_credit_notes_amount",
			get_int(inv, "pre_payment_credit_notes_amount") + before_payment);
	set_int(inv, "post_payment_credit_notes_amount",
			get_int(inv, "post_payment_credit_notes_amount") + after_payment);
	set_int(inv, "amount_due", get_int(inv, "amount_due") - before_payment);
	set_int(inv, "amount_remaining", get_int(inv, "amount_remaining") - before_payment);
	if (before_payment > 0 && get_int(inv, "amount_remaining") == 0)
		set_string(inv, "status", "paid");
	change_end(call, &invoices, invoice, before, "updated");
	if (before_payment > 0 && get_int(inv, "amount_remaining") == 0)
		stripe_emit(call, "invoice.paid", invoice, NULL);
}

static bool
created_credit_note(Call *call, Obj *obj)
{
	int64_t refunded = param_int(call, "refund_amount", 0);
	Obj *refund;

	credit_invoice(call, obj->json, 1);
	if (refunded == 0)
		return true;
	refund = refund_invoice(call, get_string(obj->json, "invoice"), refunded);
	if (refund == NULL)
		return false;
	json_array_append_new(json_object_get(obj->json, "refunds"),
						  json_pack("{s:I, s:n, s:s, s:s}", "amount_refunded",
									(json_int_t) refunded, "payment_record_refund", "refund",
									refund->id, "type", "refund"));
	return true;
}

static bool
run_void(Call *call, Obj *obj)
{
	json_t *before;

	if (strcmp(get_string(obj->json, "status"), "void") == 0 ||
		get_int(obj->json, "post_payment_amount") > 0)
		return stripe_error(call, 400, "invalid_request_error", NULL, NULL,
							"Only issued credit notes on open invoices can be voided.");
	before = change_begin(obj);
	set_string(obj->json, "status", "void");
	set_int(obj->json, "voided_at", clock_seconds());
	change_end(call, &credit_notes, obj, before, "voided");
	credit_invoice(call, obj->json, -1);
	return true;
}

static const Param credit_note_params[] = {
	{"amount", P_AMOUNT, PF_CREATE, NULL},
	{"credit_amount", P_AMOUNT, PF_CREATE, NULL},
	{"effective_at", P_TIME, PF_STORE | PF_CREATE, NULL},
	{"email_type", P_ENUM, PF_CREATE, "credit_note,none"},
	{"invoice", P_TEXT, PF_STORE | PF_REQUIRED | PF_CREATE, NULL},
	{"lines", P_LIST, PF_CREATE,
	 "amount,description,invoice_line_item,metadata,quantity,tax_amounts,tax_rates,type,"
	 "unit_amount,unit_amount_decimal"},
	{"memo", P_TEXT, PF_STORE, NULL},
	{"metadata", P_METADATA, PF_STORE, NULL},
	{"out_of_band_amount", P_AMOUNT, PF_STORE | PF_CREATE, NULL},
	{"reason", P_ENUM, PF_STORE | PF_CREATE,
	 "duplicate,fraudulent,order_change,product_unsatisfactory"},
	{"refund_amount", P_AMOUNT, PF_CREATE, NULL},
	{.name = NULL},
};

static const Action credit_note_actions[] = {
	{"void", NULL, run_void},
	{.verb = NULL},
};

Resource credit_notes = {
	.object = "credit_note",
	.path = "credit_notes",
	.prefix = "cn_1",
	.digits = 23,
	.event = "credit_note",
	.params = credit_note_params,
	.filters = "customer,invoice",
	.create = create_credit_note,
	.created = created_credit_note,
	.actions = credit_note_actions,
	.coll = {.indexed = "customer,invoice"},
};
