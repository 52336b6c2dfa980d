/*
 * store.c
 *		Collections of objects, in the order of their creation.
 *
 * The metadata index only grows: a pair that an object had once still leads to
 * it, and the reader checks. That is what a lagging search needs anyway.
 */
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "store.h"
#include "util.h"

static Obj *
add_row(Collection *coll, const char *id)
{
	Obj *obj = xcalloc(1, sizeof(*obj));

	obj->id = xstrdup(id);
	obj->created_ms = clock_ms();
	obj->created = obj->created_ms / 1000;
	if (coll->count == coll->cap)
	{
		coll->cap = coll->cap ? coll->cap * 2 : 256;
		coll->rows = xrealloc(coll->rows, coll->cap * sizeof(*coll->rows));
	}
	obj->pos = coll->count;
	coll->rows[coll->count++] = obj;
	map_put(&coll->by_id, id, obj);
	return obj;
}

Obj *
store_add(Collection *coll, const char *id, json_t *json)
{
	Obj *obj = add_row(coll, id);

	obj->json = json;
	return obj;
}

/* Takes over the text. */
Obj *
store_add_event(Collection *coll, const char *id, const char *type, char *text)
{
	Obj *obj = add_row(coll, id);

	obj->type = type;
	obj->text = text;
	return obj;
}

Obj *
store_get(const Collection *coll, const char *id)
{
	return map_get(&coll->by_id, id);
}

void
store_before_change(Obj *obj, int64_t lag_ms)
{
	int64_t now = clock_ms();

	if (lag_ms <= 0)
		return;
	if (obj->stale_until_ms <= now)
	{
		json_decref(obj->stale);
		obj->stale = obj->json ? json_deep_copy(obj->json) : NULL;
	}
	obj->stale_until_ms = now + lag_ms;
}

static char *
metadata_key(const char *key, const char *value)
{
	Buf buf = {0};

	buf_printf(&buf, "%s=%s", key, value);
	return buf.data;
}

void
store_after_change(Collection *coll, Obj *obj)
{
	const char *key;
	json_t *value;

	json_object_foreach (json_object_get(obj->json, "metadata"), key, value)
	{
		char *pair = metadata_key(key, json_string_value(value));
		Hits *hits = map_get(&coll->by_metadata, pair);

		if (hits == NULL)
		{
			hits = xcalloc(1, sizeof(*hits));
			map_put(&coll->by_metadata, pair, hits);
		}
		free(pair);
		if (hits->count > 0 && hits->rows[hits->count - 1] == obj)
			continue;
		if (hits->count == hits->cap)
		{
			hits->cap = hits->cap ? hits->cap * 2 : 1;
			hits->rows = xrealloc(hits->rows, hits->cap * sizeof(*hits->rows));
		}
		hits->rows[hits->count++] = obj;
	}
}

const json_t *
store_search_view(const Obj *obj)
{
	return clock_ms() < obj->stale_until_ms ? obj->stale : obj->json;
}

const Hits *
store_by_metadata(const Collection *coll, const char *key, const char *value)
{
	char *pair = metadata_key(key, value);
	const Hits *hits = map_get(&coll->by_metadata, pair);

	free(pair);
	return hits;
}

static void
free_hits(void *value)
{
	Hits *hits = value;

	free(hits->rows);
	free(hits);
}

void
store_clear(Collection *coll)
{
	for (size_t i = 0; i < coll->count; i++)
	{
		Obj *obj = coll->rows[i];

		free(obj->id);
		json_decref(obj->json);
		json_decref(obj->hidden);
		json_decref(obj->stale);
		free(obj->text);
		free(obj);
	}
	free(coll->rows);
	map_clear(&coll->by_id, NULL);
	map_clear(&coll->by_metadata, free_hits);
	memset(coll, 0, sizeof(*coll));
}
