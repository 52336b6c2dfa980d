/*
 * store.c
 *		Collections of objects, in the order of their creation.
 *
 * The index only grows: a pair that an object had once still leads to it, and the
 * reader checks. That is what a lagging search needs anyway. Beside metadata it
 * has the references by which lists are filtered, under "@name=id".
 *
 * What was loaded in bulk is kept as text, a tenth of what it takes as JSON, until
 * somebody asks for it to be changed.
 */
#define _GNU_SOURCE
#include <stdio.h>
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
	store_created(coll, obj, obj->created);
	return obj;
}

void
store_created(Collection *coll, Obj *obj, int64_t created)
{
	obj->created = created;
	coll->unsorted |= (obj->pos > 0 && coll->rows[obj->pos - 1]->created > created) ||
					  (obj->pos + 1 < coll->count && coll->rows[obj->pos + 1]->created < created);
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
store_put_text(Collection *coll, const char *id, int64_t created, char *text, json_t *hidden)
{
	Obj *obj = map_get(&coll->by_id, id);
	bool unsorted = coll->unsorted;

	if (obj == NULL)
		obj = add_row(coll, id);
	free(obj->text);
	json_decref(obj->json);
	json_decref(obj->hidden);
	obj->json = NULL;
	obj->text = text;
	obj->hidden = hidden;
	obj->deleted = false;
	obj->created_ms = created * 1000;
	coll->unsorted = unsorted; /* the clock says nothing about what was loaded */
	store_created(coll, obj, created);
	return obj;
}

Obj *
store_peek(const Collection *coll, const char *id)
{
	return map_get(&coll->by_id, id);
}

Obj *
store_get(const Collection *coll, const char *id)
{
	Obj *obj = store_peek(coll, id);

	if (obj != NULL && obj->json == NULL && obj->text != NULL && obj->type == NULL)
	{
		obj->json = store_read(obj);
		free(obj->text);
		obj->text = NULL;
	}
	return obj;
}

json_t *
store_read(const Obj *obj)
{
	if (obj->json != NULL)
		return json_incref(obj->json);
	return json_loads(obj->text, 0, NULL);
}

static void
free_obj(Obj *obj)
{
	free(obj->id);
	json_decref(obj->json);
	json_decref(obj->hidden);
	json_decref(obj->stale);
	free(obj->text);
	free(obj);
}

static void
renumber(Collection *coll, size_t from)
{
	for (size_t i = from; i < coll->count; i++)
		coll->rows[i]->pos = i;
}

static void
forget(void *value, const Obj *obj)
{
	Hits *hits = value;
	size_t kept = 0;

	for (size_t i = 0; i < hits->count; i++)
	{
		if (hits->rows[i] != obj)
			hits->rows[kept++] = hits->rows[i];
	}
	hits->count = kept;
}

void
store_purge(Collection *coll, Obj *obj)
{
	size_t pos = obj->pos;

	memmove(&coll->rows[pos], &coll->rows[pos + 1], (coll->count - pos - 1) * sizeof(*coll->rows));
	coll->count--;
	renumber(coll, pos);
	map_remove(&coll->by_id, obj->id);
	for (size_t i = 0; i < coll->by_metadata.size; i++)
	{
		if (coll->by_metadata.slots[i].value != NULL)
			forget(coll->by_metadata.slots[i].value, obj);
	}
	free_obj(obj);
}

static int
by_creation(const void *a, const void *b)
{
	const Obj *x = *(Obj *const *) a;
	const Obj *y = *(Obj *const *) b;

	if (x->created != y->created)
		return x->created < y->created ? -1 : 1;
	return x->pos < y->pos ? -1 : x->pos > y->pos;
}

void
store_sort(Collection *coll)
{
	if (!coll->unsorted)
		return;
	qsort(coll->rows, coll->count, sizeof(*coll->rows), by_creation);
	renumber(coll, 0);
	coll->unsorted = false;
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

/* Takes over the pair. */
static void
index_pair(Collection *coll, char *pair, Obj *obj)
{
	Hits *hits = map_get(&coll->by_metadata, pair);

	if (hits == NULL)
	{
		hits = xcalloc(1, sizeof(*hits));
		map_put(&coll->by_metadata, pair, hits);
	}
	free(pair);
	if (hits->count > 0 && hits->rows[hits->count - 1] == obj)
		return;
	if (hits->count == hits->cap)
	{
		hits->cap = hits->cap ? hits->cap * 2 : 1;
		hits->rows = xrealloc(hits->rows, hits->cap * sizeof(*hits->rows));
	}
	hits->rows[hits->count++] = obj;
}

static char *
reference_key(const char *name, const char *id)
{
	Buf buf = {0};

	buf_printf(&buf, "@%s=%s", name, id);
	return buf.data;
}

const json_t *
store_attribute(const Obj *obj, const json_t *json, const char *name)
{
	const json_t *value = json_object_get(json, name);
	const json_t *details =
		json_object_get(json_object_get(json, "parent"), "subscription_details");

	if (value == NULL)
		value = json_object_get(obj->hidden, name);
	return value != NULL ? value : json_object_get(details, name);
}

static void
index_references(Collection *coll, Obj *obj, const json_t *json)
{
	char names[128];
	char *rest = names;
	char *name;

	if (coll->indexed == NULL)
		return;
	snprintf(names, sizeof(names), "%s", coll->indexed);
	while ((name = strsep(&rest, ",")) != NULL)
	{
		const json_t *value = store_attribute(obj, json, name);

		if (json_is_string(value))
			index_pair(coll, reference_key(name, json_string_value(value)), obj);
	}
}

void
store_after_change(Collection *coll, Obj *obj)
{
	json_t *json = store_read(obj);
	const char *key;
	json_t *value;

	json_object_foreach (json_object_get(json, "metadata"), key, value)
		index_pair(coll, metadata_key(key, json_string_value(value)), obj);
	index_references(coll, obj, json);
	json_decref(json);
}

json_t *
store_search_view(const Obj *obj)
{
	if (clock_ms() < obj->stale_until_ms)
		return json_incref(obj->stale);
	return store_read(obj);
}

static int
by_position(const void *a, const void *b)
{
	const Obj *x = *(Obj *const *) a;
	const Obj *y = *(Obj *const *) b;

	return x->pos < y->pos ? -1 : x->pos > y->pos;
}

/* The caller frees the rows. */
Hits
store_by_reference(const Collection *coll, const char *name, const char *id)
{
	char *pair = reference_key(name, id);
	const Hits *found = map_get(&coll->by_metadata, pair);
	Hits hits = {0};
	size_t kept = 0;

	free(pair);
	if (found == NULL || found->count == 0)
		return hits;
	hits.rows = xmalloc(found->count * sizeof(*hits.rows));
	memcpy(hits.rows, found->rows, found->count * sizeof(*hits.rows));
	qsort(hits.rows, found->count, sizeof(*hits.rows), by_position);
	for (size_t i = 0; i < found->count; i++)
	{
		if (kept == 0 || hits.rows[kept - 1] != hits.rows[i])
			hits.rows[kept++] = hits.rows[i];
	}
	hits.count = hits.cap = kept;
	return hits;
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
	const char *indexed = coll->indexed;

	for (size_t i = 0; i < coll->count; i++)
		free_obj(coll->rows[i]);
	free(coll->rows);
	map_clear(&coll->by_id, NULL);
	map_clear(&coll->by_metadata, free_hits);
	memset(coll, 0, sizeof(*coll));
	coll->indexed = indexed;
}
