/*
 * upkeep.h: partitions ahead, retention, lag.
 */
#ifndef SE_UPKEEP_H
#define SE_UPKEEP_H

#include "datatype/timestamp.h"

/* Runs what is due; own transactions. Errors are its own: they become a notice. */
extern void se_upkeep_step(TimestampTz now);
extern TimestampTz se_upkeep_next_due(void);

#endif
