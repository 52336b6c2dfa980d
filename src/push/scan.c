/*
 * scan.c: reads a piece of a window and makes deliveries of the events that routes want.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "capture/correction.h"
#include "core/crash.h"
#include "core/guc.h"
#include "core/json.h"
#include "core/spi.h"
#include "push/internal.h"

#define RETRY_MS 2000 /* until a condition that met a lock is evaluated again */

typedef struct Candidate /* an event that a route may want */
{
	SeRoute *route;
	SeEvent *event;
	bool wanted;
	char *error;	 /* its condition failed */
	bool overwrites; /* came from the route's system, where an older change of ours ended later */
	/* what an earlier process left */
	bool known;	  /* ended, or in sync.pending */
	Jsonb *claim; /* last attempt; NULL: never claimed */
} Candidate;

static Jsonb *
row_json(uint64 row, int col)
{
	bool isnull;
	Datum value = se_spi_datum(row, col, &isnull);

	return isnull ? NULL : DatumGetJsonbP(value);
}

/* What the declaration of the route says, before its condition. */
static bool
declared(SeRoute *route, const SeEvent *event)
{
	if (route->object_id != event->object_id || event->at < route->start_at)
		return false;
	if (event->origin < 0 && event->origin != SE_ORIGIN_FOR(route->system->id))
		return false; /* a correction of another system */
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

/* Whether something of the record that is older than the event stands in memory. */
static bool
is_older_queued(SeRoute *route, const SeEvent *event)
{
	SeRecord *record = se_record_get(route->id, event->record_id, false);
	dlist_iter iter;

	if (record == NULL)
		return false;
	if (record->behind != NULL)
		return true;
	dlist_foreach (iter, &record->queue)
	{
		if (dlist_container(SeDelivery, queue_node, iter.cur)->event.seq < event->seq)
			return true;
	}
	return false;
}

/*
 * A change that came from the system itself is not sent back, unless an older one of ours was
 * unfinished when it was made: that one may overwrite it there, so this state must follow it.
 *
 * The answer must be the same whenever the event is read, also after a crash: an event that was
 * passed over may not turn up again behind younger ones. So it rests on what is on record, and not
 * on what happens to be unfinished now.
 */
static bool
is_echo(const Candidate *c)
{
	return c->event->origin == c->route->system->id && !c->overwrites &&
		   !is_older_queued(c->route, c->event);
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

/*
 * Asks which changes that came from their route's own system were made while an older one of ours
 * was unfinished. Most need no question: nothing of the route has ended since.
 */
static void
find_overwriting(SeWindow *window, Candidate *candidates, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[5] = {INT4ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID, TEXTARRAYOID};
	Datum values[5];
	Datum *columns[5];
	Candidate **asked = palloc(sizeof(Candidate *) * n);
	int nasked = 0;

	for (int i = 0; i < 5; i++)
		columns[i] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
	{
		Candidate *c = &candidates[i];

		if (c->event->origin != c->route->system->id ||
			(!window->recovering && c->route->ended_at < c->event->at &&
			 se_record_get(c->route->id, c->event->record_id, false) == NULL))
			continue;
		columns[0][nasked] = Int32GetDatum(c->route->id);
		columns[1][nasked] = Int64GetDatum(c->event->seq);
		columns[2][nasked] = TimestampTzGetDatum(c->event->at);
		columns[3][nasked] = Int32GetDatum(c->event->object_id);
		columns[4][nasked] = CStringGetTextDatum(c->event->record_id);
		asked[nasked++] = c;
	}
	if (nasked == 0)
		return;
	values[0] =
		PointerGetDatum(construct_array(columns[0], nasked, INT4OID, 4, true, TYPALIGN_INT));
	values[1] =
		PointerGetDatum(construct_array(columns[1], nasked, INT8OID, 8, true, TYPALIGN_DOUBLE));
	values[2] = PointerGetDatum(
		construct_array(columns[2], nasked, TIMESTAMPTZOID, 8, true, TYPALIGN_DOUBLE));
	values[3] =
		PointerGetDatum(construct_array(columns[3], nasked, INT4OID, 4, true, TYPALIGN_INT));
	values[4] =
		PointerGetDatum(construct_array(columns[4], nasked, TEXTOID, -1, false, TYPALIGN_INT));
	se_spi_execute(&plan,
				   "SELECT EXISTS (SELECT FROM sync.pending p WHERE p.route_id = k.route_id "
				   "AND p.record_id = k.record_id AND p.seq < k.seq) "
				   "OR EXISTS (SELECT FROM sync.claim c WHERE c.record_id = k.record_id "
				   "AND c.object_id = k.object_id AND c.route_id = k.route_id AND c.seq < k.seq "
				   "AND NOT EXISTS (SELECT FROM sync.outcome o WHERE o.route_id = c.route_id "
				   "AND o.seq = c.seq AND o.final AND o.at >= c.at AND o.at < k.at)) "
				   "FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY "
				   "k(route_id, seq, at, object_id, record_id, i) ORDER BY k.i",
				   5, types, values, NULL, true, 0);
	for (int i = 0; i < nasked; i++)
	{
		bool isnull;

		asked[i]->overwrites = DatumGetBool(se_spi_datum(i, 1, &isnull));
	}
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

bool
se_has_effect(const SeOperation *op)
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
		if (se_has_effect(before))
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
	if (outcome != NULL && step != NULL)
		se_remember_claim(d, step, se_obj_get_text(claim, "request_hash"));
	/* A key that was refused is not tried again. */
	if (outcome != NULL && strcmp(outcome, "rejected") == 0 && op != NULL &&
		se_obj_get_text(claim, "idempotency_key") != NULL && se_may_be_spent(d, op))
		d->issue++;
	d->op = NULL;
	if (op != NULL && !se_has_effect(op))
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
		if (se_pending_blocks(record))
		{
			se_pending_behind(c->route, c->event);
			return;
		}
		record->blocked = record->ambiguous = false;
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

/* ---- scanning ---- */

/* The window that it reads; NULL: all is read. */
static SeWindow *
open_window(SeScanner *scanner)
{
	SeWindow *window;

	if (dlist_is_empty(&scanner->windows))
		return NULL;
	window = dlist_tail_element(SeWindow, node, &scanner->windows);
	return window->scanned ? NULL : window;
}

/* Whether nothing can be sent for a while: paused, unusable, throttled, or its breaker is open. */
static bool
is_silent(SeSystem *system, TimestampTz now)
{
	if (system->mode == SE_MODE_DRY_RUN)
		return false;
	return !se_system_speaks(system, now) || se_breaker_wait(&system->breaker, now) != 0;
}

/*
 * Room in the memory of the scanner's system; a full one leaves its events in the outbox. For a
 * system that is silent nothing is read ahead, but what its routes do not want is passed over.
 */
static bool
has_room(SeScanner *scanner, TimestampTz now)
{
	SeSystem *system = scanner->system;

	return scanner->routes != NIL && system->held && scanner->retry_at <= now &&
		   se_queue_length(system) < (is_silent(system, now) ? 1 : se_max_queue);
}

bool
se_scan_listens(TimestampTz now)
{
	ListCell *cell;

	foreach (cell, se_scanners)
	{
		SeScanner *scanner = lfirst(cell);

		if (has_room(scanner, now) && !is_silent(scanner->system, now))
			return true;
	}
	return false;
}

static bool
same_place(const SeWindow *a, const SeWindow *b)
{
	if (a->incarnation != b->incarnation || a->position != b->position ||
		(a->end == NULL) != (b->end == NULL) || strcmp(a->start, b->start) != 0)
		return false;
	return a->end == NULL || strcmp(a->end, b->end) == 0;
}

/*
 * This scanner and those after it whose next event is the same: they read together. One whose
 * system has no room stays behind, with its own cursor, and is level again when it has caught up and
 * opens a window at the same moment as the others.
 */
static List *
level_with(ListCell *first, TimestampTz now)
{
	SeWindow *window = open_window(lfirst(first));
	List *level = NIL;

	for (ListCell *cell = first; cell != NULL; cell = lnext(se_scanners, cell))
	{
		SeScanner *scanner = lfirst(cell);
		SeWindow *other = open_window(scanner);

		if (!scanner->served && other != NULL && has_room(scanner, now) &&
			same_place(window, other))
			level = lappend(level, scanner);
	}
	return level;
}

static Bitmapset *
objects_of(List *scanners)
{
	Bitmapset *objects = NULL;
	ListCell *cell;
	ListCell *inner;

	foreach (cell, scanners)
	{
		foreach (inner, ((SeScanner *) lfirst(cell))->routes)
			objects = bms_add_member(objects, ((SeRoute *) lfirst(inner))->object_id);
	}
	return objects;
}

/* What the scanner's routes want of a piece becomes deliveries; in a transaction. */
static void
take_piece(SeScanner *scanner, SePiece *piece, TimestampTz now)
{
	SeWindow *window = open_window(scanner);
	Candidate *candidates;
	int n;

	candidates = make_candidates(scanner, piece->events, piece->n, &n);
	if (candidates == NULL)
	{
		scanner->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_MS);
		return;
	}
	if (window->recovering && n > 0)
		recall(candidates, n);
	find_overwriting(window, candidates, n);
	for (int i = 0; i < n; i++)
	{
		if (!candidates[i].known && !is_echo(&candidates[i]))
			deliver(window, &candidates[i], now);
	}
	se_pending_write_behind();
	if (piece->n > 0)
		window->suspects_read |= piece->events[piece->n - 1].at >= se_hub_suspect_before;
	scanner->dirty |= piece->position != window->position;
	scanner->hurry |= piece->n > 0;
	window->position = piece->position;
	window->scanned = piece->through;
}

static void
scan_level(List *level, TimestampTz now)
{
	SePiece piece;
	ListCell *cell;

	se_txn_begin("reading events");
	se_read_piece(open_window(linitial(level)), objects_of(level), &piece);
	if (piece.n > 0)
		se_cursor_found();
	foreach (cell, level)
		take_piece(lfirst(cell), &piece, now);
	SE_CRASH_POINT("push-scanned");
	se_txn_commit();
}

bool
se_scan(TimestampTz now)
{
	bool busy = false;
	ListCell *cell;

	foreach (cell, se_scanners)
		((SeScanner *) lfirst(cell))->served = false;
	foreach (cell, se_scanners)
	{
		SeScanner *scanner = lfirst(cell);
		List *level;
		ListCell *inner;

		if (scanner->served || open_window(scanner) == NULL || !has_room(scanner, now))
			continue;
		level = level_with(cell, now);
		scan_level(level, now);
		foreach (inner, level)
		{
			((SeScanner *) lfirst(inner))->served = true;
			busy |= ((SeScanner *) lfirst(inner))->retry_at <= now;
		}
		list_free(level);
	}
	foreach (cell, se_scanners)
		se_cursor_settle(lfirst(cell));
	return busy;
}
