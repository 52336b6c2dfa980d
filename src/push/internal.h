/*
 * internal.h: what the files of src/push share. See doc/architecture.md for the words and states.
 *
 *   cursor.c    windows over the outbox and the checkpoint of each scanner
 *   read.c      the events of a window, from the indexes of the outbox
 *   scan.c      reads a piece of a window, decides which events a route wants
 *   queue.c     deliveries in memory, in order per record
 *   context.c   the document that requests are rendered over; references
 *   identity.c  records that may not be created; deletes that are something else there
 *   mask.c      fields of which a system is not to be told our value
 *   stale.c     what pulls have changed since an event
 *   lost.c      what a server that is lost may have sent, after a promotion
 *   frozen.c    what a parked delivery keeps of its request
 *   prepare.c   what a delivery sends next: its step, rendered
 *   claim.c     ready deliveries → prepared, claimed, flushed, handed to the exchange
 *   batch.c     deliveries that travel in one request
 *   result.c    answers → what becomes of the delivery
 *   outcome.c   writes outcomes, mirror, pending in one transaction per batch
 *   audited.c   … and audit rows of those that are about money
 *   pending.c   deliveries that left the steady flow: parked, behind others, finished
 *   due.c       … and come back when they are due
 *   release.c   … or when the record is bound that they wait for
 *   held.c      … and what people may have locked of them meanwhile
 *   gate.c      what policies, guards and closed periods hold before the first request
 *   route.c     routes, scanners, conditions
 *   call.c      one-off API calls
 *   attempts.c  attempts that are on record, for lineage
 */
#ifndef SE_PUSH_INTERNAL_H
#define SE_PUSH_INTERNAL_H

/*
 * Bytes of a record id that fit into every index that holds one. Beyond it, an insert would fail,
 * and with it the transaction of a whole batch.
 */
#define SE_MAX_RECORD_ID 2000

/* Said of a delivery that ends as dead because of it. */
#define SE_UNKNOWN_EFFECT                                                                          \
	"the request may have taken effect, and the connector can neither repeat it safely nor look it up"

/* Said of an update of before a promotion that was executed after it. */
#define SE_TOOK_BACK "sent_again"

/* Look-ups that must find nothing, a settle time apart, before an ambiguous request is sent again. */
#define SE_LOOKUPS 2

#include "postgres.h"

#include "executor/spi.h"
#include "lib/ilist.h"
#include "nodes/bitmapset.h"
#include "utils/jsonb.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "connector/connector.h"
#include "govern/retry.h"
#include "worker/system.h"

typedef struct SeScanner SeScanner;
typedef struct SeRecord SeRecord;
typedef struct SeBehind SeBehind;
typedef struct SeDelivery SeDelivery;
typedef struct SePushBatch SePushBatch;

typedef struct SeEvent
{
	int64 seq;
	TimestampTz at;
	int incarnation;
	int object_id;
	char op; /* I, U, D, K */
	int origin;
	char *record_id;
	Jsonb *body;
	Jsonb *old;
	Jsonb *context;
	TimestampTz first_at; /* of the earliest event that it has taken in; 0: none */
} SeEvent;

/* Since when a server that is lost may have sent something of an event. */
static inline TimestampTz
se_event_since(const SeEvent *event)
{
	return event->first_at != 0 ? event->first_at : event->at;
}

typedef struct SeRoute
{
	int id;
	SeSystem *system;
	int object_id;
	char *object;
	bool financial;
	bool wants[3];		  /* by SeChange */
	TimestampTz start_at; /* 0: no bound */
	char *condition;	  /* SQL that answers a batch; NULL: every event */
	Oid run_as;
	SPIPlanPtr plan; /* of the condition */
	Jsonb *owned;	 /* fields that its system owns: se_owned_fields() */
	bool gated;		 /* a policy, a guard or a period may hold its deliveries */
	SeScanner *scanner;
	TimestampTz ended_at; /* when a delivery of it last ended here */
} SeRoute;

/* One window of the outbox: visible in `end`, not visible in `start`. Snapshots are kept as text. */
typedef struct SeWindow
{
	dlist_node node;
	int incarnation;
	char *start;
	int64 start_seq; /* transactions with ids from xmax(start) drew higher numbers */
	char *end;		 /* NULL: everything (an incarnation that is over) */
	int64 end_bound; /* start_seq of the next window */
	int64 end_after; /* what is visible in `end` drew no higher numbers */
	int64 position;	 /* read up to here */
	uint64 *late;	 /* ids running at `start` of which it may hold events; NULL: not known yet */
	int nlate;
	bool scanned;
	bool recovering;	/* its events may have been handled by an earlier process */
	bool suspects_read; /* read beyond those that a lost server may have handled */
	int unfinished;
	dlist_head deliveries; /* SeDelivery, unfinished, by seq */
} SeWindow;

/* Routes of one system that stand at the same place, and the windows they are in. */
struct SeScanner
{
	SeSystem *system;
	List *routes;
	dlist_head windows; /* oldest first; empty: idle at `finished` */
	int incarnation;
	char *finished; /* everything visible here is finished */
	int64 finished_seq;
	bool look;			  /* there may be new events */
	bool served;		  /* had its turn in this round of reading */
	TimestampTz retry_at; /* a condition could not be evaluated: not before */
	bool recovering;	  /* the next window is the first one of this process */
	bool dirty;			  /* the cursor has moved since the last checkpoint … */
	bool hurry;			  /* … over events of its objects: written as soon as it is idle */
	TimestampTz checkpoint_at;
};

/* All that is known here of one record on one route. */
typedef struct SeRecordKey
{
	int route_id;
	char *record_id;
} SeRecordKey;

struct SeRecord
{
	SeRecordKey key;
	dlist_head queue; /* SeDelivery, by seq; the head may be in flight */
	bool in_flight;
	bool midway;	/* its head has taken some steps of its plan, and others follow */
	bool blocked;	/* has rows in sync.pending; a person may have taken them away since */
	bool followed;	/* a row was put behind those since the last change by a person */
	bool ambiguous; /* one of those may have taken effect */
	bool suspect;	/* one of those may have been sent by a server that is lost */
	bool ready;		/* in its system's list of records whose head may be claimed */
	dlist_node ready_node;
	SeBehind *behind; /* an event that is about to be put behind its rows */
};

typedef enum SeEnding /* what an attempt made of its delivery */
{
	SE_END_STEP, /* next step of the plan */
	SE_END_DONE,
	SE_END_IGNORED, /* nothing to do for this system */
	SE_END_DRY_RUN,
	SE_END_AGAIN, /* same step, attempt not counted: throttled, auth, not sent */
	SE_END_AMBIGUOUS,
	SE_END_WAITING,
	SE_END_DEAD,
	SE_END_CONFLICT,
	SE_END_HELD /* parked by its claim's transaction: an approval must not slip in between */
} SeEnding;

typedef enum SeRowLock /* what became of an attempt to lock a row without waiting */
{
	SE_ROW_BUSY,
	SE_ROW_OURS,
	SE_ROW_GONE
} SeRowLock;

struct SeDelivery
{
	dlist_node queue_node;	/* in its record's queue */
	dlist_node window_node; /* in its window; only while window is set */
	dlist_node result_node; /* in the list of results to record */
	MemoryContext cxt;
	MemoryContext
		attempt_cxt; /* child of cxt, reset before each attempt: a throttled delivery must not grow */
	SeWindow *window; /* NULL: it came from sync.pending, or went there */
	SeRoute *route;
	SeRecord *record;
	SeEvent event;
	int64 pending_id;	 /* 0: not in sync.pending */
	char *pending_state; /* as loaded */

	int issue;
	int attempts;
	SeChange change;	/* which plan it runs; fixed with the first step */
	char *step;			/* operation to run; NULL: the plan's first */
	char *frozen_step;	/* step whose request was frozen */
	Jsonb *frozen;		/* request to be repeated as it was; NULL: render */
	char *unbound_id;	/* made under this id, which could not be bound; NULL: nothing such */
	char *claimed_step; /* step of the last request, if that had no effect; NULL: nothing such */
	uint8 claimed_hash[32]; /* of that request */
	int lookups;			/* answered 'not found' since the ambiguity */
	int64 last_attempt_id;	/* before this attempt, as far as an earlier process made it */
	bool unanswered;		/* an earlier process claimed it and recorded no outcome */
	bool recover;			/* the next request is a look-up that settles an ambiguity */
	bool unkeyed;			/* the attempt that may have taken effect did not carry its key */
	bool repeats;			/* a replay under the keys of before */
	bool gone;				/* refused, and a lost server may have deleted the record there */
	int batch_limit;		/* travels with fewer than this many others; 0: as the connector says */
	TimestampTz first_claim_at;

	/* the attempt in flight, or just answered */
	const SeOperation *op;
	SeRendered rendered;
	SeExchange exchange;
	SeBatchItem item;			/* its part of a batch; without body: none */
	SePushBatch *batch;			/* that it travels in; NULL: alone */
	const SeManifest *manifest; /* while an answer is judged: the one its request was made by */
	Jsonb *ctx;
	Jsonb *answer;		 /* answer of the step before; NULL: none, or of an earlier process */
	Jsonb *record_there; /* remote record as the last step saw it; NULL: as the mirror has it */
	char *remote_id;	 /* the binding as of the claim; NULL: none */
	char *key;
	char *target;
	char *request_text;
	uint8 hash[32];
	int batch_index; /* in the batch whose bindings were read together */
	int64 attempt_id;
	int connector_id;
	TimestampTz claimed_at;

	/* how it ended */
	SeEnding ending;
	SeOutcome outcome;
	const char *outcome_word; /* for outcomes without an attempt */
	int status;
	int64 latency_us;
	char *code;
	char *message;
	char *request_id;
	char *response;
	SeRowLock lock;			   /* of its row in sync.pending, when the outcome was to be recorded */
	bool discarded;			   /* that row is gone: somebody has ended it meanwhile */
	TimestampTz put_off_until; /* its row was locked: the outcome is not recorded before */
	bool has_pushed;
	bool pushed_deleted;
	SeExtract extract;
	Jsonb *gate_patch; /* fields that an approval has changed; NULL: none */
	int wait_object_id;
	char *wait_key;
	char *wait_state;
	TimestampTz due_at;
};

/* ---- route.c ---- */
extern List *se_routes;	  /* SeRoute * */
extern List *se_scanners; /* SeScanner * */
extern int se_hub_incarnation;
extern char se_hub_id[37];
extern TimestampTz se_hub_suspect_before;
extern uint64 se_hub_adopted_xid;
extern SeRoute *se_route_by_id(int id);
extern const char *se_object_name(int object_id);
extern int se_object_id(const char *name);
extern void se_registry_load(void);
/* An array of names, NULL: none. In a partial update they are left out: theirs may be newer. */
extern Jsonb *se_owned_fields(int object_id, int system_id);
extern void se_routes_load(void);
extern void se_routes_reset(void);
/*
 * wanted[i] for n events of the route; errors[i] set where the condition failed. False: it cannot be
 * told now (a table is locked, say), ask again later. In a transaction.
 */
extern bool se_route_filter(SeRoute *route, SeEvent **events, int n, bool *wanted, char **errors);

/* ---- cursor.c ---- */
extern void se_cursor_restore(SeScanner *scanner, const char *end, int64 end_after, int64 position);
extern void se_cursor_look(void);					  /* there may be new events */
extern bool se_cursor_open_windows(TimestampTz now);  /* where there may be some; own transaction */
extern void se_cursor_found(void);					  /* events of an object that has a route */
extern TimestampTz se_cursor_quiet_until(void);		  /* no look before */
extern void se_cursor_finished(SeDelivery *delivery); /* takes it out of its window */
extern void se_cursor_settle(SeScanner *scanner); /* drops finished windows, merges scanned ones */
extern bool se_cursor_checkpoint_due(TimestampTz now, bool idle);
extern void se_cursor_write(TimestampTz now); /* in a transaction */

/* ---- read.c ---- */
typedef struct SePiece
{
	SeEvent *events; /* in the memory that it was read in */
	int n;
	int64 position; /* everything of the window up to here was looked at … */
	bool through;	/* … and there is no more */
} SePiece;

/* Events of these objects beyond the window's position; in a transaction. */
extern void se_read_piece(SeWindow *window, const Bitmapset *objects, SePiece *piece);

/* ---- scan.c ---- */
extern bool se_scan_listens(TimestampTz now); /* new events would be read as soon as they come */
extern bool se_scan(TimestampTz now); /* a piece for each scanner with room; own transactions */
extern void se_delivery_resume(SeDelivery *delivery,
							   Jsonb *claim);	  /* goes on after its last attempt */
extern bool se_has_effect(const SeOperation *op); /* a request of it may change something there */

/* ---- queue.c ---- */
extern bool se_queue_init(void); /* false: it is there already */
extern void se_queue_reset(void);
extern MemoryContext se_queue_context(void); /* gone with everything else in memory */
extern SeRecord *se_record_get(int route_id, const char *record_id, bool make);
extern void se_records_forget_blocked(
	bool all); /* before what is blocked, or only ambiguous, is read again */
extern int se_records_followed(
	Datum *arrays);					/* routes and ids of those a row was put behind; resets */
extern void se_records_sweep(void); /* forgets those of which nothing is known */
extern void se_record_release(SeRecord *record); /* forgets it when nothing is known of it */
extern SeDelivery *se_delivery_make(SeRoute *route, const SeEvent *event);
extern void se_delivery_begin_attempt(SeDelivery *delivery);
extern void se_delivery_enqueue(SeDelivery *delivery);
extern void se_delivery_free(SeDelivery *delivery); /* out of its record's queue, and gone */
extern void se_record_ready(SeRecord *record, SeSystem *system);
extern int se_queue_length(SeSystem *system);
extern int se_queue_ready(SeSystem *system); /* records whose head may be claimed */
extern SeDelivery *se_queue_peek(SeSystem *system);
extern SeDelivery *se_queue_next(SeSystem *system); /* takes the next ready head, or NULL */

/* ---- context.c ---- */
extern void se_context_begin(void);
extern void se_context_preload(SeDelivery **deliveries, int n);
extern void se_context_build(SeDelivery *delivery); /* sets ctx and remote_id */
extern const SeRefs *se_context_refs(SeSystem *system);
extern char *se_event_id(const SeEvent *event);

/* ---- identity.c ---- */
typedef enum SeDeletePolicy
{
	SE_PUSH_DELETE,
	SE_PUSH_DEACTIVATE, /* an update that sets fields goes in its place */
	SE_PUSH_IGNORE
} SeDeletePolicy;

extern void se_identity_begin(void); /* of a batch of deliveries */
/* Whether the delivery may go on; else it has ended or waits. */
extern bool se_identity_allows(SeDelivery *delivery);
/* What a delete of ours means there; fields: what is set in its place, or NULL. */
extern SeDeletePolicy se_delete_policy(SeDelivery *delivery, Jsonb **fields);

/* ---- mask.c ---- */
extern void se_mask_begin(void);
extern void se_mask_load(SeDelivery **deliveries, int n);
/* Names of fields that a partial update leaves out, an array; NULL: none. */
extern Jsonb *se_withheld(const SeDelivery *d);
extern Jsonb *se_mask_body(const SeDelivery *delivery, Jsonb *body);
/* Whether no system is to be told that the record was deleted here, because its owner puts it back. */
extern bool se_mask_hides_delete(const SeDelivery *delivery);
/* Tells open conflicts what the deliveries say our value is now; in the claim's transaction. */
extern void se_mask_note(SeDelivery **deliveries, int n);

/* ---- stale.c ---- */
extern void se_stale_begin(void);
extern void se_stale_load(SeDelivery **deliveries, int n, int64 last_seq);
extern Jsonb *se_stale_body(const SeDelivery *delivery, Jsonb *body); /* as it is to be sent */

/* ---- lost.c ---- */
/* Whether the operation sets a state, and a server that is lost may have used its key. */
extern bool se_may_be_spent(const SeDelivery *delivery, const SeOperation *op);
/* Whether it may have sent the change, and then the delete of the record. */
extern bool se_may_be_deleted(const SeDelivery *delivery);
/* Whether a request that is done may have taken back a later one of a lost server. */
extern bool se_took_back(const SeDelivery *delivery, const SeReply *reply);
/* Whether the request's key may get the answer of before that, and nothing happen. In a transaction. */
extern bool se_was_taken_back(const SeDelivery *delivery, const SeOperation *op);

/* ---- frozen.c ---- */
extern Jsonb *se_freeze(SeDelivery *delivery, const char *state); /* NULL: nothing to keep */
extern bool se_is_frozen(const SeDelivery *delivery, const SeOperation *op);
extern void se_thaw(SeDelivery *delivery, const SeOperation *op);
extern bool se_repeats_otherwise(SeDelivery *delivery, const SeOperation *op);
extern bool se_is_thawed_whole(const SeDelivery *delivery); /* by its hash */
extern const SeOperation *se_not_repeatable(SeDelivery *delivery, const SeManifestObject *object,
											const SeOperation *op);
extern void se_remember_claim(SeDelivery *delivery, const char *step, const char *hash);
extern void se_bind_again(SeDelivery *delivery, const SeOperation *op);

/* ---- gate.c ---- */
extern void se_gate_load(void); /* which routes are gated; in a transaction */
extern bool se_gate_passes(
	SeDelivery *delivery); /* false: `ending` says HELD or DEAD; in a transaction */
extern void se_gate_park(SeDelivery *delivery); /* one that is held; in the same transaction */

/* ---- prepare.c ---- */

/*
 * A subtransaction in which deliveries are prepared, one after the other. While it has no id it has
 * written nothing, so that the error of one delivery takes nothing of the ones before along. Zero
 * to begin with.
 */
typedef struct SePlace
{
	MemoryContext cxt;
	ResourceOwner owner;
	bool open;
} SePlace;

/*
 * Finds the step that has something to send and renders it. False when the delivery has ended, waits
 * or failed without one; any error is its own. The caller leaves the place after the last.
 */
extern bool se_prepare(SeDelivery *delivery, SePlace *place);
extern void se_place_leave(SePlace *place);
/* Ends a delivery for which nothing was sent, or parks it. */
extern void se_end_unsent(SeDelivery *delivery, SeEnding ending, const char *word, const char *code,
						  const char *message);
extern void se_delivery_key(SeDelivery *delivery, const char *step, char *key, int size);

/* ---- claim.c ---- */
/* In a transaction of its own. Idle: what is worth a flush, though enough stands claimed. */
extern bool se_claim(TimestampTz now, bool idle);

/* ---- batch.c ---- */
extern int se_batch_hint(SeDelivery *delivery);
extern void se_batch_prepare(SeDelivery *delivery, const SeOperation *op);
extern void se_batch_form(SeDelivery **deliveries, int n);
extern int64 se_batch_id(const SeDelivery *delivery);
extern void se_batch_submit(SeDelivery *delivery);
extern void se_batch_dry_run(SeDelivery *delivery);

/* ---- result.c ---- */
extern void se_result_done(SeExchange *exchange, SeReply *reply);
/* The answer to one delivery, judged by this manifest, in a context that is reset afterwards. */
extern void se_result_judge(SeDelivery *delivery, const SeManifest *manifest, SeReply *reply);
/* Nothing happened, because of what travelled with it. */
extern void se_result_refused(SeDelivery *delivery, const SeReply *reply, const char *message);
extern const SeManifestObject *se_delivery_object(const SeDelivery *delivery);
extern void se_delivery_find_plan(SeDelivery *delivery); /* of the step that it goes on at */
extern const SeOperation *se_plan_next(SeDelivery *delivery, const SeOperation *after);
extern SeRecovery se_delivery_recovery(SeDelivery *delivery, const SeManifestObject *object,
									   const SeOperation *op, TimestampTz now);
extern void se_delivery_ambiguous(SeDelivery *delivery, TimestampTz now);
extern char *se_bounded_text(SeSystem *system, const char *text, size_t len);

/* ---- outcome.c ---- */
extern void se_outcome_add(SeDelivery *delivery);  /* it has ended, or its step has */
extern void se_outcome_lost(SeDelivery *delivery); /* nobody heard the answer to its last attempt */
extern bool se_outcome_flush(TimestampTz now);	   /* own transaction; false: nothing to do */
extern TimestampTz se_outcome_next_due(void);	   /* of those that were put off */
extern void se_outcome_reset(void);
extern bool se_outcome_is_final(const SeDelivery *delivery);
extern const char *se_outcome_state(const SeDelivery *delivery);

/* ---- audited.c ---- */
/* Writes an audit row for each of the deliveries of a financial object that has ended, or needs a person. */
extern bool se_audit_deliveries(SeDelivery **deliveries, int n);

/* ---- pending.c ---- */
extern void se_pending_park(SeDelivery *delivery, const char *state, TimestampTz due);
extern void se_pending_behind(SeRoute *route, const SeEvent *event);
extern void se_pending_write_behind(void);
extern bool se_pending_blocks(SeRecord *record);
extern void se_pending_reset(void);
extern void se_pending_finish(SeDelivery **deliveries, int n); /* delete rows, promote the next */
extern bool se_pending_lock(SeDelivery *delivery);	 /* false: its row is gone; in a transaction */
extern void se_pending_forget(SeDelivery *delivery); /* its row may be loaded again */

/* ---- due.c ---- */
extern bool se_pending_dirty; /* rows changed: read what is due again */
extern void se_pending_load(TimestampTz now, bool starting); /* own transactions */
extern bool se_pending_load_due(TimestampTz now);			 /* own transaction */
extern TimestampTz se_pending_next_due(void);
extern void se_due_reset(void);
extern void se_due_forget(int64 pending_id); /* it is not in memory any more */
extern void se_due_wait(TimestampTz until);	 /* nothing is loaded before */

/* ---- release.c ---- */
extern bool se_pending_release(TimestampTz now); /* waiting ones whose record is bound now */
extern void se_release_look_at(int system_id, int object_id,
							   const char *key); /* a row waits for it */
extern void se_release_look_everywhere(void);
extern TimestampTz se_release_next_due(void);
extern void se_release_reset(void);

/* ---- held.c ---- */
extern void se_held_lock(SeDelivery **deliveries, int n); /* sets their lock, without waiting */
extern bool se_held_promote(int route_id,
							const char *record_id);	 /* the next one; in a transaction */
extern void se_held_promote_orphans(Datum *records); /* NULL: all; in a transaction */
extern bool se_held_step(TimestampTz now);			 /* own transaction */
extern TimestampTz se_held_next_due(void);

/* ---- call.c ---- */
extern bool se_call_step(TimestampTz now);
extern TimestampTz se_call_next_due(void);
extern void se_call_reset(void);

#endif
