/*
 * push.h: outbox → deliveries → exchanges → outcomes. See doc/architecture.md.
 */
#ifndef SE_PUSH_H
#define SE_PUSH_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* (Re)reads routes, cursors, claims without outcome and pending deliveries; opens its own transactions. */
extern void se_push_load(void);

/* Forgets everything in memory (before a reload, or when the hub must not speak any more). */
extern void se_push_reset(void);

/* There may be new events: look at the outbox in the next step. */
extern void se_push_look(void);

/* Calls may have been asked for. */
extern void se_call_look(void);

/* Whether new events would be read as soon as they come; false: it is enough to look now and then. */
extern bool se_push_listens(TimestampTz now);

/* Reads events, claims and submits what may go, records what has come; true when it did something. */
extern bool se_push_step(TimestampTz now);

/* To be called when nothing else is to do: claims what is worth a flush, beyond what must stand ready. */
extern bool se_push_step_idle(TimestampTz now);

/* Records what has been answered, and nothing else; true when there was something. */
extern bool se_push_record(TimestampTz now);

/*
 * Whether what was loaded is still what is declared; the hub's. Nothing is claimed before it is: an event
 * that comes after a policy has committed is held by it.
 */
extern bool se_hub_is_current(void);

/* When se_push_step() wants to be called next without being woken. */
extern TimestampTz se_push_next_due(TimestampTz now);

/* True while a request of ours about this record may still have an effect (sent, unanswered or ambiguous). */
extern bool se_push_in_flight(int system_id, int object_id, const char *record_id);

/*
 * Tells that a record became bound, or its remote state changed, in this system: deliveries that wait
 * for it are looked at again. Cheap; may be called inside or outside a transaction.
 */
extern void se_push_notify_record(int system_id, int object_id, const char *record_id);

/* The same of records that nobody names: takes longer where many deliveries wait. */
extern void se_push_notify_bound(int system_id);

#endif
