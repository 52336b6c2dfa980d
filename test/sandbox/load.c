/*
 * load.c
 *		State as it is given: whole objects in bulk, and single ones changed behind the API's back.
 *
 *	POST /_sandbox/load		one object a line, or a JSON array
 *	POST /_sandbox/tamper	{object, id, set, unset, delete, purge, event}
 *
 * Nothing follows from either: a loaded invoice has the payments that are loaded with it, and
 * an amount that was tampered with leaves every other object as it was. That is the point.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "load.h"
#include "stripe.h"

#define MAX_PATH_TEXT 256

/* ---- load ---- */

/* One object of a load, checked and not yet in its collection. */
typedef struct Loaded
{
	Resource *res;
	json_t *json;
	json_t *hidden;
} Loaded;

typedef struct Load
{
	Loaded *items;
	size_t count;
	size_t cap;
	char error[200];
} Load;

static bool
take_object(Load *load, json_t *json)
{
	const char *object = get_string(json, "object");
	Loaded *item;

	if (load->count == load->cap)
	{
		load->cap = load->cap ? load->cap * 2 : 1024;
		load->items = xrealloc(load->items, load->cap * sizeof(*load->items));
	}
	item = &load->items[load->count];
	memset(item, 0, sizeof(*item));
	item->res = object ? stripe_resource(object) : NULL;
	if (item->res == NULL || get_string(json, "id") == NULL)
	{
		snprintf(load->error, sizeof(load->error),
				 "object %zu (from 0) has no id, or is of no kind that is known", load->count);
		json_decref(json);
		return false;
	}
	item->json = json;
	item->hidden = json_incref(json_object_get(json, "_hidden"));
	json_object_del(json, "_hidden");
	if (json_object_get(json, "created") == NULL)
		set_int(json, "created", clock_seconds());
	load->count++;
	return true;
}

static void
take_lines(Load *load, char *text)
{
	size_t number = 0;

	for (char *line = text; line != NULL && load->error[0] == '\0'; number++)
	{
		char *end = strchr(line, '\n');
		json_t *json;

		if (end != NULL)
			*end = '\0';
		if (line[strspn(line, " \t\r")] != '\0')
		{
			json = json_loads(line, 0, NULL);
			if (json == NULL)
				snprintf(load->error, sizeof(load->error), "line %zu (from 0) is no JSON", number);
			else
				(void) take_object(load, json);
		}
		line = end ? end + 1 : NULL;
	}
}

static void
take_body(Load *load, Buf *body)
{
	json_t *array;
	json_t *json;
	size_t i;

	if (body->len == 0)
		return;
	if (body->data[strspn(body->data, " \t\r\n")] != '[')
	{
		take_lines(load, body->data);
		return;
	}
	array = json_loadb(body->data, body->len, 0, NULL);
	if (array == NULL)
		snprintf(load->error, sizeof(load->error), "the body is no JSON");
	json_array_foreach (array, i, json)
	{
		if (!take_object(load, json_incref(json)))
			break;
	}
	json_decref(array);
}

static void
put_object(const Loaded *item, bool events)
{
	Resource *res = item->res;
	const char *id = get_string(item->json, "id");
	json_t *lines = json_object_get(json_object_get(item->json, "lines"), "data");
	Call call = {.version = STRIPE_VERSION};
	char type[80];
	Obj *obj;

	obj = store_put_text(&res->coll, id, get_int(item->json, "created"),
						 json_dumps(item->json, JSON_COMPACT), json_incref(item->hidden));
	/* what is shown in part only has to be looked at for it */
	if (json_array_size(lines) > LINES_SHOWN)
		(void) store_get(&res->coll, id);
	store_after_change(&res->coll, obj);
	if (events && res->event != NULL && !res->silent_creation)
	{
		snprintf(type, sizeof(type), "%s.created", res->event);
		stripe_emit(&call, type, obj, NULL);
	}
}

/* All or nothing. */
void
load_objects(Buf *body, bool events, Reply *reply)
{
	Load load = {0};

	take_body(&load, body);
	for (size_t i = 0; i < load.count; i++)
	{
		Loaded *item = &load.items[i];

		if (load.error[0] == '\0')
			put_object(item, events);
		json_decref(item->json);
		json_decref(item->hidden);
	}
	for (size_t i = 0; i < load.count; i++)
		store_sort(&load.items[i].res->coll);
	free(load.items);
	if (load.error[0] != '\0')
		reply_json(reply, 400, json_pack("{s:s}", "error", load.error));
	else
		reply_json(reply, 200, json_pack("{s:I}", "loaded", (json_int_t) load.count));
}

/* ---- tamper ---- */

static json_t *
member_of(json_t *json, const char *name)
{
	if (json_is_array(json))
		return json_array_get(json, strtoul(name, NULL, 10));
	return json_object_get(json, name);
}

/* Sets what stands at a.b.0.c, or takes it away where value is NULL. False: there is no such place. */
static bool
change_at(json_t *json, const char *path, json_t *value)
{
	char text[MAX_PATH_TEXT];
	char *name = text;
	char *dot;

	snprintf(text, sizeof(text), "%s", path);
	while ((dot = strchr(name, '.')) != NULL)
	{
		*dot = '\0';
		json = member_of(json, name);
		name = dot + 1;
	}
	if (json_is_array(json))
		return value != NULL ? json_array_set(json, strtoul(name, NULL, 10), value) == 0
							 : json_array_remove(json, strtoul(name, NULL, 10)) == 0;
	if (!json_is_object(json))
		return false;
	return value != NULL ? json_object_set(json, name, value) == 0
						 : json_object_del(json, name) == 0;
}

/* The path at which it failed, or NULL. */
static const char *
change_members(json_t *json, const json_t *body)
{
	const char *path;
	json_t *value;
	size_t i;

	json_object_foreach (json_object_get(body, "set"), path, value)
	{
		if (!change_at(json, path, value))
			return path;
	}
	json_array_foreach (json_object_get(body, "unset"), i, value)
	{
		path = json_string_value(value);
		if (path == NULL || !change_at(json, path, NULL))
			return path ? path : "unset";
	}
	return NULL;
}

static bool
fail_at(Reply *reply, const char *what, const char *where)
{
	reply_json(reply, 400, json_pack("{s:o}", "error", json_sprintf("%s: %s", what, where)));
	return false;
}

/* With an event, unless that is false: then no journal will ever tell of the change. */
static bool
change_object(Resource *res, Obj *obj, const json_t *body, Reply *reply)
{
	bool silent = json_is_false(json_object_get(body, "event"));
	const char *verb = get_string(body, "event");
	Call call = {.version = STRIPE_VERSION};
	json_t *before = change_begin(obj);
	const char *bad = change_members(obj->json, body);

	if (bad != NULL)
	{
		change_undo(obj, before);
		return fail_at(reply, "there is no such place", bad);
	}
	if (!silent)
	{
		change_end(&call, res, obj, before, verb ? verb : "updated");
		return true;
	}
	store_after_change(&res->coll, obj);
	json_decref(before);
	return true;
}

static void
delete_object(Resource *res, Obj *obj, bool silent)
{
	Call call = {.version = STRIPE_VERSION};

	if (silent)
	{
		json_decref(obj->json);
		obj->json =
			json_pack("{s:s, s:s, s:b}", "id", obj->id, "object", res->object, "deleted", 1);
		obj->deleted = true;
	}
	else
		change_remove(&call, res, obj);
}

void
load_tamper(const json_t *body, Reply *reply)
{
	const char *object = get_string(body, "object");
	const char *id = get_string(body, "id");
	Resource *res = object ? stripe_resource(object) : NULL;
	Obj *obj = res && id ? store_get(&res->coll, id) : NULL;

	if (obj == NULL)
	{
		(void) fail_at(reply, "there is no such object", id ? id : "no id");
		return;
	}
	if (json_is_true(json_object_get(body, "purge")))
	{
		store_purge(&res->coll, obj);
		reply_json(reply, 200, json_object());
		return;
	}
	if (json_is_true(json_object_get(body, "delete")))
		delete_object(res, obj, json_is_false(json_object_get(body, "event")));
	else if (!change_object(res, obj, body, reply))
		return;
	reply_json(reply, 200, json_incref(obj->json));
}
