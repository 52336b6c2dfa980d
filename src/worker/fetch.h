/*
 * fetch.h: sync.fetch(), a fresh read that a backend waits for.
 */
#ifndef SE_FETCH_H
#define SE_FETCH_H

#include "core/wake.h"

/* Hub: takes what backends have asked for in this slot; true when there was something. */
extern bool se_fetch_step(SeHubSlot *slot);

/* Hub: forgets what it was asked; the backends run into their time-outs. */
extern void se_fetch_reset(void);

#endif
