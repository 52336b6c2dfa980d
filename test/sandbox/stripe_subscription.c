/*
 * stripe_subscription.c
 *		Subscriptions and their items. Billing them is billing.c's business.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "stripe.h"

static json_t *
items_of(const json_t *subscription)
{
	return json_object_get(json_object_get(subscription, "items"), "data");
}

static int
days_in_month(int year, int month)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

	return days[month] + (month == 1 && leap);
}

/* A 31st stays the last day of shorter months and comes back as the 31st. */
static int64_t
add_months(int64_t from, int64_t anchor, int months)
{
	time_t t = (time_t) from;
	time_t a = (time_t) anchor;
	struct tm tm;
	struct tm anchor_tm;
	int last;

	gmtime_r(&t, &tm);
	gmtime_r(&a, &anchor_tm);
	tm.tm_year += (tm.tm_mon + months) / 12;
	tm.tm_mon = (tm.tm_mon + months) % 12;
	last = days_in_month(tm.tm_year + 1900, tm.tm_mon);
	tm.tm_mday = anchor_tm.tm_mday < last ? anchor_tm.tm_mday : last;
	return (int64_t) timegm(&tm);
}

/* The end of the period that starts at 'from'. */
int64_t
subscription_next(const json_t *subscription, int64_t from)
{
	const json_t *price = json_object_get(json_array_get(items_of(subscription), 0), "price");
	const json_t *recurring = json_object_get(price, "recurring");
	const char *interval = get_string(recurring, "interval");
	int count = (int) get_int(recurring, "interval_count");
	int64_t anchor = get_int(subscription, "billing_cycle_anchor");

	if (count < 1)
		count = 1;
	if (interval != NULL && strcmp(interval, "day") == 0)
		return from + 86400 * count;
	if (interval != NULL && strcmp(interval, "week") == 0)
		return from + 7 * 86400 * count;
	if (interval != NULL && strcmp(interval, "year") == 0)
		count *= 12;
	return add_months(from, anchor, count);
}

/* The price that an item is to have; answers an error if it does not fit. */
static Obj *
usable_price(Call *call, const json_t *subscription, const char *id)
{
	Obj *price = stripe_find(call, &prices, "items[price]", id);
	const char *currency = get_string(subscription, "currency");

	if (price == NULL)
		return NULL;
	if (!json_is_true(json_object_get(price->json, "active")))
		(void) stripe_error(call, 400, "invalid_request_error", "price_inactive", "items[price]",
							"The price specified is inactive.");
	else if (!json_is_object(json_object_get(price->json, "recurring")))
		(void) stripe_error(
			call, 400, "invalid_request_error", NULL, "items[price]",
			"The price specified is set to `type=one_time` but this field only accepts "
			"prices with `type=recurring`.");
	else if (currency != NULL && strcmp(currency, get_string(price->json, "currency")) != 0)
		(void) stripe_error(call, 400, "invalid_request_error", NULL, "items[price]",
							"All prices on a subscription must have the same currency.");
	else
		return price;
	return NULL;
}

static json_t *
new_item(const json_t *subscription, const json_t *price, int64_t quantity)
{
	const json_t *sibling = json_array_get(items_of(subscription), 0);
	char id[64];

	make_id(id, sizeof(id), "si_", 14);
	return json_pack("{s:s, s:s, s:n, s:I, s:I, s:I, s:[], s:{}, s:O, s:I, s:O, s:[]}", "id", id,
					 "object", "subscription_item", "billing_thresholds", "created",
					 (json_int_t) clock_seconds(), "current_period_start",
					 (json_int_t) get_int(sibling, "current_period_start"), "current_period_end",
					 (json_int_t) get_int(sibling, "current_period_end"), "discounts", "metadata",
					 "price", price, "quantity", (json_int_t) quantity, "subscription",
					 json_object_get(subscription, "id"), "tax_rates");
}

static json_t *
find_item(json_t *subscription, const char *id, size_t *index)
{
	json_t *item;
	size_t i;

	json_array_foreach (items_of(subscription), i, item)
	{
		*index = i;
		if (strcmp(get_string(item, "id"), id) == 0)
			return item;
	}
	return NULL;
}

static bool
change_item(Call *call, json_t *subscription, const json_t *given)
{
	const char *id = get_string(given, "id");
	const char *price_id = get_string(given, "price");
	const char *quantity = get_string(given, "quantity");
	const char *deleted = get_string(given, "deleted");
	size_t index;
	json_t *item = find_item(subscription, id, &index);
	Obj *price;

	if (item == NULL)
		return stripe_missing(call, "subscription_item", "items[id]", id);
	if (deleted != NULL && strcmp(deleted, "true") == 0)
	{
		json_array_remove(items_of(subscription), index);
		return true;
	}
	if (price_id != NULL)
	{
		price = usable_price(call, subscription, price_id);
		if (price == NULL)
			return false;
		json_object_set(item, "price", price->json);
	}
	if (quantity != NULL)
		set_int(item, "quantity", strtoll(quantity, NULL, 10));
	return true;
}

static bool
add_item(Call *call, json_t *subscription, const json_t *given)
{
	const char *quantity = get_string(given, "quantity");
	Obj *price = usable_price(call, subscription, get_string(given, "price"));
	json_t *item;

	if (price == NULL)
		return false;
	item = new_item(subscription, price->json, quantity ? strtoll(quantity, NULL, 10) : 1);
	set_string(subscription, "currency", get_string(price->json, "currency"));
	if (json_is_object(json_object_get(given, "metadata")))
		json_object_set(item, "metadata", json_object_get(given, "metadata"));
	json_array_append_new(items_of(subscription), item);
	return true;
}

static bool
apply_items(Call *call, json_t *subscription)
{
	json_t *given = param_list(call, "items");
	json_t *item;
	bool ok = true;
	size_t i;

	json_array_foreach (given, i, item)
	{
		if (!ok)
			break;
		ok = get_string(item, "id") != NULL ? change_item(call, subscription, item)
											: add_item(call, subscription, item);
	}
	json_decref(given);
	if (ok && json_array_size(items_of(subscription)) == 0)
		ok = stripe_error(call, 400, "invalid_request_error", "parameter_missing", "items",
						  "A subscription must have at least one item.");
	set_int(json_object_get(subscription, "items"), "total_count",
			(int64_t) json_array_size(items_of(subscription)));
	return ok;
}

static void
set_period(json_t *subscription, int64_t start, int64_t end)
{
	json_t *item;
	size_t i;

	json_array_foreach (items_of(subscription), i, item)
	{
		set_int(item, "current_period_start", start);
		set_int(item, "current_period_end", end);
	}
}

/* trial_end=<time>|now and trial_period_days, on creation and on update. */
static void
apply_trial(Call *call, json_t *subscription, int64_t now)
{
	const char *end_text = param_string(call, "trial_end");
	int64_t days = param_int(call, "trial_period_days", 0);
	int64_t end = days > 0 ? now + days * 86400 : 0;

	if (end_text != NULL)
		end = strcmp(end_text, "now") == 0 ? now : strtoll(end_text, NULL, 10);
	if (end == 0)
		return;
	if (end > now)
	{
		set_string(subscription, "status", "trialing");
		if (json_is_null(json_object_get(subscription, "trial_start")))
			set_int(subscription, "trial_start", now);
		set_int(subscription, "trial_end", end);
		set_int(subscription, "billing_cycle_anchor", end);
		set_period(subscription, now, end);
	}
	else if (strcmp(get_string(subscription, "status"), "trialing") == 0)
	{
		set_string(subscription, "status", "active");
		set_int(subscription, "trial_end", now);
		set_int(subscription, "billing_cycle_anchor", now);
		set_period(subscription, now, subscription_next(subscription, now));
	}
}

static void
apply_cancellation(Call *call, json_t *subscription)
{
	const json_t *item = json_array_get(items_of(subscription), 0);

	if (!param_given(call, "cancel_at_period_end"))
		return;
	if (param_bool(call, "cancel_at_period_end"))
	{
		set_int(subscription, "cancel_at", get_int(item, "current_period_end"));
		set_int(subscription, "canceled_at", clock_seconds());
	}
	else
	{
		set_null(subscription, "cancel_at");
		set_null(subscription, "canceled_at");
	}
}

static bool
check_collection(Call *call, const json_t *json)
{
	const char *method = get_string(json, "collection_method");
	bool sends = method != NULL && strcmp(method, "send_invoice") == 0;

	if (json_is_integer(json_object_get(json, "days_until_due")) && !sends)
		return stripe_error(call, 400, "invalid_request_error", NULL, "days_until_due",
							"You can only set `days_until_due` if the collection method is "
							"`send_invoice`.");
	if (sends && !json_is_integer(json_object_get(json, "days_until_due")))
		return stripe_error(
			call, 400, "invalid_request_error", "parameter_missing", "days_until_due",
			"If `collection_method` is `send_invoice`, `days_until_due` must be given.");
	return true;
}

static void
add_defaults(json_t *json, int64_t now)
{
	json_t *defaults =
		json_pack("{s:n, s:{s:b}, s:I, s:n, s:b, s:n, s:s, s:n, s:n, s:n, s:n, s:[]}",
				  "application", "automatic_tax", "enabled", 0, "billing_cycle_anchor",
				  (json_int_t) now, "cancel_at", "cancel_at_period_end", 0, "canceled_at",
				  "collection_method", "charge_automatically", "days_until_due",
				  "default_payment_method", "description", "ended_at", "discounts");
	json_t *more =
		json_pack("{s:{s:s, s:[], s:b, s:i}, s:n, s:n, s:n, s:I, s:s, s:n, s:n, s:n}", "items",
				  "object", "list", "data", "has_more", 0, "total_count", 0, "latest_invoice",
				  "pause_collection", "schedule", "start_date", (json_int_t) now, "status",
				  "active", "test_clock", "trial_start", "trial_end");

	add_missing(json, defaults);
	add_missing(json, more);
}

static bool
create_subscription(Call *call, json_t *json)
{
	int64_t now = clock_seconds();

	if (stripe_find(call, &customers, "customer", param_string(call, "customer")) == NULL)
		return false;
	add_defaults(json, now);
	if (!check_collection(call, json) || !apply_items(call, json))
		return false;
	set_period(json, now, subscription_next(json, now));
	apply_trial(call, json, now);
	apply_cancellation(call, json);
	return true;
}

static bool
update_subscription(Call *call, Obj *obj)
{
	if (strcmp(get_string(obj->json, "status"), "canceled") == 0 &&
		(param_given(call, "items") || param_given(call, "cancel_at_period_end")))
		return stripe_error(call, 400, "invalid_request_error", NULL, NULL,
							"A canceled subscription can only update its cancellation_details and "
							"metadata.");
	if (!check_collection(call, obj->json))
		return false;
	if (param_given(call, "items") && !apply_items(call, obj->json))
		return false;
	apply_trial(call, obj->json, clock_seconds());
	apply_cancellation(call, obj->json);
	return true;
}

/* False if it had ended before. */
bool
subscription_end(Call *call, Obj *obj)
{
	json_t *before;
	int64_t now = clock_seconds();

	if (strcmp(get_string(obj->json, "status"), "canceled") == 0)
		return false;
	before = change_begin(obj);
	set_string(obj->json, "status", "canceled");
	if (!json_is_integer(json_object_get(obj->json, "canceled_at")))
		set_int(obj->json, "canceled_at", now);
	set_int(obj->json, "ended_at", now);
	change_end(call, &subscriptions, obj, before, "deleted");
	return true;
}

static bool
remove_subscription(Call *call, Obj *obj)
{
	return subscription_end(call, obj) || stripe_missing(call, "subscription", "id", obj->id);
}

static const Param subscription_params[] = {
	{"automatic_tax", P_HASH, 0, "enabled,liability"},
	{"billing_cycle_anchor", P_TIME, 0, NULL},
	{"cancel_at_period_end", P_BOOL, PF_STORE, NULL},
	{"collection_method", P_ENUM, PF_STORE, "charge_automatically,send_invoice"},
	{"currency", P_CURRENCY, PF_STORE | PF_CREATE, NULL},
	{"customer", P_TEXT, PF_STORE | PF_REQUIRED | PF_CREATE, NULL},
	{"days_until_due", P_AMOUNT, PF_STORE, NULL},
	{"default_payment_method", P_TEXT, PF_STORE, NULL},
	{"description", P_TEXT, PF_STORE, NULL},
	{"items", P_LIST, PF_REQUIRED,
	 "id,price,quantity,metadata,deleted,clear_usage,discounts,tax_rates"},
	{"metadata", P_METADATA, PF_STORE, NULL},
	{"off_session", P_BOOL, 0, NULL},
	{"payment_behavior", P_TEXT, 0, NULL},
	{"payment_settings", P_HASH, 0, NULL},
	{"proration_behavior", P_ENUM, 0, "create_prorations,none,always_invoice"},
	{"trial_end", P_TIME, 0, NULL},
	{"trial_period_days", P_AMOUNT, PF_CREATE, NULL},
	{.name = NULL},
};

Resource subscriptions = {
	.object = "subscription",
	.path = "subscriptions",
	.prefix = "sub_1",
	.digits = 23,
	.event = "customer.subscription",
	.params = subscription_params,
	.filters = "customer,status,collection_method",
	.searchable = true,
	.create = create_subscription,
	.update = update_subscription,
	.remove = remove_subscription,
	.coll = {.indexed = "customer"},
};
