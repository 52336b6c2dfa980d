/*
 * members.h: the members of a jsonb object, read as they stand, without a look-up for each.
 *
 * Of a million mirrors of an object nearly all have the same members in the same order, so the keys are compared
 * at once with those that were learnt, and the values are read one after the other.
 */
#ifndef SE_RECONCILE_MEMBERS_H
#define SE_RECONCILE_MEMBERS_H

#include "postgres.h"

#include "utils/jsonb.h"

typedef struct SeMembers
{
	int n;
	JEntry *keys; /* lengths of the keys, as they stand in a jsonb */
	char *text;	  /* the keys, one after the other */
	int text_len;
} SeMembers;

/* Learns the keys of an object; what is learnt is in the current context. */
extern void se_members_learn(SeMembers *members, const JsonbContainer *object);
/* Whether an object has these keys. */
extern bool se_members_are(const SeMembers *members, const JsonbContainer *object);
extern const char *se_member_key(const SeMembers *members, int i, int *len);

/*
 * Values in turn: `offset` begins as members->text_len, and goes on by itself.
 */
extern void se_member_next(const SeMembers *members, JsonbContainer *object, int i, uint32 *offset,
						   JsonbValue *v);

#endif
