/*
 * suspect.c: reads by id what a comparison suspects.
 *
 * A list is read over minutes while both sides go on; what it said of a record may be over by the time
 * it is compared. So what differs is asked for once more, alone, and only that answer can make a break.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/crash.h"
#include "core/spi.h"
#include "push/push.h"
#include "reconcile/internal.h"

#define MAX_READS	 8
#define MAX_TRIES	 3 /* of a read that the system refuses */
#define NOTHING_MS	 1000
#define PUSH_WAIT_MS 300

static void
forget(SeListing *listing, SeJob *job)
{
	if (!job->dropped)
	{
		listing->reading = list_delete_ptr(listing->reading, job);
		listing->next_at = 0;
	}
	MemoryContextSwitchTo(se_pull_cxt);
	se_job_free(job);
}

/* A refusal is this record's own; an outage is everybody's, and waited for. */
static void
read_failed(SeJob *job, const char *message, int64 retry_after_ms)
{
	SeListing *listing = se_listing_of(job);
	bool refused = job->outcome == SE_REJECTED || job->outcome == SE_DONE;
	MemoryContext cxt = job->cxt;

	if (job->dropped)
	{
		MemoryContextSwitchTo(se_pull_cxt);
		se_job_free(job);
		return;
	}
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		se_txn_begin("recording a read that failed");
		se_stage_unread(listing, job->remote_id, message, refused);
		se_txn_commit();
	}
	PG_CATCH();
	{
		se_caught(cxt);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	if (!refused)
		se_listing_failed(listing, job->outcome, pstrdup(message), retry_after_ms);
	listing->reading = list_delete_ptr(listing->reading, job);
	MemoryContextSwitchTo(se_pull_cxt);
	se_job_free(job);
}

static void
keep_record(SeListing *listing, SeJob *job, SeTarget *target)
{
	se_txn_begin("keeping a record that was read by id");
	if (!se_stage_begin(listing))
	{
		se_txn_abort();
		return;
	}
	se_stage_records(listing, target, job->items, job->nitems);
	se_stage_progress(listing, NULL, 1, NULL);
	SE_CRASH_POINT("listing_read_before_commit");
	se_txn_commit();
}

static void
read_ready(SeJob *job)
{
	SeListing *listing = se_listing_of(job);
	MemoryContext cxt = job->cxt;
	char *volatile problem = NULL;
	SeTarget target;

	if (!se_job_target(job, &target))
	{
		read_failed(job, "the connector has changed meanwhile", -1);
		return;
	}
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		keep_record(listing, job, &target);
	}
	PG_CATCH();
	{
		problem = se_caught(cxt);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	if (problem != NULL)
	{
		job->outcome = SE_AMBIGUOUS;
		read_failed(job, problem, -1);
		return;
	}
	listing->failures = 0;
	forget(listing, job);
}

static void
take_record(SeExchange *exchange, SeReply *reply)
{
	SeJob *job = exchange->arg;
	SePageItem read = {0};
	SeTarget target;
	char *error = NULL;
	SeItem *item;

	if (job->dropped || !se_job_target(job, &target))
	{
		job->outcome = SE_AMBIGUOUS;
		read_failed(job, "the connector has changed meanwhile", -1);
		return;
	}
	MemoryContextSwitchTo(job->cxt);
	job->items = item = palloc0(sizeof(SeItem));
	job->nitems = 1;
	item->remote_id = job->remote_id;
	item->fetched = true;
	item->began_at = reply->began_at;
	if (reply->phase == SE_HTTP_ANSWERED && reply->verdict.then != NULL &&
		strcmp(reply->verdict.then, "missing") == 0)
	{
		item->deleted = true;
		read_ready(job);
		return;
	}
	if (!se_job_answered(job, reply))
		return;
	se_fetch_record(target.manifest, target.pull, &reply->answer, target.vars, &read, &error);
	if (error == NULL && read.record != NULL && read.remote_id != NULL &&
		strcmp(read.remote_id, job->remote_id) != 0)
		error = psprintf("the answer holds another record: %.100s", read.remote_id);
	if (error != NULL)
	{
		read_failed(job, error, -1);
		return;
	}
	item->deleted = read.deleted;
	item->record =
		read.record == NULL ? NULL : (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(read.record));
	se_job_fill(job);
}

static void
ask(SeListing *listing, const SeTarget *target, const char *remote_id)
{
	SeJob *job = se_job_make(&listing->stream);
	MemoryContext old = MemoryContextSwitchTo(se_pull_cxt);
	SeRendered rendered;

	listing->reading = lappend(listing->reading, job);
	MemoryContextSwitchTo(job->cxt);
	job->remote_id = pstrdup(remote_id);
	job->ready = read_ready;
	job->failed = read_failed;
	job->outcome = SE_REJECTED;
	memset(&rendered, 0, sizeof(rendered));
	if (target->pull->fetch == NULL)
		read_failed(job, "the connector cannot read this object by id", -1);
	else
	{
		se_fetch_request(target->manifest, target->pull, remote_id, target->vars, &rendered);
		if (rendered.status == SE_RENDER_OK)
			se_job_send(job, se_system_by_id(listing->stream.system_id), target->pull->fetch,
						&rendered.request, take_record);
		else
			read_failed(job, rendered.message != NULL ? rendered.message : "cannot be asked for",
						-1);
	}
	MemoryContextSwitchTo(old);
}

static bool
is_out(const SeListing *listing, const char *remote_id)
{
	ListCell *lc;

	foreach (lc, listing->reading)
	{
		if (strcmp(((SeJob *) lfirst(lc))->remote_id, remote_id) == 0)
			return true;
	}
	return false;
}

typedef struct Suspect
{
	char *remote_id;
	char *record_id;
} Suspect;

/* Some that are to be read, in the caller's context; when none is left, SQL has its turn. */
static Suspect *
read_suspects(SeListing *listing, MemoryContext cxt, int *n, bool *ended)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT8OID, INT4OID, INT4OID};
	Datum values[] = {Int64GetDatum(listing->id), Int32GetDatum(listing->stream.system_id),
					  Int32GetDatum(listing->stream.object_id)};
	Suspect *suspects;
	MemoryContext old;
	uint64 rows;

	se_txn_begin("looking for suspects to read");
	rows = se_spi_execute(&plan,
						  "SELECT l.remote_id, e.record_id FROM sync.listed_record l"
						  " LEFT JOIN sync.external_id e ON e.system_id = $2 AND e.object_id = $3"
						  " AND e.remote_id = l.remote_id"
						  " WHERE l.job_id = $1 AND l.to_read ORDER BY l.tries, l.remote_id",
						  3, types, values, NULL, true, 2 * MAX_READS);
	old = MemoryContextSwitchTo(cxt);
	suspects = palloc0(sizeof(Suspect) * Max(rows, 1));
	for (uint64 i = 0; i < rows; i++)
	{
		suspects[i].remote_id = se_spi_text(i, 1);
		suspects[i].record_id = se_spi_text(i, 2);
	}
	MemoryContextSwitchTo(old);
	*ended = rows == 0 && listing->reading == NIL && se_stage_begin(listing);
	if (*ended)
		se_stage_phase(listing, "read", false);
	se_txn_commit();
	*n = (int) rows;
	return suspects;
}

bool
se_suspects_ask(SeListing *listing, const SeTarget *target, TimestampTz now)
{
	MemoryContext caller = CurrentMemoryContext;
	Suspect *suspects;
	bool ended;
	bool busy = false;
	int n;

	listing->next_at = TimestampTzPlusMilliseconds(now, NOTHING_MS);
	if (list_length(listing->reading) >= MAX_READS)
		return false;
	suspects = read_suspects(listing, caller, &n, &ended);
	MemoryContextSwitchTo(caller);
	if (ended)
	{
		se_listing_drop(listing);
		return true;
	}
	for (int i = 0; i < n && list_length(listing->reading) < MAX_READS; i++)
	{
		if (is_out(listing, suspects[i].remote_id))
			continue;
		/* What a push makes of it is what counts, so it is read behind the push. */
		if (suspects[i].record_id != NULL &&
			se_push_in_flight(listing->stream.system_id, listing->stream.object_id,
							  suspects[i].record_id))
		{
			listing->next_at =
				Min(listing->next_at, TimestampTzPlusMilliseconds(now, PUSH_WAIT_MS));
			continue;
		}
		ask(listing, target, suspects[i].remote_id);
		busy = true;
	}
	return busy;
}
