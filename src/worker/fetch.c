/*
 * fetch.c: a fresh read of one remote record, for a backend that waits.
 *
 * The backend must not speak to the system itself: limits, breaker and session are the hub's. And it
 * cannot ask by a table row, which nobody sees before it commits. So the question goes through a
 * dynamic shared memory segment whose handle is put into the database's slot:
 *
 *   backend: makes the segment, puts its handle into the slot, wakes the hub, waits on its latch
 *   hub:     attaches, clears the handle, sends; writes the answer, marks it done, sets the latch
 *
 * Either side may vanish: the segment lives as long as one of them has it mapped.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "storage/dsm.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/errors.h"
#include "core/wake.h"
#include "worker/fetch.h"
#include "worker/system.h"

#define ANSWER_LIMIT (4 * 1024 * 1024)

typedef struct Question
{
	pg_atomic_uint32 done;
	Latch *requester;
	char system[NAMEDATALEN];
	char object[NAMEDATALEN * 2];
	char remote_id[512];
	/* the answer: either an error, or `len` bytes of JSON */
	char error[512];
	Size len;
	char answer[FLEXIBLE_ARRAY_MEMBER];
} Question;

typedef struct Fetch /* the hub's side of one question */
{
	SeExchange exchange;
	MemoryContext cxt;
	dsm_segment *segment;
	Question *question;
	const SePull *pull;
	SeRendered rendered;
} Fetch;

static MemoryContext fetches_cxt = NULL;
static List *fetches = NIL;

/* ---- hub ---- */

static void
finish(Fetch *fetch, const char *error)
{
	if (error != NULL)
		strlcpy(fetch->question->error, error, sizeof(fetch->question->error));
	pg_write_barrier();
	pg_atomic_write_u32(&fetch->question->done, 1);
	SetLatch(fetch->question->requester);
	dsm_detach(fetch->segment);
	fetches = list_delete_ptr(fetches, fetch);
	MemoryContextDelete(fetch->cxt);
}

static void
fetch_done(SeExchange *exchange, SeReply *reply)
{
	Fetch *fetch = exchange->arg;
	const SeVerdict *verdict = &reply->verdict;
	SePageItem item = {0};
	char *error = NULL;
	char *text;

	if (verdict->outcome != SE_DONE)
	{
		finish(fetch,
			   psprintf("%s: %s", verdict->code ? verdict->code : se_outcome_name(verdict->outcome),
						verdict->message ? verdict->message : "the system gave no record"));
		return;
	}
	se_fetch_record(exchange->manifest, fetch->pull, &reply->answer, exchange->system->vars, &item,
					&error);
	if (error != NULL || item.record == NULL)
	{
		finish(fetch, error != NULL ? error : "the system has no such record");
		return;
	}
	text = JsonbToCString(NULL, &item.record->root, VARSIZE(item.record));
	if (strlen(text) >= ANSWER_LIMIT)
	{
		finish(fetch, "the record is too large");
		return;
	}
	fetch->question->len = strlen(text);
	memcpy(fetch->question->answer, text, fetch->question->len);
	finish(fetch, NULL);
}

static SeSystem *
system_named(const char *name)
{
	ListCell *cell;

	foreach (cell, se_systems())
	{
		if (strcmp(((SeSystem *) lfirst(cell))->name, name) == 0)
			return lfirst(cell);
	}
	return NULL;
}

static void
ask(Fetch *fetch)
{
	Question *q = fetch->question;
	SeSystem *system = system_named(q->system);
	const SeManifestObject *object;

	if (system == NULL || !se_system_speaks(system, GetCurrentTimestamp()))
	{
		finish(fetch, system == NULL	? "the hub does not know this system"
					  : system->problem ? system->problem
										: "the system is paused or blocked");
		return;
	}
	object = se_manifest_object(system->manifest, q->object);
	fetch->pull = object ? object->pull : NULL;
	if (fetch->pull == NULL || fetch->pull->fetch == NULL)
	{
		finish(fetch, "the connector cannot read single records of this object");
		return;
	}
	se_fetch_request(system->manifest, fetch->pull, q->remote_id, system->vars, &fetch->rendered);
	if (fetch->rendered.status != SE_RENDER_OK)
	{
		finish(fetch, fetch->rendered.message ? fetch->rendered.message
											  : "the request could not be rendered");
		return;
	}
	fetch->exchange.system = system;
	fetch->exchange.op = fetch->pull->fetch;
	fetch->exchange.request = fetch->rendered.request;
	fetch->exchange.done = fetch_done;
	fetch->exchange.arg = fetch;
	se_exchange_submit(&fetch->exchange);
}

static void
take(dsm_handle handle)
{
	MemoryContext cxt;
	MemoryContext old;
	dsm_segment *segment = dsm_attach(handle);
	Fetch *fetch;

	/* The backend has given up already. */
	if (segment == NULL)
		return;
	dsm_pin_mapping(segment);
	if (fetches_cxt == NULL)
		fetches_cxt =
			AllocSetContextCreate(TopMemoryContext, "sync_ext fetches", ALLOCSET_SMALL_SIZES);
	cxt = AllocSetContextCreate(fetches_cxt, "sync_ext fetch", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(cxt);
	fetch = palloc0(sizeof(Fetch));
	fetch->cxt = cxt;
	fetch->segment = segment;
	fetch->question = dsm_segment_address(segment);
	MemoryContextSwitchTo(fetches_cxt);
	fetches = lappend(fetches, fetch);
	MemoryContextSwitchTo(cxt);
	ask(fetch);
	MemoryContextSwitchTo(old);
}

bool
se_fetch_step(SeHubSlot *slot)
{
	uint32 handles[SE_MAX_FETCHES];
	bool any = false;

	LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
	memcpy(handles, slot->fetches, sizeof(handles));
	memset(slot->fetches, 0, sizeof(slot->fetches));
	LWLockRelease(se_shared->lock);
	for (int i = 0; i < SE_MAX_FETCHES; i++)
	{
		if (handles[i] == 0)
			continue;
		take(handles[i]);
		any = true;
	}
	return any;
}

void
se_fetch_reset(void)
{
	ListCell *cell;

	foreach (cell, fetches)
		dsm_detach(((Fetch *) lfirst(cell))->segment);
	if (fetches_cxt != NULL)
		MemoryContextDelete(fetches_cxt);
	fetches_cxt = NULL;
	fetches = NIL;
}

/* ---- backend ---- */

PG_FUNCTION_INFO_V1(se_fetch_now);

/* Puts the handle into the slot of this database and wakes its hub. */
static void
post(dsm_handle handle)
{
	SeHubSlot *slot;
	bool posted = false;
	bool running;

	LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
	slot = se_slot_find(MyDatabaseId);
	running = slot != NULL && slot->state == SE_HUB_RUNNING;
	for (int i = 0; running && !posted && i < SE_MAX_FETCHES; i++)
	{
		if (slot->fetches[i] == 0)
		{
			slot->fetches[i] = handle;
			posted = true;
		}
	}
	LWLockRelease(se_shared->lock);
	if (!running)
		ereport(ERROR, (errcode(SE_ERRCODE_NOT_ADOPTED), errmsg("no hub speaks for this database"),
						errhint("SELECT * FROM sync.health() tells why.")));
	if (!posted)
		ereport(ERROR, (errcode(ERRCODE_TOO_MANY_CONNECTIONS), errmsg("too many reads are waiting"),
						errhint("Try again.")));
	se_wake_hub(MyDatabaseId);
}

static void
await(Question *q, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);

	while (pg_atomic_read_u32(&q->done) == 0)
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (left <= 0)
			ereport(ERROR,
					(errcode(SE_ERRCODE_TIMEOUT),
					 errmsg("system \"%s\" did not answer within %d ms", q->system, timeout_ms)));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	pg_read_barrier();
}

/* sync._fetch_now(system, object, remote id, time-out in ms): the remote record as the system sends it. */
PGDLLEXPORT Datum
se_fetch_now(PG_FUNCTION_ARGS)
{
	dsm_segment *segment;
	Question *q;
	char *answer;

	if (se_shared == NULL)
		ereport(ERROR,
				(errcode(SE_ERRCODE_NOT_PRELOADED),
				 errmsg("workers are not running: sync_ext was not preloaded"),
				 errhint("Add sync_ext to shared_preload_libraries and restart the server.")));
	segment = dsm_create(sizeof(Question) + ANSWER_LIMIT, 0);
	q = dsm_segment_address(segment);
	memset(q, 0, sizeof(Question));
	pg_atomic_init_u32(&q->done, 0);
	q->requester = MyLatch;
	strlcpy(q->system, text_to_cstring(PG_GETARG_TEXT_PP(0)), sizeof(q->system));
	strlcpy(q->object, text_to_cstring(PG_GETARG_TEXT_PP(1)), sizeof(q->object));
	strlcpy(q->remote_id, text_to_cstring(PG_GETARG_TEXT_PP(2)), sizeof(q->remote_id));
	post(dsm_segment_handle(segment));
	await(q, PG_GETARG_INT32(3));
	if (q->error[0] != '\0')
		ereport(ERROR, (errcode(SE_ERRCODE_DELIVERY_FAILED),
						errmsg("system \"%s\" gave no record \"%s\"", q->system, q->remote_id),
						errdetail("%s", q->error)));
	answer = pnstrdup(q->answer, q->len);
	dsm_detach(segment);
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(answer)));
}
