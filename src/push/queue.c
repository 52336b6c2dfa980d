/*
 * queue.c: deliveries in memory, in order per record.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "push/internal.h"

static HTAB *records = NULL;
static MemoryContext queue_cxt = NULL;

/* Records of one system whose head may be claimed, in the order they became so. */
typedef struct Ready
{
	SeSystem *system;
	dlist_head list;
	int nready; /* records in it */
	int length; /* deliveries in memory, claimed ones too */
} Ready;

static List *readies = NIL;

static uint32
record_hash(const void *key, Size size)
{
	const SeRecordKey *k = key;

	return hash_combine(murmurhash32((uint32) k->route_id),
						hash_bytes((const unsigned char *) k->record_id,
								   (int) strlen(k->record_id)));
}

static int
record_match(const void *a, const void *b, Size size)
{
	const SeRecordKey *x = a;
	const SeRecordKey *y = b;

	if (x->route_id != y->route_id)
		return 1;
	return strcmp(x->record_id, y->record_id);
}

static void *
record_copy(void *to, const void *from, Size size)
{
	/* The text is copied by the caller, once it knows that the entry is new. */
	return memcpy(to, from, size);
}

bool
se_queue_init(void)
{
	HASHCTL ctl = {0};

	if (records != NULL)
		return false;
	queue_cxt = AllocSetContextCreate(TopMemoryContext, "sync_ext queue", ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(SeRecordKey);
	ctl.entrysize = sizeof(SeRecord);
	ctl.hash = record_hash;
	ctl.match = record_match;
	ctl.keycopy = record_copy;
	ctl.hcxt = queue_cxt;
	records = hash_create("sync_ext records", 1024, &ctl,
						  HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_KEYCOPY | HASH_CONTEXT);
	return true;
}

/* Everything in memory is forgotten; the outbox, claims and pending rows still tell it all. */
void
se_queue_reset(void)
{
	if (queue_cxt != NULL)
		MemoryContextDelete(queue_cxt);
	queue_cxt = NULL;
	records = NULL;
	readies = NIL;
}

MemoryContext
se_queue_context(void)
{
	return queue_cxt;
}

static Ready *
ready_of(SeSystem *system)
{
	ListCell *cell;
	MemoryContext old;
	Ready *ready;

	foreach (cell, readies)
	{
		ready = lfirst(cell);
		if (ready->system == system)
			return ready;
	}
	old = MemoryContextSwitchTo(queue_cxt);
	ready = palloc0(sizeof(Ready));
	ready->system = system;
	dlist_init(&ready->list);
	readies = lappend(readies, ready);
	MemoryContextSwitchTo(old);
	return ready;
}

SeRecord *
se_record_get(int route_id, const char *record_id, bool make)
{
	SeRecordKey key = {route_id, unconstify(char *, record_id)};
	bool found;
	SeRecord *record = hash_search(records, &key, make ? HASH_ENTER : HASH_FIND, &found);

	if (record == NULL || found)
		return record;
	record->key.record_id = MemoryContextStrdup(queue_cxt, record_id);
	dlist_init(&record->queue);
	record->behind = NULL;
	record->in_flight = record->midway = record->blocked = record->followed = false;
	record->ambiguous = record->suspect = record->ready = false;
	return record;
}

void
se_record_release(SeRecord *record)
{
	char *text = record->key.record_id;

	if (record->blocked || record->ready || !dlist_is_empty(&record->queue))
		return;
	hash_search(records, &record->key, HASH_REMOVE, NULL);
	pfree(text);
}

void
se_records_forget_blocked(bool all)
{
	HASH_SEQ_STATUS seq;
	SeRecord *record;

	hash_seq_init(&seq, records);
	while ((record = hash_seq_search(&seq)) != NULL)
	{
		record->ambiguous = record->suspect = false;
		record->blocked &= !all && se_route_by_id(record->key.route_id) != NULL;
	}
}

int
se_records_followed(Datum *arrays)
{
	HASH_SEQ_STATUS seq;
	SeRecord *record;
	Datum *routes = palloc(sizeof(Datum) * (hash_get_num_entries(records) + 1));
	Datum *ids = palloc(sizeof(Datum) * (hash_get_num_entries(records) + 1));
	int n = 0;

	hash_seq_init(&seq, records);
	while ((record = hash_seq_search(&seq)) != NULL)
	{
		if (!record->followed)
			continue;
		routes[n] = Int32GetDatum(record->key.route_id);
		ids[n++] = CStringGetTextDatum(record->key.record_id);
		record->followed = false;
	}
	arrays[0] = PointerGetDatum(construct_array(routes, n, INT4OID, 4, true, TYPALIGN_INT));
	arrays[1] = PointerGetDatum(construct_array(ids, n, TEXTOID, -1, false, TYPALIGN_INT));
	return n;
}

void
se_records_sweep(void)
{
	HASH_SEQ_STATUS seq;
	SeRecord *record;

	hash_seq_init(&seq, records);
	while ((record = hash_seq_search(&seq)) != NULL)
		se_record_release(record);
}

SeDelivery *
se_delivery_make(SeRoute *route, const SeEvent *event)
{
	MemoryContext cxt = AllocSetContextCreate(queue_cxt, "sync_ext delivery", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	SeDelivery *d = palloc0(sizeof(SeDelivery));

	d->cxt = cxt;
	d->route = route;
	d->event = *event;
	d->event.record_id = pstrdup(event->record_id);
	d->event.body =
		event->body ? (Jsonb *) datumCopy(PointerGetDatum(event->body), false, -1) : NULL;
	d->event.old = event->old ? (Jsonb *) datumCopy(PointerGetDatum(event->old), false, -1) : NULL;
	d->event.context =
		event->context ? (Jsonb *) datumCopy(PointerGetDatum(event->context), false, -1) : NULL;
	d->issue = 1;
	MemoryContextSwitchTo(old);
	return d;
}

void
se_delivery_begin_attempt(SeDelivery *d)
{
	if (d->attempt_cxt == NULL)
		d->attempt_cxt = AllocSetContextCreate(d->cxt, "sync_ext attempt", ALLOCSET_DEFAULT_SIZES);
	else
		MemoryContextReset(d->attempt_cxt);
}

void
se_delivery_enqueue(SeDelivery *d)
{
	d->record = se_record_get(d->route->id, d->event.record_id, true);
	dlist_push_tail(&d->record->queue, &d->queue_node);
	ready_of(d->route->system)->length++;
	se_record_ready(d->record, d->route->system);
}

void
se_delivery_free(SeDelivery *d)
{
	SeRecord *record = d->record;
	SeSystem *system = d->route->system;

	dlist_delete(&d->queue_node);
	ready_of(system)->length--;
	MemoryContextDelete(d->cxt);
	if (dlist_is_empty(&record->queue))
	{
		if (record->ready)
		{
			dlist_delete(&record->ready_node);
			record->ready = false;
			ready_of(system)->nready--;
		}
		se_record_release(record);
	}
	else
		se_record_ready(record, system);
}

void
se_record_ready(SeRecord *record, SeSystem *system)
{
	if (record->ready || record->in_flight || dlist_is_empty(&record->queue))
		return;
	dlist_push_tail(&ready_of(system)->list, &record->ready_node);
	ready_of(system)->nready++;
	record->ready = true;
}

int
se_queue_length(SeSystem *system)
{
	return ready_of(system)->length;
}

int
se_queue_ready(SeSystem *system)
{
	return ready_of(system)->nready;
}

/* There must be one. */
SeDelivery *
se_queue_peek(SeSystem *system)
{
	SeRecord *record = dlist_head_element(SeRecord, ready_node, &ready_of(system)->list);

	return dlist_head_element(SeDelivery, queue_node, &record->queue);
}

SeDelivery *
se_queue_next(SeSystem *system)
{
	Ready *ready = ready_of(system);
	SeRecord *record;

	if (dlist_is_empty(&ready->list))
		return NULL;
	record = dlist_container(SeRecord, ready_node, dlist_pop_head_node(&ready->list));
	ready->nready--;
	record->ready = false;
	record->in_flight = true;
	return dlist_head_element(SeDelivery, queue_node, &record->queue);
}
