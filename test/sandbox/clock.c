/*
 * clock.c
 *		The sandbox's own time: it can be set, advanced and frozen.
 *
 * It follows the wall clock at an offset. Callers hold the state lock when they
 * change it; a reader without the lock may see the old or the new time, never
 * a torn one.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "clock.h"

static atomic_int_fast64_t offset_ms;
static atomic_int_fast64_t frozen_ms;
static atomic_bool frozen;
static _Thread_local int64_t override_ms;

static int64_t
wall_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t
clock_ms(void)
{
	if (override_ms != 0)
		return override_ms;
	if (atomic_load(&frozen))
		return atomic_load(&frozen_ms);
	return wall_ms() + atomic_load(&offset_ms);
}

int64_t
clock_seconds(void)
{
	return clock_ms() / 1000;
}

void
clock_set(int64_t ms)
{
	atomic_store(&offset_ms, ms - wall_ms());
	atomic_store(&frozen_ms, ms);
}

void
clock_freeze(bool freeze)
{
	int64_t now = clock_ms();

	clock_set(now);
	atomic_store(&frozen, freeze);
}

bool
clock_is_frozen(void)
{
	return atomic_load(&frozen);
}

void
clock_override(int64_t ms)
{
	override_ms = ms;
}

/* As in 2026-01-02T03:04:05.678Z. */
void
clock_format(int64_t ms, char *out, size_t size)
{
	time_t seconds = (time_t) (ms / 1000);
	struct tm tm;
	char date[32];

	gmtime_r(&seconds, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out, size, "%s.%03dZ", date, (int) (ms % 1000));
}

/* "2026-01-02T03:04:05[.678][Z]" or epoch milliseconds. */
bool
clock_parse(const char *text, int64_t *ms)
{
	struct tm tm = {0};
	int year, month, millis = 0;
	int fields = sscanf(text, "%d-%d-%dT%d:%d:%d.%3d", &year, &month, &tm.tm_mday, &tm.tm_hour,
						&tm.tm_min, &tm.tm_sec, &millis);
	char *end;

	if (fields >= 6)
	{
		tm.tm_year = year - 1900;
		tm.tm_mon = month - 1;
		*ms = (int64_t) timegm(&tm) * 1000 + millis;
		return true;
	}
	*ms = strtoll(text, &end, 10);
	return *text != '\0' && *end == '\0';
}
