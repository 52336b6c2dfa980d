/*
 * stripe_dispute.c
 *		Disputes. A bank opens them and decides them (POST /_sandbox/dispute); the API shows them,
 *		takes evidence and gives in.
 *
 *		needs_response --update--> under_review --> won | lost
 *					   '---------close--------------> lost
 */
#include <stdlib.h>
#include <string.h>

#include "balance.h"
#include "clock.h"
#include "pipeline.h"
#include "stripe.h"

#define DAYS_TO_ANSWER 14

static void
move_money(Call *call, Obj *dispute, int64_t amount, int64_t fee, const char *category)
{
	Movement m = {.type = "adjustment",
				  .category = category,
				  .source = dispute->id,
				  .currency = get_string(dispute->json, "currency"),
				  .amount = amount,
				  .fee = fee};
	Obj *movement = balance_move(call, &m);

	json_array_append_new(json_object_get(dispute->json, "balance_transactions"),
						  json_deep_copy(movement->json));
}

static void
mark_charge(Call *call, const json_t *dispute)
{
	Obj *charge = store_get(&charges.coll, get_string(dispute, "charge"));
	json_t *before = change_begin(charge);

	json_object_set_new(charge->json, "disputed", json_true());
	change_end(call, &charges, charge, before, "updated");
}

static Obj *
open_dispute(Call *call, const Obj *charge, int64_t amount, const char *reason)
{
	json_t *json = stripe_new_json(&disputes);
	Obj *dispute;

	set_int(json, "amount", amount > 0 ? amount : get_int(charge->json, "amount"));
	add_missing(
		json, json_pack("{s:[], s:s, s:O, s:[], s:{}, s:{s:I, s:b, s:b, s:i, s:s}, s:n, s:b, s:{}}",
						"balance_transactions", "charge", charge->id, "currency",
						json_object_get(charge->json, "currency"), "enhanced_eligibility_types",
						"evidence", "evidence_details", "due_by",
						(json_int_t) (clock_seconds() + DAYS_TO_ANSWER * 86400), "has_evidence", 0,
						"past_due", 0, "submission_count", 0, "submission_method", "not_submitted",
						"intended_submission_method", "is_charge_refundable", 0, "metadata"));
	json_object_set(json, "payment_intent", json_object_get(charge->json, "payment_intent"));
	set_string(json, "reason", reason ? reason : "general");
	set_string(json, "status", "needs_response");
	dispute = stripe_insert(call, &disputes, json);
	move_money(call, dispute, -get_int(json, "amount"), config.dispute_fee, "dispute");
	stripe_emit(call, "charge.dispute.funds_withdrawn", dispute, NULL);
	mark_charge(call, json);
	return dispute;
}

static void
close_dispute(Call *call, Obj *dispute, bool won)
{
	json_t *before = change_begin(dispute);

	set_string(dispute->json, "status", won ? "won" : "lost");
	if (won)
		move_money(call, dispute, get_int(dispute->json, "amount"), -config.dispute_fee,
				   "dispute_reversal");
	change_end(call, &disputes, dispute, before, "closed");
	if (won)
		stripe_emit(call, "charge.dispute.funds_reinstated", dispute, NULL);
}

static bool
is_open(const Obj *dispute)
{
	return in_list("needs_response,under_review", get_string(dispute->json, "status"));
}

json_t *
dispute_act(const json_t *options)
{
	Call call = {.version = STRIPE_VERSION};
	const char *charge_id = get_string(options, "charge");
	const char *dispute_id = get_string(options, "dispute");
	const char *status = get_string(options, "status");
	Obj *charge = charge_id ? store_get(&charges.coll, charge_id) : NULL;
	Obj *dispute = dispute_id ? store_get(&disputes.coll, dispute_id) : NULL;

	if (charge != NULL)
		dispute =
			open_dispute(&call, charge, get_int(options, "amount"), get_string(options, "reason"));
	else if (dispute != NULL && status != NULL && in_list("won,lost", status) && is_open(dispute))
		close_dispute(&call, dispute, strcmp(status, "won") == 0);
	else
		return NULL;
	return json_incref(dispute->json);
}

static bool
update_dispute(Call *call, Obj *obj)
{
	if (!param_given(call, "evidence"))
		return true;
	if (!is_open(obj))
		return stripe_error(call, 400, "invalid_request_error", NULL, "evidence",
							"This dispute is already closed.");
	json_object_update(json_object_get(obj->json, "evidence"),
					   json_object_get(call->params, "evidence"));
	json_object_set_new(json_object_get(obj->json, "evidence_details"), "has_evidence",
						json_true());
	if (param_bool(call, "submit"))
		set_string(obj->json, "status", "under_review");
	return true;
}

static bool
run_close(Call *call, Obj *obj)
{
	if (!is_open(obj))
		return stripe_error(call, 400, "invalid_request_error", NULL, NULL,
							"This dispute is already closed.");
	close_dispute(call, obj, false);
	return true;
}

static const Param dispute_params[] = {
	{"evidence", P_HASH, PF_UPDATE, NULL},
	{"metadata", P_METADATA, PF_STORE | PF_UPDATE, NULL},
	{"submit", P_BOOL, PF_UPDATE, NULL},
	{.name = NULL},
};

static const Action dispute_actions[] = {
	{"close", NULL, run_close},
	{.verb = NULL},
};

/* Nobody creates one through the API. */
Resource disputes = {
	.object = "dispute",
	.path = "disputes",
	.prefix = "dp_1",
	.digits = 23,
	.event = "charge.dispute",
	.params = dispute_params,
	.filters = "charge,payment_intent",
	.update = update_dispute,
	.actions = dispute_actions,
	.coll = {.indexed = "charge,payment_intent"},
};
