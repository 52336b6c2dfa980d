/*
 * rest.c
 *		A plain JSON vendor under /rest/<collection>, unlike Stripe in style:
 *		upsert by external id, pages by number, changes by modification time,
 *		entity tags, tombstones, and no idempotency keys unless told so.
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
#include "rest.h"

typedef struct Record
{
	char *id;
	json_int_t seq;
	char *external_id; /* NULL: none */
	json_t *data;	   /* the caller's members */
	int64_t created_ms;
	int64_t updated_ms;
	json_int_t version;
	bool deleted;
} Record;

typedef struct RestCollection
{
	char *name;
	Record **rows;
	size_t count;
	size_t cap;
	bool sorted; /* by (updated_ms, seq) */
	json_int_t last_seq;
	Map by_id;
	Map by_external; /* the newest live record with that external id */
} RestCollection;

typedef struct RestCall
{
	Request *req;
	Reply *reply;
	json_t *query;
	json_t *body;
	RestCollection *coll;
	char text[512]; /* the path, cut up */
	const char *id;
	const char *external_id;
} RestCall;

static Map collections;

static void
refuse(RestCall *call, int status, const char *code, const char *message)
{
	reply_json(call->reply, status, json_pack("{s:s, s:s}", "code", code, "message", message));
}

static json_t *
shown(const Record *rec)
{
	json_t *json = json_copy(rec->data);
	char created[40];
	char updated[40];
	json_t *own;

	clock_format(rec->created_ms, created, sizeof(created));
	clock_format(rec->updated_ms, updated, sizeof(updated));
	own = json_pack("{s:s, s:s?, s:s, s:s, s:I, s:b}", "id", rec->id, "external_id",
					rec->external_id, "created_at", created, "updated_at", updated, "version",
					rec->version, "deleted", (int) rec->deleted);
	json_object_update(json, own);
	json_decref(own);
	return json;
}

static void
answer_record(RestCall *call, int status, const Record *rec)
{
	char tag[32];

	snprintf(tag, sizeof(tag), "\"v%lld\"", (long long) rec->version);
	reply_header(call->reply, "ETag", tag);
	reply_json(call->reply, status, shown(rec));
}

static void
note_effect(RestCall *call, const Record *rec)
{
	json_decref(call->reply->effect);
	call->reply->effect = json_pack("{s:s, s:s, s:s?, s:I, s:o}", "object", call->coll->name, "id",
									rec->id, "external_id", rec->external_id, "version",
									rec->version, "metadata", json_deep_copy(rec->data));
}

/* Members that only the server sets are dropped from what the caller sent. */
static json_t *
caller_data(const json_t *body)
{
	static const char *const own[] = {"id",			"external_id", "created_at",
									  "updated_at", "version",	   "deleted"};
	json_t *data = json_deep_copy(body);

	for (size_t i = 0; i < lengthof(own); i++)
		json_object_del(data, own[i]);
	return data;
}

static void
touch(RestCall *call, Record *rec)
{
	rec->updated_ms = clock_ms();
	rec->version++;
	call->coll->sorted = false;
	note_effect(call, rec);
}

static void
set_external(RestCall *call, Record *rec, const char *external_id)
{
	if (external_id == NULL || (rec->external_id && strcmp(rec->external_id, external_id) == 0))
		return;
	if (rec->external_id != NULL && map_get(&call->coll->by_external, rec->external_id) == rec)
		map_remove(&call->coll->by_external, rec->external_id);
	free(rec->external_id);
	rec->external_id = xstrdup(external_id);
	map_put(&call->coll->by_external, external_id, rec);
}

static Record *
insert_record(RestCall *call, const char *external_id)
{
	RestCollection *coll = call->coll;
	Record *rec = xcalloc(1, sizeof(*rec));
	char id[40];

	rec->seq = ++coll->last_seq;
	snprintf(id, sizeof(id), "%lld", (long long) rec->seq);
	rec->id = xstrdup(id);
	rec->created_ms = clock_ms();
	rec->data = caller_data(call->body);
	if (coll->count == coll->cap)
	{
		coll->cap = coll->cap ? coll->cap * 2 : 256;
		coll->rows = xrealloc(coll->rows, coll->cap * sizeof(*coll->rows));
	}
	coll->rows[coll->count++] = rec;
	map_put(&coll->by_id, id, rec);
	set_external(call, rec, external_id);
	touch(call, rec);
	return rec;
}

/* False: the caller knows an older version than ours. */
static bool
tag_matches(RestCall *call, const Record *rec)
{
	const char *given = request_header(call->req, "if-match");
	char tag[32];

	if (given == NULL && config.rest_require_if_match)
	{
		refuse(call, 428, "precondition_required", "If-Match is required");
		return false;
	}
	snprintf(tag, sizeof(tag), "\"v%lld\"", (long long) rec->version);
	if (given == NULL || strcmp(given, "*") == 0 || strcmp(given, tag) == 0)
		return true;
	refuse(call, 412, "precondition_failed", "the record has changed");
	return false;
}

static void
create_record(RestCall *call)
{
	const char *external_id = json_string_value(json_object_get(call->body, "external_id"));

	if (external_id != NULL && config.rest_unique_external &&
		map_get(&call->coll->by_external, external_id) != NULL)
		refuse(call, 409, "duplicate_external_id", "a record with this external_id exists");
	else
		answer_record(call, 201, insert_record(call, external_id));
}

static void
write_record(RestCall *call, Record *rec, bool merge)
{
	json_t *data = caller_data(call->body);

	if (!tag_matches(call, rec))
	{
		json_decref(data);
		return;
	}
	set_external(call, rec, json_string_value(json_object_get(call->body, "external_id")));
	if (merge)
		json_object_update(rec->data, data);
	else
	{
		json_decref(rec->data);
		rec->data = json_incref(data);
	}
	json_decref(data);
	touch(call, rec);
	answer_record(call, 200, rec);
}

static void
delete_record(RestCall *call, Record *rec)
{
	if (!tag_matches(call, rec))
		return;
	rec->deleted = true;
	if (rec->external_id != NULL && map_get(&call->coll->by_external, rec->external_id) == rec)
		map_remove(&call->coll->by_external, rec->external_id);
	touch(call, rec);
	call->reply->status = 204;
}

static bool
name_holds(const json_t *body, const char *text)
{
	const char *name = json_string_value(json_object_get(body, "name"));

	return text[0] != '\0' && name != NULL && strstr(name, text) != NULL;
}

/* One record of a batch: upserted by its external id. Takes over nothing. */
static json_t *
batch_result(RestCall *call, json_t *item, json_t *effects)
{
	const char *external_id = json_string_value(json_object_get(item, "external_id"));
	Record *rec = external_id ? map_get(&call->coll->by_external, external_id) : NULL;
	bool made = rec == NULL;

	if (external_id == NULL || name_holds(item, config.rest_refuse))
		return json_pack("{s:s?, s:i, s:{s:s, s:s}}", "external_id", external_id, "status", 422,
						 "error", "code", "invalid", "message", "the record is not acceptable");
	call->body = item;
	if (made)
		rec = insert_record(call, external_id);
	else
	{
		json_decref(rec->data);
		rec->data = caller_data(item);
		touch(call, rec);
	}
	json_array_append(effects, call->reply->effect);
	return json_pack("{s:s, s:i, s:o}", "external_id", external_id, "status", made ? 201 : 200,
					 "record", shown(rec));
}

static bool
batch_acceptable(RestCall *call, const json_t *items)
{
	json_t *item;
	size_t i;

	if (!json_is_array(items) || json_array_size(items) > 100)
	{
		refuse(call, 400, "bad_batch", "items must be an array of at most 100 records");
		return false;
	}
	json_array_foreach ((json_t *) items, i, item)
	{
		if (config.rest_all_or_nothing && name_holds(item, config.rest_refuse))
		{
			refuse(call, 400, "invalid_record", "a record of the batch is not acceptable");
			return false;
		}
	}
	return true;
}

/* The results come in reverse, so that nobody relies on their order. */
static void
serve_batch(RestCall *call)
{
	json_t *whole = call->body;
	json_t *items = json_object_get(whole, "items");
	json_t *results = json_array();
	json_t *effects = json_array();
	bool partial = false;
	json_t *item;
	size_t i;

	if (batch_acceptable(call, items))
	{
		json_array_foreach (items, i, item)
		{
			json_t *result = batch_result(call, item, effects);

			partial |= json_object_get(result, "error") != NULL;
			if (!name_holds(item, config.rest_forget))
				json_array_insert(results, 0, result);
			json_decref(result);
		}
		json_decref(call->reply->effect);
		call->reply->effect = json_incref(effects);
		reply_json(call->reply, partial ? 207 : 200, json_pack("{s:O}", "results", results));
	}
	call->body = whole;
	json_decref(results);
	json_decref(effects);
}

static int
compare_age(const void *a, const void *b)
{
	const Record *x = *(Record *const *) a;
	const Record *y = *(Record *const *) b;

	if (x->updated_ms != y->updated_ms)
		return x->updated_ms < y->updated_ms ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

static size_t
first_since(const RestCollection *coll, int64_t since_ms)
{
	size_t low = 0;
	size_t high = coll->count;

	while (low < high)
	{
		size_t middle = low + (high - low) / 2;

		if (coll->rows[middle]->updated_ms < since_ms)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static const char *
query_string(const RestCall *call, const char *name)
{
	return json_string_value(json_object_get(call->query, name));
}

static int64_t
query_number(const RestCall *call, const char *name, int64_t absent)
{
	const char *text = query_string(call, name);

	return text ? strtoll(text, NULL, 10) : absent;
}

/* Ordered by (updated_at, id); updated_since is inclusive. */
static void
list_records(RestCall *call)
{
	RestCollection *coll = call->coll;
	const char *since = query_string(call, "updated_since");
	const char *external_id = query_string(call, "external_id");
	bool with_deleted = query_number(call, "include_deleted", 0) != 0;
	int64_t page = query_number(call, "page", 1);
	int64_t per_page = query_number(call, "per_page", 50);
	int64_t visible_until = clock_ms() - call->req->hide_newer_ms;
	int64_t since_ms = INT64_MIN;
	int64_t total = 0;
	json_t *data;

	if (page < 1 || per_page < 1 || per_page > 1000 || (since && !clock_parse(since, &since_ms)))
	{
		refuse(call, 400, "bad_query", "page, per_page or updated_since is out of range");
		return;
	}
	if (!coll->sorted)
		qsort(coll->rows, coll->count, sizeof(*coll->rows), compare_age);
	coll->sorted = true;
	data = json_array();
	for (size_t i = first_since(coll, since_ms); i < coll->count; i++)
	{
		const Record *rec = coll->rows[i];

		if ((rec->deleted && !with_deleted) || rec->updated_ms > visible_until)
			continue;
		if (external_id && (!rec->external_id || strcmp(rec->external_id, external_id) != 0))
			continue;
		if (total >= (page - 1) * per_page && total < page * per_page)
			json_array_append_new(data, shown(rec));
		total++;
	}
	reply_json(call->reply, 200,
			   json_pack("{s:o, s:I, s:I, s:I, s:o}", "data", data, "page", (json_int_t) page,
						 "per_page", (json_int_t) per_page, "total", (json_int_t) total,
						 "next_page",
						 total > page * per_page ? json_integer(page + 1) : json_null()));
}

static void
serve_by_external(RestCall *call)
{
	Record *rec = map_get(&call->coll->by_external, call->external_id);
	const char *method = call->req->method;

	if (strcmp(method, "PUT") == 0 && rec == NULL)
		answer_record(call, 201, insert_record(call, call->external_id));
	else if (rec == NULL)
		refuse(call, 404, "not_found", "no record with this external id");
	else if (strcmp(method, "PUT") == 0 || strcmp(method, "PATCH") == 0)
		write_record(call, rec, strcmp(method, "PATCH") == 0);
	else if (strcmp(method, "DELETE") == 0)
		delete_record(call, rec);
	else
		answer_record(call, 200, rec);
}

static void
serve_record(RestCall *call)
{
	Record *rec = map_get(&call->coll->by_id, call->id);
	const char *method = call->req->method;

	if (rec == NULL)
		refuse(call, 404, "not_found", "no such record");
	else if (rec->deleted &&
			 !(strcmp(method, "GET") == 0 && query_number(call, "include_deleted", 0) != 0))
		refuse(call, 410, "gone", "the record has been deleted");
	else if (strcmp(method, "GET") == 0)
		answer_record(call, 200, rec);
	else if (strcmp(method, "PUT") == 0 || strcmp(method, "PATCH") == 0)
		write_record(call, rec, strcmp(method, "PATCH") == 0);
	else if (strcmp(method, "DELETE") == 0)
		delete_record(call, rec);
	else
		refuse(call, 405, "method_not_allowed", "not on a record");
}

static void
serve(RestCall *call)
{
	const char *method = call->req->method;

	if (name_holds(call->body, config.rest_refuse))
		refuse(call, 422, "invalid", "the record is not acceptable");
	else if (call->id != NULL && strcmp(call->id, "_batch") == 0 && strcmp(method, "POST") == 0)
		serve_batch(call);
	else if (call->external_id != NULL)
		serve_by_external(call);
	else if (call->id != NULL)
		serve_record(call);
	else if (strcmp(method, "GET") == 0)
		list_records(call);
	else if (strcmp(method, "POST") == 0)
		create_record(call);
	else
		refuse(call, 405, "method_not_allowed", "not on a collection");
}

static bool
split_path(RestCall *call)
{
	char *rest = call->text;
	const char *name;

	snprintf(call->text, sizeof(call->text), "%s", call->req->path + strlen("/rest"));
	rest += *rest == '/';
	name = strsep(&rest, "/");
	if (*name == '\0')
		return false;
	call->coll = map_get(&collections, name);
	if (call->coll == NULL)
	{
		call->coll = xcalloc(1, sizeof(*call->coll));
		call->coll->name = xstrdup(name);
		map_put(&collections, name, call->coll);
	}
	if (rest != NULL && starts_with(rest, "by_ext/"))
		call->external_id = rest + strlen("by_ext/"); /* may itself contain slashes */
	else if (rest != NULL && *rest != '\0')
		call->id = rest;
	return call->external_id == NULL || *call->external_id != '\0';
}

static bool
authorized(const Request *req)
{
	const char *given = request_header(req, "authorization");

	return config.rest_token[0] == '\0' || (given != NULL && starts_with(given, "Bearer ") &&
											strcmp(given + 7, config.rest_token) == 0);
}

static void
serve_with_key(RestCall *call)
{
	const char *key = request_header(call->req, "idempotency-key");

	if (key == NULL || !config.rest_honours_keys || strcmp(call->req->method, "GET") == 0)
	{
		serve(call);
		return;
	}
	switch (key_begin(call->req, key, call->reply))
	{
		case KEY_NEW:
			if (call->req->slow_ms > 0)
			{
				state_unlock();
				sleep_ms(call->req->slow_ms);
				state_lock();
			}
			serve(call);
			key_finish(key, call->reply);
			break;
		case KEY_REPLAYED:
			break;
		case KEY_RUNNING:
			refuse(call, 409, "key_in_use", "a request with this key is in progress");
			break;
		default:
			refuse(call, 422, "key_reused", "this key was used for another request");
	}
}

void
rest_handle(Request *req, Reply *reply)
{
	RestCall call = {.req = req, .reply = reply};

	reply_header(reply, "X-Request-Id", req->id);
	if (!authorized(req))
	{
		stats.unauthorized++;
		refuse(&call, 401, "unauthorized", "a valid bearer token is required");
		return;
	}
	if (rate_limit_exceeded(reply))
	{
		refuse(&call, 429, "rate_limited", "too many requests");
		return;
	}
	call.query = request_query(req);
	call.body = request_json(req);
	if (call.body == NULL)
		refuse(&call, 400, "bad_json", "the body is not a JSON object");
	else if (!split_path(&call))
		refuse(&call, 404, "not_found", "no such resource");
	else
		serve_with_key(&call);
	json_decref(call.query);
	json_decref(call.body);
}

static void
free_collection(void *value)
{
	RestCollection *coll = value;

	for (size_t i = 0; i < coll->count; i++)
	{
		free(coll->rows[i]->id);
		free(coll->rows[i]->external_id);
		json_decref(coll->rows[i]->data);
		free(coll->rows[i]);
	}
	free(coll->rows);
	free(coll->name);
	map_clear(&coll->by_id, NULL);
	map_clear(&coll->by_external, NULL);
	free(coll);
}

void
rest_reset(void)
{
	map_clear(&collections, free_collection);
}
