/*
 * stripe_payment.c
 *		Payment intents, charges, refunds.
 *
 * A card declines when the customer's metadata.sandbox_payment is 'fail', or
 * when the payment method's or source's name contains 'Declined'.
 */
#include <stdlib.h>
#include <string.h>

#include "balance.h"
#include "clock.h"
#include "stripe.h"

static bool
declines(const char *customer_id, const char *method)
{
	const Obj *customer = customer_id ? store_get(&customers.coll, customer_id) : NULL;
	const char *wish =
		customer ? get_string(json_object_get(customer->json, "metadata"), "sandbox_payment")
				 : NULL;

	return (wish != NULL && strcmp(wish, "fail") == 0) ||
		   (method != NULL && strstr(method, "Declined") != NULL);
}

static void
complete_charge(json_t *json, bool succeeded)
{
	add_missing(json, json_pack("{s:i, s:b, s:n, s:n, s:b, s:n, s:n, s:b, s:n, s:n, s:b}",
								"amount_refunded", 0, "captured", (int) succeeded, "customer",
								"description", "disputed", 0, "payment_intent", "payment_method",
								"refunded", 0, "failure_code", "failure_message", "paid",
								(int) succeeded));
	set_string(json, "status", succeeded ? "succeeded" : "failed");
	set_int(json, "amount_captured", succeeded ? get_int(json, "amount") : 0);
	if (!succeeded)
	{
		set_string(json, "failure_code", "card_declined");
		set_string(json, "failure_message", "Your card was declined.");
	}
}

static void
move_balance(Call *call, Obj *obj, const char *type, int64_t amount, int64_t fee)
{
	Movement m = {.type = type,
				  .source = obj->id,
				  .currency = get_string(obj->json, "currency"),
				  .amount = amount,
				  .fee = fee};

	set_string(obj->json, "balance_transaction", balance_move(call, &m)->id);
}

static void
collect(Call *call, Obj *charge)
{
	int64_t amount = get_int(charge->json, "amount");

	move_balance(call, charge, "charge", amount, balance_fee(amount));
}

static Obj *
insert_charge(Call *call, json_t *json, bool succeeded)
{
	Obj *charge;

	complete_charge(json, succeeded);
	charge = stripe_insert(call, &charges, json);
	if (succeeded)
		collect(call, charge);
	stripe_emit(call, succeeded ? "charge.succeeded" : "charge.failed", charge, NULL);
	return charge;
}

/* One try to take the money of an intent. */
static bool
try_intent(Call *call, Obj *intent)
{
	json_t *json = intent->json;
	bool succeeds = !declines(get_string(json, "customer"), get_string(json, "payment_method"));
	json_t *charge_json = stripe_new_json(&charges);
	json_t *before;
	Obj *charge;

	json_object_set(charge_json, "amount", json_object_get(json, "amount"));
	json_object_set(charge_json, "currency", json_object_get(json, "currency"));
	json_object_set(charge_json, "customer", json_object_get(json, "customer"));
	json_object_set_new(charge_json, "metadata", json_deep_copy(json_object_get(json, "metadata")));
	set_string(charge_json, "payment_intent", intent->id);
	charge = insert_charge(call, charge_json, succeeds);
	before = change_begin(intent);
	set_string(json, "latest_charge", charge->id);
	set_string(json, "status", succeeds ? "succeeded" : "requires_payment_method");
	if (succeeds)
	{
		set_int(json, "amount_received", get_int(json, "amount"));
		set_null(json, "last_payment_error");
	}
	else
		json_object_set_new(json, "last_payment_error",
							json_pack("{s:s, s:s, s:s, s:s, s:s}", "type", "card_error", "code",
									  "card_declined", "decline_code", "generic_decline", "message",
									  "Your card was declined.", "charge", charge->id));
	change_end(call, &payment_intents, intent, before, succeeds ? "succeeded" : "payment_failed");
	return succeeds;
}

static void
complete_intent(json_t *json)
{
	char secret[80];

	make_id(secret, sizeof(secret), "", 25);
	add_missing(json, json_pack("{s:i, s:i, s:n, s:s, s:s, s:n, s:n, s:n, s:n, s:[s], s:n}",
								"amount_capturable", 0, "amount_received", 0, "canceled_at",
								"capture_method", "automatic", "confirmation_method", "automatic",
								"customer", "description", "last_payment_error", "latest_charge",
								"payment_method_types", "card", "payment_method"));
	json_object_set_new(json, "client_secret",
						json_sprintf("%s_secret_%s", get_string(json, "id"), secret));
	set_string(json, "status",
			   json_is_string(json_object_get(json, "payment_method")) ? "requires_confirmation"
																	   : "requires_payment_method");
}

/* For an invoice: intent and charge, whatever becomes of them. */
Obj *
payment_attempt(Call *call, const json_t *invoice)
{
	json_t *json = stripe_new_json(&payment_intents);
	Obj *intent;

	json_object_set(json, "amount", json_object_get(invoice, "amount_remaining"));
	json_object_set(json, "currency", json_object_get(invoice, "currency"));
	json_object_set(json, "customer", json_object_get(invoice, "customer"));
	json_object_set_new(json, "metadata", json_object());
	json_object_set_new(json, "payment_details",
						json_pack("{s:O}", "order_reference", json_object_get(invoice, "id")));
	complete_intent(json);
	intent = stripe_insert(call, &payment_intents, json);
	(void) try_intent(call, intent);
	return intent;
}

static bool
check_amount(Call *call)
{
	int64_t amount = param_int(call, "amount", 0);

	if (amount < 1)
		return stripe_error(call, 400, "invalid_request_error", "parameter_invalid_integer",
							"amount", "This value must be greater than or equal to 1.");
	/* cards settle in hundredths even where the currency has thousandths */
	if (currency_decimals(param_string(call, "currency")) == 3 && amount % 10 != 0)
		return stripe_error(
			call, 400, "invalid_request_error", "parameter_invalid_integer", "amount",
			"Amounts in three-decimal currencies must be rounded to the nearest ten.");
	return true;
}

static bool
check_customer(Call *call)
{
	return !param_given(call, "customer") ||
		   stripe_find(call, &customers, "customer", param_string(call, "customer")) != NULL;
}

static bool
create_intent(Call *call, json_t *json)
{
	if (!check_amount(call) || !check_customer(call))
		return false;
	complete_intent(json);
	return true;
}

static bool
card_declined(Call *call, const Obj *obj)
{
	json_t *body;
	json_t *error;

	(void) stripe_error(call, 402, "card_error", "card_declined", NULL, "Your card was declined.");
	body = json_loadb(call->reply->body.data, call->reply->body.len, 0, NULL);
	error = json_object_get(body, "error");
	set_string(error, "decline_code", "generic_decline");
	json_object_set(error, get_string(obj->json, "object"), obj->json);
	reply_json(call->reply, 402, body);
	return false;
}

static bool
run_confirm(Call *call, Obj *obj)
{
	const char *status = get_string(obj->json, "status");

	if (strcmp(status, "succeeded") == 0 || strcmp(status, "canceled") == 0)
		return stripe_error(call, 400, "invalid_request_error", "payment_intent_unexpected_state",
							NULL, "This PaymentIntent's status is %s: it cannot be confirmed.",
							status);
	if (param_given(call, "payment_method"))
		json_object_set(obj->json, "payment_method",
						json_object_get(call->params, "payment_method"));
	if (!json_is_string(json_object_get(obj->json, "payment_method")))
		return stripe_error(
			call, 400, "invalid_request_error", "payment_intent_unexpected_state", NULL,
			"You cannot confirm this PaymentIntent because it's missing a payment method.");
	if (try_intent(call, obj))
		return true;
	stripe_effect(call, "payment_intent", obj);
	return card_declined(call, obj);
}

static bool
run_cancel(Call *call, Obj *obj)
{
	const char *status = get_string(obj->json, "status");
	json_t *before;

	if (strcmp(status, "succeeded") == 0 || strcmp(status, "canceled") == 0)
		return stripe_error(call, 400, "invalid_request_error", "payment_intent_unexpected_state",
							NULL, "This PaymentIntent's status is %s: it cannot be canceled.",
							status);
	before = change_begin(obj);
	set_string(obj->json, "status", "canceled");
	set_int(obj->json, "canceled_at", clock_seconds());
	change_end(call, &payment_intents, obj, before, "canceled");
	return true;
}

static bool
created_intent(Call *call, Obj *obj)
{
	return !param_bool(call, "confirm") || run_confirm(call, obj);
}

static bool
create_charge(Call *call, json_t *json)
{
	bool succeeds = !declines(param_string(call, "customer"), param_string(call, "source"));

	if (!check_amount(call) || !check_customer(call))
		return false;
	complete_charge(json, succeeds);
	return true;
}

static bool
created_charge(Call *call, Obj *obj)
{
	bool succeeded = json_is_true(json_object_get(obj->json, "paid"));

	if (succeeded)
		collect(call, obj);
	stripe_emit(call, succeeded ? "charge.succeeded" : "charge.failed", obj, NULL);
	return succeeded || card_declined(call, obj);
}

static Obj *
charge_to_refund(Call *call)
{
	const char *charge = param_string(call, "charge");
	const char *intent_id = param_string(call, "payment_intent");
	Obj *intent;

	if (charge == NULL && intent_id == NULL)
	{
		(void) stripe_error(call, 400, "invalid_request_error", "parameter_missing", "charge",
							"One of the following params should be provided for this request: "
							"payment_intent or charge.");
		return NULL;
	}
	if (charge == NULL)
	{
		intent = stripe_find(call, &payment_intents, "payment_intent", intent_id);
		if (intent == NULL)
			return NULL;
		charge = get_string(intent->json, "latest_charge");
	}
	return stripe_find(call, &charges, "charge", charge);
}

/* All that is left, where amount is negative. */
static bool
complete_refund(Call *call, json_t *json, const Obj *charge, int64_t amount)
{
	int64_t left =
		get_int(charge->json, "amount_captured") - get_int(charge->json, "amount_refunded");

	if (amount < 0)
		amount = left;
	if (left == 0)
		return stripe_error(call, 400, "invalid_request_error", "charge_already_refunded", NULL,
							"Charge %s has already been refunded.", charge->id);
	if (amount > left || amount < 1)
		return stripe_error(
			call, 400, "invalid_request_error", "amount_too_large", "amount",
			"Refund amount (%lld) is greater than unrefunded amount on charge (%lld)",
			(long long) amount, (long long) left);
	set_int(json, "amount", amount);
	set_string(json, "charge", charge->id);
	json_object_set(json, "currency", json_object_get(charge->json, "currency"));
	json_object_set(json, "payment_intent", json_object_get(charge->json, "payment_intent"));
	json_object_set(json, "customer", json_object_get(charge->json, "customer"));
	set_string(json, "status", "succeeded");
	add_missing(json, json_pack("{s:n, s:n, s:n, s:n, s:n, s:n, s:n}", "balance_transaction",
								"customer_account", "payment_method", "reason", "receipt_number",
								"source_transfer_reversal", "transfer_reversal"));
	json_object_del(json, "livemode");
	return true;
}

static bool
create_refund(Call *call, json_t *json)
{
	const Obj *charge = charge_to_refund(call);

	return charge != NULL && complete_refund(call, json, charge, param_int(call, "amount", -1));
}

static bool
created_refund(Call *call, Obj *obj)
{
	Obj *charge = store_get(&charges.coll, get_string(obj->json, "charge"));
	json_t *before = change_begin(charge);
	int64_t refunded = get_int(charge->json, "amount_refunded") + get_int(obj->json, "amount");

	set_int(charge->json, "amount_refunded", refunded);
	json_object_set_new(charge->json, "refunded",
						json_boolean(refunded == get_int(charge->json, "amount_captured")));
	change_end(call, &charges, charge, before, "refunded");
	move_balance(call, obj, "refund", -get_int(obj->json, "amount"), 0);
	return true;
}

Obj *
refund_invoice(Call *call, const char *invoice, int64_t amount)
{
	Hits paid = store_by_reference(&invoice_payments.coll, "invoice", invoice);
	json_t *json = stripe_new_json(&refunds);
	const Obj *charge = NULL;
	Obj *refund;

	for (size_t i = 0; i < paid.count; i++)
	{
		json_t *payment = store_read(paid.rows[i]);
		const char *intent = get_string(json_object_get(payment, "payment"), "payment_intent");
		const Obj *found = intent ? store_get(&payment_intents.coll, intent) : NULL;

		if (found != NULL && strcmp(get_string(payment, "status"), "paid") == 0)
			charge = store_get(&charges.coll, get_string(found->json, "latest_charge"));
		json_decref(payment);
	}
	free(paid.rows);
	json_object_set_new(json, "metadata", json_object());
	if (charge == NULL)
		(void) stripe_error(call, 400, "invalid_request_error", NULL, "refund_amount",
							"The invoice has no payment that could be refunded.");
	if (charge == NULL || !complete_refund(call, json, charge, amount))
	{
		json_decref(json);
		return NULL;
	}
	refund = stripe_insert(call, &refunds, json);
	(void) created_refund(call, refund);
	return refund;
}

static const Param intent_params[] = {
	{"amount", P_AMOUNT, PF_STORE | PF_REQUIRED, NULL},
	{"automatic_payment_methods", P_HASH, 0, "enabled,allow_redirects"},
	{"capture_method", P_ENUM, PF_CREATE, "automatic,automatic_async"},
	{"confirm", P_BOOL, PF_CREATE, NULL},
	{"currency", P_CURRENCY, PF_STORE | PF_REQUIRED, NULL},
	{"customer", P_TEXT, PF_STORE, NULL},
	{"description", P_TEXT, PF_STORE, NULL},
	{"metadata", P_METADATA, PF_STORE, NULL},
	{"off_session", P_BOOL, PF_CREATE, NULL},
	{"payment_method", P_TEXT, PF_STORE, NULL},
	{"payment_method_types", P_LIST, PF_STORE, NULL},
	{"receipt_email", P_EMAIL, PF_STORE, NULL},
	{"return_url", P_TEXT, PF_CREATE, NULL},
	{"statement_descriptor", P_TEXT, PF_STORE, NULL},
	{.name = NULL},
};

static const Param confirm_params[] = {
	{"off_session", P_BOOL, 0, NULL},
	{"payment_method", P_TEXT, 0, NULL},
	{"return_url", P_TEXT, 0, NULL},
	{.name = NULL},
};

static const Param cancel_params[] = {
	{"cancellation_reason", P_TEXT, 0, NULL},
	{.name = NULL},
};

static const Param charge_params[] = {
	{"amount", P_AMOUNT, PF_STORE | PF_REQUIRED | PF_CREATE, NULL},
	{"currency", P_CURRENCY, PF_STORE | PF_REQUIRED | PF_CREATE, NULL},
	{"customer", P_TEXT, PF_STORE, NULL},
	{"description", P_TEXT, PF_STORE, NULL},
	{"metadata", P_METADATA, PF_STORE, NULL},
	{"receipt_email", P_EMAIL, PF_STORE, NULL},
	{"source", P_TEXT, PF_CREATE, NULL},
	{.name = NULL},
};

static const Param refund_params[] = {
	{"amount", P_AMOUNT, PF_CREATE, NULL},
	{"charge", P_TEXT, PF_CREATE, NULL},
	{"metadata", P_METADATA, PF_STORE, NULL},
	{"payment_intent", P_TEXT, PF_CREATE, NULL},
	{"reason", P_ENUM, PF_STORE | PF_CREATE, "duplicate,fraudulent,requested_by_customer"},
	{.name = NULL},
};

static const Action intent_actions[] = {
	{"confirm", confirm_params, run_confirm},
	{"cancel", cancel_params, run_cancel},
	{.verb = NULL},
};

Resource payment_intents = {
	.object = "payment_intent",
	.path = "payment_intents",
	.prefix = "pi_3",
	.digits = 23,
	.event = "payment_intent",
	.params = intent_params,
	.filters = "customer",
	.searchable = true,
	.create = create_intent,
	.created = created_intent,
	.actions = intent_actions,
	.coll = {.indexed = "customer"},
};

/* Charges tell of themselves as succeeded or failed, never as created. */
Resource charges = {
	.object = "charge",
	.path = "charges",
	.prefix = "ch_3",
	.digits = 23,
	.event = "charge",
	.params = charge_params,
	.filters = "customer,payment_intent",
	.searchable = true,
	.silent_creation = true,
	.create = create_charge,
	.created = created_charge,
	.coll = {.indexed = "customer,payment_intent"},
};

Resource refunds = {
	.object = "refund",
	.path = "refunds",
	.prefix = "re_3",
	.digits = 23,
	.event = "refund",
	.params = refund_params,
	.filters = "charge,payment_intent",
	.create = create_refund,
	.created = created_refund,
	.coll = {.indexed = "charge,payment_intent"},
};
