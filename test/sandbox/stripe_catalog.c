/*
 * stripe_catalog.c
 *		Customers, products and prices.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "pipeline.h"
#include "stripe.h"

static const char address_members[] = "city,country,line1,line2,postal_code,state";

static bool
create_customer(Call *call, json_t *json)
{
	char prefix[16];

	(void) call;
	make_id(prefix, sizeof(prefix), "", 8);
	for (char *c = prefix; *c; c++)
		*c = (char) (*c >= 'a' && *c <= 'z' ? *c - 32 : *c);
	add_missing(json, json_pack("{s:n, s:i, s:n, s:n, s:b, s:n, s:n, s:n}", "address", "balance", 0,
								"currency", "default_source", "delinquent", 0, "description",
								"discount", "email"));
	add_missing(json, json_pack("{s:s, s:{s:n, s:n, s:n, s:n}, s:n, s:i, s:n, s:[], s:n, s:s, s:n}",
								"invoice_prefix", prefix, "invoice_settings", "custom_fields",
								"default_payment_method", "footer", "rendering_options", "name",
								"next_invoice_sequence", 1, "phone", "preferred_locales",
								"shipping", "tax_exempt", "none", "test_clock"));
	return true;
}

/* Stripe cancels a deleted customer's subscriptions. */
static bool
remove_customer(Call *call, Obj *obj)
{
	Hits subs = store_by_reference(&subscriptions.coll, "customer", obj->id);

	for (size_t i = 0; i < subs.count; i++)
		(void) subscription_end(call, store_get(&subscriptions.coll, subs.rows[i]->id));
	free(subs.rows);
	change_remove(call, &customers, obj);
	return true;
}

static bool
create_product(Call *call, json_t *json)
{
	(void) call;
	add_missing(json, json_pack("{s:b, s:n, s:n, s:[], s:[], s:n, s:n, s:n, s:s, s:n, s:n, s:I}",
								"active", 1, "default_price", "description", "images",
								"marketing_features", "package_dimensions", "shippable",
								"statement_descriptor", "type", "service", "unit_label", "url",
								"updated", (json_int_t) clock_seconds()));
	return true;
}

static bool
update_product(Call *call, Obj *obj)
{
	(void) call;
	set_int(obj->json, "updated", clock_seconds());
	return true;
}

static bool
remove_product(Call *call, Obj *obj)
{
	Hits of_product = store_by_reference(&prices.coll, "product", obj->id);

	free(of_product.rows);
	if (of_product.count > 0)
		return stripe_error(call, 400, "invalid_request_error", NULL, "id",
							"This product cannot be deleted because it has one or more "
							"user-created prices.");
	change_remove(call, &products, obj);
	return true;
}

/* The product that a price names, or the one that product_data asks for. */
static bool
attach_product(Call *call, json_t *json)
{
	json_t *data = json_object_get(call->params, "product_data");
	json_t *product;
	const char *name = get_string(data, "name");

	if (data == NULL)
		return stripe_find(call, &products, "product", param_string(call, "product")) != NULL;
	if (name == NULL)
		return stripe_error(call, 400, "invalid_request_error", "parameter_missing",
							"product_data[name]", "Missing required param: product_data[name].");
	product = stripe_new_json(&products);
	set_string(product, "name", name);
	json_object_set_new(product, "metadata", json_object());
	(void) create_product(call, product);
	set_string(json, "product", get_string(product, "id"));
	(void) stripe_insert(call, &products, product);
	return true;
}

static bool
set_recurring(Call *call, json_t *json)
{
	const json_t *given = json_object_get(call->params, "recurring");
	const char *interval = get_string(given, "interval");
	const char *count = get_string(given, "interval_count");
	const char *usage = get_string(given, "usage_type");

	if (given == NULL)
	{
		set_null(json, "recurring");
		return true;
	}
	if (interval == NULL || !in_list("day,week,month,year", interval))
		return stripe_error(
			call, 400, "invalid_request_error", NULL, "recurring[interval]",
			"Invalid recurring[interval]: must be one of day, month, week, or year");
	json_object_set_new(json, "recurring",
						json_pack("{s:s, s:i, s:n, s:n, s:s}", "interval", interval,
								  "interval_count", count ? atoi(count) : 1, "meter",
								  "trial_period_days", "usage_type", usage ? usage : "licensed"));
	return true;
}

/* unit_amount is null where the decimal has a fraction, as with Stripe. */
static bool
set_amount(Call *call, json_t *json)
{
	const char *amount = param_string(call, "unit_amount");
	const char *decimal = param_string(call, "unit_amount_decimal");
	const char *point;

	if ((amount == NULL) == (decimal == NULL))
		return stripe_error(call, 400, "invalid_request_error", amount ? NULL : "parameter_missing",
							"unit_amount",
							"Exactly one of unit_amount and unit_amount_decimal must be given.");
	if (decimal == NULL)
		decimal = amount;
	set_string(json, "unit_amount_decimal", decimal);
	point = strchr(decimal, '.');
	if (point == NULL || point[1 + strspn(point + 1, "0")] == '\0')
		set_int(json, "unit_amount", strtoll(decimal, NULL, 10));
	else
		set_null(json, "unit_amount");
	return true;
}

static bool
create_price(Call *call, json_t *json)
{
	if (!set_amount(call, json) || !set_recurring(call, json) || !attach_product(call, json))
		return false;
	add_missing(json, json_pack("{s:b, s:s, s:n, s:n, s:n, s:s, s:n, s:n, s:s}", "active", 1,
								"billing_scheme", "per_unit", "custom_unit_amount", "lookup_key",
								"nickname", "tax_behavior", "unspecified", "tiers_mode",
								"transform_quantity", "type",
								json_is_object(json_object_get(json, "recurring")) ? "recurring"
																				   : "one_time"));
	return true;
}

static const Param customer_params[] = {
	{"address", P_HASH, PF_STORE, address_members},
	{"balance", P_INT, PF_STORE, NULL},
	{"business_name", P_TEXT, PF_STORE, NULL},
	{"cash_balance", P_HASH, 0, NULL},
	{"default_source", P_TEXT, PF_STORE | PF_UPDATE, NULL},
	{"description", P_TEXT, PF_STORE, NULL},
	{"email", P_EMAIL, PF_STORE, NULL},
	{"individual_name", P_TEXT, PF_STORE, NULL},
	{"invoice_prefix", P_TEXT, PF_STORE, NULL},
	{"invoice_settings", P_HASH, 0, NULL},
	{"metadata", P_METADATA, PF_STORE, NULL},
	{"name", P_TEXT, PF_STORE, NULL},
	{"next_invoice_sequence", P_AMOUNT, PF_STORE, NULL},
	{"payment_method", P_TEXT, PF_CREATE, NULL},
	{"phone", P_TEXT, PF_STORE, NULL},
	{"preferred_locales", P_LIST, PF_STORE, NULL},
	{"shipping", P_HASH, PF_STORE, "address,name,phone"},
	{"source", P_TEXT, 0, NULL},
	{"tax", P_HASH, 0, NULL},
	{"tax_exempt", P_ENUM, PF_STORE, "none,exempt,reverse"},
	{"tax_id_data", P_LIST, PF_CREATE, "type,value"},
	{"test_clock", P_TEXT, PF_CREATE, NULL},
	{.name = NULL},
};

static const Param product_params[] = {
	{"active", P_BOOL, PF_STORE, NULL},		  {"default_price", P_TEXT, PF_STORE | PF_UPDATE, NULL},
	{"description", P_TEXT, PF_STORE, NULL},  {"id", P_TEXT, PF_CREATE, NULL},
	{"images", P_LIST, PF_STORE, NULL},		  {"marketing_features", P_LIST, PF_STORE, "name"},
	{"metadata", P_METADATA, PF_STORE, NULL}, {"name", P_TEXT, PF_STORE | PF_REQUIRED, NULL},
	{"shippable", P_BOOL, PF_STORE, NULL},	  {"statement_descriptor", P_TEXT, PF_STORE, NULL},
	{"tax_code", P_TEXT, PF_STORE, NULL},	  {"unit_label", P_TEXT, PF_STORE, NULL},
	{"url", P_TEXT, PF_STORE, NULL},		  {.name = NULL},
};

static const Param price_params[] = {
	{"active", P_BOOL, PF_STORE, NULL},
	{"billing_scheme", P_ENUM, PF_CREATE, "per_unit"},
	{"currency", P_CURRENCY, PF_STORE | PF_REQUIRED | PF_CREATE, NULL},
	{"lookup_key", P_TEXT, PF_STORE, NULL},
	{"metadata", P_METADATA, PF_STORE, NULL},
	{"nickname", P_TEXT, PF_STORE, NULL},
	{"product", P_TEXT, PF_STORE | PF_CREATE, NULL},
	{"product_data", P_HASH, PF_CREATE,
	 "active,id,metadata,name,statement_descriptor,tax_code,unit_label"},
	{"recurring", P_HASH, PF_CREATE, "interval,interval_count,meter,trial_period_days,usage_type"},
	{"tax_behavior", P_ENUM, PF_STORE, "exclusive,inclusive,unspecified"},
	{"transfer_lookup_key", P_BOOL, 0, NULL},
	{"unit_amount", P_AMOUNT, PF_CREATE, NULL},
	{"unit_amount_decimal", P_DECIMAL, PF_CREATE, NULL},
	{.name = NULL},
};

Resource customers = {
	.object = "customer",
	.path = "customers",
	.prefix = "cus_",
	.digits = 14,
	.event = "customer",
	.params = customer_params,
	.filters = "email,test_clock",
	.searchable = true,
	.create = create_customer,
	.remove = remove_customer,
};

Resource products = {
	.object = "product",
	.path = "products",
	.prefix = "prod_",
	.digits = 14,
	.event = "product",
	.params = product_params,
	.filters = "active,url,type",
	.searchable = true,
	.own_ids = true,
	.create = create_product,
	.update = update_product,
	.remove = remove_product,
};

Resource prices = {
	.object = "price",
	.path = "prices",
	.prefix = "price_1",
	.digits = 23,
	.event = "price",
	.params = price_params,
	.filters = "active,currency,product,type,lookup_key",
	.searchable = true,
	.create = create_price,
	.coll = {.indexed = "product"},
};
