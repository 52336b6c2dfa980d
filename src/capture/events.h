/*
 * events.h: events of the running transaction, on their way to the outbox.
 */
#ifndef SE_CAPTURE_EVENTS_H
#define SE_CAPTURE_EVENTS_H

#include "postgres.h"

#include "access/transam.h"
#include "datatype/timestamp.h"
#include "utils/jsonb.h"

typedef struct SeEvent
{
	int64 seq;
	TimestampTz at;
	int object_id;
	int origin;
	char op;	/* I, U, D, T, K */
	bool moved; /* D of a row on its way to another partition */
	text *record_id;
	Jsonb *body;
	Jsonb *old;
	Jsonb *context;
} SeEvent;

/* Values that all events of a flush share. */
typedef struct SeEventCommon
{
	FullTransactionId xid;
	int incarnation;
} SeEventCommon;

/*
 * Adds an event of the current subtransaction, drawing its sequence number now: the caller holds
 * the record's row lock. Everything is copied.
 */
extern SeEvent *se_event_add(int object_id, char op, const char *record_id, Jsonb *body,
							 Jsonb *old);

/* The last event, if it is the unpaired D of this record on its move between partitions. */
extern SeEvent *se_event_find_move(int object_id, const char *record_id);

/* Turns that D into the U that it is a half of; without an old value nothing happened at all. */
extern void se_event_finish_move(SeEvent *event, char op, Jsonb *body, Jsonb *old);

/* Memory that an event takes. */
extern Size se_event_bytes(const SeEvent *event);

/* Memory that ends with the transaction. */
extern MemoryContext se_events_context(void);

/* outbox.c */
extern int64 se_outbox_next_seq(void);
extern void se_outbox_insert(const SeEventCommon *common, SeEvent *events, int count);

/* attributed.c */
extern bool se_object_is_attributed(int object_id);

/* context.c */
extern Jsonb *se_event_context(MemoryContext transaction_context, bool attributed);
extern void se_event_context_forget(void);

#endif
