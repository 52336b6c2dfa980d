/*
 * breaker.h: circuit breaker of a system. Pure: no server calls, time is an argument.
 *
 *   closed ──failures ≥ threshold──▶ open ──pause over──▶ half-open ──success──▶ closed
 *                                     ▲                       │
 *                                     └────────failure────────┘  (the pause doubles, up to a limit)
 *
 * Counts only failures of the system as a whole: nothing could be sent, no answer came, or 5xx.
 * Half-open lets one request through.
 */
#ifndef SE_BREAKER_H
#define SE_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

typedef enum SeBreakerState
{
	SE_BREAKER_CLOSED,
	SE_BREAKER_OPEN,
	SE_BREAKER_HALF_OPEN
} SeBreakerState;

typedef struct SeBreaker
{
	SeBreakerState state;
	int failures;  /* in a row */
	int opened;	   /* times in a row: chooses the pause */
	int64_t until; /* microseconds; open: not before */
	bool probing;  /* half-open: the one request is out */
} SeBreaker;

#define SE_BREAKER_THRESHOLD	5
#define SE_BREAKER_PAUSE_US		INT64_C(500000)
#define SE_BREAKER_PAUSE_MAX_US INT64_C(30000000)

/* How many requests may be sent now: 0, 1 (probe) or INT32_MAX. */
extern int se_breaker_allows(SeBreaker *breaker, int64_t now_us);
extern void se_breaker_sent(SeBreaker *breaker);
extern void se_breaker_success(SeBreaker *breaker);
/* jitter: 0..1, stretches the pause by up to a quarter so that hubs do not probe in step. */
extern void se_breaker_failure(SeBreaker *breaker, int64_t now_us, double jitter);
/* Microseconds until a request may be sent; 0: now; -1: when the probe has ended. */
extern int64_t se_breaker_wait(const SeBreaker *breaker, int64_t now_us);

#endif
