/*
 * fault.c
 *		Rules that make the sandbox misbehave.
 *
 * Rules are tried in the order in which they were made. Those that only modify
 * a request (latency, …) add up; the first one that decides the answer ends
 * the search.
 */
#define _GNU_SOURCE
#include <fnmatch.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "fault.h"
#include "journal.h"

typedef struct Fault
{
	struct Fault *next;
	json_t *spec; /* as given; the strings below point into it */
	int id;
	FaultKind kind;
	const char *method;
	const char *path;
	bool exact;
	const char *body_contains;
	int64_t every;
	int64_t nth;
	double probability;
	int64_t times;	   /* -1: for ever */
	int64_t matched;   /* requests that fit method, path and body */
	int64_t hits;	   /* of these, the ones it fired on */
	int64_t frozen_at; /* FAULT_SAME_SECOND */
} Fault;

static const char *const kind_names[] = {
	[FAULT_NONE] = "none",
	[FAULT_LATENCY] = "latency",
	[FAULT_SAME_SECOND] = "same_second",
	[FAULT_LATE_PAGE] = "late_page",
	[FAULT_SLOW_EFFECT] = "slow_effect",
	[FAULT_STATUS] = "status",
	[FAULT_RESET_BEFORE] = "reset_before",
	[FAULT_RESET_AFTER] = "reset_after",
	[FAULT_RESET_MID_BODY] = "reset_mid_body",
	[FAULT_TIMEOUT_AFTER_EFFECT] = "timeout_after_effect",
	[FAULT_LATE_EFFECT] = "late_effect",
	[FAULT_GARBAGE] = "garbage",
	[FAULT_HUGE] = "huge",
	[FAULT_INFINITE] = "infinite",
	[FAULT_BAD_CHARSET] = "bad_charset",
	[FAULT_NUL] = "nul",
	[FAULT_TRUNCATED] = "truncated",
	[FAULT_REDIRECT] = "redirect",
};

static Fault *first;
static atomic_int installed;
static int last_id;

static const char *
spec_string(const json_t *spec, const char *name)
{
	return json_string_value(json_object_get(spec, name));
}

static int64_t
spec_int(const json_t *spec, const char *name, int64_t absent)
{
	const json_t *value = json_object_get(spec, name);

	return json_is_number(value) ? (int64_t) json_number_value(value) : absent;
}

static FaultKind
kind_by_name(const char *name)
{
	for (size_t i = 1; name != NULL && i < lengthof(kind_names); i++)
	{
		if (strcmp(kind_names[i], name) == 0)
			return (FaultKind) i;
	}
	return FAULT_NONE;
}

static bool
only_known_members(const json_t *object, const char *const *known)
{
	const char *name;
	json_t *value;

	json_object_foreach ((json_t *) object, name, value)
	{
		size_t i = 0;

		while (known[i] != NULL && strcmp(known[i], name) != 0)
			i++;
		if (known[i] == NULL)
			return false;
	}
	return true;
}

/* A misspelt member would make a rule that never fires: refuse it instead. */
static const char *
spec_error(const json_t *spec)
{
	static const char *const members[] = {"match",	   "kind",	  "times",	  "ms",
										  "jitter_ms", "hold_ms", "status",	  "headers",
										  "body",	   "bytes",	  "location", "field",
										  "effect",	   "store",	  "comment",  NULL};
	static const char *const matches[] = {"method", "path", "exact",	   "body_contains",
										  "every",	"nth",	"probability", NULL};

	if (kind_by_name(spec_string(spec, "kind")) == FAULT_NONE)
		return "unknown kind of fault";
	if (!only_known_members(spec, members))
		return "unknown member of a fault";
	if (!only_known_members(json_object_get(spec, "match"), matches))
		return "unknown member of match";
	return NULL;
}

json_t *
fault_add(const json_t *spec, const char **error)
{
	Fault *f;
	Fault **end = &first;
	const json_t *match;
	const json_t *probability;

	*error = spec_error(spec);
	if (*error != NULL)
		return NULL;
	f = xcalloc(1, sizeof(*f));
	f->spec = json_deep_copy(spec);
	f->id = ++last_id;
	f->kind = kind_by_name(spec_string(f->spec, "kind"));
	f->times = spec_int(f->spec, "times", 1);
	match = json_object_get(f->spec, "match");
	f->method = spec_string(match, "method");
	f->path = spec_string(match, "path");
	f->exact = json_is_true(json_object_get(match, "exact"));
	f->body_contains = spec_string(match, "body_contains");
	f->every = spec_int(match, "every", 0);
	f->nth = spec_int(match, "nth", 0);
	probability = json_object_get(match, "probability");
	f->probability = json_is_number(probability) ? json_number_value(probability) : 1.0;
	while (*end != NULL)
		end = &(*end)->next;
	*end = f;
	atomic_fetch_add(&installed, 1);
	return json_pack("{s:i}", "id", f->id);
}

/*
 * A path without wildcards stands for itself and, unless exact, for what is
 * below it: "/v1/customers" fits "/v1/customers/cus_1" but not "/v1/customersX".
 */
static bool
path_fits(const Fault *f, const char *path)
{
	size_t len;

	if (f->path == NULL)
		return true;
	if (strpbrk(f->path, "*?[") != NULL)
		return fnmatch(f->path, path, 0) == 0;
	if (f->exact)
		return strcmp(f->path, path) == 0;
	len = strlen(f->path);
	return starts_with(path, f->path) &&
		   (path[len] == '\0' || path[len] == '/' || (len > 0 && f->path[len - 1] == '/'));
}

static bool
request_fits(const Fault *f, const Request *req)
{
	if (f->method != NULL && strcasecmp(f->method, req->method) != 0)
		return false;
	if (!path_fits(f, req->path))
		return false;
	return f->body_contains == NULL ||
		   (req->body.len > 0 && memmem(req->body.data, req->body.len, f->body_contains,
										strlen(f->body_contains)) != NULL);
}

static bool
fires(Fault *f, const Request *req)
{
	if (f->times >= 0 && f->hits >= f->times)
		return false;
	if (!request_fits(f, req))
		return false;
	f->matched++;
	if (f->nth > 0 && f->matched != f->nth)
		return false;
	if (f->every > 0 && f->matched % f->every != 0)
		return false;
	if (f->probability < 1.0 && random_unit() >= f->probability)
		return false;
	f->hits++;
	stats.faults++;
	return true;
}

/* True if the rule lets further ones apply. */
static bool
apply_modifier(Fault *f, Request *req, FaultPlan *plan)
{
	int64_t ms = spec_int(f->spec, "ms", 0);

	switch (f->kind)
	{
		case FAULT_LATENCY:
			plan->latency_ms +=
				ms + (int64_t) (random_unit() * (double) spec_int(f->spec, "jitter_ms", 0));
			return true;
		case FAULT_SAME_SECOND:
			if (f->frozen_at == 0)
				f->frozen_at = clock_ms();
			req->frozen_at = f->frozen_at;
			return true;
		case FAULT_LATE_PAGE:
			req->hide_newer_ms = ms;
			return true;
		case FAULT_SLOW_EFFECT:
			req->slow_ms += ms;
			return true;
		default:
			return false;
	}
}

static char *
copy_or_null(const char *s)
{
	return s ? xstrdup(s) : NULL;
}

/* Copies, because the rule may be deleted while the request still sleeps. */
static void
decide(const Fault *f, FaultPlan *plan)
{
	const json_t *body = json_object_get(f->spec, "body");

	plan->kind = f->kind;
	plan->ms = spec_int(f->spec, "ms", 0);
	plan->hold_ms = spec_int(f->spec, "hold_ms", 0);
	plan->bytes = spec_int(f->spec, "bytes", 64 * 1024 * 1024);
	plan->status = (int) spec_int(f->spec, "status", 0);
	plan->headers = json_deep_copy(json_object_get(f->spec, "headers"));
	if (json_is_string(body))
		plan->body = xstrdup(json_string_value(body));
	else if (body != NULL)
		plan->body = json_dumps(body, JSON_COMPACT | JSON_ENCODE_ANY);
	plan->location = copy_or_null(spec_string(f->spec, "location"));
	plan->field = copy_or_null(spec_string(f->spec, "field"));
	plan->effect = json_is_true(json_object_get(f->spec, "effect"));
	plan->store = json_is_true(json_object_get(f->spec, "store"));
}

void
fault_plan(Request *req, FaultPlan *plan)
{
	for (Fault *f = first; f != NULL; f = f->next)
	{
		if (!fires(f, req))
			continue;
		plan->name = kind_names[f->kind];
		if (apply_modifier(f, req, plan))
			continue;
		decide(f, plan);
		return;
	}
}

void
fault_plan_free(FaultPlan *plan)
{
	json_decref(plan->headers);
	free(plan->body);
	free(plan->location);
	free(plan->field);
	memset(plan, 0, sizeof(*plan));
}

json_t *
fault_report(void)
{
	json_t *list = json_array();

	for (const Fault *f = first; f != NULL; f = f->next)
	{
		json_t *entry = json_deep_copy(f->spec);

		json_object_set_new(entry, "id", json_integer(f->id));
		json_object_set_new(entry, "matched", json_integer(f->matched));
		json_object_set_new(entry, "hits", json_integer(f->hits));
		json_array_append_new(list, entry);
	}
	return list;
}

void
faults_clear(void)
{
	while (first != NULL)
	{
		Fault *f = first;

		first = f->next;
		json_decref(f->spec);
		free(f);
	}
	atomic_store(&installed, 0);
}

bool
faults_present(void)
{
	return atomic_load(&installed) > 0;
}
