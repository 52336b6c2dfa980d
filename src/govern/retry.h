/*
 * retry.h: when a delivery is tried again, and by which way. Pure: no server calls.
 */
#ifndef SE_RETRY_H
#define SE_RETRY_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Backoff before try n + 1 (n from 1), in milliseconds, with full-range jitter of ±25 %:
 *
 *   n      1    2    3    4    5     6     7     8      9      10 …
 *   pause  1 s  2 s  4 s  8 s  16 s  32 s  64 s  128 s  256 s  300 s (limit)
 *
 * jitter: 0..1.
 */
extern int64_t se_retry_backoff_ms(int attempts, double jitter);

/* What to do about an attempt that may have taken effect. */
typedef enum SeRecovery
{
	SE_RECOVER_REPEAT, /* the same request under the same key: the vendor answers once */
	SE_RECOVER_LOOKUP, /* ask whether it happened, after the settle time */
	SE_RECOVER_RESEND, /* sending it again does no harm: it sets a state */
	SE_RECOVER_PERSON  /* nobody can tell: dead letter */
} SeRecovery;

typedef struct SeAmbiguity
{
	bool takes_key; /* the operation honours the idempotency key */
	int64_t key_lifetime_ms;
	int64_t since_first_claim_ms;
	bool creates; /* doing it twice makes two */
	bool has_lookup;
} SeAmbiguity;

extern SeRecovery se_recovery(const SeAmbiguity *a);

#endif
