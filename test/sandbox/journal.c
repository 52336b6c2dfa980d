/*
 * journal.c
 *		What came in and what took effect, for tests to look at.
 *
 * Requests are kept in a ring, because a benchmark sends millions of them.
 * Effects are kept for ever: they are what proves 'once' and the order.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "journal.h"

Stats stats;

static json_t **ring;
static size_t ring_size = 5000;
static int64_t last_request;

static json_t **effects;
static size_t effects_count;
static size_t effects_cap;

/* Credentials must not leak into a test's log; a hash still tells two apart. */
static json_t *
redacted_headers(const Request *req)
{
	json_t *headers = json_copy(req->headers);
	const char *secret = request_header(req, "authorization");
	char hash[32];

	if (secret != NULL)
	{
		snprintf(hash, sizeof(hash), "hash:%016llx",
				 (unsigned long long) hash_bytes(secret, strlen(secret)));
		json_object_set_new(headers, "authorization", json_string(hash));
	}
	return headers;
}

/* Text that is not UTF-8 is shown by its length only. */
static json_t *
body_text(const Buf *body)
{
	json_t *text = json_stringn(body->len ? body->data : "", body->len);

	return text ? text : json_sprintf("(%zu bytes, not UTF-8)", body->len);
}

int64_t
journal_request(const Request *req)
{
	json_t *entry;

	stats.requests++;
	last_request++;
	if (ring_size == 0)
		return last_request;
	if (ring == NULL)
		ring = xcalloc(ring_size, sizeof(*ring));
	entry = json_pack("{s:I, s:I, s:s, s:s, s:s, s:s, s:o, s:o, s:n, s:n}", "n",
					  (json_int_t) last_request, "time_ms", (json_int_t) clock_ms(), "id", req->id,
					  "method", req->method, "path", req->path, "query", req->query, "headers",
					  redacted_headers(req), "body", body_text(&req->body), "status", "fault");
	json_decref(ring[(size_t) last_request % ring_size]);
	ring[(size_t) last_request % ring_size] = entry;
	return last_request;
}

void
journal_answer(int64_t number, int status, const char *fault)
{
	json_t *entry;

	if (ring == NULL || number <= 0)
		return;
	entry = ring[(size_t) number % ring_size];
	/* overwritten by a younger request, or from before a reset */
	if (entry == NULL || json_integer_value(json_object_get(entry, "n")) != number)
		return;
	if (status != 0)
		json_object_set_new(entry, "status", json_integer(status));
	if (fault != NULL)
		json_object_set_new(entry, "fault", json_string(fault));
}

/* The newest 'limit' requests, oldest of them first. */
json_t *
journal_requests(size_t limit, const char *path_prefix)
{
	json_t *newest_first = json_array();
	json_t *list = json_array();

	for (int64_t n = last_request;
		 n > 0 && ring != NULL && n > last_request - (int64_t) ring_size &&
		 json_array_size(newest_first) < limit;
		 n--)
	{
		json_t *entry = ring[(size_t) n % ring_size];
		const char *path = json_string_value(json_object_get(entry, "path"));

		if (path != NULL && (path_prefix == NULL || starts_with(path, path_prefix)))
			json_array_append(newest_first, entry);
	}
	for (size_t i = json_array_size(newest_first); i > 0; i--)
		json_array_append(list, json_array_get(newest_first, i - 1));
	json_decref(newest_first);
	return list;
}

void
journal_effect(const char *method, const char *path, const char *key, const char *request_id,
			   const json_t *effect)
{
	json_t *entry =
		json_pack("{s:I, s:I, s:s, s:s, s:s?, s:s?}", "n", (json_int_t) (effects_count + 1),
				  "time_ms", (json_int_t) clock_ms(), "method", method, "path", path,
				  "idempotency_key", key, "request", request_id);

	json_object_update(entry, (json_t *) effect);
	if (effects_count == effects_cap)
	{
		effects_cap = effects_cap ? effects_cap * 2 : 1024;
		effects = xrealloc(effects, effects_cap * sizeof(*effects));
	}
	effects[effects_count++] = entry;
	stats.effects++;
}

static bool
member_is(const json_t *entry, const char *member, const char *wanted)
{
	const char *value = json_string_value(json_object_get(entry, member));

	return wanted == NULL || (value != NULL && strcmp(value, wanted) == 0);
}

json_t *
journal_effects(const char *object, const char *id)
{
	json_t *list = json_array();

	for (size_t i = 0; i < effects_count; i++)
	{
		if (member_is(effects[i], "object", object) && member_is(effects[i], "id", id))
			json_array_append(list, effects[i]);
	}
	return list;
}

void
journal_reset(void)
{
	for (size_t i = 0; ring != NULL && i < ring_size; i++)
		json_decref(ring[i]);
	free(ring);
	ring = NULL;
	for (size_t i = 0; i < effects_count; i++)
		json_decref(effects[i]);
	effects_count = 0;
	/* request numbers go on, so that an answer from before the reset finds nothing */
	memset(&stats, 0, sizeof(stats));
}

void
journal_keep(size_t requests)
{
	for (size_t i = 0; ring != NULL && i < ring_size; i++)
		json_decref(ring[i]);
	free(ring);
	ring = NULL;
	ring_size = requests;
}
