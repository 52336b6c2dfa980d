/*
 * origin.h: who causes the changes of this process.
 *
 * A C variable, not a setting: what a session could SET, an application could forge, and a forged
 * origin would keep a change from the system that needs it.
 */
#ifndef SE_ORIGIN_H
#define SE_ORIGIN_H

#include "postgres.h"

/* Id of the system whose records are being applied; 0 for everybody else. */
extern int se_origin_system;

#endif
