/*
 * keys.c
 *		Idempotency keys: what was executed under each, and the stored answer.
 *
 *		free --begin--> running --finish--> stored --ttl--> free
 *		                   '------abandon--------------------^
 *
 * An entry's counters outlive the stored answer: a test must be able to see
 * that a key executed twice because it had expired in between.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "form.h"
#include "journal.h"
#include "keys.h"
#include "map.h"
#include "pipeline.h"

typedef struct Key
{
	char *name;
	char *endpoint;		  /* "POST /v1/customers" of the first use */
	uint64_t fingerprint; /* of its parameters */
	bool running;
	bool stored;
	int64_t since_ms; /* when the key was first used */
	int status;
	Buf body;
	json_t *headers;
	char request_id[32];
	int64_t executions;
	int64_t replays;
	int64_t conflicts;
	int64_t mismatches;
	json_t *refused; /* of each mismatch: [start of the key's life, time, endpoint] */
	int64_t abandoned;
	json_t *objects;
} Key;

static Map keys;
static Key **in_order;
static size_t count;
static size_t cap;

static Key *
key_entry(const char *name)
{
	Key *key = map_get(&keys, name);

	if (key != NULL)
		return key;
	key = xcalloc(1, sizeof(*key));
	key->name = xstrdup(name);
	key->objects = json_array();
	key->refused = json_array();
	map_put(&keys, name, key);
	if (count == cap)
	{
		cap = cap ? cap * 2 : 1024;
		in_order = xrealloc(in_order, cap * sizeof(*in_order));
	}
	in_order[count++] = key;
	return key;
}

/*
 * Equal parameters give equal prints whatever their order. The names are
 * sorted by serialising them, which is simpler than it is fast.
 */
static uint64_t
fingerprint(const Request *req)
{
	const char *type = request_header(req, "content-type");
	json_t *params = json_object();
	uint64_t print;
	char *text;

	if (type != NULL && strstr(type, "json") != NULL)
	{
		json_decref(params);
		return hash_bytes(req->body.data, req->body.len);
	}
	(void) form_decode(params, req->query, strlen(req->query));
	if (req->body.len > 0)
		(void) form_decode(params, req->body.data, req->body.len);
	text = json_dumps(params, JSON_COMPACT | JSON_SORT_KEYS);
	print = hash_bytes(text, strlen(text));
	free(text);
	json_decref(params);
	return print;
}

static void
set_identity(Key *key, const Request *req)
{
	Buf endpoint = {0};

	buf_printf(&endpoint, "%s %s", req->method, req->path);
	free(key->endpoint);
	key->endpoint = endpoint.data;
	key->fingerprint = fingerprint(req);
	key->since_ms = clock_ms();
	snprintf(key->request_id, sizeof(key->request_id), "%s", req->id);
}

static bool
same_endpoint(const Key *key, const Request *req)
{
	size_t len = strlen(req->method);

	return starts_with(key->endpoint, req->method) && key->endpoint[len] == ' ' &&
		   strcmp(key->endpoint + len + 1, req->path) == 0;
}

static void
replay(Key *key, Reply *reply)
{
	key->replays++;
	stats.replays++;
	reply->status = key->status;
	reply->replayed = true;
	reply->body.len = 0;
	buf_append(&reply->body, key->body.data, key->body.len);
	if (key->headers != NULL)
	{
		json_decref(reply->headers);
		reply->headers = json_copy(key->headers);
	}
	if (config.replay_header)
		reply_header(reply, "Idempotent-Replayed", "true");
	reply_header(reply, "Original-Request", key->request_id);
}

static void
note_refused(Key *key, const Request *req)
{
	json_array_append_new(key->refused, json_pack("[I, I, o]", (json_int_t) key->since_ms,
												  (json_int_t) clock_ms(),
												  json_sprintf("%s %s", req->method, req->path)));
}

KeyState
key_begin(const Request *req, const char *name, Reply *reply)
{
	Key *key = key_entry(name);

	if (key->stored && clock_ms() - key->since_ms >= config.idempotency_ttl * 1000)
		key->stored = false;
	if (key->running || key->stored)
	{
		bool endpoint_differs = !same_endpoint(key, req);

		if (endpoint_differs || key->fingerprint != fingerprint(req))
		{
			key->mismatches++;
			note_refused(key, req);
			stats.key_mismatches++;
			return endpoint_differs ? KEY_OTHER_ENDPOINT : KEY_OTHER_PARAMETERS;
		}
		if (key->running)
		{
			key->conflicts++;
			stats.key_conflicts++;
			return KEY_RUNNING;
		}
		replay(key, reply);
		return KEY_REPLAYED;
	}
	set_identity(key, req);
	key->running = true;
	return KEY_NEW;
}

static void
store_answer(Key *key, const Reply *reply)
{
	key->running = false;
	key->stored = true;
	key->status = reply->status;
	key->body.len = 0;
	buf_append(&key->body, reply->body.data, reply->body.len);
	json_decref(key->headers);
	key->headers = json_copy(reply->headers);
}

void
key_finish(const char *name, const Reply *reply)
{
	Key *key = map_get(&keys, name);

	/* a reset may have happened while the execution slept */
	if (key != NULL)
		store_answer(key, reply);
}

void
key_forget(const char *name)
{
	Key *key = name == NULL ? NULL : map_get(&keys, name);

	if (key != NULL)
		key->stored = false;
}

void
key_abandon(const char *name)
{
	Key *key = map_get(&keys, name);

	if (key == NULL)
		return;
	key->running = false;
	key->abandoned++;
}

const char *
key_endpoint(const char *name)
{
	const Key *key = map_get(&keys, name);

	return key && key->endpoint ? key->endpoint : "";
}

int64_t
key_since(const char *name)
{
	const Key *key = map_get(&keys, name);

	return key ? key->since_ms : 0;
}

void
key_store(const Request *req, const char *name, const Reply *reply)
{
	Key *key = key_entry(name);

	if (!key->stored)
		set_identity(key, req);
	store_answer(key, reply);
}

void
key_count_effect(const char *name, const char *object_id)
{
	Key *key = key_entry(name);

	key->executions++;
	json_array_append_new(key->objects, json_string(object_id));
}

static json_t *
key_report(const Key *key)
{
	return json_pack("{s:s, s:s?, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:O, s:O}", "key",
					 key->name, "endpoint", key->endpoint, "state",
					 key->running  ? "running"
					 : key->stored ? "stored"
								   : "free",
					 "status", key->stored ? key->status : 0, "since_ms",
					 (json_int_t) key->since_ms, "executions", (json_int_t) key->executions,
					 "replays", (json_int_t) key->replays, "conflicts", (json_int_t) key->conflicts,
					 "mismatches", (json_int_t) key->mismatches, "not_executed",
					 (json_int_t) key->abandoned, "objects", key->objects, "refused", key->refused);
}

json_t *
keys_report(const char *only)
{
	json_t *list = json_array();

	if (only != NULL)
	{
		const Key *key = map_get(&keys, only);

		if (key != NULL)
			json_array_append_new(list, key_report(key));
		return list;
	}
	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, key_report(in_order[i]));
	return list;
}

static void
free_key(void *value)
{
	Key *key = value;

	free(key->name);
	free(key->endpoint);
	buf_free(&key->body);
	json_decref(key->headers);
	json_decref(key->objects);
	json_decref(key->refused);
	free(key);
}

void
keys_reset(void)
{
	map_clear(&keys, free_key);
	count = 0;
}
