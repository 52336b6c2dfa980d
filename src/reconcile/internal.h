/*
 * internal.h: what the files of src/reconcile share.
 *
 *	 listing.c	which jobs are walking, and their turns
 *	 walk.c		the requests: count, pages
 *	 suspect.c	records that are read again by id
 *	 stage.c	what is written
 */
#ifndef SE_RECONCILE_INTERNAL_H
#define SE_RECONCILE_INTERNAL_H

#include "postgres.h"

#include "pull/internal.h"
#include "reconcile/listing.h"

typedef enum SeListingPhase
{
	SE_LISTING_COUNTING, /* asks how many there are */
	SE_LISTING_LISTING,	 /* goes from page to page */
	SE_LISTING_READING	 /* reads suspects by id */
} SeListingPhase;

typedef struct SeListing
{
	SeStream stream; /* what the requests of src/pull hang on; none of the registry's */
	int64 id;		 /* of the job */
	bool applies;	 /* a backfill: pages go into the tables */
	SeListingPhase phase;
	Jsonb *cursor;	   /* of the walk; NULL: it has not begun */
	TimestampTz since; /* 0: everything */
	TimestampTz until; /* what changed later is left out; 0: nothing is */
	int rate;		   /* records a second at most; 0: no limit of its own */
	SeJob *job;		   /* count or page that is asked for, or is to be kept */
	List *reading;	   /* SeJob *: suspects that are asked for */
	int failures;	   /* in a row */
	TimestampTz next_at;
	bool seen; /* scratch of looking */
} SeListing;

/* ---- listing.c ---- */

/* SQL said that the job is not to go on: it was paused, stopped, or is in another phase. */
extern void se_listing_drop(SeListing *listing);
extern SeListing *se_listing_of(const SeJob *job);
/* A failure of a request of the listing; the job fails when it is one that will not pass. */
extern void se_listing_failed(SeListing *listing, SeOutcome outcome, const char *message,
							  int64 retry_after_ms);

/* ---- walk.c ---- */
extern void se_listing_ask(SeListing *listing, const SeTarget *target);
/* Keeps the page that has come; true when there was one. */
extern bool se_listing_take(SeListing *listing);

/* ---- suspect.c ---- */
/* Asks for the next suspects; true when it did something. */
extern bool se_suspects_ask(SeListing *listing, const SeTarget *target, TimestampTz now);

/* ---- stage.c: in a transaction ---- */

/*
 * First in each transaction: the job is running and ours until the end of it. False where it is not, or where
 * a person has it in hand: nobody is waited for, because meanwhile nothing would be sent.
 */
extern bool se_stage_begin(const SeListing *listing);

/*
 * The job goes on from here: its cursor, records, and what was counted.
 */
extern void se_stage_progress(const SeListing *listing, Jsonb *cursor, int records, Jsonb *result);
/* The phase is over, and SQL has its turn. */
extern void se_stage_phase(const SeListing *listing, const char *phase, bool ours);
extern void se_stage_total(const SeListing *listing, const SeCount *told);
extern void se_stage_failure(const SeListing *listing, const char *message, bool again, bool final);
extern void se_stage_records(const SeListing *listing, SeTarget *target, SeItem *items, int n);
/* A suspect could not be read: it is tried again, or given up. */
extern void se_stage_unread(const SeListing *listing, const char *remote_id, const char *message,
							bool give_up);

#endif
