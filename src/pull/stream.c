/*
 * stream.c: the streams of this database and when each is due.
 *
 *	 idle ──due──▶ walking: request ─▶ page applied ─▶ request … ─▶ last page ──▶ idle
 *						│
 *						└─ refused, throttled, no answer ──▶ backing off ──▶ the same page again
 *
 * A stream has at most one request out, so the pages of several streams of a system take turns. The
 * request for the next page leaves before a page is applied.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/guc.h"
#include "core/spi.h"
#include "pull/internal.h"
#include "pull/pull.h"

List *se_streams = NIL;
MemoryContext se_pull_cxt = NULL;

static TimestampTz looked_at = 0;
static bool look = false; /* a pull may have been requested */

double
se_jitter(void)
{
	return pg_prng_double(&pg_global_prng_state);
}

char *
se_caught(MemoryContext cxt)
{
	ErrorData *error;
	char *message;

	MemoryContextSwitchTo(cxt);
	error = CopyErrorData();
	FlushErrorState();
	se_txn_abort();
	MemoryContextSwitchTo(cxt);
	message = error->detail != NULL ? psprintf("%s (%s)", error->message, error->detail)
									: pstrdup(error->message);
	ereport(LOG, (errcode(error->sqlerrcode), errmsg("pull: %s", message)));
	return message;
}

SeStream *
se_stream_of(int system_id, int object_id)
{
	ListCell *lc;

	foreach (lc, se_streams)
	{
		SeStream *stream = lfirst(lc);

		if (stream->system_id == system_id && stream->object_id == object_id)
			return stream;
	}
	return NULL;
}

static SeStream *
stream_by_id(int id)
{
	ListCell *lc;

	foreach (lc, se_streams)
	{
		if (((SeStream *) lfirst(lc))->id == id)
			return lfirst(lc);
	}
	return NULL;
}

void
se_stream_count(const SeStream *stream, int records, int applied)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, INT4OID};
	Datum values[] = {Int32GetDatum(stream->id), Int32GetDatum(records), Int32GetDatum(applied)};

	if (records > 0 || applied > 0)
		se_spi_execute(
			&plan,
			"UPDATE sync.stream_cursor SET records = records + $2, applied = applied + $3"
			" WHERE stream_id = $1",
			3, types, values, NULL, false, 0);
}

/* False while the system cannot be used, or its connector no longer pulls the object. */
bool
se_stream_target(const SeStream *stream, SeTarget *target)
{
	SeSystem *system = se_system_by_id(stream->system_id);
	const SeManifestObject *object;

	if (system == NULL || !system->usable || system->manifest == NULL)
		return false;
	object = se_manifest_object(system->manifest, stream->object);
	if (object == NULL || object->pull == NULL)
		return false;
	target->system_id = stream->system_id;
	target->object_id = stream->object_id;
	target->object = stream->object;
	target->manifest = system->manifest;
	target->pull = object->pull;
	target->vars = system->vars;
	return true;
}

/* Takes one row of the registry over; what a running walk knows stays. */
static void
take_stream(uint64 row)
{
	bool isnull;
	int id = DatumGetInt32(se_spi_datum(row, 1, &isnull));
	SeStream *stream = stream_by_id(id);
	MemoryContext old = MemoryContextSwitchTo(se_pull_cxt);

	if (stream == NULL)
	{
		stream = palloc0(sizeof(SeStream));
		stream->id = id;
		stream->system_id = DatumGetInt32(se_spi_datum(row, 2, &isnull));
		stream->object_id = DatumGetInt32(se_spi_datum(row, 3, &isnull));
		stream->stored = DatumGetJsonbPCopy(se_spi_datum(row, 7, &isnull));
		stream->cursor = stream->stored;
		stream->started_at = se_spi_time_or_0(row, 9);
		stream->failures = DatumGetInt32(se_spi_datum(row, 10, &isnull));
		stream->next_at = se_spi_time_or_0(row, 11);
		stream->walking =
			getKeyJsonValueFromContainer(&stream->stored->root, "page", 4, NULL) != NULL;
		se_streams = lappend(se_streams, stream);
	}
	/* a renamed object leaves its old name behind: a few bytes per rename */
	if (stream->object == NULL || strcmp(stream->object, se_spi_text(row, 4)) != 0)
		stream->object = MemoryContextStrdup(se_pull_cxt, se_spi_text(row, 4));
	stream->every_us = DatumGetInt64(se_spi_datum(row, 5, &isnull));
	stream->since = se_spi_time_or_0(row, 6);
	stream->requested_at = se_spi_time_or_0(row, 8);
	stream->listed = true;
	MemoryContextSwitchTo(old);
}

static void
drop_unlisted(void)
{
	List *kept = NIL;
	MemoryContext old = MemoryContextSwitchTo(se_pull_cxt);
	ListCell *lc;

	foreach (lc, se_streams)
	{
		SeStream *stream = lfirst(lc);

		if (stream->listed)
			kept = lappend(kept, stream);
		else
		{
			se_walk_drop(stream);
			se_listed_forget(stream);
		}
	}
	list_free(se_streams);
	se_streams = kept;
	MemoryContextSwitchTo(old);
}

void
se_pull_load(void)
{
	static SPIPlanPtr plan = NULL;
	MemoryContext cxt = CurrentMemoryContext;
	ListCell *lc;
	uint64 n;

	if (se_pull_cxt == NULL)
		se_pull_cxt =
			AllocSetContextCreate(TopMemoryContext, "sync_ext streams", ALLOCSET_DEFAULT_SIZES);
	foreach (lc, se_streams)
		((SeStream *) lfirst(lc))->listed = false;
	se_txn_begin("reading streams");
	n = se_spi_execute(&plan,
					   "SELECT t.id, t.system_id, t.object_id, o.name,"
					   " coalesce(extract(epoch FROM t.every) * 1000000, 0)::bigint, t.since,"
					   " c.cursor, c.requested_at, c.started_at, c.failures, c.next_at"
					   " FROM sync.stream t JOIN sync.object o ON o.id = t.object_id"
					   " JOIN sync.stream_cursor c ON c.stream_id = t.id"
					   " WHERE t.state = 'active' ORDER BY t.id",
					   0, NULL, NULL, NULL, true, 0);
	for (uint64 i = 0; i < n; i++)
		take_stream(i);
	drop_unlisted();
	se_txn_commit();
	MemoryContextSwitchTo(cxt);
	looked_at = GetCurrentTimestamp();
	se_inbox_wake();
}

/* Requests of ours must have been cancelled: they live in the context that goes. */
void
se_pull_reset(void)
{
	if (se_pull_cxt != NULL)
		MemoryContextDelete(se_pull_cxt);
	se_pull_cxt = NULL;
	se_streams = NIL;
	se_inbox_reset();
}

static void
look_for_requests(TimestampTz now)
{
	static SPIPlanPtr plan = NULL;
	MemoryContext cxt = CurrentMemoryContext;
	uint64 n;

	se_txn_begin("looking for requested pulls");
	n = se_spi_execute(&plan, "SELECT c.stream_id, c.requested_at FROM sync.stream_cursor c", 0,
					   NULL, NULL, NULL, true, 0);
	for (uint64 i = 0; i < n; i++)
	{
		bool isnull;
		SeStream *stream = stream_by_id(DatumGetInt32(se_spi_datum(i, 1, &isnull)));

		if (stream != NULL)
			stream->requested_at = se_spi_time_or_0(i, 2);
	}
	se_txn_commit();
	MemoryContextSwitchTo(cxt);
	looked_at = now;
	look = false;
}

void
se_pull_look(void)
{
	look = true;
	se_inbox_wake();
}

static bool
is_requested(const SeStream *stream)
{
	return stream->requested_at != 0 && stream->requested_at > stream->started_at;
}

/* When the stream wants its next request; DT_NOEND: not by itself. */
static TimestampTz
stream_due(const SeStream *stream, TimestampTz now)
{
	TimestampTz due = DT_NOEND;

	if (stream->next_at != 0 && !(is_requested(stream) && stream->requested_at > stream->failed_at))
		return stream->next_at;
	if (stream->walking || is_requested(stream))
		return now;
	if (stream->every_us > 0)
		due = stream->started_at + stream->every_us;
	if (stream->next_scan != 0)
		due = Min(due, stream->next_scan);
	return due;
}

bool
se_pull_step(TimestampTz now)
{
	bool busy = false;
	ListCell *lc;

	if (se_streams != NIL &&
		(look || now < looked_at || TimestampDifferenceExceeds(looked_at, now, se_poll_interval)))
		look_for_requests(now);
	foreach (lc, se_streams)
	{
		SeStream *stream = lfirst(lc);
		SeSystem *system;

		if (se_walk_apply(stream))
		{
			busy = true;
			continue;
		}
		if (stream->job != NULL || stream_due(stream, now) > now)
			continue;
		system = se_system_by_id(stream->system_id);
		if (system == NULL || !se_system_speaks(system, now))
			continue;
		se_walk_next(stream, now);
		busy = true;
	}
	return se_inbox_step(now) || busy;
}

/* A system that may not be spoken to now: when to look again. A change of it wakes the hub. */
static TimestampTz
silent_until(const SeSystem *system, TimestampTz now)
{
	if (system == NULL || !system->usable || !system->held || system->mode != SE_MODE_LIVE)
		return DT_NOEND;
	return system->blocked_until > now ? system->blocked_until : now + USECS_PER_SEC;
}

TimestampTz
se_pull_next_due(TimestampTz now)
{
	TimestampTz next = se_inbox_next_due(now);
	ListCell *lc;

	if (se_streams != NIL)
		next = Min(next, TimestampTzPlusMilliseconds(looked_at, se_poll_interval));
	foreach (lc, se_streams)
	{
		SeStream *stream = lfirst(lc);
		SeSystem *system = se_system_by_id(stream->system_id);
		TimestampTz due = stream_due(stream, now);

		if (stream->job != NULL && stream->job->is_ready)
			return now;
		if (stream->job != NULL)
			continue;
		if (system == NULL || !se_system_speaks(system, now))
			due = Max(due, silent_until(system, now));
		next = Min(next, due);
	}
	return next;
}
