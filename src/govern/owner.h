/*
 * owner.h: who may change a field, and what becomes of a change by somebody else.
 */
#ifndef SE_OWNER_H
#define SE_OWNER_H

#include <stdbool.h>

/* A writer or an owner is a system by its id, or one of these. */
#define SE_OWNER_NOBODY (-1) /* nobody owns it: whoever writes may */
#define SE_OWNER_HUB	0	 /* the hub: the applications that write its tables */

typedef enum SeOnViolation
{
	SE_ON_VIOLATION_REJECT,
	SE_ON_VIOLATION_IGNORE,
	SE_ON_VIOLATION_CORRECT,
	SE_ON_VIOLATION_QUARANTINE
} SeOnViolation;

typedef struct SeOwner
{
	int owner;
	SeOnViolation on_violation;
} SeOwner;

typedef enum SeVerdict
{
	SE_VERDICT_PASS,	/* no violation */
	SE_VERDICT_REFUSE,	/* the write fails */
	SE_VERDICT_UNDO,	/* the write goes on without the change */
	SE_VERDICT_HOLD,	/* so it does, and a person decides about the change */
	SE_VERDICT_CORRECT, /* the change is made for now, and the owner's state put back */
} SeVerdict;

/* False: no such policy. */
extern bool se_on_violation_parse(const char *text, SeOnViolation *policy);

/* Whether a change by `writer` is a violation. */
extern bool se_owner_binds(SeOwner owner, int writer);

/*
 * What becomes of a change by `writer`. `can_undo`: the write can go on without the change; where it
 * cannot, what should have been undone fails, because nothing is changed in silence.
 */
extern SeVerdict se_owner_verdict(SeOwner owner, int writer, bool can_undo);

#endif
