/*
 * identity.h: whether this database is the hub that it says it is.
 *
 * A copy never speaks. What was adopted is in sync.hub; what this cluster is comes from the control
 * file and the WAL timeline; and the permit, a file outside the data directory, is what a copy of
 * the data directory does not bring along.
 */
#ifndef SE_IDENTITY_H
#define SE_IDENTITY_H

#include "postgres.h"

#include "datatype/timestamp.h"

typedef enum SeIdentityState
{
	SE_ID_OK,
	SE_ID_PROMOTED,		 /* may speak; the caller stores the timeline and suspects earlier events */
	SE_ID_NOT_ADOPTED,	 /* adopt_cluster() was never called */
	SE_ID_OTHER_CLUSTER, /* system identifier differs: a restored dump, or pg_upgrade */
	SE_ID_OTHER_DATABASE, /* database OID differs: a TEMPLATE copy or a restored dump */
	SE_ID_RECOVERED,	  /* point-in-time recovery, or a timeline whose origin is unknown */
	SE_ID_NO_PERMIT,	  /* the permit is missing, unsafe, or does not list the hub */
	SE_ID_STANDBY		  /* in recovery */
} SeIdentityState;

typedef struct SeIdentity
{
	SeIdentityState state;
	bool adopted; /* sync.hub has its row: what follows is set */
	char hub_id[37];
	int incarnation;
	uint64 hub_system;
	Oid hub_database;
	int hub_timeline;

	uint64 system; /* of this cluster */
	Oid database;
	int timeline; /* 0 in recovery */
	bool permit;
	char reason[256]; /* why it may not speak; empty when it may */
	char hint[256];
} SeIdentity;

/* Reads all of it. Inside a transaction with a snapshot; needs SELECT on sync.hub. */
extern void se_identity_status(SeIdentity *identity);

/*
 * True when this hub may speak. For a promotion it stores the new timeline and marks everything
 * captured so far as suspect, in the caller's transaction; that needs UPDATE on sync.hub.
 */
extern bool se_identity_may_speak(char *reason, size_t size);

#endif
