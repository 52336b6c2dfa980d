/*
 * page.h: what the two files share that read a page.
 */
#ifndef SE_PAGE_H
#define SE_PAGE_H

#include "connector/expr.h"

/* Where a walk is, as its cursor says. */
typedef struct Walk
{
	JsonbValue *cursor;
	JsonbValue *page; /* NULL at the first page */
	bool full;
	bool events;
	bool deep;			/* looks back all the way: see look_back() */
	int part;			/* which of the lists, from 0 */
	const char *within; /* the record whose part is listed; NULL: none */
	bool outer;			/* looks for the next such record */
	const char *since;
	const SeOperation *op;
	const SePageSpec *spec;
} Walk;

/* A page that is being read. */
typedef struct Reader
{
	SeEval *ev;
	const SePull *pull;
	Walk w;
	Jsonb *answer;
	bool has_max;
	TimestampTz max;
	TimestampTz first_at; /* of the page */
	TimestampTz last_at;
	bool sorted; /* each item has a time, none before that of the item before it */
	int nitems;	 /* as the vendor counts them */
	int nnameless;
	char *last_id;
	uint64 content;		/* hash of all items */
	bool counted;		/* pages are taken as the vendor counts them */
	bool anew;			/* from this page on */
	MemoryContext keep; /* what an item leaves behind goes here */
} Reader;

/* ---- page_next.c ---- */

extern char *se_page_floor_time(TimestampTz at, int64 resolution_ms);
/* The cursor behind the page: its next page, or where the next walk begins. */
extern void se_page_build_next(Reader *r, const SeAnswer *a, SePage *out);

#endif
