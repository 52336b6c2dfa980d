/*
 * jobs.h: long work in steps, between the hub's other work (sync.job).
 */
#ifndef SE_JOBS_H
#define SE_JOBS_H

#include "datatype/timestamp.h"

/* There may be a job, or one may have been changed. */
extern void se_jobs_look(void);

/*
 * At most one step of one job; own transaction. Errors are its own: they become a notice. True when
 * another step is due at once.
 */
extern bool se_jobs_step(TimestampTz now);
extern TimestampTz se_jobs_next_due(void);

#endif
