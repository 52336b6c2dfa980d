/*
 * pending.c: deliveries leave the steady flow for sync.pending, and end there. A row carries a copy
 * of its event, so that only cursors pin the outbox. What comes back from there is in due.c.
 *
 * Of one record's rows on one route only the lowest seq is due; the others are 'behind' it. Behind
 * rows of objects that are not financial merge into one, which takes over the newest body.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/json.h"
#include "core/spi.h"
#include "push/internal.h"
#include "push/push.h"

#define RECHECK_S		600 /* waiting rows are released by events; this is the fallback */
#define RECHECK_STATE_S 15	/* … and the only way for what no binding tells */

/* ---- parking ---- */

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
	Jsonb *frozen = se_freeze(d, state);

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

/* ---- behind others ---- */

/*
 * An event that goes behind the unfinished ones of its record, with those before it that it has taken
 * in. Events of one record may come by the hundred in a piece of the log, so they are merged here
 * first, and one row is written for all of them.
 */
struct SeBehind
{
	dlist_node node;
	SeRoute *route;
	SeRecord *record;
	SeEvent event;
	Datum *merged; /* their numbers */
	int nmerged;
	int size;
};

static dlist_head behind = DLIST_STATIC_INIT(behind); /* in the transaction's memory */

/*
 * Financial events are each a document's state. Where somebody has to approve, what one person has
 * changed must not go out under the name of another.
 */
static bool
may_merge(const SeRoute *route)
{
	return !route->financial && !route->gated;
}

/*
 * It merges into the last behind row where that is allowed; the events that a row stood for before
 * are recorded as merged.
 */
static void
write_behind(SeBehind *b)
{
	static SPIPlanPtr merge_plan = NULL;
	static SPIPlanPtr insert_plan = NULL;
	Oid types[13];
	Datum values[NVALUES];
	char nulls[NVALUES + 1] = {0};

	memcpy(types, row_types, sizeof(Oid) * 11);
	types[11] = INT8ARRAYOID;
	types[12] = TIMESTAMPTZOID;
	set_event(values, nulls, b->route, &b->event);
	set_value(values, nulls, 11,
			  PointerGetDatum(
				  construct_array(b->merged, b->nmerged, INT8OID, 8, true, TYPALIGN_DOUBLE)),
			  false);
	set_value(values, nulls, 12, TimestampTzGetDatum(se_event_since(&b->event)), false);
	if (may_merge(b->route) && b->event.op != 'D' &&
		se_spi_execute(
			&merge_plan,
			"WITH tail AS (SELECT p.id, p.seq, p.op FROM sync.pending p "
			"WHERE p.route_id = $1 AND p.record_id = $6 ORDER BY p.seq DESC LIMIT 1), "
			"free AS (SELECT p.id FROM sync.pending p, tail t WHERE p.id = t.id "
			"FOR UPDATE OF p SKIP LOCKED), "
			"merged AS (UPDATE sync.pending p SET seq = $2, incarnation = $3, "
			"event_at = $4, first_event_at = least(coalesce(p.first_event_at, p.event_at), $13), "
			"op = CASE WHEN $7 = 'K' THEN $7 ELSE p.op END, origin = $8, body = $9, "
			"old = coalesce($10, '{}') || coalesce(p.old, '{}'), context = $11, "
			"merged = p.merged + 1 + cardinality($12) FROM tail t, free f "
			"WHERE p.id = t.id AND f.id = t.id AND p.state = 'behind' "
			"AND t.op IN ('I', 'U') AND t.seq < $2 AND $5 = p.object_id AND $7 <> 'D' "
			"RETURNING t.seq || $12 AS seqs) "
			"INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, "
			"state, message) SELECT 0, pg_catalog.clock_timestamp(), $1, s, true, "
			"'merged', 'merged', 'merged into event ' || $2::text "
			"FROM merged m, unnest(m.seqs) s RETURNING 1",
			13, types, values, nulls, false, 0) > 0)
		return;
	se_spi_execute(&insert_plan,
				   "WITH put AS (INSERT INTO sync.pending (route_id, seq, incarnation, event_at, "
				   "object_id, record_id, op, origin, body, old, context, state, merged, "
				   "first_event_at) "
				   "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'behind', "
				   "cardinality($12), CASE WHEN cardinality($12) > 0 THEN $13 END) "
				   "ON CONFLICT (route_id, seq) DO NOTHING RETURNING 1) "
				   "INSERT INTO sync.outcome (attempt_id, at, route_id, seq, final, outcome, "
				   "state, message) SELECT 0, pg_catalog.clock_timestamp(), $1, s, true, "
				   "'merged', 'merged', 'merged into event ' || $2::text "
				   "FROM put, unnest($12) s",
				   13, types, values, nulls, false, 0);
}

static void
end_behind(SeBehind *b)
{
	write_behind(b);
	b->record->behind = NULL;
	dlist_delete(&b->node);
}

void
se_pending_write_behind(void)
{
	while (!dlist_is_empty(&behind))
		end_behind(dlist_head_element(SeBehind, node, &behind));
}

/* Takes the later event in, as the statement above does with the row. */
static void
merge_event(SeBehind *b, const SeEvent *event)
{
	Jsonb *old = b->event.old;
	TimestampTz since = Min(se_event_since(&b->event), event->at);
	char op = event->op == 'K' ? 'K' : b->event.op;

	if (b->nmerged == b->size)
	{
		b->size = Max(b->size * 2, 16);
		b->merged = b->merged ? repalloc(b->merged, sizeof(Datum) * b->size)
							  : palloc(sizeof(Datum) * b->size);
	}
	b->merged[b->nmerged++] = Int64GetDatum(b->event.seq);
	b->event = *event;
	b->event.op = op;
	b->event.first_at = since;
	if (old != NULL)
		b->event.old =
			event->old == NULL
				? old
				: DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(event->old),
													 JsonbPGetDatum(old)));
}

/*
 * Puts an event behind the unfinished ones of its record; on disk with se_pending_write_behind(), until
 * when the event must live.
 */
void
se_pending_behind(SeRoute *route, const SeEvent *event)
{
	SeRecord *record = se_record_get(route->id, event->record_id, true);
	SeBehind *b = record->behind;

	record->followed = true;
	if (b != NULL)
	{
		if (may_merge(route) && event->op != 'D' && (b->event.op == 'I' || b->event.op == 'U'))
		{
			merge_event(b, event);
			return;
		}
		end_behind(b);
	}
	b = palloc0(sizeof(SeBehind));
	b->route = route;
	b->record = record;
	b->event = *event;
	record->behind = b;
	dlist_push_tail(&behind, &b->node);
}

/* Whether a record that is thought to be blocked still is: a person may have freed it. */
bool
se_pending_blocks(SeRecord *record)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {INT4OID, TEXTOID};
	Datum values[2];

	if (record->behind != NULL)
		return true;
	values[0] = Int32GetDatum(record->key.route_id);
	values[1] = CStringGetTextDatum(record->key.record_id);
	return se_spi_execute(&plan,
						  "SELECT FROM sync.pending WHERE route_id = $1 AND record_id = $2 LIMIT 1",
						  2, types, values, NULL, false, 1) > 0;
}

/* What stands behind a parked delivery in memory goes behind it in the table, too. */
static void
park_followers(SeDelivery *d)
{
	dlist_node *node = &d->queue_node;
	dlist_node *after = node;

	if (!dlist_has_next(&d->record->queue, node))
		return;
	while (dlist_has_next(&d->record->queue, after))
	{
		SeDelivery *next;

		after = dlist_next_node(&d->record->queue, after);
		next = dlist_container(SeDelivery, queue_node, after);
		se_pending_behind(next->route, &next->event);
	}
	se_pending_write_behind();
	while (dlist_has_next(&d->record->queue, node))
	{
		SeDelivery *next =
			dlist_container(SeDelivery, queue_node, dlist_next_node(&d->record->queue, node));

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
		/* What it waits for may have come between its rendering and this moment. */
		se_release_look_at(d->route->system->id, d->wait_object_id, d->wait_key);
	}
	write_row(d, state, due);
	d->record->blocked = true;
	d->record->ambiguous = strcmp(state, "ambiguous") == 0;
	d->record->suspect = due != 0 && se_event_since(&d->event) < se_hub_suspect_before;
	if (d->pending_id != 0)
		se_due_forget(d->pending_id);
	park_followers(d);
	se_pending_dirty = true;
}

/* ---- finishing ---- */

/* Rows of deliveries that ended go; the next one of each record becomes due. */
void
se_pending_finish(SeDelivery **deliveries, int n)
{
	static SPIPlanPtr delete_plan = NULL;
	Oid delete_types[1] = {INT8OID};

	for (int i = 0; i < n; i++)
	{
		SeDelivery *d = deliveries[i];
		Datum values[1];

		values[0] = Int64GetDatum(d->pending_id);
		se_spi_execute(&delete_plan, "DELETE FROM sync.pending WHERE id = $1", 1, delete_types,
					   values, NULL, false, 0);
		d->record->blocked = se_held_promote(d->route->id, d->event.record_id);
		d->record->ambiguous = false;
		d->record->suspect &= d->record->blocked;
		se_due_forget(d->pending_id);
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
					   "'ambiguous', 'waiting', 'held') FOR UPDATE SKIP LOCKED",
					   1, types, values, NULL, false, 1) > 0)
		return true;
	se_due_wait(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 1000));
	return false;
}

void
se_pending_forget(SeDelivery *d)
{
	if (d->pending_id != 0)
		se_due_forget(d->pending_id);
	se_pending_dirty = true;
}

void
se_pending_reset(void)
{
	dlist_init(&behind);
	se_due_reset();
}
