/*
 * wake.h: shared memory of the cluster's hubs, and waking them at commit.
 *
 * One slot per database that has the extension. A slot holds no file descriptors or handles; only
 * what another process may read at any time.
 */
#ifndef SE_WAKE_H
#define SE_WAKE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

typedef enum SeHubState
{
	SE_HUB_FREE = 0, /* slot unused */
	SE_HUB_STOPPED,	 /* not running; the launcher starts it at restart_at */
	SE_HUB_STARTING, /* registered with the postmaster */
	SE_HUB_RUNNING,	 /* speaks */
	SE_HUB_IDLE		 /* runs, but does not speak: see reason */
} SeHubState;

#define SE_MAX_FETCHES 16

/* What a hub may be woken for. */
#define SE_WAKE_EVENTS	 1 /* events may have become visible */
#define SE_WAKE_REQUESTS 2 /* somebody waits: calls, pulls, fresh reads, inbox items */
#define SE_WAKE_AUDIT	 4 /* there are audit rows to be sealed */
#define SE_WAKE_ALL		 (SE_WAKE_EVENTS | SE_WAKE_REQUESTS | SE_WAKE_AUDIT)

typedef struct SeHubSlot
{
	Oid database;
	SeHubState state;
	int pid;
	uint64 generation; /* counts starts: an old process must not unregister a new one */
	int failures;	   /* starts that ended badly in a row */
	TimestampTz started_at;
	TimestampTz restart_at;			/* launcher: not before */
	TimestampTz hold_until;			/* a database command wants nobody here until then */
	pg_atomic_uint32 wake;			/* bits of SE_WAKE_: asked for, and the latch is set */
	pg_atomic_uint32 listens;		/* 1: the hub would read new events now */
	pg_atomic_uint32 changes;		/* counts changes of configuration and of pending deliveries */
	pg_atomic_uint32 under_way;		/* requests that write and have no answer yet */
	Latch *latch;					/* of the running hub; NULL when none */
	uint32 fetches[SE_MAX_FETCHES]; /* DSM handles of reads that backends wait for; 0: free */
	char reason[256];
} SeHubSlot;

typedef struct SeShared
{
	LWLock *lock; /* protects everything here but the atomics */
	int launcher_pid;
	Latch *launcher_latch;
	bool rescan; /* launcher: databases came or went */
	int nslots;
	SeHubSlot slots[FLEXIBLE_ARRAY_MEMBER];
} SeShared;

/* NULL when the library was not preloaded. */
extern SeShared *se_shared;

/* Asks for shared memory and registers the transaction callback; from _PG_init. */
extern void se_wake_init(bool preloading);

/*
 * Marks that this transaction wrote events; at its commit the database's hub is woken, if it would
 * read them. Cheap enough for every captured row. Never throws.
 */
extern void se_wake_at_commit(void);

/* Likewise for something that the hub is asked for; it is always woken. */
extern void se_request_at_commit(void);

/* Likewise for audit rows; the hub keeps the bit up until it next seals, so most commits tell nobody. */
extern void se_audit_at_commit(void);

/* Likewise for a change of configuration or of pending deliveries: the hub reads them again. */
extern void se_change_at_commit(void);

/* Likewise for CREATE EXTENSION: this database gets a slot and the launcher is woken. */
extern void se_register_at_commit(void);

/* Likewise when a database has come or gone. */
extern void se_rescan_at_commit(void);

/* Wakes the hub of a database, or the launcher, now. */
extern void se_wake_hub(Oid database);
extern void se_wake_launcher(bool rescan);

/* Slot of a database, NULL when it has none; the caller holds the lock. */
extern SeHubSlot *se_slot_find(Oid database);

/* As se_slot_find(), taking a free slot when there is none; NULL when all are taken. */
extern SeHubSlot *se_slot_make(Oid database);

/*
 * Asks the hub of a database to leave and keeps it away for `ms`; waits until it is gone, at most
 * five seconds. It may come back when this transaction has ended, however it does.
 */
extern void se_hold_database(Oid database, int ms);

#endif
