/*
 * stripe_invoiceitem.c
 *		Items that become lines of an invoice, at once or when one is made.
 */
#include <string.h>

#include "clock.h"
#include "stripe.h"

/* Turns a pending or new item into a line of the draft. */
static void
item_to_line(Obj *item, json_t *invoice)
{
	json_t *line = json_deep_copy(json_object_get(item->hidden, "line"));

	json_object_set_new(line, "parent",
						json_pack("{s:{s:s, s:b, s:n}, s:n, s:s}", "invoice_item_details",
								  "invoice_item", item->id, "proration", 0, "subscription",
								  "subscription_item_details", "type", "invoice_item_details"));
	json_object_set(line, "description", json_object_get(item->json, "description"));
	json_object_set_new(line, "metadata", json_deep_copy(json_object_get(item->json, "metadata")));
	json_object_set(item->json, "invoice", json_object_get(invoice, "id"));
	invoice_add_line(invoice, line);
}

/* Adds the customer's pending items to the draft; returns how many. */
size_t
invoice_collect_items(Call *call, Obj *invoice)
{
	json_t *before = change_begin(invoice);
	Hits items =
		store_by_reference(&invoiceitems.coll, "customer", get_string(invoice->json, "customer"));
	size_t added = 0;

	for (size_t i = 0; i < items.count; i++)
	{
		Obj *item = store_get(&invoiceitems.coll, items.rows[i]->id);

		if (item->deleted || !json_is_null(json_object_get(item->json, "invoice")) ||
			strcmp(get_string(item->json, "customer"), get_string(invoice->json, "customer")) !=
				0 ||
			strcmp(get_string(item->json, "currency"), get_string(invoice->json, "currency")) != 0)
			continue;
		item_to_line(item, invoice->json);
		added++;
	}
	free(items.rows);
	invoice_total(invoice->json);
	change_end(call, &invoices, invoice, before, "updated");
	return added;
}

/* The line that an item stands for: of a price, or of a plain amount. */
static json_t *
item_line(Call *call, const char *currency)
{
	const json_t *pricing = json_object_get(call->params, "pricing");
	const char *price_id = get_string(pricing, "price");
	int64_t now = clock_seconds();
	int64_t quantity = param_int(call, "quantity", 1);
	json_t *plain;
	json_t *line;

	if (price_id != NULL)
	{
		const Obj *price = stripe_find(call, &prices, "pricing[price]", price_id);

		return price ? invoice_line(price->json, quantity, now, now) : NULL;
	}
	if (!param_given(call, "amount") && !param_given(call, "unit_amount_decimal"))
	{
		(void) stripe_error(call, 400, "invalid_request_error", "parameter_missing", "amount",
							"Missing required param: amount.");
		return NULL;
	}
	plain = json_pack("{s:s, s:s}", "currency", currency, "unit_amount_decimal",
					  param_given(call, "amount") ? param_string(call, "amount")
												  : param_string(call, "unit_amount_decimal"));
	line = invoice_line(plain, param_given(call, "amount") ? 1 : quantity, now, now);
	json_decref(plain);
	return line;
}

static bool
create_invoiceitem(Call *call, json_t *json)
{
	const char *currency = param_string(call, "currency");
	const char *invoice_id = param_string(call, "invoice");
	const Obj *invoice = NULL;
	json_t *line;

	if (stripe_find(call, &customers, "customer", param_string(call, "customer")) == NULL)
		return false;
	if (invoice_id != NULL)
	{
		invoice = stripe_find(call, &invoices, "invoice", invoice_id);
		if (invoice == NULL)
			return false;
		if (strcmp(get_string(invoice->json, "status"), "draft") != 0)
			return stripe_error(call, 400, "invalid_request_error", "invoice_not_editable",
								"invoice", "This invoice is no longer editable.");
	}
	if (currency == NULL)
		currency = invoice ? get_string(invoice->json, "currency") : "usd";
	line = item_line(call, currency);
	if (line == NULL)
		return false;
	set_string(json, "currency", get_string(line, "currency"));
	set_string(json, "invoice", invoice_id);
	json_object_set(json, "amount", json_object_get(line, "amount"));
	json_object_set(json, "quantity", json_object_get(line, "quantity"));
	json_object_set(json, "period", json_object_get(line, "period"));
	json_object_set(json, "pricing", json_object_get(line, "pricing"));
	set_int(json, "date", clock_seconds());
	if (json_object_get(json, "description") == NULL)
		set_null(json, "description");
	json_object_set_new(json, "proration", json_false());
	/* until the object exists, the line travels with the parameters */
	json_object_set_new(call->params, "line", line);
	return true;
}

static bool
created_invoiceitem(Call *call, Obj *obj)
{
	const char *invoice_id = get_string(obj->json, "invoice");
	Obj *invoice = invoice_id ? store_get(&invoices.coll, invoice_id) : NULL;
	json_t *before;

	obj->hidden = json_pack("{s:O}", "line", json_object_get(call->params, "line"));
	if (invoice == NULL)
		return true;
	before = change_begin(invoice);
	item_to_line(obj, invoice->json);
	invoice_total(invoice->json);
	change_end(call, &invoices, invoice, before, "updated");
	return true;
}

static bool
remove_invoiceitem(Call *call, Obj *obj)
{
	if (!json_is_null(json_object_get(obj->json, "invoice")))
		return stripe_error(call, 400, "invalid_request_error", NULL, "id",
							"This invoice item is attached to an invoice and cannot be deleted.");
	change_remove(call, &invoiceitems, obj);
	return true;
}

static const Param invoiceitem_params[] = {
	{"amount", P_INT, PF_CREATE, NULL},
	{"currency", P_CURRENCY, PF_CREATE, NULL},
	{"customer", P_TEXT, PF_STORE | PF_REQUIRED | PF_CREATE, NULL},
	{"description", P_TEXT, PF_STORE, NULL},
	{"invoice", P_TEXT, PF_CREATE, NULL},
	{"metadata", P_METADATA, PF_STORE, NULL},
	{"pricing", P_HASH, PF_CREATE, "price"},
	{"quantity", P_AMOUNT, PF_CREATE, NULL},
	{"unit_amount_decimal", P_DECIMAL, PF_CREATE, NULL},
	{.name = NULL},
};

Resource invoiceitems = {
	.object = "invoiceitem",
	.path = "invoiceitems",
	.prefix = "ii_1",
	.digits = 23,
	.event = "invoiceitem",
	.params = invoiceitem_params,
	.filters = "customer,invoice",
	.create = create_invoiceitem,
	.created = created_invoiceitem,
	.remove = remove_invoiceitem,
	.coll = {.indexed = "customer,invoice"},
};
