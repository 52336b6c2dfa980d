/*
 * fold.h: a million records folded into some thousand sums of hashes.
 */
#ifndef SE_RECONCILE_FOLD_H
#define SE_RECONCILE_FOLD_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "reconcile/members.h"
#include "reconcile/sip.h"
#include "reconcile/sums.h"

/* Records of ours of one day, entity and currency. */
typedef struct SeGroup
{
	int64 n;
	SeSum amount;
	SeSum told; /* the amount, as far as the system has it */
} SeGroup;

/*
 * A fold as a bytea: this, sums of values by bucket, sums of bindings likewise if there are any, then groups, each
 * the length of its key, its key and itself. The key of a group: its day, the length of its entity's id, that, its currency.
 */
typedef struct SeFoldHead
{
	uint8 key[SE_SIP_KEY_LEN];
	int32 nbuckets; /* a power of two */
	int32 binds;	/* whether there are sums of bindings */
	int64 ngroups;
} SeFoldHead;

#define SE_NO_DAY	 DATEVAL_NOEND
#define SE_NO_ENTITY (-1)

extern void se_group_read(SeGroup *group, const char **data);

/* How a bucket is chosen by the letters of a record's id. */
static inline uint32
se_bucket(const uint8 *key, int nbuckets, const char *letters, int len)
{
	return (uint32) (se_sip(key, letters, len) >> 32) & (nbuckets - 1);
}

#endif
