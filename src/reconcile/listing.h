/*
 * listing.h: walks over everything that a system lists, for jobs: a full reconciliation keeps what it
 * lists beside the mirror (sync.listed_record), a backfill applies it as a pull does. See README.md.
 */
#ifndef SE_RECONCILE_LISTING_H
#define SE_RECONCILE_LISTING_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* A job may have come, been paused or stopped, or reached a phase that is ours. */
extern void se_listing_look(void);

/* Asks for pages and records, and keeps what has come; true when it did something. */
extern bool se_listing_step(TimestampTz now);
extern TimestampTz se_listing_next_due(TimestampTz now);

/* After se_pull_reset(), which frees what these consist of. */
extern void se_listing_reset(void);

#endif
