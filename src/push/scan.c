/*
 * scan.c: reads a batch of a window and makes deliveries of the events that routes want.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "core/crash.h"
#include "core/json.h"
#include "core/spi.h"
#include "push/internal.h"

#define BATCH	 500
#define RETRY_MS 2000 /* until a condition that met a lock is evaluated again */

typedef struct Candidate /* an event that a route may want */
{
	SeRoute *route;
	SeEvent *event;
	bool wanted;
	char *error; /* its condition failed */
	/* what an earlier process left */
	bool known;	  /* ended, or in sync.pending */
	Jsonb *claim; /* last attempt; NULL: never claimed */
} Candidate;

/*
 * Part one: transactions that started after `start` ($2); their numbers are above its own ($4).
 * Part two: those that were running at `start`, by their ids. Both in seq order, both cut to the
 * batch, so that neither reads more than it returns.
 */
static const char *const SCAN_SQL =
	"SELECT seq, at, object_id, op, origin, record_id, body, old, context FROM ("
	"(SELECT o.* FROM sync.outbox o WHERE o.seq > $4 AND o.seq <= $6 "
	"AND o.xid >= pg_catalog.pg_snapshot_xmax($2::pg_snapshot) AND o.incarnation = $1 "
	"AND ($3 IS NULL OR pg_catalog.pg_visible_in_snapshot(o.xid, $3::pg_snapshot)) "
	"AND o.object_id = ANY ($7) ORDER BY o.seq LIMIT $8) "
	"UNION ALL "
	"(SELECT o.* FROM pg_catalog.pg_snapshot_xip($2::pg_snapshot) x, LATERAL ("
	"SELECT i.* FROM sync.outbox i WHERE i.xid = x AND i.seq > $5 AND i.incarnation = $1 "
	"AND ($3 IS NULL OR pg_catalog.pg_visible_in_snapshot(i.xid, $3::pg_snapshot)) "
	"AND i.object_id = ANY ($7) ORDER BY i.seq LIMIT $8) o)) b "
	"ORDER BY seq LIMIT $8";

static Datum
object_array(SeScanner *scanner)
{
	Datum *ids = palloc(sizeof(Datum) * (list_length(scanner->routes) + 1));
	int n = 0;
	ListCell *cell;

	foreach (cell, scanner->routes)
		ids[n++] = Int32GetDatum(((SeRoute *) lfirst(cell))->object_id);
	return PointerGetDatum(construct_array(ids, n, INT4OID, 4, true, TYPALIGN_INT));
}

static Jsonb *
row_json(uint64 row, int col)
{
	bool isnull;
	Datum value = se_spi_datum(row, col, &isnull);

	return isnull ? NULL : DatumGetJsonbP(value);
}

/* Reads up to BATCH events; *n of them, in the transaction's memory. */
static SeEvent *
read_events(SeScanner *scanner, SeWindow *window, int *n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[8] = {INT4OID, TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID, INT4ARRAYOID, INT8OID};
	Datum values[8];
	char nulls[9] = "        ";
	SeEvent *events;

	values[0] = Int32GetDatum(window->incarnation);
	values[1] = CStringGetTextDatum(window->start);
	values[2] = window->end ? CStringGetTextDatum(window->end) : (Datum) 0;
	nulls[2] = window->end ? ' ' : 'n';
	values[3] = Int64GetDatum(Max(window->start_seq, window->position));
	values[4] = Int64GetDatum(window->position);
	values[5] = Int64GetDatum(window->end_after);
	values[6] = object_array(scanner);
	values[7] = Int64GetDatum(BATCH);
	*n = (int) se_spi_execute(&plan, SCAN_SQL, 8, types, values, nulls, false, 0);
	events = palloc0(sizeof(SeEvent) * (*n + 1));
	for (int i = 0; i < *n; i++)
	{
		SeEvent *e = &events[i];
		bool isnull;

		e->seq = DatumGetInt64(se_spi_datum(i, 1, &isnull));
		e->at = DatumGetTimestampTz(se_spi_datum(i, 2, &isnull));
		e->incarnation = window->incarnation;
		e->object_id = DatumGetInt32(se_spi_datum(i, 3, &isnull));
		e->op = DatumGetChar(se_spi_datum(i, 4, &isnull));
		e->origin = DatumGetInt32(se_spi_datum(i, 5, &isnull));
		e->record_id = se_spi_text(i, 6);
		e->body = row_json(i, 7);
		e->old = row_json(i, 8);
		e->context = row_json(i, 9);
	}
	return events;
}

/* What the declaration of the route says, before its condition. */
static bool
declared(SeRoute *route, const SeEvent *event)
{
	if (route->object_id != event->object_id || event->at < route->start_at)
		return false;
	switch (event->op)
	{
		case 'I':
			return route->wants[SE_CREATE];
		case 'U':
		case 'K':
			return route->wants[SE_UPDATE];
		case 'D':
			return route->wants[SE_DELETE];
		default:
			return false; /* T: a truncate has no record */
	}
}

/*
 * A change that came from the system itself is not sent back, unless an older one of ours is still
 * unfinished: that one would overwrite it there, so the newest state must follow it.
 */
static bool
is_echo(SeRoute *route, const SeEvent *event)
{
	return event->origin == route->system->id &&
		   se_record_get(route->id, event->record_id, false) == NULL;
}

/* Routes of the scanner × events; conditions evaluated a route at a time. NULL: not to be told now. */
static Candidate *
make_candidates(SeScanner *scanner, SeEvent *events, int nevents, int *n)
{
	Candidate *candidates =
		palloc0(sizeof(Candidate) * (nevents * list_length(scanner->routes) + 1));
	SeEvent **batch = palloc(sizeof(SeEvent *) * (nevents + 1));
	bool *wanted = palloc(sizeof(bool) * (nevents + 1));
	char **errors = palloc(sizeof(char *) * (nevents + 1));
	ListCell *cell;

	*n = 0;
	foreach (cell, scanner->routes)
	{
		SeRoute *route = lfirst(cell);
		int size = 0;

		for (int i = 0; i < nevents; i++)
		{
			if (declared(route, &events[i]))
				batch[size++] = &events[i];
		}
		if (size == 0)
			continue;
		if (!se_route_filter(route, batch, size, wanted, errors))
			return NULL;
		for (int i = 0; i < size; i++)
		{
			if (!wanted[i] && errors[i] == NULL)
				continue;
			candidates[*n].route = route;
			candidates[*n].event = batch[i];
			candidates[*n].error = errors[i];
			(*n)++;
		}
	}
	return candidates;
}

/* Asks history what an earlier process did with these deliveries. */
static void
recall(Candidate *candidates, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[3] = {INT4ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID};
	Datum values[3];
	Datum *routes = palloc(sizeof(Datum) * n);
	Datum *seqs = palloc(sizeof(Datum) * n);
	Datum *ats = palloc(sizeof(Datum) * n);

	for (int i = 0; i < n; i++)
	{
		routes[i] = Int32GetDatum(candidates[i].route->id);
		seqs[i] = Int64GetDatum(candidates[i].event->seq);
		ats[i] = TimestampTzGetDatum(candidates[i].event->at);
	}
	values[0] = PointerGetDatum(construct_array(routes, n, INT4OID, 4, true, TYPALIGN_INT));
	values[1] = PointerGetDatum(construct_array(seqs, n, INT8OID, 8, true, TYPALIGN_DOUBLE));
	values[2] = PointerGetDatum(construct_array(ats, n, TIMESTAMPTZOID, 8, true, TYPALIGN_DOUBLE));
	se_spi_execute(&plan,
				   "SELECT EXISTS (SELECT FROM sync.outcome o WHERE o.route_id = k.route_id "
				   "AND o.seq = k.seq AND o.final AND o.at >= k.event_at) "
				   "OR EXISTS (SELECT FROM sync.pending p WHERE p.route_id = k.route_id "
				   "AND p.seq = k.seq AND p.event_at = k.event_at), "
				   "(SELECT pg_catalog.to_jsonb(c) || pg_catalog.jsonb_build_object("
				   "'outcome', (SELECT o.outcome FROM sync.outcome o WHERE o.route_id = c.route_id "
				   "AND o.seq = c.seq AND o.attempt_id = c.attempt_id)) "
				   "FROM sync.claim c WHERE c.route_id = k.route_id AND c.seq = k.seq "
				   "AND c.event_at = k.event_at ORDER BY c.attempt_id DESC LIMIT 1) "
				   "FROM unnest($1, $2, $3) WITH ORDINALITY k(route_id, seq, event_at, i) "
				   "ORDER BY k.i",
				   3, types, values, NULL, true, 0);
	for (int i = 0; i < n; i++)
	{
		bool isnull;

		candidates[i].known = DatumGetBool(se_spi_datum(i, 1, &isnull));
		candidates[i].claim = row_json(i, 2);
	}
}

/* Whether a request of this operation may have changed something. */
static bool
has_effect(const SeOperation *op)
{
	return op->kind != SE_OP_LOOKUP && op->kind != SE_OP_VERIFY && op->kind != SE_OP_READ;
}

/* Whether no operation before `op` in its plan changes anything at the other side. */
static bool
only_questions_before(SeDelivery *d, const SeManifestObject *object, const SeOperation *op)
{
	ListCell *cell;

	foreach (cell, object->plan[SE_CREATE])
	{
		const SeOperation *before = lfirst(cell);

		if (before == op)
			return true;
		if (has_effect(before))
			return false;
	}
	return true;
}

/* A question may be asked again, and must be where nobody knows what came of the answer. */
static void
resume_question(SeDelivery *d, const SeManifestObject *object, const SeOperation *op)
{
	if (d->recover)
		return;
	if (op == object->lookup && !list_member_ptr(object->plan[SE_CREATE], op))
	{
		/* It was no step of the plan: it asks whether a lost server had sent the record. */
		d->recover = true;
		d->lookups = 1;
	}
	d->step = only_questions_before(d, object, op) ? NULL : pstrdup(op->name);
}

/*
 * Goes on where the last attempt left off. Without an outcome it is ambiguous; otherwise its step is
 * done, or has to be done again. A plan that has only asked so far begins again: its later steps
 * need answers that died with the process that had them.
 */
void
se_delivery_resume(SeDelivery *d, Jsonb *claim)
{
	MemoryContext old = MemoryContextSwitchTo(d->cxt);
	const SeManifestObject *object = se_delivery_object(d);
	char *outcome = se_obj_get_text(claim, "outcome");
	char *step = se_obj_get_text(claim, "step");
	const SeOperation *op = object ? se_object_operation(object, step) : NULL;
	char *at = se_obj_get_text(claim, "at");

	d->issue = (int) se_obj_get_int(claim, "issue", 1);
	d->attempts = (int) se_obj_get_int(claim, "attempt", 1) - (outcome != NULL ? 1 : 0);
	d->last_attempt_id = se_obj_get_int(claim, "attempt_id", 0);
	if (d->first_claim_at == 0)
		d->first_claim_at = DatumGetTimestampTz(
			DirectFunctionCall3(timestamptz_in, CStringGetDatum(at), ObjectIdGetDatum(InvalidOid),
								Int32GetDatum(-1)));
	d->op = NULL;
	if (op != NULL && !has_effect(op))
	{
		if (outcome == NULL)
			se_outcome_lost(d);
		resume_question(d, object, op);
	}
	else if (outcome != NULL && strcmp(outcome, "done") == 0)
	{
		const SeOperation *next = op ? se_plan_next(d, op) : NULL;

		d->step = next ? pstrdup(next->name) : NULL;
	}
	else if (outcome != NULL && op != NULL && only_questions_before(d, object, op))
		d->step = NULL;
	else
	{
		d->step = step;
		d->unanswered = outcome == NULL;
		if (d->unanswered)
		{
			d->frozen = se_obj_copy(claim);
			d->frozen_step = pstrdup(step);
			d->unkeyed = se_obj_get_text(claim, "idempotency_key") == NULL;
		}
	}
	MemoryContextSwitchTo(old);
}

static void
deliver(SeWindow *window, Candidate *c, TimestampTz now)
{
	SeRecord *record = se_record_get(c->route->id, c->event->record_id, false);
	SeDelivery *d;

	if (record != NULL && record->blocked)
	{
		se_pending_behind(c->route, c->event);
		return;
	}
	d = se_delivery_make(c->route, c->event);
	if (c->claim != NULL)
		se_delivery_resume(d, c->claim);
	se_delivery_enqueue(d);
	d->window = window;
	window->unfinished++;
	dlist_push_tail(&window->deliveries, &d->window_node);
	/* With a key that no index takes, it cannot be kept: claiming sees to it. */
	if (c->error != NULL && strlen(c->event->record_id) <= SE_MAX_RECORD_ID)
	{
		d->code = "condition_failed";
		d->message = MemoryContextStrdup(d->cxt, c->error);
		se_pending_park(d, "dead", 0);
	}
	else if (d->unanswered)
		se_delivery_ambiguous(d, now);
	else
		return;
	se_cursor_finished(d);
	se_delivery_free(d);
}

bool
se_scan(SeScanner *scanner)
{
	SeWindow *window;
	SeEvent *events;
	Candidate *candidates;
	TimestampTz now = GetCurrentTimestamp();
	int nevents;
	int n;

	if (dlist_is_empty(&scanner->windows))
		return false;
	window = dlist_tail_element(SeWindow, node, &scanner->windows);
	if (window->scanned)
		return false;

	se_txn_begin("reading events");
	events = read_events(scanner, window, &nevents);
	candidates = make_candidates(scanner, events, nevents, &n);
	if (candidates == NULL)
	{
		se_txn_commit();
		scanner->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_MS);
		return false;
	}
	if (window->recovering && n > 0)
		recall(candidates, n);
	for (int i = 0; i < n; i++)
	{
		if (!candidates[i].known && !is_echo(candidates[i].route, candidates[i].event))
			deliver(window, &candidates[i], now);
	}
	if (nevents > 0)
	{
		window->position = events[nevents - 1].seq;
		scanner->dirty = true;
	}
	window->scanned = nevents < BATCH;
	SE_CRASH_POINT("push-scanned");
	se_txn_commit();
	se_cursor_settle(scanner);
	return true;
}
