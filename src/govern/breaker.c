/*
 * breaker.c: circuit breaker. See breaker.h.
 */
#include "govern/breaker.h"

int
se_breaker_allows(SeBreaker *breaker, int64_t now_us)
{
	switch (breaker->state)
	{
		case SE_BREAKER_CLOSED:
			return INT32_MAX;
		case SE_BREAKER_OPEN:
			if (now_us < breaker->until)
				return 0;
			breaker->state = SE_BREAKER_HALF_OPEN;
			breaker->probing = false;
			return 1;
		case SE_BREAKER_HALF_OPEN:
			return breaker->probing ? 0 : 1;
	}
	return 0;
}

void
se_breaker_sent(SeBreaker *breaker)
{
	if (breaker->state == SE_BREAKER_HALF_OPEN)
		breaker->probing = true;
}

void
se_breaker_success(SeBreaker *breaker)
{
	breaker->state = SE_BREAKER_CLOSED;
	breaker->failures = 0;
	breaker->opened = 0;
	breaker->probing = false;
}

void
se_breaker_failure(SeBreaker *breaker, int64_t now_us, double jitter)
{
	int64_t pause = SE_BREAKER_PAUSE_US;

	breaker->failures++;
	breaker->probing = false;
	if (breaker->state == SE_BREAKER_CLOSED && breaker->failures < SE_BREAKER_THRESHOLD)
		return;
	/* Requests that were out when it opened also fail: they say nothing new. */
	if (breaker->state == SE_BREAKER_OPEN)
		return;
	for (int i = 0; i < breaker->opened && pause < SE_BREAKER_PAUSE_MAX_US; i++)
		pause *= 2;
	if (pause > SE_BREAKER_PAUSE_MAX_US)
		pause = SE_BREAKER_PAUSE_MAX_US;
	breaker->opened++;
	breaker->state = SE_BREAKER_OPEN;
	breaker->until = now_us + pause + (int64_t) ((double) pause * 0.25 * jitter);
}

int64_t
se_breaker_wait(const SeBreaker *breaker, int64_t now_us)
{
	if (breaker->state == SE_BREAKER_OPEN)
		return breaker->until > now_us ? breaker->until - now_us : 0;
	if (breaker->state == SE_BREAKER_HALF_OPEN && breaker->probing)
		return -1;
	return 0;
}
