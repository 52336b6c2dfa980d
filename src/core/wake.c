/*
 * wake.c: see wake.h.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/errors.h"
#include "core/guc.h"
#include "core/wake.h"

SeShared *se_shared = NULL;

static shmem_request_hook_type previous_shmem_request = NULL;
static shmem_startup_hook_type previous_shmem_startup = NULL;

/* What this transaction asks for at its commit. */
static uint32 wake_wanted = 0; /* bits of SE_WAKE_ */
static bool change_wanted = false;
static bool register_wanted = false;
static bool rescan_wanted = false;

static void release_database(Oid database);

/* Databases that are held until this transaction ends, however it does; TopMemoryContext. */
static List *held = NIL;

static Size
shared_size(void)
{
	return offsetof(SeShared, slots) + (Size) se_max_databases * sizeof(SeHubSlot);
}

static void
request_shmem(void)
{
	if (previous_shmem_request)
		previous_shmem_request();
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("sync_ext", 1);
}

static void
startup_shmem(void)
{
	bool found;

	if (previous_shmem_startup)
		previous_shmem_startup();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	se_shared = ShmemInitStruct("sync_ext", shared_size(), &found);
	if (!found)
	{
		memset(se_shared, 0, shared_size());
		se_shared->lock = &GetNamedLWLockTranche("sync_ext")->lock;
		se_shared->nslots = se_max_databases;
		for (int i = 0; i < se_shared->nslots; i++)
		{
			pg_atomic_init_u32(&se_shared->slots[i].wake, 0);
			pg_atomic_init_u32(&se_shared->slots[i].listens, 0);
			pg_atomic_init_u32(&se_shared->slots[i].changes, 0);
			pg_atomic_init_u32(&se_shared->slots[i].under_way, 0);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

SeHubSlot *
se_slot_find(Oid database)
{
	for (int i = 0; i < se_shared->nslots; i++)
	{
		SeHubSlot *slot = &se_shared->slots[i];

		if (slot->state != SE_HUB_FREE && slot->database == database)
			return slot;
	}
	return NULL;
}

SeHubSlot *
se_slot_make(Oid database)
{
	SeHubSlot *slot = se_slot_find(database);

	if (slot != NULL)
		return slot;
	for (int i = 0; i < se_shared->nslots; i++)
	{
		slot = &se_shared->slots[i];
		if (slot->state == SE_HUB_FREE)
		{
			slot->database = database;
			slot->state = SE_HUB_STOPPED;
			slot->pid = 0;
			slot->failures = 0;
			slot->started_at = 0;
			slot->restart_at = 0;
			slot->hold_until = 0;
			slot->latch = NULL;
			memset(slot->fetches, 0, sizeof(slot->fetches));
			slot->reason[0] = '\0';
			return slot;
		}
	}
	return NULL;
}

/* The lock is not needed to set a latch: at worst another process looks up once for nothing. */
static void
wake_slot(SeHubSlot *slot, uint32 what)
{
	Latch *latch;

	/* Only the first waker since the hub's last look pays, others just read. */
	pg_memory_barrier();
	if ((pg_atomic_read_u32(&slot->wake) & what) == what ||
		(pg_atomic_fetch_or_u32(&slot->wake, what) & what) == what)
		return;
	latch = slot->latch;
	if (latch != NULL)
		SetLatch(latch);
}

void
se_wake_hub(Oid database)
{
	SeHubSlot *slot;

	if (se_shared == NULL)
		return;
	LWLockAcquire(se_shared->lock, LW_SHARED);
	slot = se_slot_find(database);
	if (slot != NULL)
		wake_slot(slot, SE_WAKE_ALL);
	LWLockRelease(se_shared->lock);
}

void
se_wake_launcher(bool rescan)
{
	if (se_shared == NULL)
		return;
	LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
	if (rescan)
		se_shared->rescan = true;
	if (se_shared->launcher_latch != NULL)
		SetLatch(se_shared->launcher_latch);
	LWLockRelease(se_shared->lock);
}

void
se_wake_at_commit(void)
{
	wake_wanted |= SE_WAKE_EVENTS;
}

void
se_request_at_commit(void)
{
	wake_wanted |= SE_WAKE_REQUESTS;
}

void
se_audit_at_commit(void)
{
	wake_wanted |= SE_WAKE_AUDIT;
}

void
se_change_at_commit(void)
{
	change_wanted = true;
}

void
se_register_at_commit(void)
{
	register_wanted = true;
}

/* Without a lock: what it says may be out of date, and then a hub is woken for nothing. */
static SeHubSlot *
my_slot(void)
{
	static SeHubSlot *slot = NULL;

	if (slot == NULL || slot->database != MyDatabaseId || slot->state == SE_HUB_FREE)
	{
		LWLockAcquire(se_shared->lock, LW_SHARED);
		slot = se_slot_find(MyDatabaseId);
		LWLockRelease(se_shared->lock);
	}
	return slot;
}

/*
 * A hub that would not read events now (no route wants any, its queue is full, the systems are paused
 * or dead) is left alone. None is missed: it says that it listens before it looks, and our commit
 * was visible before we ask.
 */
static void
tell_of_events(void)
{
	SeHubSlot *slot = my_slot();

	pg_memory_barrier();
	if (slot != NULL && pg_atomic_read_u32(&slot->listens) != 0)
		wake_slot(slot, SE_WAKE_EVENTS);
}

static void
tell_of_audit(void)
{
	SeHubSlot *slot = my_slot();

	if (slot != NULL)
		wake_slot(slot, SE_WAKE_AUDIT);
}

static void
committed(void)
{
	SeHubSlot *slot;

	if (wake_wanted & SE_WAKE_EVENTS)
		tell_of_events();
	if (wake_wanted & SE_WAKE_AUDIT)
		tell_of_audit();
	if (register_wanted)
	{
		LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
		slot = se_slot_make(MyDatabaseId);
		if (slot != NULL)
			slot->restart_at = 0;
		LWLockRelease(se_shared->lock);
		se_wake_launcher(false);
	}
	if (!change_wanted && !register_wanted && !(wake_wanted & SE_WAKE_REQUESTS))
		return;
	LWLockAcquire(se_shared->lock, LW_SHARED);
	slot = se_slot_find(MyDatabaseId);
	if (slot != NULL)
	{
		if (change_wanted)
			pg_atomic_fetch_add_u32(&slot->changes, 1);
		wake_slot(slot, SE_WAKE_ALL);
	}
	LWLockRelease(se_shared->lock);
}

void
se_rescan_at_commit(void)
{
	rescan_wanted = true;
}

static void
release_held(void)
{
	List *databases = held;
	ListCell *cell;

	held = NIL;
	foreach (cell, databases)
		release_database(lfirst_oid(cell));
	list_free(databases);
}

/*
 * A transaction that is prepared wakes nobody: its COMMIT PREPARED may come from another session,
 * which the utility hook sees.
 */
static void
at_xact_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (se_shared != NULL && (wake_wanted != 0 || change_wanted || register_wanted))
				committed();
			if (rescan_wanted)
				se_wake_launcher(true);
			/* FALLTHROUGH */
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			wake_wanted = 0;
			change_wanted = register_wanted = rescan_wanted = false;
			if (held != NIL)
				release_held();
			break;
		default:
			break;
	}
}

void
se_wake_init(bool preloading)
{
	if (preloading)
	{
		previous_shmem_request = shmem_request_hook;
		shmem_request_hook = request_shmem;
		previous_shmem_startup = shmem_startup_hook;
		shmem_startup_hook = startup_shmem;
	}
	RegisterXactCallback(at_xact_end, NULL);
}

void
se_hold_database(Oid database, int ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 5000);
	MemoryContext old;

	if (se_shared == NULL)
		return;
	old = MemoryContextSwitchTo(TopMemoryContext);
	held = list_append_unique_oid(held, database);
	MemoryContextSwitchTo(old);
	for (;;)
	{
		SeHubSlot *slot;
		int pid = 0;

		LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
		slot = se_slot_find(database);
		if (slot != NULL)
		{
			slot->hold_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
			pid = slot->state == SE_HUB_STARTING ? -1 : slot->pid;
			if (slot->latch != NULL)
				SetLatch(slot->latch);
		}
		LWLockRelease(se_shared->lock);

		if (pid == 0 || GetCurrentTimestamp() > deadline)
			return;
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

static void
release_database(Oid database)
{
	SeHubSlot *slot;

	LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
	slot = se_slot_find(database);
	if (slot != NULL)
	{
		slot->hold_until = 0;
		slot->restart_at = 0;
	}
	LWLockRelease(se_shared->lock);
	se_wake_launcher(true);
}

/* ---- SQL ---- */

PG_FUNCTION_INFO_V1(se_wake);
PG_FUNCTION_INFO_V1(se_audit_wake);
PG_FUNCTION_INFO_V1(se_change);
PG_FUNCTION_INFO_V1(se_change_trigger);
PG_FUNCTION_INFO_V1(se_register);
PG_FUNCTION_INFO_V1(se_start);
PG_FUNCTION_INFO_V1(se_under_way);
PG_FUNCTION_INFO_V1(se_hub_slots);

/* sync._wake(): have the hub look for calls, pulls and inbox items when the transaction commits. */
PGDLLEXPORT Datum
se_wake(PG_FUNCTION_ARGS)
{
	se_request_at_commit();
	PG_RETURN_VOID();
}

/* sync._audit_wake(): have the hub seal audit rows after this transaction's commit. */
PGDLLEXPORT Datum
se_audit_wake(PG_FUNCTION_ARGS)
{
	se_audit_at_commit();
	PG_RETURN_VOID();
}

/* sync._change(): as _wake(), and have the hub read configuration and pending deliveries again. */
PGDLLEXPORT Datum
se_change(PG_FUNCTION_ARGS)
{
	se_change_at_commit();
	PG_RETURN_VOID();
}

/* sync._change_trigger(): statement trigger on registry tables. */
PGDLLEXPORT Datum
se_change_trigger(PG_FUNCTION_ARGS)
{
	se_change_at_commit();
	PG_RETURN_POINTER(NULL);
}

/* sync._register(): have the launcher start a hub here when the transaction commits. */
PGDLLEXPORT Datum
se_register(PG_FUNCTION_ARGS)
{
	se_register_at_commit();
	PG_RETURN_VOID();
}

/* sync.start_workers(): as _register(), with an error when that cannot work. */
PGDLLEXPORT Datum
se_start(PG_FUNCTION_ARGS)
{
	if (se_shared == NULL)
		ereport(ERROR,
				(errcode(SE_ERRCODE_NOT_PRELOADED),
				 errmsg("workers cannot start: sync_ext was not preloaded"),
				 errhint("Add sync_ext to shared_preload_libraries in postgresql.conf and restart "
						 "the server.")));
	se_register_at_commit();
	PG_RETURN_VOID();
}

/*
 * sync._under_way(): how many requests that write this database's hub has without an answer, of systems
 * that are not paused. 0 says nothing: the hub may be about to make some.
 */
PGDLLEXPORT Datum
se_under_way(PG_FUNCTION_ARGS)
{
	SeHubSlot *slot;
	uint32 n = 0;

	if (se_shared != NULL)
	{
		LWLockAcquire(se_shared->lock, LW_SHARED);
		slot = se_slot_find(MyDatabaseId);
		if (slot != NULL)
			n = pg_atomic_read_u32(&slot->under_way);
		LWLockRelease(se_shared->lock);
	}
	PG_RETURN_INT32((int32) n);
}

static const char *
state_name(SeHubState state)
{
	switch (state)
	{
		case SE_HUB_FREE:
			return "free";
		case SE_HUB_STOPPED:
			return "stopped";
		case SE_HUB_STARTING:
			return "starting";
		case SE_HUB_RUNNING:
			return "running";
		case SE_HUB_IDLE:
			return "idle";
	}
	return "unknown";
}

static void
put_slot(ReturnSetInfo *rsinfo, const SeHubSlot *slot)
{
	Datum values[7];
	bool nulls[7] = {false};

	values[0] = ObjectIdGetDatum(slot->database);
	values[1] = Int32GetDatum(slot->pid);
	nulls[1] = slot->pid == 0;
	values[2] = CStringGetTextDatum(state_name(slot->state));
	values[3] = TimestampTzGetDatum(slot->started_at);
	nulls[3] = slot->started_at == 0;
	values[4] = Int32GetDatum(slot->failures);
	values[5] = TimestampTzGetDatum(slot->restart_at);
	nulls[5] = slot->restart_at == 0;
	values[6] = CStringGetTextDatum(slot->reason);
	nulls[6] = slot->reason[0] == '\0';
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * sync._hub_slots(): (database oid, pid, state, started_at, failures, restart_at, reason), a row per
 * slot in use; none when the library was not preloaded.
 */
PGDLLEXPORT Datum
se_hub_slots(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (se_shared == NULL)
		return (Datum) 0;
	for (int i = 0; i < se_shared->nslots; i++)
	{
		SeHubSlot copy;

		/* A copy, because putting a row may throw and must not do so under the lock. */
		LWLockAcquire(se_shared->lock, LW_SHARED);
		copy = se_shared->slots[i];
		LWLockRelease(se_shared->lock);
		if (copy.state != SE_HUB_FREE)
			put_slot(rsinfo, &copy);
	}
	return (Datum) 0;
}
