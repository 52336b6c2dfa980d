/*
 * correction.h: events that tell one system again what the hub holds.
 */
#ifndef SE_CAPTURE_CORRECTION_H
#define SE_CAPTURE_CORRECTION_H

#include "postgres.h"

#include "utils/jsonb.h"

/* Origin of an event that is meant for one system alone: its id, negative. */
#define SE_ORIGIN_FOR(system_id) (-(system_id))

/*
 * Adds an event for this system alone. The caller holds the record's row lock, and `body` is the row as
 * it now stands. `old` has what the system says of the fields that are corrected.
 */
extern void se_correction_add(int object_id, char op, const char *record_id, Jsonb *body,
							  Jsonb *old, int system_id);

#endif
