/*
 * inbox.c: items that could not be applied when they came.
 *
 * A row with an item is mapped and applied again when it is due: when what it waits for became
 * bound, when somebody asks for it, or after a while. A row whose item is JSON null asks for the
 * record to be read by id; JSON false says that it is gone. Either ends like an item of a page does; the row goes when the item is
 * applied, and is put off when it is not.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/spi.h"
#include "pull/internal.h"
#include "push/push.h"

#define LOOK_EVERY_US (30 * USECS_PER_SEC)
#define PUSH_PAUSE_US (USECS_PER_SEC / 2)
#define BATCH		  500
#define MAX_READS	  32

static bool woken = true;
static TimestampTz next_look = 0;
static List *reading = NIL; /* SeJob *: reads by id that are out */

void
se_inbox_wake(void)
{
	woken = true;
}

void
se_inbox_look_at(TimestampTz at)
{
	next_look = Min(next_look, at);
}

/* After the contexts of the jobs are gone. */
void
se_inbox_reset(void)
{
	reading = NIL;
	woken = true;
	next_look = 0;
}

TimestampTz
se_inbox_next_due(TimestampTz now)
{
	if (se_streams == NIL)
		return DT_NOEND;
	return woken && list_length(reading) < MAX_READS ? now : Max(next_look, now + 1000);
}

static void
put_off(int64 id, const char *message, int64 least_ms)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT8OID, TEXTOID, INT8OID};
	Datum values[] = {Int64GetDatum(id), CStringGetTextDatum(message),
					  Int64GetDatum(Max(least_ms, 0))};

	se_spi_execute(&plan,
				   "UPDATE sync.inbox SET attempts = attempts + 1, reason = $2,"
				   " retry_at = clock_timestamp() + greatest($3 * interval '1 ms',"
				   " power(2, least(attempts, 9)) * interval '1 s' * (0.75 + random() / 2))"
				   " WHERE id = $1",
				   3, types, values, NULL, false, 0);
}

/* ---- reading by id ---- */

static void
forget_read(SeJob *job)
{
	reading = list_delete_ptr(reading, job);
	se_job_free(job);
	/* others may stand behind the limit */
	if (list_length(reading) == MAX_READS - 1)
		woken = true;
}

static void
read_failed(SeJob *job, const char *message, int64 retry_after_ms)
{
	MemoryContext cxt = job->cxt;

	if (!job->dropped)
	{
		PG_TRY();
		{
			se_txn_begin("recording a failed read");
			put_off(job->inbox_id, psprintf("could not be read by id: %s", message),
					retry_after_ms);
			se_txn_commit();
		}
		PG_CATCH();
		{
			se_caught(cxt);
		}
		PG_END_TRY();
	}
	MemoryContextSwitchTo(se_pull_cxt);
	forget_read(job);
}

/*
 * What was just read by id may be older than a push of ours all the same (which ended meanwhile, or of
 * which nobody heard, or on a server whose clock was ahead). It is read again after 0.5 s, 1 s, … 8 s:
 * at once would be again and again, with all that the rate limit lets through.
 */
static void
pause_read(int64 id)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT8OID};
	Datum values[] = {Int64GetDatum(id)};

	se_spi_execute(&plan,
				   "UPDATE sync.inbox SET attempts = attempts + 1,"
				   " retry_at = clock_timestamp()"
				   " + power(2, least(attempts, 5) - 2) * interval '1 s'"
				   " WHERE id = $1 AND item = 'null'",
				   1, types, values, NULL, false, 0);
}

static void
read_ready(SeJob *job)
{
	MemoryContext cxt = job->cxt;
	int system_id = job->stream->system_id;
	SePageResult result;
	SeTarget target;
	char *volatile problem = NULL;

	if (!se_job_target(job, &target))
	{
		read_failed(job, "the stream has changed meanwhile", -1);
		return;
	}
	PG_TRY();
	{
		se_txn_begin("applying a record that was read by id");
		se_page_apply(&target, job->items, job->nitems, false, &result);
		if (job->items[0].fate == SE_FATE_READ_AGAIN)
			pause_read(job->inbox_id);
		se_stream_count(job->stream, job->nitems, result.applied);
		se_txn_commit();
	}
	PG_CATCH();
	{
		problem = se_caught(cxt);
	}
	PG_END_TRY();
	if (problem != NULL)
	{
		read_failed(job, problem, -1);
		return;
	}
	MemoryContextSwitchTo(se_pull_cxt);
	forget_read(job);
	se_push_notify_bound(system_id);
}

static void
take_record(SeExchange *exchange, SeReply *reply)
{
	SeJob *job = exchange->arg;
	SeItem *item;
	SePageItem read = {0};
	SeTarget target;
	char *error = NULL;
	MemoryContext old;

	if (!se_job_target(job, &target))
	{
		read_failed(job, "the stream has changed meanwhile", -1);
		return;
	}
	old = MemoryContextSwitchTo(job->cxt);
	job->items = item = palloc0(sizeof(SeItem));
	job->nitems = 1;
	item->remote_id = job->remote_id;
	item->restore_id = job->restore_id;
	item->fetched = true;
	item->began_at = reply->began_at;
	MemoryContextSwitchTo(old);

	if (reply->phase == SE_HTTP_ANSWERED && reply->verdict.then != NULL &&
		strcmp(reply->verdict.then, "missing") == 0)
	{
		item->deleted = true;
		read_ready(job);
		return;
	}
	if (!se_job_answered(job, reply))
		return;
	MemoryContextSwitchTo(job->cxt);
	se_fetch_record(target.manifest, target.pull, &reply->answer, target.vars, &read, &error);
	MemoryContextSwitchTo(old);
	if (error != NULL)
	{
		read_failed(job, error, -1);
		return;
	}
	if (read.record != NULL && read.remote_id != NULL &&
		strcmp(read.remote_id, job->remote_id) != 0)
	{
		/* merged over there, perhaps; under the old id it would stand for another record */
		read_failed(job, psprintf("the answer holds another record: %.100s", read.remote_id), -1);
		return;
	}
	item->deleted = read.deleted;
	if (read.record != NULL)
	{
		MemoryContextSwitchTo(job->cxt);
		item->record = (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(read.record));
		MemoryContextSwitchTo(old);
	}
	se_job_fill(job);
}

/* ---- what is due ---- */

typedef struct SeDue
{
	int64 id;
	int system_id;
	int object_id;
	char *remote_id;
	Jsonb *item; /* NULL: read it by id */
	TimestampTz received_at;
	char *record_id;
	char *restore_id;
} SeDue;

static Datum
ids_out(void)
{
	Datum *ids = palloc(sizeof(Datum) * Max(list_length(reading), 1));
	int n = 0;
	ListCell *lc;

	foreach (lc, reading)
		ids[n++] = Int64GetDatum(((SeJob *) lfirst(lc))->inbox_id);
	return PointerGetDatum(construct_array(ids, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* Rows that are due, copied into cxt; when the next one is comes with them. */
static SeDue *
read_due(MemoryContext cxt, TimestampTz now, int *count)
{
	static SPIPlanPtr due_plan = NULL;
	static SPIPlanPtr next_plan = NULL;
	Oid types[] = {TIMESTAMPTZOID, INT8ARRAYOID};
	Datum values[] = {TimestampTzGetDatum(now), ids_out()};
	MemoryContext old;
	SeDue *due;
	bool isnull;
	Datum next;
	uint64 n;

	n = se_spi_execute(&due_plan,
					   "SELECT b.id, b.system_id, b.object_id, b.remote_id,"
					   " nullif(b.item, 'null'), b.received_at, e.record_id, b.restore_id"
					   " FROM sync.inbox b JOIN sync.stream t ON t.system_id = b.system_id"
					   " AND t.object_id = b.object_id AND t.state = 'active'"
					   " LEFT JOIN sync.external_id e ON e.system_id = b.system_id"
					   " AND e.object_id = b.object_id AND e.remote_id = b.remote_id"
					   " WHERE b.retry_at <= $1 AND b.id <> ALL ($2)"
					   " ORDER BY b.system_id, b.object_id, b.retry_at",
					   2, types, values, NULL, true, BATCH);
	old = MemoryContextSwitchTo(cxt);
	due = palloc0(sizeof(SeDue) * Max(n, 1));
	for (uint64 i = 0; i < n; i++)
	{
		Datum item;

		due[i].id = DatumGetInt64(se_spi_datum(i, 1, &isnull));
		due[i].system_id = DatumGetInt32(se_spi_datum(i, 2, &isnull));
		due[i].object_id = DatumGetInt32(se_spi_datum(i, 3, &isnull));
		due[i].remote_id = se_spi_text(i, 4);
		item = se_spi_datum(i, 5, &isnull);
		due[i].item = isnull ? NULL : DatumGetJsonbPCopy(item);
		due[i].received_at = DatumGetTimestampTz(se_spi_datum(i, 6, &isnull));
		due[i].record_id = se_spi_text(i, 7);
		due[i].restore_id = se_spi_text(i, 8);
	}
	MemoryContextSwitchTo(old);
	*count = n;
	woken = n == BATCH;

	se_spi_execute(&next_plan, "SELECT min(b.retry_at) FROM sync.inbox b WHERE b.retry_at > $1", 1,
				   types, values, NULL, true, 0);
	next = se_spi_datum(0, 1, &isnull);
	next_look = now + LOOK_EVERY_US;
	if (!isnull)
		next_look = Min(next_look, DatumGetTimestampTz(next));
	return due;
}

static void
begin_read(SeStream *stream, const SeDue *due)
{
	SeJob *job = se_job_make(stream);
	MemoryContext old = MemoryContextSwitchTo(se_pull_cxt);
	SeTarget target;
	SeRendered rendered;

	reading = lappend(reading, job);
	MemoryContextSwitchTo(job->cxt);
	job->inbox_id = due->id;
	job->remote_id = pstrdup(due->remote_id);
	job->restore_id = due->restore_id ? pstrdup(due->restore_id) : NULL;
	job->ready = read_ready;
	job->failed = read_failed;
	memset(&rendered, 0, sizeof(rendered));
	if (!se_stream_target(stream, &target) || target.pull->fetch == NULL)
		read_failed(job, "the connector cannot read this object by id", 60 * 60 * 1000);
	else
	{
		se_fetch_request(target.manifest, target.pull, due->remote_id, target.vars, &rendered);
		if (rendered.status == SE_RENDER_OK)
			se_job_send(job, se_system_by_id(stream->system_id), target.pull->fetch,
						&rendered.request, take_record);
		else
			read_failed(job, rendered.message != NULL ? rendered.message : "cannot be asked for",
						-1);
	}
	MemoryContextSwitchTo(old);
}

/* Asks for records by id, as far as systems speak and no push of ours is out. */
static bool
read_some(SeDue *due, int n, TimestampTz now)
{
	bool busy = false;

	for (int i = 0; i < n; i++)
	{
		SeStream *stream = se_stream_of(due[i].system_id, due[i].object_id);
		SeSystem *system = se_system_by_id(due[i].system_id);

		if (due[i].item != NULL || stream == NULL || system == NULL)
			continue;
		if (!se_system_speaks(system, now))
			continue;
		if (list_length(reading) >= MAX_READS)
		{
			woken = true;
			break;
		}
		if (due[i].record_id != NULL &&
			se_push_in_flight(due[i].system_id, due[i].object_id, due[i].record_id))
		{
			next_look = Min(next_look, now + PUSH_PAUSE_US);
			continue;
		}
		begin_read(stream, &due[i]);
		busy = true;
	}
	return busy;
}

/* Applies the stored items of one object of one system: due[from] up to due[to - 1]. */
static int
apply_stored(SeDue *due, int from, int to)
{
	SeStream *stream = se_stream_of(due[from].system_id, due[from].object_id);
	SeItem *items = palloc0(sizeof(SeItem) * (to - from));
	SeDue **sources = palloc(sizeof(SeDue *) * (to - from));
	int64 *renamed = palloc(sizeof(int64) * (to - from));
	int nrenamed = 0;
	SeTarget target;
	SePageResult result;
	JsonbValue gone;
	int n = 0;

	for (int i = from; i < to; i++)
	{
		if (due[i].item == NULL)
			continue;
		items[n].deleted = JsonbExtractScalar(&due[i].item->root, &gone);
		items[n].record = items[n].deleted ? NULL : due[i].item;
		/* the mapping may know an id by now */
		items[n].remote_id = due[i].remote_id[0] == '(' ? NULL : due[i].remote_id;
		items[n].stored = true;
		items[n].restore_id = due[i].restore_id;
		items[n].began_at = due[i].received_at;
		sources[n++] = &due[i];
	}
	if (n == 0 || stream == NULL || !se_stream_target(stream, &target))
		return 0;
	se_txn_begin("applying inbox items");
	se_page_apply(&target, items, n, false, &result);
	for (int i = 0; i < n; i++)
	{
		if (strcmp(items[i].remote_id, sources[i]->remote_id) != 0)
			renamed[nrenamed++] = sources[i]->id;
	}
	se_state_inbox_forget(renamed, nrenamed);
	se_stream_count(stream, 0, result.applied);
	se_txn_commit();
	if (result.applied > 0)
		se_push_notify_bound(target.system_id);
	return n;
}

static bool
try_apply_stored(MemoryContext cxt, SeDue *due, int from, int to)
{
	volatile bool busy = false;

	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		busy = apply_stored(due, from, to) > 0;
	}
	PG_CATCH();
	{
		se_caught(cxt);
		/* passing trouble; do not come back at once */
		next_look = Max(next_look, GetCurrentTimestamp() + USECS_PER_SEC);
		woken = false;
	}
	PG_END_TRY();
	return busy;
}

static bool
apply_some(MemoryContext cxt, SeDue *due, int n)
{
	bool busy = false;

	for (int from = 0, to; from < n; from = to)
	{
		for (to = from + 1; to < n && due[to].system_id == due[from].system_id &&
							due[to].object_id == due[from].object_id;)
			to++;
		if (try_apply_stored(cxt, due, from, to))
			busy = true;
	}
	return busy;
}

bool
se_inbox_step(TimestampTz now)
{
	MemoryContext cxt;
	MemoryContext old;
	SeDue *due;
	int n = 0;
	bool busy;

	if (se_streams == NIL || list_length(reading) >= MAX_READS || (!woken && now < next_look))
		return false;
	cxt = AllocSetContextCreate(CurrentMemoryContext, "sync_ext inbox", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(cxt);
	se_txn_begin("looking for inbox items that are due");
	due = read_due(cxt, now, &n);
	se_txn_commit();
	busy = apply_some(cxt, due, n);
	MemoryContextSwitchTo(cxt);
	if (read_some(due, n, now))
		busy = true;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
	return busy;
}
