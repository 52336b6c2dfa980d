/*
 * seal.h: the sealer of the audit trail, and its anchors outside the database.
 */
#ifndef SE_SEAL_H
#define SE_SEAL_H

#include "core/wake.h"
#include "datatype/timestamp.h"

/* There may be audit rows that are not sealed. */
extern void se_seal_look(TimestampTz now);

/* Whether a look is due later: until then writers need not wake the hub. */
extern bool se_seal_is_asked(void);

/* Seals and anchors what is due; own transactions. Errors are its own: they become a notice. */
extern void se_seal_step(SeHubSlot *slot, TimestampTz now);
extern TimestampTz se_seal_next_due(void);

/* The next step asks anew how far the anchors are. */
extern void se_seal_reset(void);

#endif
