/*
 * cause.h: what of ours the changes of a system follow from, where that is known.
 */
#ifndef SE_CAPTURE_CAUSE_H
#define SE_CAPTURE_CAUSE_H

#include "postgres.h"

#include "utils/jsonb.h"

/* The context of this transaction's events of a record, as far as a system causes them. */
extern void se_cause_set(int object_id, const char *record_id, const char *cause,
						 const char *correlation_id);
extern Jsonb *se_cause_of(int object_id, const char *record_id); /* NULL: unknown */
extern void se_cause_forget(void);								 /* the transaction ends */

#endif
