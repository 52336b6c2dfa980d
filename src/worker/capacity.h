/*
 * capacity.h: how many requests a system can take now. Private to the exchange.
 */
#ifndef SE_CAPACITY_H
#define SE_CAPACITY_H

#include "worker/system.h"

/* Writing requests that may be claimed now, credentials aside; 0 also when it is worth waiting for more room. */
extern int se_capacity_room(SeSystem *system, int wanted, TimestampTz now);

/* Requests that the HTTP thread may have beyond those on the wire. */
extern int se_capacity_hand_over(SeSystem *system);

/* An answer came: how fast the system answers. */
extern void se_capacity_answered(SeSystem *system, TimestampTz now);

#endif
