/*
 * limit.h: rate limit of a system, a token bucket. Pure: no server calls, time is an argument.
 */
#ifndef SE_LIMIT_H
#define SE_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

typedef struct SeLimit
{
	int rate;			 /* requests … 0: unlimited */
	int64_t per_us;		 /* … per so many microseconds */
	double tokens;		 /* at most `rate` (one burst) */
	int64_t refilled_at; /* microseconds */
} SeLimit;

/* Sets the rate, keeping the tokens that are left. */
extern void se_limit_set(SeLimit *limit, int rate, int64_t per_us, int64_t now_us);

/* Whole requests that may be sent now; INT32_MAX when unlimited. */
extern int se_limit_available(SeLimit *limit, int64_t now_us);

/* Takes n tokens; call only with what se_limit_available() allowed. */
extern void se_limit_take(SeLimit *limit, int n);

/* Microseconds until one more request may be sent; 0: now. */
extern int64_t se_limit_wait(SeLimit *limit, int64_t now_us);

/* Reads 'N/s', 'N/min', 'N/h' or 'N/d'; false when it is none of these. */
extern bool se_limit_parse(const char *text, int *rate, int64_t *per_us);

#endif
