/*
 * events.c: events of the running transaction, on their way to the outbox.
 *
 * Events wait in memory and go to the outbox many at a time: when enough have gathered, and before
 * commit. The outbox must hold an event exactly if the change that it tells of commits, so:
 *
 * - an event belongs to the subtransaction that made it, and is forgotten if that aborts;
 * - rows written while a subtransaction runs vanish with it, so only its own events may be written
 *   then, never those of its parents.
 *
 * Subtransactions nest, and a parent adds nothing while a child runs. The events are therefore a
 * stack, and a level (a subtransaction with events) is where its part of the stack begins: abort
 * cuts there, commit joins the part to the parent's.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/builtins.h"

#include "capture/capture.h"
#include "capture/cause.h"
#include "capture/document.h"
#include "capture/events.h"
#include "capture/guard.h"
#include "capture/origin.h"
#include "capture/table.h"
#include "core/crash.h"
#include "core/wake.h"

/* Bounds of what waits: of the current level, and of all levels together. */
#define LEVEL_EVENTS 1000
#define LEVEL_BYTES	 ((Size) 4 * 1024 * 1024)
#define TOTAL_EVENTS 4000
#define TOTAL_BYTES	 ((Size) 16 * 1024 * 1024)

typedef struct Level
{
	SubTransactionId subid;
	int first; /* index of its first event */
	Size bytes;
} Level;

/* All of it is memory of the top transaction. */
static MemoryContext buffer = NULL;
static SeEvent *events = NULL;
static int event_count = 0;
static int event_room = 0;
static Level *levels = NULL;
static int level_count = 0;
static int level_room = 0;
static Size total_bytes = 0;

MemoryContext
se_events_context(void)
{
	if (buffer == NULL)
		buffer =
			AllocSetContextCreate(TopTransactionContext, "sync_ext events", ALLOCSET_DEFAULT_SIZES);
	return buffer;
}

/* Forgets everything; the memory goes with the transaction. */
static void
forget_all(void)
{
	buffer = NULL;
	events = NULL;
	levels = NULL;
	event_count = event_room = 0;
	level_count = level_room = 0;
	total_bytes = 0;
	se_event_context_forget();
	se_cause_forget();
	se_documents_forget();
}

static Level *
current_level(void)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	Level *level;

	if (level_count > 0 && levels[level_count - 1].subid == subid)
		return &levels[level_count - 1];
	if (level_count == level_room)
	{
		level_room = Max(8, level_room * 2);
		if (levels == NULL)
			levels = MemoryContextAlloc(se_events_context(), sizeof(Level) * level_room);
		else
			levels = repalloc(levels, sizeof(Level) * level_room);
	}
	level = &levels[level_count++];
	level->subid = subid;
	level->first = event_count;
	level->bytes = 0;
	return level;
}

Size
se_event_bytes(const SeEvent *event)
{
	return sizeof(SeEvent) + VARSIZE(event->record_id) + (event->body ? VARSIZE(event->body) : 0) +
		   (event->old ? VARSIZE(event->old) : 0);
}

static void
free_event(SeEvent *event)
{
	pfree(event->record_id);
	if (event->body)
		pfree(event->body);
	if (event->old)
		pfree(event->old);
}

/* Writes the events of the current level, which is the topmost. */
static void
flush_level(Level *level)
{
	SeEventCommon common;
	int count = event_count - level->first;

	/* A move whose other half has not come yet stays. */
	if (count > 1 && events[event_count - 1].moved)
		count--;
	if (count == 0)
		return;

	SE_CRASH_POINT("capture_flush");
	common.xid = GetTopFullTransactionId();
	common.incarnation = se_incarnation();
	se_outbox_insert(&common, events + level->first, count);

	for (int i = level->first; i < level->first + count; i++)
		free_event(&events[i]);
	event_count -= count;
	memmove(events + level->first, events + level->first + count,
			sizeof(SeEvent) * (event_count - level->first));
	total_bytes -= level->bytes;
	level->bytes = 0;
	for (int i = level->first; i < event_count; i++)
		level->bytes += se_event_bytes(&events[i]);
	total_bytes += level->bytes;
}

static void
flush_if_full(Level *level)
{
	if (event_count - level->first >= LEVEL_EVENTS || level->bytes >= LEVEL_BYTES ||
		event_count >= TOTAL_EVENTS || total_bytes >= TOTAL_BYTES)
		flush_level(level);
}

static Jsonb *
copy_json(Jsonb *json)
{
	Jsonb *copy;

	if (json == NULL)
		return NULL;
	copy = MemoryContextAllocHuge(buffer, VARSIZE(json));
	memcpy(copy, json, VARSIZE(json));
	return copy;
}

static text *
copy_text(const char *string)
{
	Size len = strlen(string);
	text *copy = MemoryContextAlloc(buffer, len + VARHDRSZ);

	SET_VARSIZE(copy, len + VARHDRSZ);
	memcpy(VARDATA(copy), string, len);
	return copy;
}

static void
make_room(void)
{
	if (event_count < event_room)
		return;
	event_room = Max(16, event_room * 2);
	if (events == NULL)
		events = MemoryContextAllocHuge(buffer, sizeof(SeEvent) * event_room);
	else
		events = repalloc_huge(events, sizeof(SeEvent) * event_room);
}

SeEvent *
se_event_add(int object_id, char op, const char *record_id, Jsonb *body, Jsonb *old)
{
	Level *level;
	SeEvent event = {0};
	Size bytes;

	(void) se_events_context();
	level = current_level();
	flush_if_full(level);
	make_room();

	event.object_id = object_id;
	event.op = op;
	event.origin = se_origin_system;
	event.record_id = copy_text(record_id);
	event.body = copy_json(body);
	event.old = copy_json(old);
	/* What comes from a system was changed by nobody here. */
	event.context = se_origin_system > 0 ? se_cause_of(object_id, record_id) : NULL;
	if (event.context == NULL)
		event.context =
			se_event_context(buffer, se_origin_system == 0 && se_object_is_attributed(object_id));
	event.at = GetCurrentTimestamp();
	event.seq = se_outbox_next_seq();

	events[event_count++] = event;
	bytes = se_event_bytes(&event);
	level->bytes += bytes;
	total_bytes += bytes;
	se_wake_at_commit();
	return &events[event_count - 1];
}

/*
 * The two halves of a move are queued one after the other, so that the last event is the D when
 * the I comes. A trigger of the user's that writes in between, or a key that changed with the
 * move, leaves D and I apart, which is true as well.
 */
SeEvent *
se_event_find_move(int object_id, const char *record_id)
{
	SeEvent *event;

	if (event_count == 0 || level_count == 0 ||
		levels[level_count - 1].subid != GetCurrentSubTransactionId() ||
		levels[level_count - 1].first == event_count)
		return NULL;
	event = &events[event_count - 1];
	if (!event->moved || event->object_id != object_id ||
		VARSIZE(event->record_id) - VARHDRSZ != strlen(record_id) ||
		memcmp(VARDATA(event->record_id), record_id, strlen(record_id)) != 0)
		return NULL;
	return event;
}

void
se_event_finish_move(SeEvent *event, char op, Jsonb *body, Jsonb *old)
{
	Level *level = &levels[level_count - 1];

	level->bytes -= se_event_bytes(event);
	total_bytes -= se_event_bytes(event);
	if (op == '\0')
	{
		free_event(event);
		event_count--;
		return;
	}
	if (event->body)
		pfree(event->body);
	event->op = op;
	event->moved = false;
	event->body = copy_json(body);
	event->old = copy_json(old);
	level->bytes += se_event_bytes(event);
	total_bytes += se_event_bytes(event);
}

/*
 * Callbacks.
 */

/* All subtransactions have ended: what is left belongs to the top one. */
static void
write_all(void)
{
	if (se_documents_pending())
		se_documents_flush();
	if (event_count > 0)
	{
		Assert(level_count == 1 && levels[0].first == 0);
		events[event_count - 1].moved = false;
		flush_level(&levels[0]);
	}
}

static void
at_transaction_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			if (buffer != NULL)
				write_all();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			se_guard_forget();
			forget_all();
			break;
		default:
			break;
	}
}

static void
abort_level(SubTransactionId subid)
{
	Level *level;

	if (level_count == 0 || levels[level_count - 1].subid != subid)
		return;
	level = &levels[level_count - 1];
	for (int i = level->first; i < event_count; i++)
		free_event(&events[i]);
	event_count = level->first;
	total_bytes -= level->bytes;
	level_count--;
}

static void
commit_level(SubTransactionId subid, SubTransactionId parent)
{
	Level *level;

	if (level_count == 0 || levels[level_count - 1].subid != subid)
		return;
	level = &levels[level_count - 1];
	if (level_count > 1 && levels[level_count - 2].subid == parent)
	{
		levels[level_count - 2].bytes += level->bytes;
		level_count--;
	}
	else
		level->subid = parent;
}

static void
at_subtransaction_event(SubXactEvent event, SubTransactionId subid, SubTransactionId parent,
						void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB || event == SUBXACT_EVENT_ABORT_SUB)
		se_guard_end_sub(subid, parent, event == SUBXACT_EVENT_COMMIT_SUB);
	if (buffer == NULL)
		return;
	switch (event)
	{
		case SUBXACT_EVENT_PRE_COMMIT_SUB:

			/*
			 * A loop of small subtransactions would pile its events up in a parent that adds
			 * nothing itself: when there are enough, the child writes its own while it can.
			 */
			if (level_count > 0 && levels[level_count - 1].subid == subid)
			{
				if (event_count >= LEVEL_EVENTS || total_bytes >= LEVEL_BYTES)
					flush_level(&levels[level_count - 1]);
			}
			break;
		case SUBXACT_EVENT_COMMIT_SUB:
			commit_level(subid, parent);
			se_documents_commit_sub(subid, parent);
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			abort_level(subid);
			se_documents_abort_sub(subid);
			break;
		default:
			break;
	}
}

/*
 * Once per process and never taken back. The library may be loaded in the middle of a transaction,
 * by its first captured row; that transaction is served as well.
 */
void
se_capture_init(void)
{
	RegisterXactCallback(at_transaction_event, NULL);
	RegisterSubXactCallback(at_subtransaction_event, NULL);
}
