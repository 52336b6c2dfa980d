/*
 * stripe.c
 *		The Stripe-like API: credentials, idempotency, dispatch.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "form.h"
#include "journal.h"
#include "keys.h"
#include "pipeline.h"
#include "stripe.h"

static Resource *const resources[] = {
	&customers,		   &products,
	&prices,		   &subscriptions,
	&invoices,		   &invoiceitems,
	&invoice_payments, &payment_intents,
	&charges,		   &refunds,
	&disputes,		   &credit_notes,
	&payouts,		   &balance_transactions,
};

/* The parts of /v1/<resource>/<id>/<action>. */
typedef struct Target
{
	char text[512];
	const char *resource;
	const char *id;
	const char *action;
	bool too_deep;
} Target;

/* Always false, so that callers can return it. */
bool
stripe_error(Call *call, int status, const char *type, const char *code, const char *param,
			 const char *fmt, ...)
{
	json_t *error = json_object();
	char *message = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&message, fmt, ap) < 0)
		abort();
	va_end(ap);
	if (code != NULL)
	{
		set_string(error, "code", code);
		json_object_set_new(error, "doc_url",
							json_sprintf("https://stripe.com/docs/error-codes/%s", code));
	}
	set_string(error, "message", message);
	if (param != NULL)
		set_string(error, "param", param);
	set_string(error, "type", type);
	free(message);
	reply_json(call->reply, status, json_pack("{s:o}", "error", error));
	return false;
}

bool
stripe_missing(Call *call, const char *object, const char *param, const char *id)
{
	return stripe_error(call, 404, "invalid_request_error", "resource_missing", param,
						"No such %s: '%s'", object, id);
}

/* Notes what this call changed; the pipeline puts it into the journal. */
void
stripe_effect(Call *call, const char *object, const Obj *obj)
{
	json_t *metadata = json_object_get(obj->json, "metadata");

	json_decref(call->reply->effect);
	call->reply->effect = json_pack("{s:s, s:s, s:o}", "object", object, "id", obj->id, "metadata",
									metadata ? json_deep_copy(metadata) : json_object());
}

/* The live object; otherwise answers 404 and returns NULL. */
Obj *
stripe_find(Call *call, Resource *res, const char *param, const char *id)
{
	Obj *obj = id ? store_get(&res->coll, id) : NULL;

	if (obj != NULL && !obj->deleted)
		return obj;
	/* an id in a parameter, unlike one in the path, is a bad request */
	(void) stripe_missing(call, res->object, param, id ? id : "");
	if (strcmp(param, "id") != 0)
		call->reply->status = 400;
	return NULL;
}

json_t *
stripe_new_json(const Resource *res)
{
	char id[64];

	make_id(id, sizeof(id), res->prefix, res->digits);
	return json_pack("{s:s, s:s, s:b}", "id", id, "object", res->object, "livemode", 0);
}

/* Puts a complete object into its collection and tells of it. */
Obj *
stripe_insert(Call *call, Resource *res, json_t *json)
{
	Obj *obj = store_add(&res->coll, get_string(json, "id"), NULL);
	char type[80];

	/* with no JSON yet, a lagging search finds nothing */
	store_before_change(obj, config.search_lag_ms);
	obj->json = json;
	if (json_object_get(json, "created") == NULL)
		set_int(json, "created", obj->created);
	store_created(&res->coll, obj, get_int(json, "created"));
	store_after_change(&res->coll, obj);
	if (res->event != NULL && !res->silent_creation)
	{
		snprintf(type, sizeof(type), "%s.created", res->event);
		stripe_emit(call, type, obj, NULL);
	}
	return obj;
}

Obj *
stripe_create(Call *call, Resource *res)
{
	const char *own_id = res->own_ids ? param_string(call, "id") : NULL;
	json_t *json;

	if (own_id != NULL && store_get(&res->coll, own_id) != NULL)
	{
		(void) stripe_error(call, 400, "invalid_request_error", "resource_already_exists", "id",
							"%s already exists.", res->object);
		return NULL;
	}
	json = stripe_new_json(res);
	json_object_set_new(json, "metadata", json_object());
	params_store(call, res->params, json);
	if (own_id != NULL)
		set_string(json, "id", own_id);
	if (!res->create(call, json))
	{
		json_decref(json);
		return NULL;
	}
	return stripe_insert(call, res, json);
}

static void
answer_object(Call *call, const Obj *obj)
{
	call->reply->status = 200;
	call->reply->body.len = 0;
	stripe_render(obj, &call->reply->body);
}

static void
run_create(Call *call, Resource *res)
{
	Obj *obj;

	if (!params_check(call, res->params, true))
		return;
	call->executed = true;
	obj = stripe_create(call, res);
	if (obj == NULL)
		return;
	stripe_effect(call, res->object, obj);
	if (res->created != NULL && !res->created(call, obj))
		return;
	answer_object(call, obj);
}

static void
run_update(Call *call, Resource *res, const char *id)
{
	Obj *obj;
	json_t *before;

	if (!params_check(call, res->params, false))
		return;
	call->executed = true;
	obj = stripe_find(call, res, "id", id);
	if (obj == NULL)
		return;
	before = change_begin(obj);
	params_store(call, res->params, obj->json);
	if (res->update != NULL && !res->update(call, obj))
	{
		change_undo(obj, before);
		return;
	}
	change_end(call, res, obj, before, "updated");
	stripe_effect(call, res->object, obj);
	answer_object(call, obj);
}

static void
run_remove(Call *call, Resource *res, const char *id)
{
	Obj *obj = stripe_find(call, res, "id", id);

	call->executed = true;
	if (obj == NULL || !res->remove(call, obj))
		return;
	stripe_effect(call, res->object, obj);
	answer_object(call, obj);
}

static void
run_get(Call *call, Resource *res, const char *id)
{
	Obj *obj = store_peek(&res->coll, id);

	if (obj == NULL)
		(void) stripe_missing(call, res->object, "id", id);
	else
		answer_object(call, obj);
}

static bool
run_action(Call *call, Resource *res, const Target *target)
{
	static const Param no_params[] = {{.name = NULL}};
	const Action *action = res->actions;
	Obj *obj;

	while (action != NULL && action->verb != NULL && strcmp(action->verb, target->action) != 0)
		action++;
	if (action == NULL || action->verb == NULL)
		return false;
	if (!params_check(call, action->params ? action->params : no_params, true))
		return true;
	call->executed = true;
	obj = stripe_find(call, res, "id", target->id);
	if (obj == NULL || !action->run(call, obj))
		return true;
	stripe_effect(call, res->object, obj);
	answer_object(call, obj);
	return true;
}

static void
split_target(const char *path, Target *target)
{
	char *rest = target->text;

	memset(target, 0, sizeof(*target));
	snprintf(target->text, sizeof(target->text), "%s", path + strlen("/v1"));
	rest += *rest == '/';
	target->resource = strsep(&rest, "/");
	target->id = strsep(&rest, "/");
	target->action = strsep(&rest, "/");
	target->too_deep = rest != NULL;
	if (target->id != NULL && *target->id == '\0')
		target->id = NULL;
}

Resource *
stripe_resource(const char *object)
{
	for (size_t i = 0; i < lengthof(resources); i++)
	{
		if (strcmp(resources[i]->object, object) == 0)
			return resources[i];
	}
	return NULL;
}

/* A new reference to whatever object has this id, or NULL. */
json_t *
stripe_any(const char *id)
{
	for (size_t i = 0; i < lengthof(resources); i++)
	{
		const Obj *obj = store_peek(&resources[i]->coll, id);

		if (obj != NULL)
			return store_read(obj);
	}
	return NULL;
}

static Resource *
find_resource(const char *path)
{
	for (size_t i = 0; i < lengthof(resources); i++)
	{
		if (strcmp(resources[i]->path, path) == 0)
			return resources[i];
	}
	return NULL;
}

static bool
run_read(Call *call, Resource *res, const Target *target)
{
	Obj *obj;

	if (target->id == NULL)
		stripe_list(call, res);
	else if (strcmp(target->id, "search") == 0 && res->searchable && target->action == NULL)
		stripe_search(call, res);
	else if (target->action == NULL)
		run_get(call, res, target->id);
	else if ((res == &invoices || res == &credit_notes) && strcmp(target->action, "lines") == 0)
	{
		obj = stripe_find(call, res, "id", target->id);
		if (obj != NULL)
			stripe_list_lines(call, obj);
	}
	else
		return false;
	return true;
}

/* False if there is no such thing to do. */
static bool
run_on_resource(Call *call, Resource *res, const Target *target)
{
	const char *method = call->req->method;

	if (strcmp(method, "GET") == 0)
		return run_read(call, res, target);
	if (strcmp(method, "POST") == 0 && target->action != NULL)
		return run_action(call, res, target);
	if (strcmp(method, "POST") == 0 && target->id != NULL && res->params != NULL)
		run_update(call, res, target->id);
	else if (strcmp(method, "POST") == 0 && res->create != NULL && res->params != NULL)
		run_create(call, res);
	else if (strcmp(method, "DELETE") == 0 && target->id != NULL && target->action == NULL &&
			 res->remove != NULL)
		run_remove(call, res, target->id);
	else
		return false;
	return true;
}

static bool
run_on_events(Call *call, const Target *target)
{
	Obj *obj;

	if (strcmp(call->req->method, "GET") != 0 || target->action != NULL)
		return false;
	if (target->id == NULL)
	{
		stripe_list_events(call);
		return true;
	}
	obj = store_peek(stripe_events(), target->id);
	if (obj == NULL)
		(void) stripe_missing(call, "event", "id", target->id);
	else
		answer_object(call, obj);
	return true;
}

static void
dispatch(Call *call)
{
	Target target;
	Resource *res;
	bool found = false;

	split_target(call->req->path, &target);
	res = find_resource(target.resource);
	if (target.too_deep)
		found = false;
	else if (strcmp(target.resource, "events") == 0)
		found = run_on_events(call, &target);
	else if (strcmp(target.resource, "account") == 0 && strcmp(call->req->method, "GET") == 0)
	{
		found = true;
		reply_json(call->reply, 200,
				   json_pack("{s:s, s:s, s:s, s:s, s:b}", "id", "acct_sandbox", "object", "account",
							 "country", "US", "default_currency", "usd", "charges_enabled", 1));
	}
	else if (res != NULL)
		found = run_on_resource(call, res, &target);
	if (found)
		stripe_expand(call);
	else
		(void)
			stripe_error(call, 404, "invalid_request_error", NULL, NULL,
						 "Unrecognized request URL (%s: %s). If you are trying to list objects, "
						 "remove the trailing slash. If you are trying to retrieve an object, make "
						 "sure you passed a valid (non-empty) identifier in your code.",
						 call->req->method, call->req->path);
}

static bool
key_is_valid(const Request *req)
{
	const char *given = request_header(req, "authorization");
	char user[256];

	if (given == NULL)
		return false;
	if (strncasecmp(given, "Bearer ", 7) == 0)
		return strcmp(given + 7, config.api_key) == 0;
	if (strncasecmp(given, "Basic ", 6) != 0)
		return false;
	base64_decode(given + 6, user, sizeof(user));
	user[strcspn(user, ":")] = '\0';
	return strcmp(user, config.api_key) == 0;
}

static bool
authorize(Call *call)
{
	if (key_is_valid(call->req))
		return true;
	stats.unauthorized++;
	reply_header(call->reply, "WWW-Authenticate", "Bearer realm=\"Stripe\"");
	if (request_header(call->req, "authorization") == NULL)
		return stripe_error(
			call, 401, "invalid_request_error", NULL, NULL,
			"You did not provide an API key. You need to provide your API key in the "
			"Authorization header, using Bearer auth (e.g. 'Authorization: Bearer "
			"YOUR_SECRET_KEY').");
	return stripe_error(call, 401, "invalid_request_error", NULL, NULL,
						"Invalid API Key provided: ****");
}

static bool
read_params(Call *call)
{
	const Request *req = call->req;

	if (!form_decode(call->params, req->query, strlen(req->query)) ||
		(req->body.len > 0 && !form_decode(call->params, req->body.data, req->body.len)))
		return stripe_error(call, 400, "invalid_request_error", NULL, NULL,
							"Invalid request: the parameters could not be decoded.");
	return true;
}

static void
should_retry(Call *call, bool retry)
{
	if (config.should_retry_header)
		reply_header(call->reply, "Stripe-Should-Retry", retry ? "true" : "false");
}

/* True if the caller is to execute the request under this key. */
static bool
take_key(Call *call)
{
	switch (key_begin(call->req, call->key, call->reply))
	{
		case KEY_NEW:
			return true;
		case KEY_REPLAYED:
			return false;
		case KEY_RUNNING:
			should_retry(call, true);
			return stripe_error(
				call, 409, "idempotency_error", "idempotency_key_in_use", NULL,
				"There is currently another in-progress request using this "
				"Idempotency Key (that probably means you submitted twice, and the "
				"other request is still going through): %s. Please try again later.",
				call->key);
		case KEY_OTHER_PARAMETERS:
			should_retry(call, false);
			return stripe_error(call, 400, "idempotency_error", NULL, NULL,
								"Keys for idempotent requests can only be used with the same "
								"parameters they were first used with. Try using a key other than "
								"'%s' if you meant to execute a different request.",
								call->key);
		case KEY_OTHER_ENDPOINT:
			should_retry(call, false);
			return stripe_error(
				call, 400, "idempotency_error", NULL, NULL,
				"Keys for idempotent requests can only be used for the same endpoint "
				"they were first used for ('%s'). Try using a key other than '%s' if "
				"you meant to execute a different request.",
				key_endpoint(call->key), call->key);
	}
	return false;
}

static void
sleep_unlocked(int64_t ms)
{
	if (ms <= 0)
		return;
	state_unlock();
	sleep_ms(ms);
	state_lock();
}

/* Stripe takes keys on POST only; on other methods they mean nothing. */
static void
run_with_key(Call *call)
{
	bool keyed = call->key != NULL && strcmp(call->req->method, "POST") == 0;

	if (keyed && strlen(call->key) > 255)
	{
		(void) stripe_error(call, 400, "invalid_request_error", NULL, NULL,
							"Idempotency keys may be at most 255 characters long.");
		return;
	}
	if (keyed && !take_key(call))
		return;
	sleep_unlocked(call->req->slow_ms);
	dispatch(call);
	if (!keyed)
		return;
	if (call->executed)
		key_finish(call->key, call->reply);
	else
		key_abandon(call->key);
}

void
stripe_handle(const Request *req, Reply *reply)
{
	Call call = {
		.req = req,
		.reply = reply,
		.params = json_object(),
		.key = request_header(req, "idempotency-key"),
		.version = request_header(req, "stripe-version"),
	};

	if (call.version == NULL)
		call.version = STRIPE_VERSION;
	if (authorize(&call))
	{
		if (rate_limit_exceeded(reply))
		{
			reply_header(reply, "Stripe-Rate-Limited-Reason", "global-rate");
			should_retry(&call, true);
			(void) stripe_error(&call, 429, "invalid_request_error", "rate_limit", NULL,
								"Request rate limit exceeded. Learn more about rate limits here "
								"https://stripe.com/docs/rate-limits.");
		}
		else if (read_params(&call))
			run_with_key(&call);
	}
	reply_header(reply, "Request-Id", req->id);
	reply_header(reply, "Stripe-Version", call.version);
	if (call.key != NULL)
		reply_header(reply, "Idempotency-Key", call.key);
	json_decref(call.params);
}

void
stripe_reset(void)
{
	for (size_t i = 0; i < lengthof(resources); i++)
		store_clear(&resources[i]->coll);
	store_clear(stripe_events());
}

json_t *
stripe_counts(void)
{
	json_t *counts = json_object();

	for (size_t i = 0; i < lengthof(resources); i++)
		set_int(counts, resources[i]->object, (int64_t) resources[i]->coll.count);
	set_int(counts, "event", (int64_t) stripe_events()->count);
	return counts;
}
