/*
 * pull.h: stream → page → mapped records → canonical rows. See doc/architecture.md.
 */
#ifndef SE_PULL_H
#define SE_PULL_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

#include "worker/system.h"

/* (Re)reads streams and their cursors; opens its own transaction. */
extern void se_pull_load(void);
extern void se_pull_reset(void);

/* A pull may have been requested, or an item of the inbox is to be tried again now. */
extern void se_pull_look(void);

/* Starts due polls, fetches that were asked for, retries of the inbox; true when it did something. */
extern bool se_pull_step(TimestampTz now);
extern TimestampTz se_pull_next_due(TimestampTz now);

/* What a successful push made known of a remote record. */
typedef struct SePushed
{
	SeSystem *system;
	int object_id;
	const char *object;
	const char *record_id;
	const char *remote_id;
	const char *remote_number; /* NULL: unknown */
	const char *version;	   /* NULL: unknown */
	bool has_version_at;
	TimestampTz version_at;
	Jsonb *record;	 /* whole remote record from the answer; NULL: not in it */
	Jsonb *ours;	 /* canonical fields that the request was rendered from; NULL: a delete */
	Jsonb *corrects; /* fields that the request was to correct, and what they were; NULL: none */
	bool sent;		 /* they are the remote's too, should the answer hold no record */
	bool fresh;		 /* made just now: neither bound nor in the mirror, as far as can be told */
	bool deleted;
	bool rebinds;				/* our id is the key there: what it stands for now is the record */
	bool financial;				/* the object is */
	const char *cause;			/* id of the event */
	const char *correlation_id; /* NULL: the same */
} SePushed;

/*
 * Binds external ids and updates the mirror after pushes, set-wise, inside the caller's transaction.
 * With a record, mirror.fields takes what the pull mapping reads from it as far as that agrees with
 * ours: what the system made of the record by itself (a status, a number) is left for the next pull,
 * which brings it into our table. Without, the sent fields that the pull mapping knows are merged
 * into it. The mirror's pushed_at becomes `now`.
 * A remote id that is bound to another record (or a record bound to another remote id, unless it
 * rebinds) raises ERRCODE_UNIQUE_VIOLATION; callers bisect.
 */
extern void se_mirror_pushed(SePushed *items, int n, TimestampTz now);

#endif
