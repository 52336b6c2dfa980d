/*
 * stripe_event.c
 *		Changes of objects and the events that tell of them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal.h"
#include "pipeline.h"
#include "stripe.h"

void (*stripe_event_listener)(const char *type, const char *json, size_t len);

static Collection events;
static Map type_names;

Collection *
stripe_events(void)
{
	return &events;
}

/* One constant copy of each type: there are few of them and many events. */
static const char *
intern(const char *type)
{
	char *known = map_get(&type_names, type);

	if (known == NULL)
	{
		known = xstrdup(type);
		map_put(&type_names, type, known);
	}
	return known;
}

/*
 * The old values of what differs. Hashes are compared member by member, where a
 * new member shows as null; lists only as a whole.
 */
static json_t *
old_values(const json_t *before, const json_t *after)
{
	json_t *diff = json_object();
	const char *name;
	json_t *value;

	json_object_foreach ((json_t *) before, name, value)
	{
		json_t *now = json_object_get(after, name);

		if (now != NULL && json_equal(value, now))
			continue;
		if (json_is_object(value) && json_is_object(now))
			json_object_set_new(diff, name, old_values(value, now));
		else
			json_object_set_new(diff, name, json_deep_copy(value));
	}
	json_object_foreach ((json_t *) after, name, value)
	{
		if (json_object_get(before, name) == NULL)
			json_object_set_new(diff, name, json_null());
	}
	return diff;
}

json_t *
change_begin(Obj *obj)
{
	store_before_change(obj, config.search_lag_ms);
	return json_deep_copy(obj->json);
}

void
change_undo(Obj *obj, json_t *before)
{
	json_decref(obj->json);
	obj->json = before;
}

/* Tells "<resource>.<verb>"; an "updated" that changed nothing is no event. */
void
change_end(Call *call, Resource *res, Obj *obj, json_t *before, const char *verb)
{
	bool update = strcmp(verb, "updated") == 0;
	bool changed = !json_equal(before, obj->json);
	char type[80];

	store_after_change(&res->coll, obj);
	if (res->event != NULL && (changed || !update))
	{
		snprintf(type, sizeof(type), "%s.%s", res->event, verb);
		stripe_emit(call, type, obj, update ? old_values(before, obj->json) : NULL);
	}
	json_decref(before);
}

/* Deletes for good: tells of it with the last state, then leaves a stub. */
void
change_remove(Call *call, Resource *res, Obj *obj)
{
	change_end(call, res, obj, change_begin(obj), "deleted");
	json_decref(obj->json);
	obj->json = json_pack("{s:s, s:s, s:b}", "id", obj->id, "object", res->object, "deleted", 1);
	obj->deleted = true;
}

/* Takes over previous. The event keeps the object as text, as of now. */
void
stripe_emit(Call *call, const char *type, const Obj *obj, json_t *previous)
{
	char id[64];
	Buf text = {0};
	char *previous_text = previous ? json_dumps(previous, JSON_COMPACT) : NULL;
	json_t *request = json_pack("{s:s?, s:s?}", "id", call->req ? call->req->id : NULL,
								"idempotency_key", call->key);
	char *request_text = json_dumps(request, JSON_COMPACT);
	Obj *event;

	make_id(id, sizeof(id), "evt_", 24);
	event = store_add_event(&events, id, intern(type), NULL);
	buf_printf(&text,
			   "{\"id\":\"%s\",\"object\":\"event\",\"api_version\":\"%s\",\"created\":%lld,"
			   "\"livemode\":false,\"pending_webhooks\":0,\"type\":\"%s\",\"data\":{\"object\":",
			   id, STRIPE_VERSION, (long long) event->created, type);
	stripe_render(obj, &text);
	if (previous_text != NULL)
		buf_printf(&text, ",\"previous_attributes\":%s", previous_text);
	buf_printf(&text, "},\"request\":%s}", request_text);
	event->text = text.data;
	stats.events++;
	if (stripe_event_listener != NULL)
		stripe_event_listener(event->type, text.data, text.len);
	free(previous_text);
	free(request_text);
	json_decref(request);
	json_decref(previous);
}
