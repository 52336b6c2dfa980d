/*
 * retry.c: see retry.h.
 */
#include "govern/retry.h"

int64_t
se_retry_backoff_ms(int attempts, double jitter)
{
	int64_t pause = 1000;

	for (int i = 1; i < attempts && pause < 300000; i++)
		pause *= 2;
	if (pause > 300000)
		pause = 300000;
	return (int64_t) ((double) pause * (0.75 + 0.5 * jitter));
}

SeRecovery
se_recovery(const SeAmbiguity *a)
{
	/*
	 * A tenth of the lifetime is kept as a margin: the vendor's clock started before ours stopped,
	 * and a request that arrives as the key dies is executed a second time.
	 */
	if (a->takes_key && a->since_first_claim_ms < a->key_lifetime_ms - a->key_lifetime_ms / 10)
		return SE_RECOVER_REPEAT;
	if (a->has_lookup && a->creates)
		return SE_RECOVER_LOOKUP;
	if (!a->creates)
		return SE_RECOVER_RESEND;
	return SE_RECOVER_PERSON;
}
