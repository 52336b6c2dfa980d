/*
 * system_build.h: from a row of the registry to a configuration that can be spoken with.
 */
#ifndef SE_SYSTEM_BUILD_H
#define SE_SYSTEM_BUILD_H

#include "worker/system.h"

typedef struct SeSystemSource /* one row of the registry */
{
	int id;
	char *name;
	bool paused;
	Oid server;
	List *options;	  /* of the server */
	int connector_id; /* 0: not registered */
	Jsonb *manifest;
} SeSystemSource;

/* Builds the configuration anew when what it was built from has changed; in a transaction. */
extern void se_system_refresh(SeSystem *system, const SeSystemSource *source);

/* Nothing waits and nothing is outstanding. */
extern void se_system_init_queues(SeSystem *system);

/* Frees earlier configurations once no request uses them any more. */
extern void se_system_free_retired(SeSystem *system);

#endif
