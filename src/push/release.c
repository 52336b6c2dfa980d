/*
 * release.c: deliveries that wait for another record go on when it is bound, or has the state that
 * they wait for.
 *
 * A hundred thousand may wait, so they are found by the key that they wait for. Where nobody can tell
 * it (a page was applied; a row waits for a record by one of its columns), all waiting rows are walked
 * through, in pieces, and no more often than costs a twentieth of the time.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/spi.h"
#include "push/internal.h"
#include "push/push.h"

#define BATCH	   2000
#define MAX_KEYS   2000
#define LOCKED_MS  1000
#define WALK_SHARE 20 /* a walk is followed by a pause of so many times its length … */
#define RELEASE_US 50 /* … where each row that goes counts as so long, for it may come back */

typedef struct Key /* a record that may have become what others wait for */
{
	int system_id;
	int object_id;
	char *record_id;
} Key;

static bool have_waiting = true; /* there may be waiting rows … */
static bool have_natural = true; /* … that wait for a record by a column of it */
static bool new_natural = false; /* such a one came during the walk */
static List *keys = NIL;		 /* Key *, TopMemoryContext */
static bool walk_wanted = true;	 /* through all waiting rows */
static TimestampTz walk_not_before = 0;
static bool walk_natural = false;
static int64 walk_us = 0;				 /* what the walk under way has cost so far */
static TimestampTz walk_at = DT_NOBEGIN; /* … and where it is */
static int64 walk_id = 0;

/*
 * When something was last bound in a system, for rows that name what they wait for by one of its
 * columns: whether it is that, only rendering them again tells.
 */
typedef struct Bound
{
	int system_id;
	int object_id; /* 0: of any object */
	TimestampTz at;
} Bound;

static List *bounds = NIL; /* Bound *, TopMemoryContext */

#define IS_BOUND                                                                                   \
	"EXISTS (SELECT FROM sync.external_id e LEFT JOIN sync.mirror m "                              \
	"USING (system_id, object_id, remote_id) "                                                     \
	"WHERE e.system_id = r.system_id AND e.object_id = p.wait_object_id "                          \
	"AND e.record_id = p.wait_record_id "                                                          \
	"AND (p.wait_state IS NULL OR m.seen_at > p.created_at)) "

static void
drop_keys(void)
{
	ListCell *cell;

	foreach (cell, keys)
		pfree(((Key *) lfirst(cell))->record_id);
	list_free_deep(keys);
	keys = NIL;
}

void
se_release_look_everywhere(void)
{
	have_waiting = have_natural = walk_wanted = true;
}

static void
note_bound(int system_id, int object_id)
{
	Bound *bound = NULL;
	ListCell *cell;

	foreach (cell, bounds)
	{
		Bound *b = lfirst(cell);

		if (b->system_id == system_id && b->object_id == object_id)
			bound = b;
	}
	if (bound == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		bound = palloc(sizeof(Bound));
		bound->system_id = system_id;
		bound->object_id = object_id;
		bounds = lappend(bounds, bound);
		MemoryContextSwitchTo(old);
	}
	bound->at = GetCurrentTimestamp();
}

void
se_push_notify_bound(int system_id)
{
	note_bound(system_id, 0);
	walk_wanted = true;
}

static void
add_key(int system_id, int object_id, const char *record_id)
{
	MemoryContext old;
	Key *key;

	if (list_length(keys) >= MAX_KEYS)
	{
		walk_wanted = true;
		return;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	key = palloc(sizeof(Key));
	key->system_id = system_id;
	key->object_id = object_id;
	key->record_id = pstrdup(record_id);
	keys = lappend(keys, key);
	MemoryContextSwitchTo(old);
}

void
se_push_notify_record(int system_id, int object_id, const char *record_id)
{
	if (!have_waiting)
		return;
	add_key(system_id, object_id, record_id);
	if (!have_natural)
		return;
	note_bound(system_id, object_id);
	walk_wanted = true;
}

void
se_release_look_at(int system_id, int object_id, const char *key)
{
	have_waiting = true;
	if (strchr(key, '=') != NULL)
		have_natural = new_natural = true;
	else
		add_key(system_id, object_id, key);
}

/* A row that could go is locked by somebody, who is not waited for. */
static void
walk_later(void)
{
	walk_wanted = true;
	walk_not_before =
		Max(walk_not_before, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCKED_MS));
}

/* What waits for one of the keys; true when there may be more of it. */
static bool
release_keys(void)
{
	static SPIPlanPtr plan = NULL;
	Oid types[4] = {INT4ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT8OID};
	Datum values[4];
	int n = list_length(keys);
	Datum *columns[3];
	int64 due;
	int64 released;
	bool isnull;

	for (int c = 0; c < 3; c++)
		columns[c] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
	{
		Key *key = list_nth(keys, i);

		columns[0][i] = Int32GetDatum(key->system_id);
		columns[1][i] = Int32GetDatum(key->object_id);
		columns[2][i] = CStringGetTextDatum(key->record_id);
	}
	values[0] = PointerGetDatum(construct_array(columns[0], n, INT4OID, 4, true, TYPALIGN_INT));
	values[1] = PointerGetDatum(construct_array(columns[1], n, INT4OID, 4, true, TYPALIGN_INT));
	values[2] = PointerGetDatum(construct_array(columns[2], n, TEXTOID, -1, false, TYPALIGN_INT));
	values[3] = Int64GetDatum(BATCH);
	se_spi_execute(
		&plan,
		"WITH key AS (SELECT DISTINCT s, o, i FROM unnest($1, $2, $3) k(s, o, i)), "
		"due AS (SELECT p.id FROM key k JOIN sync.pending p ON p.state = 'waiting' "
		"AND p.wait_object_id = k.o AND p.wait_record_id = k.i "
		"JOIN sync.route r ON r.id = p.route_id AND r.system_id = k.s WHERE " IS_BOUND
		" LIMIT $4), "
		"free AS (SELECT p.id FROM sync.pending p WHERE p.id = ANY (ARRAY(SELECT d.id FROM due d)) "
		"AND p.state = 'waiting' FOR UPDATE SKIP LOCKED), "
		"released AS (UPDATE sync.pending p SET state = 'retry', "
		"next_attempt_at = pg_catalog.clock_timestamp() "
		"WHERE p.id = ANY (ARRAY(SELECT f.id FROM free f)) RETURNING p.id) "
		"SELECT (SELECT count(*) FROM due), (SELECT count(*) FROM released)",
		4, types, values, NULL, false, 0);
	due = DatumGetInt64(se_spi_datum(0, 1, &isnull));
	released = DatumGetInt64(se_spi_datum(0, 2, &isnull));
	if (due > released)
		walk_later();
	se_pending_dirty |= released > 0;
	if (due == BATCH && released > 0)
		return true;
	drop_keys();
	return false;
}

static void
bound_arrays(Datum *arrays)
{
	int n = list_length(bounds);
	Datum *columns[3];

	for (int c = 0; c < 3; c++)
		columns[c] = palloc(sizeof(Datum) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		Bound *bound = list_nth(bounds, i);

		columns[0][i] = Int32GetDatum(bound->system_id);
		columns[1][i] = Int32GetDatum(bound->object_id);
		columns[2][i] = TimestampTzGetDatum(bound->at);
	}
	arrays[0] = PointerGetDatum(construct_array(columns[0], n, INT4OID, 4, true, TYPALIGN_INT));
	arrays[1] = PointerGetDatum(construct_array(columns[1], n, INT4OID, 4, true, TYPALIGN_INT));
	arrays[2] =
		PointerGetDatum(construct_array(columns[2], n, TIMESTAMPTZOID, 8, true, TYPALIGN_DOUBLE));
}

static void
begin_walk(void)
{
	walk_at = DT_NOBEGIN;
	walk_id = 0;
	walk_us = 0;
	walk_natural = new_natural = false;
}

/* A piece of the walk through all waiting rows; true when it released any. */
static bool
walk_on(void)
{
	static SPIPlanPtr plan = NULL;
	Oid types[6] = {TIMESTAMPTZOID, INT8OID,	  INT8OID,
					INT4ARRAYOID,	INT4ARRAYOID, TIMESTAMPTZARRAYOID};
	Datum values[6];
	TimestampTz began = GetCurrentTimestamp();
	bool first = walk_at == DT_NOBEGIN;
	bool isnull;
	int64 looked;
	int64 released;
	bool locked;

	values[0] = TimestampTzGetDatum(walk_at);
	values[1] = Int64GetDatum(walk_id);
	values[2] = Int64GetDatum(BATCH);
	bound_arrays(&values[3]);
	se_spi_execute(
		&plan,
		"WITH piece AS (SELECT p.id, p.next_attempt_at, p.wait_record_id, CASE "
		"WHEN pg_catalog.strpos(p.wait_record_id, '=') = 0 THEN " IS_BOUND
		"ELSE EXISTS (SELECT FROM unnest($4, $5, $6) b(s, o, t) WHERE b.s = r.system_id "
		"AND b.o IN (0, p.wait_object_id) AND b.t > p.created_at) END AS free "
		"FROM sync.pending p JOIN sync.route r ON r.id = p.route_id WHERE p.state = 'waiting' "
		"AND p.next_attempt_at >= $1 AND (p.next_attempt_at > $1 OR p.id > $2) "
		"ORDER BY p.next_attempt_at, p.id LIMIT $3), "
		"mine AS (SELECT q.id FROM sync.pending q WHERE q.id = ANY (ARRAY("
		"SELECT l.id FROM piece l WHERE l.free)) AND q.state = 'waiting' FOR UPDATE SKIP LOCKED), "
		"freed AS (UPDATE sync.pending q SET state = 'retry', "
		"next_attempt_at = pg_catalog.clock_timestamp() "
		"WHERE q.id = ANY (ARRAY(SELECT m.id FROM mine m)) RETURNING q.id) "
		"SELECT count(*), (SELECT count(*) FROM freed), max(next_attempt_at), "
		"(SELECT l.id FROM piece l ORDER BY l.next_attempt_at DESC, l.id DESC LIMIT 1), "
		"coalesce(bool_or(pg_catalog.strpos(wait_record_id, '=') > 0), false), "
		"count(*) FILTER (WHERE free) FROM piece",
		6, types, values, NULL, false, 0);
	looked = DatumGetInt64(se_spi_datum(0, 1, &isnull));
	released = DatumGetInt64(se_spi_datum(0, 2, &isnull));
	if (looked > 0)
	{
		walk_at = DatumGetTimestampTz(se_spi_datum(0, 3, &isnull));
		walk_id = DatumGetInt64(se_spi_datum(0, 4, &isnull));
	}
	walk_natural |= DatumGetBool(se_spi_datum(0, 5, &isnull));
	locked = DatumGetInt64(se_spi_datum(0, 6, &isnull)) > released;
	se_pending_dirty |= released > 0;
	walk_us += GetCurrentTimestamp() - began + released * RELEASE_US;
	if (looked < BATCH)
	{
		have_waiting = !first || looked > released;
		have_natural = walk_natural || new_natural;
		walk_not_before = GetCurrentTimestamp() + walk_us * WALK_SHARE;
		begin_walk();
	}
	if (locked)
		walk_later();
	return released > 0;
}

bool
se_pending_release(TimestampTz now)
{
	bool walking = walk_at != DT_NOBEGIN || (walk_wanted && walk_not_before <= now);
	bool busy = false;

	if (!have_waiting)
	{
		drop_keys();
		walk_wanted = false;
	}
	if (!have_waiting || (keys == NIL && !walking))
		return false;
	se_txn_begin("releasing waiting deliveries");
	if (keys != NIL)
		busy |= release_keys();
	if (walking)
	{
		/* A key that comes while it walks is looked for by the next one. */
		if (walk_at == DT_NOBEGIN)
			walk_wanted = false;
		busy |= walk_on();
	}
	se_txn_commit();
	return busy || walk_at != DT_NOBEGIN;
}

TimestampTz
se_release_next_due(void)
{
	return have_waiting && walk_wanted ? walk_not_before : DT_NOEND;
}

void
se_release_reset(void)
{
	drop_keys();
	begin_walk();
	walk_not_before = 0;
	se_release_look_everywhere();
}
