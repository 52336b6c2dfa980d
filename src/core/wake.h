/*
 * wake.h: shared memory of the cluster's hubs, and waking them at commit.
 *
 * One slot per database. A slot holds no pointers, file descriptors or handles; only what another
 * process may read at any time.
 */
#ifndef SE_WAKE_H
#define SE_WAKE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/latch.h"

typedef enum SeHubState
{
	SE_HUB_FREE = 0,				/* slot unused */
	SE_HUB_STARTING,
	SE_HUB_RUNNING,
	SE_HUB_IDLE,					/* runs, but does not speak: see reason */
	SE_HUB_STOPPED,					/* ended; the launcher decides when it starts again */
	SE_HUB_ABSENT					/* extension is not in this database */
} SeHubState;

typedef struct SeHubSlot
{
	Oid			database;
	SeHubState	state;
	int			pid;
	uint64		generation;			/* counts starts: an old process must not unregister a new one */
	int			failures;			/* starts that ended badly in a row */
	TimestampTz started_at;
	TimestampTz restart_at;			/* launcher: not before */
	pg_atomic_uint32 wake;			/* 1: somebody asked for a look */
	pg_atomic_uint32 stop;			/* 1: must leave (DROP DATABASE, ALTER DATABASE, DROP EXTENSION) */
	Latch	   *latch;				/* of the running hub; NULL when none. Valid while pid is set */
	char		reason[256];
} SeHubSlot;

/* Asks for shared memory; from _PG_init while preloading. */
extern void se_wake_init(void);

/* True when the library was preloaded and shared memory is there. */
extern bool se_wake_available(void);

/*
 * Marks that this transaction wrote events; at its commit the database's hub is woken. Cheap enough
 * for every captured row. Never throws.
 */
extern void se_wake_at_commit(void);

/* Wakes the hub of this database now. */
extern void se_wake_now(void);

/* Wakes the launcher now (a database appeared, vanished or was enabled). */
extern void se_wake_launcher(void);

#endif
