/*
 * test_govern.c
 *		Rate limit, circuit breaker, retry and what to do about ambiguity.
 */
#include "tap.h"

#include "../../src/govern/breaker.c"
#include "../../src/govern/limit.c"
#include "../../src/govern/retry.c"

#define SECOND INT64_C(1000000)

static void
test_limit_parse(void)
{
	static const char *const bad[] = {"",		 "10",	"10/",	 "0/s",		 "-1/s",
									  "10/week", "x/s", "10 /s", "9999999/s"};
	int rate = 0;
	int64_t per = 0;

	ok(se_limit_parse("25/s", &rate, &per) && rate == 25 && per == SECOND, "25/s");
	ok(se_limit_parse("60/min", &rate, &per) && rate == 60 && per == 60 * SECOND, "60/min");
	ok(se_limit_parse("5000/d", &rate, &per) && per == 86400 * SECOND, "5000/d");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok(!se_limit_parse(bad[i], &rate, &per), bad[i]);
}

/* However requests are asked for, a window never holds more than the rate and one burst. */
static void
test_limit_window(void)
{
	SeLimit limit = {0};
	int64_t now = 0;
	int sent = 0;

	se_limit_set(&limit, 10, SECOND, now);
	for (; now < 10 * SECOND; now += 1000)
	{
		int n = se_limit_available(&limit, now);

		se_limit_take(&limit, n);
		sent += n;
	}
	ok(sent >= 99 && sent <= 101, "10/s gives 100 in ten seconds");
	ok(se_limit_wait(&limit, now) <= SECOND / 10, "the next one is at most a tenth away");
	now += 3600 * SECOND;
	is_int(se_limit_available(&limit, now), 1, "an idle hour saves up one burst, not an hour's");
	se_limit_take(&limit, 1);
	is_int(se_limit_available(&limit, now), 0, "and then it is empty");
	se_limit_set(&limit, 0, SECOND, now);
	is_int(se_limit_available(&limit, now), INT32_MAX, "no rate: no limit");
	is_int(se_limit_wait(&limit, now), 0, "and no wait");
}

static void
test_limit_clock(void)
{
	SeLimit limit = {0};

	se_limit_set(&limit, 100, SECOND, 5 * SECOND);
	se_limit_take(&limit, se_limit_available(&limit, 6 * SECOND));
	is_int(se_limit_available(&limit, 2 * SECOND), 0, "a clock set back gives nothing");
	ok(se_limit_available(&limit, 3 * SECOND) > 0, "and it goes on from there");
}

static void
test_breaker(void)
{
	SeBreaker b = {0};
	int64_t now = SECOND;
	int64_t first;

	is_int(se_breaker_allows(&b, now), INT32_MAX, "closed: all may go");
	for (int i = 1; i < SE_BREAKER_THRESHOLD; i++)
		se_breaker_failure(&b, now, 0);
	is_int(se_breaker_allows(&b, now), INT32_MAX, "still closed below the threshold");
	se_breaker_success(&b);
	for (int i = 1; i < SE_BREAKER_THRESHOLD; i++)
		se_breaker_failure(&b, now, 0);
	is_int(se_breaker_allows(&b, now), INT32_MAX, "a success begins the count again");
	se_breaker_failure(&b, now, 0);
	is_int(se_breaker_allows(&b, now), 0, "open at the threshold");
	first = se_breaker_wait(&b, now);
	is_int(first, SE_BREAKER_PAUSE_US, "for the first pause");
	for (int i = 0; i < 20; i++)
		se_breaker_failure(&b, now, 0);
	is_int(se_breaker_wait(&b, now), first, "what was out when it opened does not lengthen it");
	now += first;
	is_int(se_breaker_allows(&b, now), 1, "then one probe");
	se_breaker_sent(&b);
	is_int(se_breaker_allows(&b, now), 0, "and only one");
	is_int(se_breaker_wait(&b, now), -1, "until it has ended");
	se_breaker_failure(&b, now, 0);
	is_int(se_breaker_wait(&b, now), 2 * first, "a failed probe doubles the pause");
	for (int i = 0; i < 30; i++)
	{
		now += se_breaker_wait(&b, now);
		(void) se_breaker_allows(&b, now);
		se_breaker_sent(&b);
		se_breaker_failure(&b, now, 0);
	}
	is_int(se_breaker_wait(&b, now), SE_BREAKER_PAUSE_MAX_US, "up to a limit");
	now += SE_BREAKER_PAUSE_MAX_US;
	(void) se_breaker_allows(&b, now);
	se_breaker_sent(&b);
	se_breaker_success(&b);
	is_int(se_breaker_allows(&b, now), INT32_MAX, "a good probe closes it");
}

static void
test_backoff(void)
{
	is_int(se_retry_backoff_ms(1, 0.5), 1000, "first pause");
	is_int(se_retry_backoff_ms(2, 0.5), 2000, "second");
	is_int(se_retry_backoff_ms(5, 0.5), 16000, "fifth");
	is_int(se_retry_backoff_ms(9, 0.5), 256000, "ninth");
	is_int(se_retry_backoff_ms(10, 0.5), 300000, "limit");
	is_int(se_retry_backoff_ms(1000, 0.5), 300000, "limit for ever");
	is_int(se_retry_backoff_ms(1, 0.0), 750, "jitter, low");
	is_int(se_retry_backoff_ms(1, 1.0), 1250, "jitter, high");
}

static void
test_recovery(void)
{
	SeAmbiguity a = {.takes_key = true,
					 .key_lifetime_ms = 86400000,
					 .since_first_claim_ms = 60000,
					 .creates = true,
					 .has_lookup = true};

	is_int(se_recovery(&a), SE_RECOVER_REPEAT, "young key: repeat");
	a.since_first_claim_ms = 86400000 - 86400000 / 20;
	is_int(se_recovery(&a), SE_RECOVER_LOOKUP, "key about to die: look up");
	a.has_lookup = false;
	is_int(se_recovery(&a), SE_RECOVER_PERSON, "dead key and nothing to ask: a person");
	a.creates = false;
	is_int(se_recovery(&a), SE_RECOVER_RESEND, "setting a state again does no harm");
	a.has_lookup = true;
	is_int(se_recovery(&a), SE_RECOVER_RESEND, "and needs no look-up");
	a.creates = true;
	a.takes_key = false;
	a.since_first_claim_ms = 0;
	is_int(se_recovery(&a), SE_RECOVER_LOOKUP, "no key: look up at once");
}

int
main(void)
{
	test_limit_parse();
	test_limit_window();
	test_limit_clock();
	test_breaker();
	test_backoff();
	test_recovery();
	return done_testing();
}
