/*
 * control.c
 *		The tests' own interface, /_sandbox/…
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "balance.h"
#include "billing.h"
#include "clock.h"
#include "control.h"
#include "fault.h"
#include "journal.h"
#include "keys.h"
#include "load.h"
#include "pipeline.h"
#include "stripe.h"

typedef struct ControlCall
{
	const Request *req;
	json_t *query;
	json_t *body;
	Reply *reply;
} ControlCall;

typedef struct ControlRoute
{
	const char *method;
	const char *name;
	void (*serve)(ControlCall *call);
} ControlRoute;

static const char *
query_string(const ControlCall *call, const char *name)
{
	return json_string_value(json_object_get(call->query, name));
}

static void
fail(ControlCall *call, const char *message)
{
	reply_json(call->reply, 400, json_pack("{s:s}", "error", message));
}

static void
serve_add_fault(ControlCall *call)
{
	const char *error;
	json_t *added = fault_add(call->body, &error);

	if (added == NULL)
		fail(call, error);
	else
		reply_json(call->reply, 200, added);
}

static void
serve_list_faults(ControlCall *call)
{
	reply_json(call->reply, 200, fault_report());
}

static void
serve_clear_faults(ControlCall *call)
{
	faults_clear();
	reply_json(call->reply, 200, json_object());
}

static void
serve_keys(ControlCall *call)
{
	reply_json(call->reply, 200, keys_report(query_string(call, "key")));
}

static void
serve_forget_key(ControlCall *call)
{
	key_forget(query_string(call, "key"));
	reply_json(call->reply, 200, json_object());
}

static void
serve_effects(ControlCall *call)
{
	reply_json(call->reply, 200,
			   journal_effects(query_string(call, "object"), query_string(call, "id")));
}

static void
serve_requests(ControlCall *call)
{
	const char *limit = query_string(call, "limit");

	reply_json(call->reply, 200,
			   journal_requests(limit ? (size_t) atoll(limit) : 100, query_string(call, "path")));
}

static void
serve_reset(ControlCall *call)
{
	state_reset();
	if (json_is_true(json_object_get(call->body, "config")))
		config_defaults();
	reply_json(call->reply, 200, json_object());
}

/* The body of a load is long, of several lines, and read in place. */
static void
serve_load(ControlCall *call)
{
	const char *events = query_string(call, "events");
	Buf body = {0};

	buf_append(&body, call->req->body.data, call->req->body.len);
	load_objects(&body, events != NULL && strcmp(events, "1") == 0, call->reply);
	buf_free(&body);
}

static void
serve_tamper(ControlCall *call)
{
	load_tamper(call->body, call->reply);
}

static json_t *
clock_report(void)
{
	return json_pack("{s:I, s:I, s:b}", "now", (json_int_t) clock_seconds(), "now_ms",
					 (json_int_t) clock_ms(), "frozen", (int) clock_is_frozen());
}

static void
serve_read_clock(ControlCall *call)
{
	reply_json(call->reply, 200, clock_report());
}

static void
serve_set_clock(ControlCall *call)
{
	const json_t *set = json_object_get(call->body, "set");
	const json_t *advance = json_object_get(call->body, "advance");
	const json_t *freeze = json_object_get(call->body, "freeze");

	if (json_is_number(set))
		clock_set((int64_t) (json_number_value(set) * 1000));
	if (json_is_number(advance))
		clock_set(clock_ms() + (int64_t) (json_number_value(advance) * 1000));
	if (json_is_boolean(freeze))
		clock_freeze(json_is_true(freeze));
	reply_json(call->reply, 200, clock_report());
}

static json_t *
config_report(void)
{
	return json_pack(
		"{s:I, s:f, s:I, s:I, s:b, s:b, s:f, s:f, s:I, s:b, s:b, s:b, s:b, s:s, s:s, s:b}",
		"search_lag_ms", (json_int_t) config.search_lag_ms, "rate_limit", config.rate_limit,
		"retry_after", (json_int_t) config.retry_after, "idempotency_ttl",
		(json_int_t) config.idempotency_ttl, "replay_header", (int) config.replay_header,
		"should_retry_header", (int) config.should_retry_header, "tax_percent", config.tax_percent,
		"fee_percent", config.fee_percent, "dispute_fee", (json_int_t) config.dispute_fee,
		"rest_honours_keys", (int) config.rest_honours_keys, "rest_unique_external",
		(int) config.rest_unique_external, "rest_require_if_match",
		(int) config.rest_require_if_match, "rest_token_set", config.rest_token[0] != '\0',
		"rest_refuse", config.rest_refuse, "rest_forget", config.rest_forget, "rest_all_or_nothing",
		(int) config.rest_all_or_nothing);
}

/* One of these is non-NULL for each setting. */
typedef struct Setting
{
	const char *name;
	int64_t *integer;
	double *real;
	bool *boolean;
	char *text; /* of sizeof(config.rest_token) bytes */
} Setting;

static bool
change_setting(const Setting *s, const json_t *value)
{
	if (s->integer != NULL && json_is_number(value))
		*s->integer = (int64_t) json_number_value(value);
	else if (s->real != NULL && json_is_number(value))
		*s->real = json_number_value(value);
	else if (s->boolean != NULL && json_is_boolean(value))
		*s->boolean = json_is_true(value);
	else if (s->text != NULL && json_is_string(value))
		snprintf(s->text, sizeof(config.rest_token), "%s", json_string_value(value));
	else
		return false;
	return true;
}

static bool
change_config(const char *name, const json_t *value)
{
	const Setting settings[] = {
		{.name = "search_lag_ms", .integer = &config.search_lag_ms},
		{.name = "rate_limit", .real = &config.rate_limit},
		{.name = "retry_after", .integer = &config.retry_after},
		{.name = "idempotency_ttl", .integer = &config.idempotency_ttl},
		{.name = "replay_header", .boolean = &config.replay_header},
		{.name = "should_retry_header", .boolean = &config.should_retry_header},
		{.name = "tax_percent", .real = &config.tax_percent},
		{.name = "fee_percent", .real = &config.fee_percent},
		{.name = "dispute_fee", .integer = &config.dispute_fee},
		{.name = "rest_honours_keys", .boolean = &config.rest_honours_keys},
		{.name = "rest_unique_external", .boolean = &config.rest_unique_external},
		{.name = "rest_require_if_match", .boolean = &config.rest_require_if_match},
		{.name = "rest_token", .text = config.rest_token},
		{.name = "rest_refuse", .text = config.rest_refuse},
		{.name = "rest_forget", .text = config.rest_forget},
		{.name = "rest_all_or_nothing", .boolean = &config.rest_all_or_nothing},
		{.name = "api_key", .text = config.api_key},
	};

	_Static_assert(sizeof(config.api_key) == sizeof(config.rest_token),
				   "change_setting() knows one size");
	if (strcmp(name, "keep_requests") == 0 && json_is_integer(value) &&
		json_integer_value(value) >= 0)
	{
		journal_keep((size_t) json_integer_value(value));
		return true;
	}
	for (size_t i = 0; i < lengthof(settings); i++)
	{
		if (strcmp(settings[i].name, name) == 0)
			return change_setting(&settings[i], value);
	}
	return false;
}

static void
serve_read_config(ControlCall *call)
{
	reply_json(call->reply, 200, config_report());
}

static void
serve_set_config(ControlCall *call)
{
	const char *name;
	json_t *value;

	json_object_foreach (call->body, name, value)
	{
		if (!change_config(name, value))
		{
			fail(call, "unknown setting, or a value of the wrong type");
			return;
		}
	}
	reply_json(call->reply, 200, config_report());
}

static void
serve_bill(ControlCall *call)
{
	reply_json(call->reply, 200, billing_run(call->body));
}

static void
serve_payout(ControlCall *call)
{
	reply_json(call->reply, 200, balance_pay_out(call->body));
}

static void
serve_dispute(ControlCall *call)
{
	json_t *dispute = dispute_act(call->body);

	if (dispute == NULL)
		fail(call, "there is no such charge, or no open dispute of that id to be won or lost");
	else
		reply_json(call->reply, 200, dispute);
}

static void
serve_totals(ControlCall *call)
{
	reply_json(call->reply, 200, billing_totals());
}

static void
serve_stats(ControlCall *call)
{
	json_t *report =
		json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "requests",
				  (json_int_t) stats.requests, "sink", (json_int_t) sink_count(), "effects",
				  (json_int_t) stats.effects, "events", (json_int_t) stats.events, "replays",
				  (json_int_t) stats.replays, "key_conflicts", (json_int_t) stats.key_conflicts,
				  "key_mismatches", (json_int_t) stats.key_mismatches, "unauthorized",
				  (json_int_t) stats.unauthorized, "rate_limited", (json_int_t) stats.rate_limited,
				  "faults", (json_int_t) stats.faults, "late_effects_pending",
				  (json_int_t) stats.late_effects_pending);

	json_object_set_new(report, "objects", stripe_counts());
	reply_json(call->reply, 200, report);
}

static const ControlRoute routes[] = {
	{"POST", "faults", serve_add_fault},
	{"GET", "faults", serve_list_faults},
	{"DELETE", "faults", serve_clear_faults},
	{"GET", "keys", serve_keys},
	{"DELETE", "keys", serve_forget_key},
	{"GET", "effects", serve_effects},
	{"GET", "requests", serve_requests},
	{"POST", "reset", serve_reset},
	{"GET", "clock", serve_read_clock},
	{"POST", "clock", serve_set_clock},
	{"GET", "config", serve_read_config},
	{"POST", "config", serve_set_config},
	{"POST", "bill", serve_bill},
	{"GET", "totals", serve_totals},
	{"GET", "stats", serve_stats},
	{"POST", "load", serve_load},
	{"POST", "tamper", serve_tamper},
	{"POST", "payout", serve_payout},
	{"POST", "dispute", serve_dispute},
};

void
control_handle(const Request *req, Reply *reply)
{
	ControlCall call = {.req = req, .reply = reply};
	const char *name = req->path + strlen("/_sandbox");

	if (*name == '/')
		name++;
	call.query = request_query(req);
	call.body = strcmp(name, "load") == 0 ? json_object() : request_json(req);
	reply_json(reply, 404, json_pack("{s:s}", "error", "no such control function"));
	for (size_t i = 0; i < lengthof(routes); i++)
	{
		if (strcmp(routes[i].method, req->method) != 0 || strcmp(routes[i].name, name) != 0)
			continue;
		if (call.body == NULL)
			fail(&call, "the body is not a JSON object");
		else
			routes[i].serve(&call);
		break;
	}
	json_decref(call.query);
	json_decref(call.body);
}
