/*
 * launcher.c: starts a hub in every database that has the extension, and starts it again.
 *
 * Which databases those are is found without connecting to each again and again:
 *
 *   server starts, or a database appears   a hub is started there once, as a probe; where the
 *                                          extension is missing it gives its slot back and the
 *                                          database is remembered as probed
 *   CREATE EXTENSION commits               its transaction takes a slot and wakes the launcher
 *   DROP EXTENSION commits                 the hub notices, gives its slot back and exits
 *   DROP DATABASE, RENAME, TEMPLATE, …     the utility hook holds the slot (hold_until) and
 *                                          releases it after the command, whether it failed or not
 *   a hub crashes                          the postmaster restarts the cluster, shared memory is new
 *   a hub exits with an error              back after a pause that doubles from 1 s to 60 s
 *
 * Hubs are registered BGW_NEVER_RESTART: restarts are the launcher's business, because the
 * postmaster's own would know nothing of holds and pauses.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/errors.h"
#include "core/guc.h"
#include "core/wake.h"
#include "worker/launcher.h"

#define RESCAN_MS	   60000
#define BUSY_MS		   1000
#define PROBES_AT_ONCE 2

extern PGDLLEXPORT void se_launcher_main(Datum arg);

static List *probed = NIL; /* OIDs of databases that a hub has looked into; TopMemoryContext */

void
se_launcher_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "sync_ext", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "se_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "sync_ext launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "sync_ext launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

static void
forget_launcher(int code, Datum arg)
{
	LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
	if (se_shared->launcher_pid == MyProcPid)
	{
		se_shared->launcher_pid = 0;
		se_shared->launcher_latch = NULL;
	}
	LWLockRelease(se_shared->lock);
}

/* OIDs of the databases that can be connected to, in the caller's context. */
static List *
connectable_databases(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List *result = NIL;
	Relation rel;
	TableScanDesc scan;
	HeapTuple tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!form->datallowconn || form->datistemplate)
			continue;
		old = MemoryContextSwitchTo(caller);
		result = lappend_oid(result, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return result;
}

/* Frees slots of databases that are gone, gives a slot to those never looked into. */
static void
rescan_databases(void)
{
	List *present = connectable_databases();
	List *still = NIL;
	int starting = 0;
	ListCell *cell;
	MemoryContext old;

	LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < se_shared->nslots; i++)
	{
		SeHubSlot *slot = &se_shared->slots[i];

		if (slot->state == SE_HUB_STOPPED && !list_member_oid(present, slot->database))
			slot->state = SE_HUB_FREE;
		else if (slot->state == SE_HUB_STARTING || slot->state == SE_HUB_STOPPED)
			starting++;
	}
	se_shared->rescan = false;
	foreach (cell, present)
	{
		Oid database = lfirst_oid(cell);

		if (list_member_oid(probed, database) || se_slot_find(database) != NULL)
			continue;
		/* Probes must not take every worker slot of the cluster at once. */
		if (starting >= PROBES_AT_ONCE)
		{
			se_shared->rescan = true;
			break;
		}
		if (se_slot_make(database) != NULL)
			starting++;
	}
	LWLockRelease(se_shared->lock);

	/* OIDs may be used again: what is gone must not stay remembered. */
	old = MemoryContextSwitchTo(TopMemoryContext);
	foreach (cell, probed)
	{
		if (list_member_oid(present, lfirst_oid(cell)))
			still = lappend_oid(still, lfirst_oid(cell));
	}
	list_free(probed);
	probed = still;
	MemoryContextSwitchTo(old);
	list_free(present);
}

static void
warn_no_worker_slot(void)
{
	static bool warned = false;

	if (warned)
		return;
	warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("sync_ext could not start a worker: all worker slots are taken"),
			 errhint("Raise max_worker_processes; sync_ext needs one for its launcher and one for "
					 "each database.")));
}

/* Starts the hub of slot `index`; false when the postmaster has no slot for it. */
static bool
start_hub(int index, Oid database, uint64 generation)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = Int32GetDatum(index);
	memcpy(worker.bgw_extra, &generation, sizeof(generation));
	strlcpy(worker.bgw_library_name, "sync_ext", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "se_hub_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "sync_ext hub for database %u", database);
	strlcpy(worker.bgw_type, "sync_ext hub", BGW_MAXLEN);
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* Milliseconds until the next slot is due; starts what is due now. */
static long
start_due_hubs(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long timeout = RESCAN_MS;

	for (int i = 0; i < se_shared->nslots; i++)
	{
		SeHubSlot *slot = &se_shared->slots[i];
		Oid database = InvalidOid;
		uint64 generation = 0;
		TimestampTz due;

		LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
		if (slot->state == SE_HUB_STOPPED)
		{
			due = Max(slot->restart_at, slot->hold_until);
			if (due <= now)
			{
				database = slot->database;
				generation = ++slot->generation;
				slot->state = SE_HUB_STARTING;
				slot->started_at = now;
			}
			else
				timeout = Min(timeout, TimestampDifferenceMilliseconds(now, due) + 1);
		}
		else if (slot->state == SE_HUB_STARTING)
		{
			/* One that never came up (its registration was dropped) must not block the slot. */
			if (slot->pid == 0 && TimestampDifferenceExceeds(slot->started_at, now, 30000))
				slot->state = SE_HUB_STOPPED;
			timeout = Min(timeout, BUSY_MS);
		}
		LWLockRelease(se_shared->lock);

		if (!OidIsValid(database))
			continue;
		if (start_hub(i, database, generation))
		{
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

			probed = list_append_unique_oid(probed, database);
			MemoryContextSwitchTo(old);
			continue;
		}
		warn_no_worker_slot();
		LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
		slot->state = SE_HUB_STOPPED;
		slot->restart_at = TimestampTzPlusMilliseconds(now, 10000);
		strlcpy(slot->reason, "no worker slot is free: raise max_worker_processes",
				sizeof(slot->reason));
		LWLockRelease(se_shared->lock);
		timeout = Min(timeout, 10000);
	}
	return timeout;
}

void
se_launcher_main(Datum arg)
{
	MemoryContext cycle;
	TimestampTz scanned_at = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	/* Not bgworker_die: an exit from within a signal handler could leave the lock held. */
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	/* As in hub.c: a SIGHUP may have come before our handler. */
	ProcessConfigFile(PGC_SIGHUP);
	before_shmem_exit(forget_launcher, (Datum) 0);
	LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
	se_shared->launcher_pid = MyProcPid;
	se_shared->launcher_latch = MyLatch;
	LWLockRelease(se_shared->lock);

	cycle =
		AllocSetContextCreate(TopMemoryContext, "sync_ext launcher cycle", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		long timeout;

		MemoryContextSwitchTo(cycle);
		if (se_shared->rescan || TimestampDifferenceExceeds(scanned_at, now, RESCAN_MS))
		{
			rescan_databases();
			scanned_at = now;
		}
		timeout = start_due_hubs();
		if (se_shared->rescan)
			timeout = Min(timeout, 100);
		MemoryContextReset(cycle);

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}
