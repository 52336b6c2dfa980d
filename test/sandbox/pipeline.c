/*
 * pipeline.c
 *		The way of a request: journal, faults, execution, answer.
 *
 * One lock guards all state. Whatever sleeps does so without it, so a slow
 * request never holds up another one.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "control.h"
#include "fault.h"
#include "form.h"
#include "journal.h"
#include "keys.h"
#include "pipeline.h"
#include "rest.h"
#include "stripe.h"
#include "wire.h"

#define ACTOR_HEADER "x-sandbox-actor"

Config config;

static pthread_mutex_t state_mutex = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint generation; /* counts resets: late effects of an older one die */
static uint64_t seed;
static double tokens;
static int64_t tokens_at_ms;
static atomic_int_fast64_t sinks;

void
config_defaults(void)
{
	char key[sizeof(config.api_key)];

	memcpy(key, config.api_key, sizeof(key));
	memset(&config, 0, sizeof(config));
	memcpy(config.api_key, key, sizeof(key));
	config.idempotency_ttl = 24 * 3600;
	config.fee_percent = 2.9;
	config.dispute_fee = 1500;
	config.retry_after = -1;
	config.replay_header = true;
	config.should_retry_header = true;
}

void
state_lock(void)
{
	pthread_mutex_lock(&state_mutex);
}

void
state_unlock(void)
{
	pthread_mutex_unlock(&state_mutex);
}

void
state_seed(uint64_t value)
{
	seed = value;
	random_seed(value);
}

/* Everything but the clock and the configuration. */
void
state_reset(void)
{
	atomic_fetch_add(&generation, 1);
	atomic_store(&sinks, 0);
	tokens_at_ms = 0;
	faults_clear();
	keys_reset();
	journal_reset();
	stripe_reset();
	rest_reset();
	random_seed(seed);
}

/* A token bucket that holds one second's worth, in real time. */
bool
rate_limit_exceeded(Reply *reply)
{
	int64_t now = monotonic_ms();
	double capacity = config.rate_limit > 1 ? config.rate_limit : 1;
	char seconds[24];

	if (config.rate_limit <= 0)
		return false;
	if (tokens_at_ms == 0)
		tokens = capacity;
	else
		tokens += (double) (now - tokens_at_ms) / 1000.0 * config.rate_limit;
	tokens_at_ms = now;
	if (tokens > capacity)
		tokens = capacity;
	if (tokens >= 1)
	{
		tokens -= 1;
		return false;
	}
	stats.rate_limited++;
	if (config.retry_after >= 0)
	{
		snprintf(seconds, sizeof(seconds), "%lld", (long long) config.retry_after);
		reply_header(reply, "Retry-After", seconds);
	}
	return true;
}

int64_t
sink_count(void)
{
	return atomic_load(&sinks);
}

static bool
is_below(const char *path, const char *folder)
{
	size_t len = strlen(folder);

	return starts_with(path, folder) && (path[len] == '\0' || path[len] == '/');
}

static void
answer_sink(const Request *req, Reply *reply)
{
	int64_t n = atomic_fetch_add(&sinks, 1) + 1;

	if (*req->query != '\0')
	{
		json_t *params = request_query(req);
		const char *delay = json_string_value(json_object_get(params, "delay_ms"));

		sleep_ms(delay ? atoll(delay) : 0);
		json_decref(params);
	}
	reply->status = 200;
	buf_printf(&reply->body, "{\"id\":\"sink_%lld\"}", (long long) n);
}

static void
route(Request *req, Reply *reply)
{
	if (req->too_large)
		reply_json(reply, 413, json_pack("{s:s}", "error", "request body too large"));
	else if (is_below(req->path, "/v1"))
		stripe_handle(req, reply);
	else if (is_below(req->path, "/rest"))
		rest_handle(req, reply);
	else
		reply_json(reply, 404, json_pack("{s:s}", "error", "nothing is served here"));
}

static void
note_effect(const Request *req, const char *key, json_t *effect)
{
	const char *id = json_string_value(json_object_get(effect, "id"));
	const char *actor = request_header(req, ACTOR_HEADER);

	if (actor != NULL)
		json_object_set_new(effect, "actor", json_string(actor));
	if (key != NULL)
		json_object_set_new(effect, "key_since_ms", json_integer(key_since(key)));
	journal_effect(req->method, req->path, key, req->id, effect);
	if (key != NULL)
		key_count_effect(key, id ? id : "");
}

/* With the lock held; a handler may drop and retake it while it sleeps. */
static void
execute(Request *req, Reply *reply)
{
	const char *key = request_header(req, "idempotency-key");
	json_t *effect;
	size_t i;

	clock_override(req->frozen_at);
	route(req, reply);
	if (json_is_array(reply->effect))
	{
		json_array_foreach (reply->effect, i, effect)
			note_effect(req, key, effect);
	}
	else if (reply->effect != NULL)
		note_effect(req, key, reply->effect);
	clock_override(0);
}

typedef struct LateEffect
{
	Request *req;
	int64_t ms;
	unsigned generation;
} LateEffect;

static void *
late_effect_main(void *arg)
{
	LateEffect *late = arg;
	Reply unseen = {0};

	sleep_ms(late->ms);
	state_lock();
	if (late->generation == atomic_load(&generation))
	{
		stats.late_effects_pending--;
		execute(late->req, &unseen);
		journal_answer(late->req->number, unseen.status, NULL);
	}
	state_unlock();
	reply_clear(&unseen);
	request_free(late->req);
	free(late);
	return NULL;
}

/* With the lock held. The client is gone when this takes effect. */
static void
start_late_effect(const Request *req, int64_t ms)
{
	LateEffect *late = xcalloc(1, sizeof(*late));
	pthread_t thread;

	late->req = request_copy(req);
	late->ms = ms;
	late->generation = atomic_load(&generation);
	stats.late_effects_pending++;
	if (pthread_create(&thread, NULL, late_effect_main, late) != 0)
		abort();
	pthread_detach(thread);
}

static void
answer_with_status(const Request *req, const FaultPlan *plan, Reply *reply)
{
	const char *key = request_header(req, "idempotency-key");
	int status = plan->status ? plan->status : 500;
	const char *name;
	json_t *value;

	reply->status = status;
	reply->body.len = 0;
	reply_header(reply, "Request-Id", req->id);
	if (plan->body != NULL)
		buf_puts(&reply->body, plan->body);
	else
		buf_printf(&reply->body,
				   "{\"error\":{\"type\":\"api_error\",\"message\":"
				   "\"An injected error of status %d.\"}}",
				   status);
	json_object_foreach (plan->headers, name, value)
	{
		if (json_is_string(value))
			reply_header(reply, name, json_string_value(value));
	}
	if (plan->store && key != NULL)
		key_store(req, key, reply);
}

/* Puts bytes into the first string of the answer that a mapping would read. */
static void
spoil_body(Reply *reply, const FaultPlan *plan)
{
	const char *fields[] = {plan->field, "name", "description", "email", "id"};
	bool nul = plan->kind == FAULT_NUL;

	for (size_t i = 0; i < lengthof(fields); i++)
	{
		Buf pattern = {0};
		char *found;

		if (fields[i] == NULL || reply->body.len == 0)
			continue;
		buf_printf(&pattern, "\"%s\":\"", fields[i]);
		found = memmem(reply->body.data, reply->body.len, pattern.data, pattern.len);
		if (found != NULL)
		{
			size_t at = (size_t) (found - reply->body.data) + pattern.len;

			buf_insert(&reply->body, at, nul ? "\\u0000" : "\xC3\x28\xFF", nul ? 6 : 3);
		}
		buf_free(&pattern);
		if (found != NULL)
			return;
	}
}

/* With the lock held. True: the request is to be executed now. */
static bool
executes_now(const Request *req, const FaultPlan *plan, Reply *reply)
{
	static const char garbage[] = "\x1f\x8b\x00<html>{{not json\xfe\xff";

	switch (plan->kind)
	{
		case FAULT_STATUS:
			if (plan->effect)
				return true;
			answer_with_status(req, plan, reply);
			return false;
		case FAULT_LATE_EFFECT:
			start_late_effect(req, plan->ms);
			if (plan->status != 0)
				answer_with_status(req, plan, reply);
			return false;
		case FAULT_GARBAGE:
			if (plan->effect)
				return true;
			reply->status = 200;
			buf_append(&reply->body, garbage, sizeof(garbage) - 1);
			return false;
		case FAULT_REDIRECT:
			reply->status = plan->status ? plan->status : 307;
			reply_header(reply, "Location", plan->location ? plan->location : "/");
			return false;
		case FAULT_HUGE:
		case FAULT_INFINITE:
			reply->status = plan->status ? plan->status : 200;
			return false;
		case FAULT_RESET_BEFORE:
			return false;
		default:
			return true;
	}
}

/* With the lock held, after execution. */
static void
alter_reply(const Request *req, const FaultPlan *plan, Reply *reply)
{
	if (plan->kind == FAULT_STATUS && plan->effect)
		answer_with_status(req, plan, reply);
	else if (plan->kind == FAULT_GARBAGE && plan->effect)
	{
		reply->status = 200; /* as promised, whatever came of it */
		reply->body.len = 0;
		buf_puts(&reply->body, "<html>not json");
	}
	else if (plan->kind == FAULT_BAD_CHARSET || plan->kind == FAULT_NUL)
		spoil_body(reply, plan);
}

static WireMode
wire_mode(const FaultPlan *plan)
{
	switch (plan->kind)
	{
		case FAULT_RESET_BEFORE:
		case FAULT_RESET_AFTER:
			return WIRE_RESET;
		case FAULT_LATE_EFFECT:
			return plan->status != 0 ? WIRE_INTACT : WIRE_RESET;
		case FAULT_RESET_MID_BODY:
			return WIRE_HALF;
		case FAULT_TRUNCATED:
			return WIRE_TRUNCATED;
		case FAULT_HUGE:
			return WIRE_HUGE;
		case FAULT_INFINITE:
			return WIRE_INFINITE;
		default:
			return WIRE_INTACT;
	}
}

static enum MHD_Result
serve_vendor(struct MHD_Connection *conn, Request *req)
{
	bool sink = is_below(req->path, "/sink");
	FaultPlan plan = {0};
	Reply reply = {0};
	WireMode mode;
	int64_t bytes;

	state_lock();
	req->number = journal_request(req);
	/* What the vendor does by itself goes well. */
	if (request_header(req, ACTOR_HEADER) == NULL)
		fault_plan(req, &plan);
	state_unlock();
	sleep_ms(plan.latency_ms);
	state_lock();
	if (executes_now(req, &plan, &reply))
	{
		if (sink)
		{
			state_unlock(); /* it may sleep */
			answer_sink(req, &reply);
			state_lock();
		}
		else
			execute(req, &reply);
		alter_reply(req, &plan, &reply);
	}
	if (plan.kind != FAULT_LATE_EFFECT)
		journal_answer(req->number, reply.status, plan.name);
	else
		journal_answer(req->number, 0, plan.name);
	state_unlock();
	if (plan.kind == FAULT_TIMEOUT_AFTER_EFFECT)
		sleep_ms(plan.ms);
	else
		sleep_ms(plan.hold_ms);
	mode = wire_mode(&plan);
	bytes = plan.bytes;
	fault_plan_free(&plan);
	return wire_send(conn, &reply, mode, bytes);
}

enum MHD_Result
pipeline_serve(struct MHD_Connection *conn, Request *req)
{
	Reply reply = {0};

	if (is_below(req->path, "/_sandbox"))
	{
		state_lock();
		control_handle(req, &reply);
		state_unlock();
	}
	else if (is_below(req->path, "/sink") && !faults_present())
		answer_sink(req, &reply); /* benchmarks: no lock, no journal */
	else
		return serve_vendor(conn, req);
	return wire_send(conn, &reply, WIRE_INTACT, 0);
}
