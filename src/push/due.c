/*
 * due.c: what stands in sync.pending comes back to memory when it is due, and what of it blocks the
 * record's next events is known here.
 *
 * There may be a hundred thousand rows, so nothing walks through all of them for a step of one.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/json.h"
#include "core/spi.h"
#include "push/internal.h"

#define LOAD_BATCH	  200
#define BLOCKED_BATCH 10000
#define RELEASE_BATCH 2000
#define MAX_KEYS	  2000
#define WALK_SHARE	  20 /* a walk through all waiting rows is followed by so many times its length */
#define FORGET_AFTER_MS                                                                            \
	60000 /* until blocked records that a person has freed are dropped from memory */

bool se_pending_dirty = true;

static TimestampTz next_due = DT_NOBEGIN;
static TimestampTz locked_until = 0; /* a person has locked a due row: let him finish */

/* ---- rows in memory ---- */

typedef struct Loaded /* a row whose delivery is in memory */
{
	int64 id;
	SeSystem *system;
} Loaded;

static List *loaded_ids = NIL; /* Loaded *, TopMemoryContext; at most LOAD_BATCH of a system */

static void
remember_loaded(int64 id, SeSystem *system)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	Loaded *copy = palloc(sizeof(Loaded));

	copy->id = id;
	copy->system = system;
	loaded_ids = lappend(loaded_ids, copy);
	MemoryContextSwitchTo(old);
}

void
se_due_forget(int64 id)
{
	ListCell *cell;

	foreach (cell, loaded_ids)
	{
		if (((Loaded *) lfirst(cell))->id == id)
		{
			pfree(lfirst(cell));
			loaded_ids = foreach_delete_current(loaded_ids, cell);
			return;
		}
	}
}

static Datum
loaded_array(void)
{
	Datum *ids = palloc(sizeof(Datum) * (list_length(loaded_ids) + 1));
	int n = 0;
	ListCell *cell;

	foreach (cell, loaded_ids)
		ids[n++] = Int64GetDatum(((Loaded *) lfirst(cell))->id);
	return PointerGetDatum(construct_array(ids, n, INT8OID, 8, true, TYPALIGN_DOUBLE));
}

static int
loaded_of(const SeSystem *system)
{
	int n = 0;
	ListCell *cell;

	foreach (cell, loaded_ids)
		n += ((Loaded *) lfirst(cell))->system == system;
	return n;
}

/* Routes of systems that speak now and have room: a slow system fills its own share only. */
static Datum
speaking_routes(TimestampTz now)
{
	Datum *ids = palloc(sizeof(Datum) * (list_length(se_routes) + 1));
	int n = 0;
	ListCell *cell;

	foreach (cell, se_routes)
	{
		SeRoute *route = lfirst(cell);

		if (loaded_of(route->system) >= LOAD_BATCH)
			continue;
		if (se_system_speaks(route->system, now) ||
			(route->system->usable && route->system->mode == SE_MODE_DRY_RUN))
			ids[n++] = Int32GetDatum(route->id);
	}
	return PointerGetDatum(construct_array(ids, n, INT4OID, 4, true, TYPALIGN_INT));
}

void
se_due_wait(TimestampTz until)
{
	locked_until = until;
}

/* ---- blocked records ---- */

/* What is due may have been claimed by a process that never heard the answer. */
#define MAY_ACT                                                                                    \
	"CASE WHEN p.state IN ('retry', 'waiting') "                                                   \
	"AND p.next_attempt_at <= pg_catalog.clock_timestamp() "                                       \
	"THEN sync._open_claim(p.route_id, p.seq, p.event_at) ELSE p.state = 'ambiguous' END"

/* A server that is lost may have sent it. */
#define IS_SUSPECT                                                                                 \
	"p.state NOT IN ('dead', 'conflict') AND coalesce(p.first_event_at, p.event_at) < coalesce("   \
	"(SELECT h.suspect_before FROM sync.hub h), '-infinity')"

static void
note_blocked(uint64 row)
{
	bool isnull;
	int route_id = DatumGetInt32(se_spi_datum(row, 2, &isnull));
	SeRecord *record;

	if (se_route_by_id(route_id) == NULL)
		return;
	record = se_record_get(route_id, se_spi_text(row, 3), true);
	record->blocked = true;
	record->ambiguous |= DatumGetBool(se_spi_datum(row, 4, &isnull));
	record->suspect |= DatumGetBool(se_spi_datum(row, 5, &isnull));
}

/* Every record with rows in sync.pending, a batch in a transaction. */
static void
load_all_blocked(void)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {INT8OID, INT8OID};
	Datum values[2];
	int64 last = 0;
	uint64 n;

	do
	{
		bool isnull;

		se_txn_begin("loading held deliveries");
		values[0] = Int64GetDatum(last);
		values[1] = Int64GetDatum(BLOCKED_BATCH);
		n = se_spi_execute(&plan,
						   "SELECT id, route_id, record_id, " MAY_ACT ", " IS_SUSPECT
						   " FROM sync.pending p WHERE id > $1 ORDER BY id LIMIT $2",
						   2, types, values, NULL, true, 0);
		for (uint64 i = 0; i < n; i++)
			note_blocked(i);
		if (n > 0)
			last = DatumGetInt64(se_spi_datum(n - 1, 1, &isnull));
		se_txn_commit();
	} while (n == BLOCKED_BATCH);
}

/* Those of which an attempt may have taken effect; the others are known already. */
static void
load_ambiguous(void)
{
	static SPIPlanPtr plan = NULL;
	uint64 n;

	se_txn_begin("loading held deliveries");
	n = se_spi_execute(&plan,
					   "SELECT id, route_id, record_id, " MAY_ACT ", " IS_SUSPECT
					   " FROM sync.pending p "
					   "WHERE state = 'ambiguous' OR state IN ('retry', 'waiting') "
					   "AND (next_attempt_at <= pg_catalog.clock_timestamp() OR " IS_SUSPECT ")",
					   0, NULL, NULL, NULL, true, 0);
	for (uint64 i = 0; i < n; i++)
		note_blocked(i);
	se_txn_commit();
}

/* The records in question: those that a row was put behind since the last change by a person; after a
 * start, all. */
static void
promote_orphans(bool all)
{
	Datum records[2];

	se_txn_begin("promoting held deliveries");
	if (all)
		se_held_promote_orphans(NULL);
	else if (se_records_followed(records) > 0)
		se_held_promote_orphans(records);
	se_txn_commit();
}

/*
 * After a start, and after a change by a person: he may have freed records and due ones. What he has
 * freed is noticed when an event of it comes, so it need not be looked for each time.
 */
void
se_pending_load(TimestampTz now, bool starting)
{
	static TimestampTz loaded_at = 0;
	bool all = starting || TimestampDifferenceExceeds(loaded_at, now, FORGET_AFTER_MS);

	promote_orphans(starting);
	se_records_forget_blocked(all);
	if (all)
	{
		load_all_blocked();
		loaded_at = GetCurrentTimestamp();
	}
	else
		load_ambiguous();
	se_records_sweep();
	se_pending_dirty = true;
	se_release_look_everywhere();
}

/* ---- rows that are due ---- */

static Jsonb *
json_column(uint64 row, int col)
{
	bool isnull;
	Datum value = se_spi_datum(row, col, &isnull);

	return isnull ? NULL : DatumGetJsonbP(value);
}

static int64
int_column(uint64 row, int col)
{
	bool isnull;
	Datum value = se_spi_datum(row, col, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

#define DUE_SQL                                                                                     \
	"SELECT p.id, p.route_id::bigint, p.seq, p.event_at, p.incarnation::bigint, "                   \
	"p.object_id::bigint, p.op, p.origin::bigint, p.record_id, p.body, p.old, p.context, p.state, " \
	"p.issue::bigint, p.attempts::bigint, p.step, p.first_claim_at, p.frozen, "                     \
	"(SELECT pg_catalog.to_jsonb(c) || pg_catalog.jsonb_build_object('outcome', "                   \
	"(SELECT o.outcome FROM sync.outcome o WHERE o.route_id = c.route_id AND o.seq = c.seq "        \
	"AND o.attempt_id = c.attempt_id)) FROM sync.claim c WHERE c.route_id = p.route_id "            \
	"AND c.seq = p.seq AND c.event_at = p.event_at AND c.issue >= p.issue "                         \
	"AND c.attempt_id > coalesce(p.last_attempt_id, 0) ORDER BY c.attempt_id DESC LIMIT 1), "       \
	"p.first_event_at "                                                                             \
	"FROM (SELECT d.* FROM pg_catalog.unnest($1) r, LATERAL (SELECT * FROM sync.pending d "         \
	"WHERE d.route_id = r AND d.state IN ('retry', 'ambiguous', 'waiting', 'held') "                \
	"AND d.next_attempt_at <= $4 AND d.id <> ALL ($2) "                                             \
	"ORDER BY d.next_attempt_at, d.seq LIMIT $3) d ORDER BY d.next_attempt_at, d.seq LIMIT $3) p "  \
	"ORDER BY p.next_attempt_at, p.seq"

static void
read_event(uint64 row, SeEvent *e)
{
	bool isnull;

	memset(e, 0, sizeof(*e));
	e->seq = int_column(row, 3);
	e->at = DatumGetTimestampTz(se_spi_datum(row, 4, &isnull));
	e->incarnation = (int) int_column(row, 5);
	e->object_id = (int) int_column(row, 6);
	e->op = DatumGetChar(se_spi_datum(row, 7, &isnull));
	e->origin = (int) int_column(row, 8);
	e->record_id = se_spi_text(row, 9);
	e->body = json_column(row, 10);
	e->old = json_column(row, 11);
	e->context = json_column(row, 12);
	e->first_at = DatumGetTimestampTz(se_spi_datum(row, 20, &isnull));
	if (isnull)
		e->first_at = 0;
}

/* Where it stood when it was parked, or, when it has been claimed since, where that left it. */
static void
restore_progress(SeDelivery *d, uint64 row)
{
	MemoryContext old = MemoryContextSwitchTo(d->cxt);
	Jsonb *frozen = json_column(row, 18);
	Jsonb *claim = json_column(row, 19);
	char *step = se_spi_text(row, 16);
	bool isnull;
	Datum value = se_spi_datum(row, 17, &isnull);

	d->pending_state = se_spi_text(row, 13);
	d->issue = (int) int_column(row, 14);
	d->attempts = (int) int_column(row, 15);
	d->step = step;
	d->first_claim_at = isnull ? 0 : DatumGetTimestampTz(value);
	if (frozen != NULL)
	{
		d->recover = se_obj_get(frozen, "recover") != NULL &&
					 strcmp(se_obj_get_text(frozen, "recover"), "true") == 0;
		d->lookups = (int) se_obj_get_int(frozen, "lookups", 0);
		d->unkeyed = se_obj_get(frozen, "unkeyed") != NULL;
		d->repeats = se_obj_get(frozen, "repeats") != NULL;
		d->unbound_id = se_obj_get_text(frozen, "unbound_id");
		if (se_obj_get(frozen, "method") == NULL && se_obj_get(frozen, "request_hash") != NULL)
			se_remember_claim(d, se_obj_get_text(frozen, "step"),
							  se_obj_get_text(frozen, "request_hash"));
		if (se_obj_get(frozen, "method") != NULL)
		{
			d->frozen = se_obj_copy(frozen);
			d->frozen_step = se_obj_get_text(frozen, "step");
		}
	}
	if (claim != NULL)
		se_delivery_resume(d, claim);
	MemoryContextSwitchTo(old);
}

static void
load_row(uint64 row, TimestampTz now)
{
	SeRoute *route = se_route_by_id((int) int_column(row, 2));
	SeDelivery *d;
	SeEvent event;

	if (route == NULL)
		return;
	read_event(row, &event);
	d = se_delivery_make(route, &event);
	d->pending_id = int_column(row, 1);
	restore_progress(d, row);
	remember_loaded(d->pending_id, route->system);
	se_delivery_enqueue(d);
	if (d->unanswered)
	{
		/* An earlier process claimed it and never heard: how that is settled is decided anew. */
		if (se_pending_lock(d))
			se_delivery_ambiguous(d, now);
		else
			se_due_forget(d->pending_id);
		se_delivery_free(d);
	}
}

static void
read_next_due(TimestampTz now)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {INT4ARRAYOID, INT8ARRAYOID};
	Datum values[2];
	Datum value;
	bool isnull;
	ListCell *cell;

	values[0] = speaking_routes(now);
	values[1] = loaded_array();
	se_spi_execute(&plan,
				   "SELECT min(d.at) FROM pg_catalog.unnest($1) r, LATERAL ("
				   "SELECT p.next_attempt_at AS at FROM sync.pending p WHERE p.route_id = r "
				   "AND p.state IN ('retry', 'ambiguous', 'waiting', 'held') AND p.id <> ALL ($2) "
				   "ORDER BY p.next_attempt_at LIMIT 1) d",
				   2, types, values, NULL, true, 1);
	value = se_spi_datum(0, 1, &isnull);
	next_due = isnull ? DT_NOEND : DatumGetTimestampTz(value);
	/* Rows of a system that has to be left alone for a while are looked at when that is over. */
	foreach (cell, se_routes)
	{
		SeSystem *system = ((SeRoute *) lfirst(cell))->system;

		if (system->blocked_until > now)
			next_due = Min(next_due, system->blocked_until);
	}
	se_pending_dirty = false;
}

bool
se_pending_load_due(TimestampTz now)
{
	static SPIPlanPtr plan = NULL;
	Oid types[4] = {INT4ARRAYOID, INT8ARRAYOID, INT8OID, TIMESTAMPTZOID};
	Datum values[4];
	SPITupleTable *rows;
	uint64 n;

	if (locked_until > now)
		return false;
	if (!se_pending_dirty && next_due > now)
		return false;
	se_txn_begin("looking for due deliveries");
	values[0] = speaking_routes(now);
	values[1] = loaded_array();
	values[2] = Int64GetDatum(LOAD_BATCH);
	/* Not a function's value: only with a constant the index ends the search. */
	values[3] = TimestampTzGetDatum(GetCurrentTimestamp());
	n = se_spi_execute(&plan, DUE_SQL, 4, types, values, NULL, false, 0);
	rows = SPI_tuptable;
	for (uint64 i = 0; i < n; i++)
	{
		SPI_tuptable = rows;
		load_row(i, now);
	}
	read_next_due(now);
	se_txn_commit();
	return n > 0;
}

/* ---- when to come again ---- */

TimestampTz
se_pending_next_due(void)
{
	return Min(Min(Max(next_due, locked_until), se_release_next_due()), se_held_next_due());
}

void
se_due_reset(void)
{
	list_free_deep(loaded_ids);
	loaded_ids = NIL;
	se_pending_dirty = true;
	next_due = DT_NOBEGIN;
	se_release_reset();
}
