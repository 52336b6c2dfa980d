/*
 * store.h
 *		Collections of objects, in the order of their creation.
 */
#ifndef SANDBOX_STORE_H
#define SANDBOX_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

#include "map.h"

typedef struct Obj
{
	char *id;
	json_t *json; /* NULL for an event, which is kept as text */
	char *text;
	const char *type; /* of an event, a constant string */
	json_t *hidden;	  /* what the API does not show */
	int64_t created;  /* seconds, as shown */
	int64_t created_ms;
	size_t pos;
	bool deleted;
	/* what a search still sees while its index lags; NULL: not there yet */
	json_t *stale;
	int64_t stale_until_ms;
} Obj;

typedef struct Collection
{
	Obj **rows;
	size_t count;
	size_t cap;
	Map by_id;
	Map by_metadata; /* "key=value" -> Hits, see store.c */
} Collection;

typedef struct Hits
{
	Obj **rows;
	size_t count;
	size_t cap;
} Hits;

/* Takes over the reference to json. */
extern Obj *store_add(Collection *coll, const char *id, json_t *json);
extern Obj *store_add_event(Collection *coll, const char *id, const char *type, char *text);
extern Obj *store_get(const Collection *coll, const char *id);

/* Before a change: keeps what searches are to see for another lag_ms. */
extern void store_before_change(Obj *obj, int64_t lag_ms);
/* After a change: brings the metadata index up to date. */
extern void store_after_change(Collection *coll, Obj *obj);

/* What a search sees of the object; NULL: nothing yet. */
extern const json_t *store_search_view(const Obj *obj);
/* Objects that have or had this metadata; newest last, some may be outdated. */
extern const Hits *store_by_metadata(const Collection *coll, const char *key, const char *value);

extern void store_clear(Collection *coll);

#endif
