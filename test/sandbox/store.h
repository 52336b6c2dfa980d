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
	json_t *
		json; /* NULL while it is kept as text: an event always, what was loaded until it changes */
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
	Map by_metadata;	 /* "key=value" -> Hits, see store.c */
	const char *indexed; /* members that lists are filtered by, "a,b,c" */
	bool unsorted;		 /* some row is older than the one before it */
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
/* Adds or replaces. Takes over the text, and a reference to what the API does not show. */
extern Obj *store_put_text(Collection *coll, const char *id, int64_t created, char *text,
						   json_t *hidden);
/* When it was made, if that is not now; kept track of, because lists go by it. */
extern void store_created(Collection *coll, Obj *obj, int64_t created);
/* What is found as JSON, ready to be read and changed. */
extern Obj *store_get(const Collection *coll, const char *id);
/* As it is kept: to be rendered, or to be asked by store_read() only. */
extern Obj *store_peek(const Collection *coll, const char *id);
/* A reference to the object as JSON, for the caller to give back; what is kept stays text. */
extern json_t *store_read(const Obj *obj);
/* The attribute that a filter of this name looks at, wherever it stands. */
extern const json_t *store_attribute(const Obj *obj, const json_t *json, const char *name);
/* As if it had never been. */
extern void store_purge(Collection *coll, Obj *obj);
/* Puts the rows in the order of their creation, after some that are older came late. */
extern void store_sort(Collection *coll);

/* Before a change: keeps what searches are to see for another lag_ms. */
extern void store_before_change(Obj *obj, int64_t lag_ms);
/* After a change: brings the index of metadata and references up to date. */
extern void store_after_change(Collection *coll, Obj *obj);

/* What a search sees of the object, for the caller to give back; NULL: nothing yet. */
extern json_t *store_search_view(const Obj *obj);
/* Objects that have or had this metadata; newest last, some may be outdated. */
extern const Hits *store_by_metadata(const Collection *coll, const char *key, const char *value);
/* Objects that have or had this reference, each once, in the order of the rows. */
extern Hits store_by_reference(const Collection *coll, const char *name, const char *id);

extern void store_clear(Collection *coll);

#endif
