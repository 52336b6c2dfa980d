/*
 * merge.h: what becomes of a value that a system has changed. Pure: no server calls.
 *
 *	 theirs	what the system says now		base	what it said last
 *	 ours	what the hub holds now			agreed	the value on which both last agreed
 *
 * The remote side has changed a field when theirs is neither base nor agreed, the hub when ours is
 * not agreed any more.
 */
#ifndef SE_MERGE_H
#define SE_MERGE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum SeOwnedBy
{
	SE_OWNED_BY_NOBODY,
	SE_OWNED_BY_THEM, /* the system whose value it is */
	SE_OWNED_BY_OTHER /* another system, or the hub */
} SeOwnedBy;

typedef enum SeViolation
{
	SE_VIOLATION_REJECT,
	SE_VIOLATION_IGNORE,
	SE_VIOLATION_CORRECT,
	SE_VIOLATION_QUARANTINE
} SeViolation;

/* Of fields that nobody owns. */
typedef enum SeConflictPolicy
{
	SE_POLICY_NEWEST,
	SE_POLICY_OWNER, /* there is no owner, so a person decides */
	SE_POLICY_QUARANTINE
} SeConflictPolicy;

typedef struct SeFieldState
{
	bool remote_changed;
	bool hub_changed;
	bool equal; /* theirs is ours */

	SeOwnedBy owner;
	SeViolation on_violation;
	SeConflictPolicy policy;

	bool in_conflict; /* a person has been asked about this field of this system */
	bool overridden;  /* an app has changed what they own, and that is to be undone */
	bool can_push;	  /* our value can be sent to them */
	bool can_read;	  /* and theirs can be read by id … */
	bool was_read;	  /* … which it just was */

	int corrections; /* of this field, within the window */
	int correction_limit;

	int64_t remote_at; /* microseconds; 0: unknown */
	int64_t hub_at;
	int64_t resolution; /* of remote_at */
} SeFieldState;

typedef enum SeMerge
{
	SE_MERGE_NOTHING,	 /* they have changed nothing, or went back to what was agreed */
	SE_MERGE_AGREE,		 /* both say the same */
	SE_MERGE_TAKE,		 /* theirs is written */
	SE_MERGE_KEEP,		 /* ours is newer, and on its way to them */
	SE_MERGE_READ_AGAIN, /* they cannot be put in order: read by id */
	SE_MERGE_REJECT,	 /* ours stays, and it is said once */
	SE_MERGE_IGNORE,	 /* ours stays */
	SE_MERGE_CORRECT,	 /* ours stays, and is sent to them */
	SE_MERGE_CONFLICT,	 /* both stay; a person decides */
	SE_MERGE_REPEATED,	 /* likewise, for correcting does not help */
	SE_MERGE_NEWS,		 /* of an open conflict */
	SE_MERGE_SETTLED	 /* the open conflict is none any more */
} SeMerge;

extern SeMerge se_merge_field(const SeFieldState *f);

typedef struct SeDeleteState
{
	bool hub_changed; /* some field, since the two last agreed */
	bool no_effect;	  /* the connector says that a delete there does nothing here */
	SeOwnedBy owner;  /* of what the delete would change */
	SeViolation on_violation;
} SeDeleteState;

/* TAKE, REJECT, IGNORE or CONFLICT. */
extern SeMerge se_merge_delete(const SeDeleteState *d);

#endif
