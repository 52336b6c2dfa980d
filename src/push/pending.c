/*
 * pending.c: deliveries that left the steady flow. A row carries a copy of its event, so that only
 * cursors pin the outbox.
 *
 * Of one record's rows on one route only the lowest seq is due; the others are 'behind' it. Behind
 * rows of objects that are not financial merge into one, which takes over the newest body.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/json.h"
#include "core/spi.h"
#include "push/internal.h"
#include "push/push.h"

#define LOAD_BATCH		200
#define RECHECK_S		600 /* waiting rows are released by events; this is the fallback */
#define RECHECK_STATE_S 15	/* … and the only way for what no binding tells */

bool se_pending_dirty = true;

static bool have_waiting = true; /* there may be waiting rows */
static bool release_wanted = true;
static TimestampTz next_due = DT_NOBEGIN;
static TimestampTz locked_until = 0; /* a person has locked a due row: let him finish */
typedef struct Loaded				 /* a row whose delivery is in memory */
{
	int64 id;
	SeSystem *system;
} Loaded;

static List *loaded_ids = NIL; /* Loaded *, TopMemoryContext */

void
se_pending_reset(void)
{
	list_free_deep(loaded_ids);
	loaded_ids = NIL;
	se_pending_dirty = have_waiting = release_wanted = true;
	next_due = DT_NOBEGIN;
}

void
se_push_notify_bound(int system_id)
{
	release_wanted = true;
}

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

static void
forget_loaded(int64 id)
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

/* ---- parking ---- */

/* The request as claimed, for a repetition that must not differ; and where the look-ups stand. */
static Jsonb *
freeze(SeDelivery *d, const char *state)
{
	static const char *const kept[] = {"step",		   "method",  "target",
									   "content_type", "request", "connector_id"};
	SeObjBuilder b;

	if (strcmp(state, "ambiguous") != 0 &&
		!(strcmp(state, "dead") == 0 &&
		  (d->recover || d->unanswered || (d->attempt_id != 0 && d->outcome == SE_AMBIGUOUS))))
		return NULL;
	se_obj_begin(&b);
	if (d->attempt_id != 0 && d->op != NULL && !d->recover)
	{
		se_obj_text(&b, "step", d->op->name);
		se_obj_text(&b, "method", d->rendered.request.method);
		se_obj_text(&b, "target", d->target);
		se_obj_text(&b, "content_type", d->rendered.request.content_type);
		se_obj_text(&b, "request", d->request_text);
		se_obj_int(&b, "connector_id", d->connector_id);
	}
	else if (d->frozen != NULL && !d->recover)
	{
		for (size_t i = 0; i < lengthof(kept); i++)
			se_obj_text(&b, kept[i], se_obj_get_text(d->frozen, kept[i]));
	}
	se_obj_bool(&b, "recover", d->recover);
	if (d->unkeyed)
		se_obj_bool(&b, "unkeyed", true);
	se_obj_int(&b, "lookups", d->lookups);
	return se_obj_end(&b);
}

static void
set_value(Datum *values, char *nulls, int i, Datum value, bool isnull)
{
	values[i] = value;
	nulls[i] = isnull ? 'n' : ' ';
}

static void
set_text(Datum *values, char *nulls, int i, const char *text)
{
	set_value(values, nulls, i, text ? CStringGetTextDatum(text) : (Datum) 0, text == NULL);
}

#define NVALUES 24

static void
set_event(Datum *values, char *nulls, const SeRoute *route, const SeEvent *e)
{
	set_value(values, nulls, 0, Int32GetDatum(route->id), false);
	set_value(values, nulls, 1, Int64GetDatum(e->seq), false);
	set_value(values, nulls, 2, Int32GetDatum(e->incarnation), false);
	set_value(values, nulls, 3, TimestampTzGetDatum(e->at), false);
	set_value(values, nulls, 4, Int32GetDatum(e->object_id), false);
	set_text(values, nulls, 5, e->record_id);
	set_value(values, nulls, 6, CharGetDatum(e->op), false);
	set_value(values, nulls, 7, Int32GetDatum(e->origin), false);
	set_value(values, nulls, 8, PointerGetDatum(e->body), e->body == NULL);
	set_value(values, nulls, 9, PointerGetDatum(e->old), e->old == NULL);
	set_value(values, nulls, 10, PointerGetDatum(e->context), e->context == NULL);
}

static Oid row_types[NVALUES] = {INT4OID,		 INT8OID, INT4OID, TIMESTAMPTZOID, INT4OID,
								 TEXTOID,		 CHAROID, INT4OID, JSONBOID,	   JSONBOID,
								 JSONBOID,		 TEXTOID, INT4OID, INT4OID,		   TEXTOID,
								 INT4OID,		 TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID,
								 TIMESTAMPTZOID, TEXTOID, TEXTOID, JSONBOID};

static void
write_row(SeDelivery *d, const char *state, TimestampTz due)
{
	static SPIPlanPtr plan = NULL;
	Datum values[NVALUES];
	char nulls[NVALUES + 1] = {0};
	Jsonb *frozen = freeze(d, state);

	set_event(values, nulls, d->route, &d->event);
	set_text(values, nulls, 11, state);
	set_value(values, nulls, 12, Int32GetDatum(d->issue), false);
	set_value(values, nulls, 13, Int32GetDatum(d->attempts), false);
	set_text(values, nulls, 14,
			 d->step != NULL									  ? d->step
			 : d->op != NULL && d->attempt_id != 0 && !d->recover ? d->op->name
																  : NULL);
	set_value(values, nulls, 15, Int32GetDatum(d->wait_object_id), d->wait_object_id == 0);
	set_text(values, nulls, 16, d->wait_key);
	set_text(values, nulls, 17, d->wait_state);
	set_value(values, nulls, 18, TimestampTzGetDatum(due), due == 0);
	set_value(values, nulls, 19, Int64GetDatum(d->attempt_id ? d->attempt_id : d->last_attempt_id),
			  d->attempt_id == 0 && d->last_attempt_id == 0);
	set_value(values, nulls, 20, TimestampTzGetDatum(d->first_claim_at), d->first_claim_at == 0);
	set_text(values, nulls, 21, d->code);
	set_text(values, nulls, 22, d->message);
	set_value(values, nulls, 23, PointerGetDatum(frozen), frozen == NULL);
	se_spi_execute(
		&plan,
		"INSERT INTO sync.pending AS p (route_id, seq, incarnation, event_at, object_id, "
		"record_id, op, origin, body, old, context, state, issue, attempts, step, "
		"wait_object_id, wait_record_id, wait_state, next_attempt_at, last_attempt_id, "
		"first_claim_at, code, message, frozen) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, "
		"$9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24) "
		"ON CONFLICT (route_id, seq) DO UPDATE SET state = excluded.state, "
		"issue = excluded.issue, attempts = excluded.attempts, step = excluded.step, "
		"wait_object_id = excluded.wait_object_id, "
		"wait_record_id = excluded.wait_record_id, wait_state = excluded.wait_state, "
		"next_attempt_at = excluded.next_attempt_at, "
		"last_attempt_id = coalesce(excluded.last_attempt_id, p.last_attempt_id), "
		"first_claim_at = excluded.first_claim_at, code = excluded.code, "
		"message = excluded.message, frozen = excluded.frozen, "
		"created_at = CASE WHEN excluded.state = 'waiting' THEN pg_catalog.clock_timestamp() "
		"ELSE p.created_at END",
		NVALUES, row_types, values, nulls, false, 0);
}

/*
 * Puts an event behind the unfinished ones of its record. It merges into the last behind row where
 * that is allowed; the event that row stood for is recorded as merged.
 */
void
se_pending_behind(SeRoute *route, const SeEvent *event)
{
	static SPIPlanPtr merge_plan = NULL;
	static SPIPlanPtr insert_plan = NULL;
	Datum values[NVALUES];
	char nulls[NVALUES + 1] = {0};

	set_event(values, nulls, route, event);
	if (!route->financial && event->op != 'D' &&
		se_spi_execute(
			&merge_plan,
			"WITH tail AS (SELECT p.id, p.seq, p.op FROM sync.pending p "
			"WHERE p.route_id = $1 AND p.record_id = $6 ORDER BY p.seq DESC LIMIT 1), "
			"free AS (SELECT p.id FROM sync.pending p, tail t WHERE p.id = t.id FOR UPDATE OF p SKIP LOCKED), "
			"merged AS (UPDATE sync.pending p SET seq = $2, incarnation = $3, "
			"event_at = $4, op = CASE WHEN $7 = 'K' THEN $7 ELSE p.op END, origin = $8, body = $9, "
			"old = coalesce($10, '{}') || coalesce(p.old, '{}'), context = $11, "
			"merged = p.merged + 1 FROM tail t, free f WHERE p.id = t.id AND f.id = t.id AND p.state = 'behind' "
			"AND t.op IN ('I', 'U') AND t.seq < $2 AND $5 = p.object_id AND $7 <> 'D' "
			"RETURNING t.seq) "
			"INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, "
			"state, message) SELECT 0, pg_catalog.clock_timestamp(), $1, m.seq, true, "
			"'merged', 'merged', 'merged into event ' || $2::text FROM merged m "
			"RETURNING 1",
			11, row_types, values, nulls, false, 0) > 0)
		return;
	se_spi_execute(&insert_plan,
				   "INSERT INTO sync.pending (route_id, seq, incarnation, event_at, object_id, "
				   "record_id, op, origin, body, old, context, state) VALUES ($1, $2, $3, $4, $5, "
				   "$6, $7, $8, $9, $10, $11, 'behind') ON CONFLICT (route_id, seq) DO NOTHING",
				   11, row_types, values, nulls, false, 0);
}

/* What stands behind a parked delivery in memory goes behind it in the table, too. */
static void
park_followers(SeDelivery *d)
{
	dlist_node *node = &d->queue_node;

	while (dlist_has_next(&d->record->queue, node))
	{
		SeDelivery *next =
			dlist_container(SeDelivery, queue_node, dlist_next_node(&d->record->queue, node));

		se_pending_behind(next->route, &next->event);
		se_cursor_finished(next);
		se_delivery_free(next);
	}
}

/*
 * In a transaction. due 0: no time of its own. The delivery stays in memory until its caller frees
 * it; if the transaction fails, all memory is thrown away and read again.
 */
void
se_pending_park(SeDelivery *d, const char *state, TimestampTz due)
{
	if (strcmp(state, "waiting") == 0)
	{
		bool told = d->wait_state == NULL && strchr(d->wait_key, '=') == NULL;
		double seconds = told ? RECHECK_S : RECHECK_STATE_S;

		due = GetCurrentTimestamp() +
			  (int64) (seconds * 1e6 * (0.75 + 0.5 * pg_prng_double(&pg_global_prng_state)));
		have_waiting = true;
		/* What it waits for may have come between its rendering and this moment. */
		release_wanted = true;
	}
	write_row(d, state, due);
	d->record->blocked = true;
	d->record->ambiguous = strcmp(state, "ambiguous") == 0;
	if (d->pending_id != 0)
		forget_loaded(d->pending_id);
	park_followers(d);
	se_pending_dirty = true;
}

/* ---- finishing ---- */

/* Rows of deliveries that ended go; the next one of each record becomes due. */
void
se_pending_finish(SeDelivery **deliveries, int n)
{
	static SPIPlanPtr delete_plan = NULL;
	static SPIPlanPtr promote_plan = NULL;
	Oid delete_types[1] = {INT8OID};
	Oid promote_types[2] = {INT4OID, TEXTOID};

	for (int i = 0; i < n; i++)
	{
		SeDelivery *d = deliveries[i];
		Datum values[2];

		values[0] = Int64GetDatum(d->pending_id);
		se_spi_execute(&delete_plan, "DELETE FROM sync.pending WHERE id = $1", 1, delete_types,
					   values, NULL, false, 0);
		values[0] = Int32GetDatum(d->route->id);
		values[1] = CStringGetTextDatum(d->event.record_id);
		d->record->blocked =
			se_spi_execute(
				&promote_plan,
				/* What stands first may be dead and need a person: only 'behind' goes on. */
				"WITH head AS (SELECT id FROM sync.pending WHERE route_id = $1 "
				"AND record_id = $2 ORDER BY seq LIMIT 1), "
				"promoted AS (UPDATE sync.pending p SET state = 'retry', "
				"next_attempt_at = pg_catalog.clock_timestamp() FROM head "
				"WHERE p.id = head.id AND p.state = 'behind') SELECT FROM head",
				2, promote_types, values, NULL, false, 0) > 0;
		d->record->ambiguous = false;
		forget_loaded(d->pending_id);
		se_pending_dirty = true;
	}
}

/*
 * False: the row is gone, or somebody is at it; then it is looked at again in a second. Waiting for
 * him would make everybody wait.
 */
bool
se_pending_lock(SeDelivery *d)
{
	static SPIPlanPtr plan = NULL;
	Oid types[1] = {INT8OID};
	Datum values[1];

	values[0] = Int64GetDatum(d->pending_id);
	if (se_spi_execute(&plan,
					   "SELECT FROM sync.pending WHERE id = $1 AND state IN ('retry', "
					   "'ambiguous', 'waiting') FOR UPDATE SKIP LOCKED",
					   1, types, values, NULL, false, 1) > 0)
		return true;
	locked_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 1000);
	return false;
}

void
se_pending_forget(SeDelivery *d)
{
	if (d->pending_id != 0)
		forget_loaded(d->pending_id);
	se_pending_dirty = true;
}

/* ---- loading ---- */

void
se_pending_load_blocked(void)
{
	se_records_unblock();
	/*
	 * A row that was put behind one that a person discarded at that moment has nothing before it,
	 * and nobody to promote it but us.
	 */
	if (SPI_execute("UPDATE sync.pending p SET state = 'retry', "
					"next_attempt_at = pg_catalog.clock_timestamp() WHERE p.state = 'behind' "
					"AND NOT EXISTS (SELECT FROM sync.pending q WHERE q.route_id = p.route_id "
					"AND q.record_id = p.record_id AND q.seq < p.seq)",
					false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not promote rows of sync.pending");
	if (SPI_execute("SELECT route_id, record_id, bool_or(state = 'ambiguous'), "
					"bool_or(state = 'waiting') FROM sync.pending GROUP BY 1, 2",
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read sync.pending");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		int route_id = DatumGetInt32(se_spi_datum(i, 1, &isnull));
		SeRecord *record;

		if (se_route_by_id(route_id) == NULL)
			continue;
		record = se_record_get(route_id, se_spi_text(i, 2), true);
		record->blocked = true;
		record->ambiguous = DatumGetBool(se_spi_datum(i, 3, &isnull));
		have_waiting |= DatumGetBool(se_spi_datum(i, 4, &isnull));
	}
	se_records_sweep();
	se_pending_dirty = true;
	release_wanted = true;
}

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
	"AND c.seq = p.seq AND c.event_at = p.event_at AND c.issue = p.issue "                          \
	"AND c.attempt_id > coalesce(p.last_attempt_id, 0) ORDER BY c.attempt_id DESC LIMIT 1) "        \
	"FROM sync.pending p WHERE p.state IN ('retry', 'ambiguous', 'waiting') "                       \
	"AND p.next_attempt_at <= pg_catalog.clock_timestamp() AND p.route_id = ANY ($1) "              \
	"AND p.id <> ALL ($2) ORDER BY p.next_attempt_at, p.seq LIMIT $3"

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
		se_delivery_ambiguous(d, now);
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
				   "SELECT min(next_attempt_at) FROM sync.pending WHERE state IN ('retry', "
				   "'ambiguous', 'waiting') AND route_id = ANY ($1) AND id <> ALL ($2)",
				   2, types, values, NULL, false, 1);
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
	Oid types[3] = {INT4ARRAYOID, INT8ARRAYOID, INT8OID};
	Datum values[3];
	uint64 n;

	if (locked_until > now)
		return false;

	if (!se_pending_dirty && next_due > now)
		return false;
	se_txn_begin("looking for due deliveries");
	values[0] = speaking_routes(now);
	values[1] = loaded_array();
	values[2] = Int64GetDatum(LOAD_BATCH);
	n = se_spi_execute(&plan, DUE_SQL, 3, types, values, NULL, false, 0);
	{
		SPITupleTable *rows = SPI_tuptable;

		for (uint64 i = 0; i < n; i++)
		{
			SPI_tuptable = rows;
			load_row(i, now);
		}
	}
	read_next_due(now);
	se_txn_commit();
	return n > 0;
}

TimestampTz
se_pending_next_due(void)
{
	return Max(next_due, locked_until);
}

bool
se_pending_release(TimestampTz now)
{
	static SPIPlanPtr plan = NULL;
	static SPIPlanPtr any_plan = NULL;
	bool released;

	if (!release_wanted)
		return false;
	release_wanted = false;
	if (!have_waiting)
		return false;
	se_txn_begin("releasing waiting deliveries");
	released = se_spi_execute(&plan,
							  "UPDATE sync.pending p SET state = 'retry', "
							  "next_attempt_at = pg_catalog.clock_timestamp() FROM sync.route r "
							  "WHERE p.state = 'waiting' AND r.id = p.route_id AND "
							  "EXISTS (SELECT FROM sync.external_id e LEFT JOIN sync.mirror m "
							  "USING (system_id, object_id, remote_id) "
							  "WHERE e.system_id = r.system_id AND e.object_id = p.wait_object_id "
							  "AND (e.record_id = p.wait_record_id OR "
							  "pg_catalog.strpos(p.wait_record_id, '=') > 0) "
							  "AND (p.wait_state IS NULL OR m.seen_at > p.created_at) "
							  "AND (pg_catalog.strpos(p.wait_record_id, '=') = 0 "
							  "OR e.bound_at > p.created_at)) RETURNING p.id",
							  0, NULL, NULL, NULL, false, 0) > 0;
	if (!released)
	{
		se_spi_execute(&any_plan, "SELECT FROM sync.pending WHERE state = 'waiting'", 0, NULL, NULL,
					   NULL, true, 1);
		have_waiting = SPI_processed > 0;
	}
	se_pending_dirty |= released;
	se_txn_commit();
	return released;
}
