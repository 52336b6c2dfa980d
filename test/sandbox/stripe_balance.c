/*
 * stripe_balance.c
 *		The balance that a processor holds: its movements, and the payouts that empty it.
 *
 * Each charge, refund and dispute moves the balance of its currency, less the fee (settings
 * fee_percent and dispute_fee). A payout takes everything that no payout took before; which those
 * were, the API tells only who asks for the movements of that payout, as Stripe does.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "balance.h"
#include "clock.h"
#include "pipeline.h"
#include "stripe.h"

#define DAYS_UNTIL_AVAILABLE 2
#define DAY					 86400

int64_t
balance_fee(int64_t amount)
{
	return llround((double) amount * config.fee_percent / 100.0);
}

/* The net of it moves the balance: amount is negative for what goes out. */
Obj *
balance_move(Call *call, const Movement *m)
{
	json_t *json = stripe_new_json(&balance_transactions);
	int64_t now = clock_seconds();
	json_t *fees = json_array();

	json_object_del(json, "livemode");
	if (m->fee != 0)
		json_array_append_new(fees,
							  json_pack("{s:I, s:n, s:s, s:s, s:s}", "amount", (json_int_t) m->fee,
										"application", "currency", m->currency, "description",
										"Stripe processing fees", "type", "stripe_fee"));
	add_missing(json,
				json_pack("{s:I, s:I, s:s, s:I, s:s, s:n, s:n, s:I, s:o, s:I, s:s, s:s, s:s, s:s}",
						  "amount", (json_int_t) m->amount, "available_on",
						  (json_int_t) (now + DAYS_UNTIL_AVAILABLE * DAY), "balance_type",
						  "payments", "created", (json_int_t) now, "currency", m->currency,
						  "description", "exchange_rate", "fee", (json_int_t) m->fee, "fee_details",
						  fees, "net", (json_int_t) (m->amount - m->fee), "reporting_category",
						  m->category ? m->category : m->type, "source", m->source, "status",
						  "pending", "type", m->type));
	return stripe_insert(call, &balance_transactions, json);
}

/* ---- payouts ---- */

static void
complete_payout(json_t *json, bool automatic)
{
	add_missing(json,
				json_pack("{s:n, s:n, s:I, s:b, s:n, s:n, s:s, s:n, s:n, s:n, s:{}, s:s, s:n}",
						  "application_fee", "application_fee_amount", "arrival_date",
						  (json_int_t) (clock_seconds() / DAY * DAY + DAY), "automatic",
						  (int) automatic, "balance_transaction", "description", "destination",
						  "ba_1Sandbox", "failure_balance_transaction", "failure_code",
						  "failure_message", "metadata", "method", "standard", "original_payout"));
	add_missing(json, json_pack("{s:n, s:s, s:n, s:s, s:n, s:s, s:n, s:s}", "payout_method",
								"reconciliation_status", automatic ? "completed" : "not_applicable",
								"reversed_by", "source_type", "card", "statement_descriptor",
								"status", "pending", "trace_id", "type", "bank_account"));
}

static bool
create_payout(Call *call, json_t *json)
{
	(void) call;
	complete_payout(json, false);
	return true;
}

/* The money leaves the balance with the payout. */
static bool
created_payout(Call *call, Obj *obj)
{
	Movement m = {.type = "payout",
				  .source = obj->id,
				  .currency = get_string(obj->json, "currency"),
				  .amount = -get_int(obj->json, "amount")};

	set_string(obj->json, "balance_transaction", balance_move(call, &m)->id);
	return true;
}

static bool
set_status(Call *call, Obj *obj, const char *status, const char *verb)
{
	json_t *before = change_begin(obj);

	set_string(obj->json, "status", status);
	change_end(call, &payouts, obj, before, verb);
	return true;
}

static bool
run_cancel(Call *call, Obj *obj)
{
	Movement m = {.type = "payout_cancel",
				  .category = "payout_reversal",
				  .source = obj->id,
				  .currency = get_string(obj->json, "currency"),
				  .amount = get_int(obj->json, "amount")};

	if (strcmp(get_string(obj->json, "status"), "pending") != 0)
		return stripe_error(call, 400, "invalid_request_error", NULL, NULL,
							"Payouts can only be canceled while they are pending.");
	(void) balance_move(call, &m);
	return set_status(call, obj, "canceled", "canceled");
}

/* ---- what the processor does by itself ---- */

static bool
belongs_to(const Obj *movement, const char *currency, json_t **json)
{
	bool belongs;

	if (json_object_get(movement->hidden, "payout") != NULL)
		return false;
	*json = store_read(movement);
	belongs = strcmp(get_string(*json, "currency"), currency) == 0 &&
			  strncmp(get_string(*json, "type"), "payout", strlen("payout")) != 0;
	if (!belongs)
		json_decref(*json);
	return belongs;
}

static void
pay_out_movement(const char *id, const char *payout)
{
	Obj *movement = store_get(&balance_transactions.coll, id);

	if (movement->hidden == NULL)
		movement->hidden = json_object();
	set_string(movement->hidden, "payout", payout);
	set_string(movement->json, "status", "available");
	store_after_change(&balance_transactions.coll, movement);
}

/* All movements of a currency that no payout took. NULL: there is nothing to pay out. */
static Obj *
pay_out_currency(Call *call, const char *currency)
{
	Collection *coll = &balance_transactions.coll;
	json_t *json = stripe_new_json(&payouts);
	size_t until = coll->count; /* not its own movement */
	int64_t amount = 0;
	size_t found = 0;
	Obj *payout;

	for (size_t i = 0; i < until; i++)
	{
		json_t *movement;

		if (!belongs_to(coll->rows[i], currency, &movement))
			continue;
		amount += get_int(movement, "net");
		found++;
		json_decref(movement);
	}
	if (found == 0)
	{
		json_decref(json);
		return NULL;
	}
	set_int(json, "amount", amount);
	set_string(json, "currency", currency);
	complete_payout(json, true);
	payout = stripe_insert(call, &payouts, json);
	for (size_t i = 0; i < until; i++)
	{
		json_t *movement;

		if (!belongs_to(coll->rows[i], currency, &movement))
			continue;
		json_decref(movement);
		pay_out_movement(coll->rows[i]->id, payout->id);
	}
	(void) created_payout(call, payout);
	pay_out_movement(get_string(payout->json, "balance_transaction"), payout->id);
	set_status(call, payout, "paid", "paid");
	stripe_emit(call, "payout.reconciliation_completed", payout, NULL);
	return payout;
}

/* {currency, at}; all currencies that have moved, if none is named. */
json_t *
balance_pay_out(const json_t *options)
{
	Call call = {.version = STRIPE_VERSION};
	const json_t *at = json_object_get(options, "at");
	const char *only = get_string(options, "currency");
	json_t *currencies = json_object();
	json_t *made = json_array();
	const char *currency;
	json_t *seen;

	if (json_is_number(at))
		clock_override((int64_t) (json_number_value(at) * 1000));
	for (size_t i = 0; only == NULL && i < balance_transactions.coll.count; i++)
	{
		json_t *json = store_read(balance_transactions.coll.rows[i]);

		json_object_set_new(currencies, get_string(json, "currency"), json_true());
		json_decref(json);
	}
	if (only != NULL)
		json_object_set_new(currencies, only, json_true());
	json_object_foreach (currencies, currency, seen)
	{
		Obj *payout = pay_out_currency(&call, currency);

		if (payout != NULL)
			json_array_append(made, payout->json);
	}
	clock_override(0);
	json_decref(currencies);
	return json_pack("{s:o}", "payouts", made);
}

static const Param payout_params[] = {
	{"amount", P_AMOUNT, PF_STORE | PF_REQUIRED | PF_CREATE, NULL},
	{"currency", P_CURRENCY, PF_STORE | PF_REQUIRED | PF_CREATE, NULL},
	{"description", P_TEXT, PF_STORE | PF_CREATE, NULL},
	{"destination", P_TEXT, PF_STORE | PF_CREATE, NULL},
	{"metadata", P_METADATA, PF_STORE, NULL},
	{"method", P_ENUM, PF_STORE | PF_CREATE, "standard,instant"},
	{"source_type", P_ENUM, PF_STORE | PF_CREATE, "bank_account,card,fpx"},
	{"statement_descriptor", P_TEXT, PF_STORE | PF_CREATE, NULL},
	{.name = NULL},
};

static const Action payout_actions[] = {
	{"cancel", NULL, run_cancel},
	{.verb = NULL},
};

Resource balance_transactions = {
	.object = "balance_transaction",
	.path = "balance_transactions",
	.prefix = "txn_1",
	.digits = 23,
	.filters = "currency,payout,source,type",
	.coll = {.indexed = "payout,source"},
};

Resource payouts = {
	.object = "payout",
	.path = "payouts",
	.prefix = "po_1",
	.digits = 23,
	.event = "payout",
	.params = payout_params,
	.filters = "status,destination",
	.create = create_payout,
	.created = created_payout,
	.actions = payout_actions,
};
