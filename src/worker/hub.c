/*
 * hub.c: the process that serves one database: push, pull, calls and upkeep in one event loop.
 *
 * The loop waits on its latch and on the HTTP loop's descriptor; commits set the latch. No
 * transaction or snapshot is open while it waits.
 *
 * Whatever goes wrong inside, the process does not exit because of data: the transaction is rolled
 * back, everything in memory is thrown away, and after a pause it is read again from the tables, as
 * after a crash. There is only one way of recovering, and it is the one that the tests exercise.
 *
 * It ends when the extension is dropped, when a database command wants to be alone (hold_until), and
 * with the server.
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/guc.h"
#include "core/identity.h"
#include "core/role.h"
#include "core/spi.h"
#include "core/version.h"
#include "core/wake.h"
#include "pull/pull.h"
#include "push/push.h"
#include "reconcile/listing.h"
#include "worker/fetch.h"
#include "worker/jobs.h"
#include "worker/notice.h"
#include "worker/seal.h"
#include "worker/system.h"
#include "worker/upkeep.h"

#define IDLE_CHECK_MS	   5000 /* a hub that may not speak looks again this often, and when woken */
#define DRAIN_MS		   2000 /* how long a hub that must leave waits for answers */
#define MAX_ERROR_PAUSE_MS 60000
#define LOCK_RETRY_MS	   5000
#define KEPT_BYTES		   (16 * 1024 * 1024)
#define FOREIGN_CODE_MS	   5000 /* what a condition, or the triggers of a page of rows, may take */

extern PGDLLEXPORT void se_hub_main(Datum arg);

static SeHubSlot *slot = NULL;
static uint64 generation = 0;
static uint32 seen_changes = 0;
static bool loaded = false; /* systems, routes and streams are in memory */
static int error_count = 0;
static WaitEventSet *wait_set = NULL;
static int wait_fd = -1;

/* ---- slot ---- */

static void
set_state(SeHubState state, const char *reason)
{
	LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
	slot->state = state;
	strlcpy(slot->reason, reason, sizeof(slot->reason));
	LWLockRelease(se_shared->lock);
}

/* Ours only while the generation is ours: a later hub may have the slot already. */
static void
leave_slot(int code, Datum arg)
{
	LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
	if (slot->generation == generation)
	{
		slot->latch = NULL;
		slot->pid = 0;
		pg_atomic_write_u32(&slot->listens, 0);
		pg_atomic_write_u32(&slot->under_way, 0);
		if (slot->state == SE_HUB_RUNNING || slot->state == SE_HUB_IDLE ||
			slot->state == SE_HUB_STARTING)
			slot->state = SE_HUB_STOPPED;
		slot->failures = code == 0 ? 0 : slot->failures + 1;
		slot->restart_at =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										code == 0 ? 0 : Min(1000 << Min(slot->failures, 6), 60000));
	}
	LWLockRelease(se_shared->lock);
	se_wake_launcher(false);
}

static void
take_slot(int index)
{
	slot = &se_shared->slots[index];
	memcpy(&generation, MyBgworkerEntry->bgw_extra, sizeof(generation));
	LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
	if (slot->generation != generation || slot->state != SE_HUB_STARTING)
	{
		/* The launcher gave up on this start, or the database is gone. */
		LWLockRelease(se_shared->lock);
		proc_exit(0);
	}
	slot->pid = MyProcPid;
	slot->latch = MyLatch;
	LWLockRelease(se_shared->lock);
	before_shmem_exit(leave_slot, (Datum) 0);
}

/* The extension is not here: the slot is free for another database. */
static void
leave_absent(void)
{
	LWLockAcquire(se_shared->lock, LW_EXCLUSIVE);
	if (slot->generation == generation)
		slot->state = SE_HUB_FREE;
	LWLockRelease(se_shared->lock);
	proc_exit(0);
}

static bool
must_leave(void)
{
	bool leave;

	LWLockAcquire(se_shared->lock, LW_SHARED);
	leave = slot->generation != generation || slot->hold_until > GetCurrentTimestamp();
	LWLockRelease(se_shared->lock);
	return leave;
}

/* ---- may it speak? ---- */

/*
 * In a transaction: the extension is here, of our version, and this cluster is the one adopted.
 * False with the reason; a missing extension does not return.
 */
static bool
may_speak(char *reason, size_t size)
{
	char *version;
	bool speaks;

	se_txn_begin("checking identity");
	if (!OidIsValid(get_extension_oid("sync_ext", true)))
	{
		se_txn_abort();
		leave_absent();
	}
	if (SPI_execute("SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'sync_ext'",
					true, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not read the version of the extension");
	version = se_spi_text(0, 1);
	if (strcmp(version, SE_VERSION) != 0)
	{
		snprintf(reason, size,
				 "the library is version %s, the extension %s: run ALTER EXTENSION "
				 "sync_ext UPDATE, or restart the server",
				 SE_VERSION, version);
		speaks = false;
	}
	else if (!se_enabled)
	{
		snprintf(reason, size, "sync_ext.enabled is off for this database");
		speaks = false;
	}
	else
		speaks = se_identity_may_speak(reason, size);
	se_txn_commit();
	return speaks;
}

/* ---- loading ---- */

static void
forget_all(void)
{
	se_txn_abort();
	se_exchange_reset();
	se_fetch_reset();
	se_push_reset();
	se_pull_reset();
	se_listing_reset();
	se_systems_reset();
	se_seal_reset();
	se_jobs_look();
	if (wait_set != NULL)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;
	loaded = false;
	pg_atomic_write_u32(&slot->listens, 0);
	pg_atomic_write_u32(&slot->under_way, 0);
}

static void
load_all(void)
{
	seen_changes = pg_atomic_read_u32(&slot->changes);
	se_upkeep_step(GetCurrentTimestamp());
	se_exchange_init();
	se_systems_load();
	se_push_load();
	se_pull_load();
	loaded = true;
}

/* A commit counts the changes up before its client hears of it. */
bool
se_hub_is_current(void)
{
	return pg_atomic_read_u32(&slot->changes) == seen_changes;
}

/* ---- waiting ---- */

static void
make_wait_set(void)
{
	if (wait_set != NULL)
		return;
	wait_set = CreateWaitEventSet(TopMemoryContext, 3);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	if (loaded)
	{
		wait_fd = se_exchange_fd();
		AddWaitEventToSet(wait_set, WL_SOCKET_READABLE, wait_fd, NULL, NULL);
	}
}

/*
 * Was something asked for that the last look did not see? The latch does not tell: whatever waits for
 * a lock or a parallel worker, commits that notify included, resets it, and who sees a bit up sets it no more.
 */
static bool
is_wanted(void)
{
	uint32 wake = pg_atomic_read_u32(&slot->wake);

	if (se_seal_is_asked())
		wake &= ~SE_WAKE_AUDIT; /* stays up until the seal is made */
	return wake != 0 || ConfigReloadPending || must_leave() ||
		   (loaded && pg_atomic_read_u32(&slot->changes) != seen_changes);
}

static void
wait_for_work(long timeout_ms)
{
	WaitEvent events[3];

	make_wait_set();
	if (is_wanted())
		timeout_ms = 0;
	(void) WaitEventSetWait(wait_set, timeout_ms, events, 3, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		pg_atomic_fetch_add_u32(&slot->changes, 1);
	}
}

static long
until(TimestampTz due, TimestampTz now)
{
	if (due == DT_NOEND)
		return 60000;
	if (due <= now)
		return 0;
	return Min(TimestampDifferenceMilliseconds(now, due), 60000);
}

/* ---- one round ---- */

/* A system whose lock another process held, an earlier hub on its way out, is asked for again. */
static bool
lock_is_missing(void)
{
	static TimestampTz asked_at = 0;
	TimestampTz now = GetCurrentTimestamp();
	ListCell *cell;

	if (!TimestampDifferenceExceeds(asked_at, now, LOCK_RETRY_MS))
		return false;
	asked_at = now;
	foreach (cell, se_systems())
	{
		if (!((SeSystem *) lfirst(cell))->held)
			return true;
	}
	return false;
}

static void
answer_wakes(void)
{
	char reason[256];
	uint32 wake = pg_atomic_exchange_u32(&slot->wake, 0);

	if (wake & SE_WAKE_EVENTS)
		se_push_look();
	if (wake & SE_WAKE_AUDIT)
		se_seal_look(GetCurrentTimestamp());
	/* Many commits share a seal, so until it is made nobody else need tell us. */
	if (se_seal_is_asked())
		pg_atomic_fetch_or_u32(&slot->wake, SE_WAKE_AUDIT);
	if (wake & SE_WAKE_REQUESTS)
	{
		se_call_look();
		se_pull_look();
		se_jobs_look();
		se_listing_look();
	}
	if (pg_atomic_read_u32(&slot->changes) == seen_changes && !lock_is_missing())
		return;
	seen_changes = pg_atomic_read_u32(&slot->changes);
	if (!may_speak(reason, sizeof(reason)))
	{
		/* What is in flight stays ambiguous; whoever takes over settles it. */
		forget_all();
		return;
	}
	/* Answers not yet on record point into configurations that may now be replaced. */
	while (se_push_record(GetCurrentTimestamp()))
		;
	se_systems_load();
	se_push_load();
	se_pull_load();
}

/*
 * Whether commits shall wake us for their events. Who begins to listen must look: what was committed
 * before has told nobody. The order of the two is what tell_of_events() in wake.c rests on.
 */
static bool
begin_to_listen(TimestampTz now)
{
	bool listens = se_push_listens(now);

	if (pg_atomic_read_u32(&slot->listens) == (uint32) listens)
		return false;
	pg_atomic_write_u32(&slot->listens, listens);
	pg_memory_barrier();
	if (listens)
		se_push_look();
	return listens;
}

/* Works until there is nothing to do now; returns how long to wait. */
static long
work(void)
{
	TimestampTz now;
	bool busy;
	TimestampTz due;

	do
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending || must_leave())
			return 0;
		answer_wakes();
		if (!loaded)
			return 0;
		now = GetCurrentTimestamp();
		busy = se_exchange_drive(now);
		busy |= se_push_step(now);
		busy |= se_pull_step(now);
		busy |= se_listing_step(now);
		busy |= se_fetch_step(slot);
		busy |= se_exchange_drive(now);
		busy |= se_jobs_step(now);
		busy |= begin_to_listen(now);
		pg_atomic_write_u32(&slot->under_way, (uint32) se_systems_under_way());
	} while (busy || se_push_step_idle(now));
	se_upkeep_step(now);
	se_seal_step(slot, now);
	se_notice_flush();
	due = Min(se_exchange_next_due(now), se_push_next_due(now));
	due = Min(due, se_pull_next_due(now));
	due = Min(due, se_upkeep_next_due());
	due = Min(due, se_seal_next_due());
	due = Min(due, se_jobs_next_due());
	due = Min(due, se_listing_next_due(now));
	error_count = 0;
	return until(due, now);
}

/* A hub that must leave lets what is in flight come home, but starts nothing new. */
static void
drain(void)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DRAIN_MS);

	while (loaded && se_exchange_in_flight() > 0 && GetCurrentTimestamp() < deadline)
	{
		(void) se_exchange_drive(GetCurrentTimestamp());
		while (se_push_record(GetCurrentTimestamp()))
			;
		if (se_exchange_in_flight() > 0)
			wait_for_work(10);
	}
	forget_all();
}

static long
round_trip(void)
{
	char reason[256];

	if (!loaded)
	{
		/* Wakers set the latch only when the flag is down. */
		pg_atomic_write_u32(&slot->wake, 0);
		if (!may_speak(reason, sizeof(reason)))
		{
			set_state(SE_HUB_IDLE, reason);
			return IDLE_CHECK_MS;
		}
		load_all();
		set_state(SE_HUB_RUNNING, "");
		if (wait_set != NULL)
			FreeWaitEventSet(wait_set);
		wait_set = NULL;
	}
	return work();
}

/* As round_trip(); an error throws away what is in memory and costs a pause. */
static long
safe_round_trip(MemoryContext cycle)
{
	volatile long timeout = 0;

	PG_TRY();
	{
		timeout = round_trip();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cycle);
		HOLD_INTERRUPTS();
		EmitErrorReport();
		FlushErrorState();
		forget_all();
		RESUME_INTERRUPTS();
		timeout = Min(1000L << Min(error_count++, 6), MAX_ERROR_PAUSE_MS);
		set_state(SE_HUB_IDLE, "an error occurred, see the server log; trying again");
	}
	PG_END_TRY();
	return timeout;
}

/* ---- main ---- */

/*
 * The workers' role has no power of its own. The process connects as the bootstrap superuser,
 * because a role that nobody may log in as cannot connect, and gives that up before it reads a row.
 */
static void
become_worker(void)
{
	Oid role;

	StartTransactionCommand();
	role = get_role_oid("sync_worker", true);
	if (OidIsValid(role))
		SetSessionAuthorization(role, false);
	CommitTransactionCommand();
	if (!OidIsValid(role))
		ereport(FATAL,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("role \"sync_worker\" does not exist"),
				 errhint("CREATE EXTENSION sync_ext creates it.")));
}

static void
set_session(void)
{
	static const char *const settings[][2] = {
		{"application_name", "sync_ext hub"},
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO"},
		{"IntervalStyle", "postgres"},
		{"bytea_output", "hex"},
		{"extra_float_digits", "1"},
		{"search_path", "pg_catalog, pg_temp"},
		{"synchronous_commit", "off"},
		{"max_parallel_workers_per_gather", "0"},
		{"plan_cache_mode", "force_generic_plan"},
		{"enable_seqscan", "off"},
		{"enable_bitmapscan", "off"},
		{"jit", "off"},
		{"lock_timeout", "2s"},
		{"idle_in_transaction_session_timeout", "0"},
		{"row_security", "on"},
		{"standard_conforming_strings", "on"},
		{"transform_null_equals", "off"},
	};

	for (size_t i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * Deliveries come and go by the hundred, each with memory of its own. malloc() would give the end of
 * the heap back to the kernel each time and have it faulted in again: a tenth of the hub's time. What
 * is kept is bounded, and little beside what the queues may take.
 */
static void
keep_freed_memory(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
	(void) mallopt(M_TOP_PAD, KEPT_BYTES / 16);
	(void) mallopt(M_MMAP_THRESHOLD, KEPT_BYTES / 16);
#endif
}

void
se_hub_main(Datum arg)
{
	MemoryContext cycle;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGPIPE, SIG_IGN);
	BackgroundWorkerUnblockSignals();
	take_slot(DatumGetInt32(arg));
	BackgroundWorkerInitializeConnectionByOid(slot->database, InvalidOid, 0);
	StartTransactionCommand();
	if (!OidIsValid(get_extension_oid("sync_ext", true)))
	{
		CommitTransactionCommand();
		leave_absent();
	}
	CommitTransactionCommand();
	/*
	 * A SIGHUP that came before our handler was installed is lost, and with it the settings that the
	 * postmaster has read since it started us.
	 */
	ProcessConfigFile(PGC_SIGHUP);
	set_session();
	keep_freed_memory();
	se_role_set_deadline(FOREIGN_CODE_MS);
	become_worker();

	cycle = AllocSetContextCreate(TopMemoryContext, "sync_ext cycle", ALLOCSET_DEFAULT_SIZES);
	while (!must_leave())
	{
		long timeout;

		MemoryContextSwitchTo(cycle);
		timeout = safe_round_trip(cycle);
		MemoryContextSwitchTo(cycle);
		MemoryContextReset(cycle);
		if (must_leave())
			break;
		if (timeout > 0 || ConfigReloadPending)
			wait_for_work(timeout);
	}
	drain();
	proc_exit(0);
}
