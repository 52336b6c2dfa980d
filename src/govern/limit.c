/*
 * limit.c: token bucket. See limit.h.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "govern/limit.h"

/* One burst is a tenth of a second's worth, at least one: vendors count in short windows too. */
static double
capacity(const SeLimit *limit)
{
	double per_100ms = (double) limit->rate * 100000.0 / (double) limit->per_us;

	return per_100ms < 1.0 ? 1.0 : per_100ms;
}

static void
refill(SeLimit *limit, int64_t now_us)
{
	double cap = capacity(limit);

	if (now_us > limit->refilled_at)
		limit->tokens +=
			(double) (now_us - limit->refilled_at) * (double) limit->rate / (double) limit->per_us;
	if (limit->tokens > cap)
		limit->tokens = cap;
	limit->refilled_at = now_us;
}

void
se_limit_set(SeLimit *limit, int rate, int64_t per_us, int64_t now_us)
{
	if (limit->rate == rate && limit->per_us == per_us)
		return;
	limit->rate = rate;
	limit->per_us = per_us > 0 ? per_us : 1;
	limit->refilled_at = now_us;
	if (rate > 0 && limit->tokens == 0)
		limit->tokens = 1.0;
}

int
se_limit_available(SeLimit *limit, int64_t now_us)
{
	if (limit->rate <= 0)
		return INT32_MAX;
	refill(limit, now_us);
	return (int) limit->tokens;
}

void
se_limit_take(SeLimit *limit, int n)
{
	if (limit->rate > 0)
		limit->tokens -= n;
}

int64_t
se_limit_wait(SeLimit *limit, int64_t now_us)
{
	if (limit->rate <= 0)
		return 0;
	refill(limit, now_us);
	if (limit->tokens >= 1.0)
		return 0;
	return (int64_t) ((1.0 - limit->tokens) * (double) limit->per_us / (double) limit->rate) + 1;
}

bool
se_limit_parse(const char *text, int *rate, int64_t *per_us)
{
	static const struct
	{
		const char *unit;
		int64_t us;
	} units[] = {
		{"s", INT64_C(1000000)},
		{"min", INT64_C(60000000)},
		{"h", INT64_C(3600000000)},
		{"d", INT64_C(86400000000)},
	};
	char *end;
	long n = strtol(text, &end, 10);

	if (end == text || n <= 0 || n > 1000000 || *end != '/')
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
	{
		if (strcmp(end + 1, units[i].unit) == 0)
		{
			*rate = (int) n;
			*per_us = units[i].us;
			return true;
		}
	}
	return false;
}
