/*
 * identity.h: what identity.c and identity_rules.c share.
 */
#ifndef SE_PULL_IDENTITY_H
#define SE_PULL_IDENTITY_H

#include "postgres.h"

#include "pull/internal.h"

#define SE_MATCH_UNDECIDED "SE063" /* nothing is bound before a person accepts the matches */
#define SE_MATCH_SEVERAL   "SE064" /* a person must say which one it is */

/* Column that marks a row that was merged into another: it is nobody's counterpart any more. */
#define SE_MERGED_INTO "merged_into_id"

typedef struct SeCandidate
{
	SeItem *item;
	char *record_id;
	bool taken; /* bound in this system already, or by an item before it */
} SeCandidate;

/* Items that are to be applied and are nobody's yet. */
extern List *se_open_items(SeItem **items, int n);
extern void se_refuse(SeItem *item, const char *sqlstate, char *reason);
extern void se_bind_to(SeItem *item, char *record_id);

/* Rows of SPI's answer (n, record id[, does it count?]) → candidates of the items, n counted from 1. */
extern List *se_take_candidates(List *items, uint64 rows);
/* Binds every open item that has exactly one free candidate. */
extern void se_settle(const SeTarget *target, List *open, List *candidates, SeItem **items, int n,
					  bool by_id);

/* ---- identity_rules.c ---- */

/* Binds what people said is one of ours, and marks what they said is none. */
extern void se_identify_decided(const SeTarget *target, SeItem **items, int n);
/* While matches wait to be accepted: puts the open ones off and returns true. */
extern bool se_refuse_undecided(const SeTarget *target, SeItem **items, int n);
/* False: no rules are declared, so the manifest's `match` counts. */
extern bool se_identify_by_rules(const SeTarget *target, SeItem **items, int n);
/* Tells people of items that several of ours could be. */
extern void se_match_note(const SeTarget *target, SeItem **items, int n);
/* Items that left the inbox need no decision any more. */
extern void se_match_settled(const SeTarget *target, SeItem **items, int n);

/* Records that the system merged into others there. */
extern void se_follow_merges(const SeTarget *target, SeItem **items, int n);

#endif
