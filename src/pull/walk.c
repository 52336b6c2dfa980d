/*
 * walk.c: a stream's walk over the pages of its system.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "miscadmin.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/crash.h"
#include "core/spi.h"
#include "govern/retry.h"
#include "pull/internal.h"
#include "push/push.h"

#define HELD_AGAIN_US	   (10 * USECS_PER_SEC)
#define GIVE_UP_PAGE_AFTER 3

static void ask_ahead(SeStream *stream);
static void page_ready(SeJob *job);

static Jsonb *
json_from(const char *text)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}

static Jsonb *
merged(Jsonb *object, const char *addition)
{
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(object),
											  JsonbPGetDatum(json_from(addition))));
}

static Jsonb *
without_page(Jsonb *cursor)
{
	return DatumGetJsonbP(
		DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(cursor), CStringGetTextDatum("page")));
}

static Jsonb *
keep(Jsonb *json)
{
	Jsonb *kept = MemoryContextAlloc(se_pull_cxt, VARSIZE(json));

	memcpy(kept, json, VARSIZE(json));
	return kept;
}

static void
set_cursor(SeStream *stream, Jsonb *cursor)
{
	Jsonb *old = stream->cursor;

	stream->cursor = keep(cursor);
	if (old != stream->stored)
		pfree(old);
}

/* The walk's cursor is now the table's. */
static void
cursor_is_stored(SeStream *stream)
{
	if (stream->stored != stream->cursor)
		pfree(stream->stored);
	stream->stored = stream->cursor;
}

/* ---- jobs ---- */

/* Nobody wants its page any more; a request that is out is forgotten when its answer comes. */
static void
forget_job(SeJob *job)
{
	if (job == NULL)
		return;
	job->dropped = true;
	if (job->is_ready)
		se_job_free(job);
}

void
se_walk_drop(SeStream *stream)
{
	forget_job(stream->job);
	forget_job(stream->ahead);
	stream->job = stream->ahead = NULL;
}

/* ---- failures ---- */

static void
write_failure(SeStream *stream, const char *message)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTOID, TIMESTAMPTZOID};
	Datum values[] = {Int32GetDatum(stream->id), Int32GetDatum(stream->failures),
					  CStringGetTextDatum(message), TimestampTzGetDatum(stream->next_at)};

	se_txn_begin("recording a failed pull");
	se_spi_execute(&plan,
				   "UPDATE sync.stream_cursor SET failures = $2, last_error = $3, next_at = $4"
				   " WHERE stream_id = $1",
				   4, types, values, NULL, false, 0);
	se_txn_commit();
}

static void
walk_failed(SeJob *job, const char *message, int64 retry_after_ms)
{
	SeStream *stream = job->stream;
	MemoryContext cxt = job->cxt;
	int64 pause_ms;

	if (job->dropped)
	{
		se_job_free(job);
		return;
	}
	if (job == stream->ahead)
	{
		/* It is asked for again behind the page before it, and then may fail for all to see. */
		stream->ahead = NULL;
		se_job_free(job);
		return;
	}
	MemoryContextSwitchTo(cxt);
	forget_job(stream->ahead);
	stream->job = stream->ahead = NULL;
	stream->failures++;
	stream->failed_at = GetCurrentTimestamp();
	pause_ms = Max(se_retry_backoff_ms(stream->failures, se_jitter()), retry_after_ms);
	stream->next_at = stream->failed_at + pause_ms * 1000;

	/* Page tokens go stale: after some tries the walk begins anew, from the mark. */
	if (stream->failures % GIVE_UP_PAGE_AFTER == 0 && stream->walking)
	{
		set_cursor(stream, without_page(stream->stored));
		stream->walking = stream->held = false;
	}
	PG_TRY();
	{
		write_failure(stream, pstrdup(message));
	}
	PG_CATCH();
	{
		se_caught(cxt);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(se_pull_cxt);
	se_job_free(job);
}

/* ---- applying a page ---- */

static void
write_cursor(SeStream *stream, Jsonb *cursor, bool ended, bool held, int records, int applied,
			 TimestampTz next_at)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, JSONBOID, TIMESTAMPTZOID, BOOLOID,
				   INT4OID, INT4OID,  TIMESTAMPTZOID, BOOLOID};
	Datum values[] = {Int32GetDatum(stream->id),
					  JsonbPGetDatum(cursor),
					  TimestampTzGetDatum(stream->started_at),
					  BoolGetDatum(ended),
					  Int32GetDatum(records),
					  Int32GetDatum(applied),
					  TimestampTzGetDatum(next_at),
					  BoolGetDatum(ended && !held)};
	char nulls[] = {' ', ' ', ' ', ' ', ' ', ' ', next_at == 0 ? 'n' : ' ', ' '};

	se_spi_execute(&plan,
				   "UPDATE sync.stream_cursor SET cursor = $2, started_at = $3,"
				   " finished_at = CASE WHEN $4 THEN clock_timestamp() ELSE finished_at END,"
				   " read_until = CASE WHEN $8 THEN $3 ELSE read_until END,"
				   " pages = pages + 1, records = records + $5, applied = applied + $6,"
				   " failures = 0, last_error = NULL, next_at = $7 WHERE stream_id = $1",
				   lengthof(types), types, values, nulls, false, 0);
}

/* Rows, external ids, mirror and cursor in one transaction. */
static void
apply_page(SeJob *job, SeTarget *target, SePageResult *result)
{
	SeStream *stream = job->stream;
	bool held;

	se_txn_begin("applying a page");
	se_page_apply(target, job->items, job->nitems, job->page.full, result);
	held = stream->held || result->held;
	if (job->page.last && job->page.full && target->pull->scan_deletes && !held)
		se_scan_finish(stream, target);
	/* A walk that must be made again is, also by the hub that comes after this one. */
	write_cursor(stream, held ? stream->stored : job->page.next, job->page.last, held, job->nitems,
				 result->applied,
				 held && job->page.last ? GetCurrentTimestamp() + HELD_AGAIN_US : 0);
	SE_CRASH_POINT("pull_before_commit");
	se_txn_commit();
	SE_CRASH_POINT("pull_after_commit");
}

static void
page_applied(SeJob *job, const SeTarget *target, const SePageResult *result)
{
	SeStream *stream = job->stream;
	TimestampTz now = GetCurrentTimestamp();

	stream->job = stream->ahead;
	stream->ahead = NULL;
	stream->failures = 0;
	stream->next_at = 0;
	stream->held = stream->held || result->held;
	if (!result->held)
		se_listed_note(stream, job->items, job->nitems);
	set_cursor(stream, job->page.next);
	if (!stream->held)
		cursor_is_stored(stream);
	if (job->page.last)
	{
		stream->walking = false;
		se_listed_sweep(stream, target->pull->lookback_ms);
		if (job->page.full && !stream->held && target->pull->scan_deletes &&
			target->pull->scan_every_ms > 0)
			stream->next_scan = now + target->pull->scan_every_ms * 1000;
		if (stream->held)
		{
			/* What may be stale is listed again by a walk that begins where it was listed. */
			set_cursor(stream, stream->stored);
			cursor_is_stored(stream);
			stream->held = false;
			stream->next_at = now + HELD_AGAIN_US;
			stream->walking =
				getKeyJsonValueFromContainer(&stream->cursor->root, "page", 4, NULL) != NULL;
		}
	}
	if (result->bound > 0 || result->applied > 0 || result->mirrored > 0)
		se_push_notify_bound(stream->system_id);
	se_job_free(job);
}

bool
se_walk_apply(SeStream *stream)
{
	SeJob *job = stream->job;
	MemoryContext caller = CurrentMemoryContext;
	SePageResult result;
	SeTarget target;
	char *volatile problem = NULL;

	if (job == NULL || !job->is_ready)
		return false;
	if (job->waits)
	{
		/* The request for the page behind it leaves first. */
		job->waits = false;
		return true;
	}
	if (!se_job_target(job, &target))
		problem = "the stream has changed meanwhile";
	else
	{
		PG_TRY();
		{
			apply_page(job, &target, &result);
		}
		PG_CATCH();
		{
			problem = se_caught(job->cxt);
		}
		PG_END_TRY();
	}
	if (problem != NULL)
		walk_failed(job, problem, -1);
	else
	{
		page_applied(job, &target, &result);
		ask_ahead(stream);
	}
	MemoryContextSwitchTo(caller);
	return true;
}

/* ---- asking for a page ---- */

static void
take_page(SeExchange *exchange, SeReply *reply)
{
	SeJob *job = exchange->arg;
	MemoryContext old;
	SeTarget target;
	ListCell *lc;

	if (job->dropped)
	{
		se_job_free(job);
		return;
	}
	if (!se_job_answered(job, reply))
		return;
	if (!se_job_target(job, &target))
	{
		job->failed(job, "the stream has changed meanwhile", -1);
		return;
	}
	old = MemoryContextSwitchTo(job->cxt);
	job->began_at = reply->began_at;
	se_list_page(target.manifest, target.pull, &reply->answer, job->cursor, target.vars,
				 &job->page);
	if (job->page.error != NULL)
	{
		MemoryContextSwitchTo(old);
		job->failed(job, job->page.error, -1);
		return;
	}
	job->items = palloc0(sizeof(SeItem) * Max(list_length(job->page.items), 1));
	foreach (lc, job->page.items)
	{
		SePageItem *listed = lfirst(lc);
		SeItem *item = &job->items[job->nitems++];

		item->record = listed->record;
		item->remote_id = listed->remote_id;
		item->deleted = listed->deleted;
		item->refetch = listed->refetch;
		item->journal = target.pull->events != NULL && !job->page.full;
		item->has_at = listed->has_at;
		item->at = listed->at;
		item->began_at = reply->began_at;
		if (se_listed_before(job->stream, item))
			memset(&job->items[--job->nitems], 0, sizeof(SeItem));
	}
	MemoryContextSwitchTo(old);
	se_job_fill(job);
}

/*
 * When everything is to be walked over next. After a start nobody remembers the last time; but
 * such a walk marks each record it lists as seen, so the oldest mark tells.
 */
static void
plan_scan(SeStream *stream, const SePull *pull, TimestampTz now)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID};
	Datum values[] = {Int32GetDatum(stream->system_id), Int32GetDatum(stream->object_id)};
	bool isnull;
	Datum oldest;
	MemoryContext cxt = CurrentMemoryContext;

	se_txn_begin("planning a walk over everything");
	se_spi_execute(&plan,
				   "SELECT min(m.seen_at) FROM sync.mirror m"
				   " WHERE m.system_id = $1 AND m.object_id = $2 AND NOT m.deleted",
				   2, types, values, NULL, true, 0);
	oldest = se_spi_datum(0, 1, &isnull);
	stream->next_scan = (isnull ? now : DatumGetTimestampTz(oldest)) + pull->scan_every_ms * 1000;
	se_txn_commit();
	MemoryContextSwitchTo(cxt);
}

static void
begin_walk(SeStream *stream, const SePull *pull, TimestampTz now)
{
	Jsonb *cursor = stream->cursor;

	if (pull->scan_deletes && pull->scan_every_ms > 0 && pull->list != NULL)
	{
		if (stream->next_scan == 0)
			plan_scan(stream, pull, now);
		if (now >= stream->next_scan)
			cursor = merged(cursor, "{\"full\": true}");
	}
	else
		stream->next_scan = 0;
	if (JB_ROOT_COUNT(cursor) == 0 && stream->since != 0)
	{
		char buf[MAXDATELEN + 1];
		int utc = 0;

		JsonEncodeDateTime(buf, TimestampTzGetDatum(stream->since), TIMESTAMPTZOID, &utc);
		cursor = merged(cursor, psprintf("{\"time\": \"%s\"}", buf));
	}
	set_cursor(stream, cursor);
	stream->started_at = now;
	stream->walking = true;
	stream->held = false;
}

/* A link to the next page is cut at the address that the system has, which an option may say. */
static Jsonb *
vars_with_base(const SeSystem *system, Jsonb *vars)
{
	JsonbParseState *state = NULL;
	JsonbValue key = {.type = jbvString};
	JsonbValue url = {.type = jbvString};
	Jsonb *param;

	url.val.string.val = system->base_url;
	url.val.string.len = strlen(system->base_url);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	key.val.string.val = "param";
	key.val.string.len = strlen("param");
	pushJsonbValue(&state, WJB_KEY, &key);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	se_push_members(&state, system->param);
	key.val.string.val = "base_url";
	key.val.string.len = strlen("base_url");
	pushJsonbValue(&state, WJB_KEY, &key);
	pushJsonbValue(&state, WJB_VALUE, &url);
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	param = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	return DatumGetJsonbP(
		DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(vars), JsonbPGetDatum(param)));
}

void
se_page_ask(SeJob *job, Jsonb *cursor, const SeTarget *target)
{
	MemoryContext old = MemoryContextSwitchTo(job->cxt);
	SeSystem *system = se_system_by_id(job->stream->system_id);
	const SeOperation *op = NULL;
	SeRendered rendered;

	job->cursor = (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(cursor));
	memset(&rendered, 0, sizeof(rendered));
	se_list_request(target->manifest, target->pull, job->cursor,
					vars_with_base(system, target->vars), &rendered, &op);
	if (rendered.status == SE_RENDER_OK)
		se_job_send(job, system, op, &rendered.request, take_page);
	else
		job->failed(job, rendered.message != NULL ? rendered.message : "cannot ask for a page", -1);
	MemoryContextSwitchTo(old);
}

/* Asks for the page of a cursor; '*place' is where the stream keeps the job. */
static void
ask(SeStream *stream, Jsonb *cursor, const SeTarget *target, SeJob **place)
{
	SeJob *job = se_job_make(stream);

	*place = job;
	job->ready = page_ready;
	job->failed = walk_failed;
	se_page_ask(job, cursor, target);
}

/*
 * While a page is applied, the one behind it is on its way. One is enough: a system that takes
 * longer to answer than a page takes to be applied is the limit itself.
 */
static void
ask_ahead(SeStream *stream)
{
	SeJob *job = stream->job;
	SeTarget target;

	if (job == NULL || !job->is_ready || job->page.last || stream->ahead != NULL ||
		!se_job_target(job, &target) ||
		!se_system_speaks(se_system_by_id(stream->system_id), GetCurrentTimestamp()))
		return;
	ask(stream, job->page.next, &target, &stream->ahead);
	job->waits = stream->ahead != NULL;
}

static void
page_ready(SeJob *job)
{
	job->is_ready = true;
	ask_ahead(job->stream);
}

void
se_walk_next(SeStream *stream, TimestampTz now)
{
	SeTarget target;

	if (!se_stream_target(stream, &target))
	{
		stream->job = se_job_make(stream);
		walk_failed(stream->job, "the system's connector does not pull this object", -1);
		return;
	}
	if (!stream->walking)
		begin_walk(stream, target.pull, now);
	ask(stream, stream->cursor, &target, &stream->job);
}
