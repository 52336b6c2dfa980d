/*
 * clock.c
 *		The sandbox's own time: it can be set, advanced and frozen.
 *
 * It follows the wall clock at an offset. Callers hold the state lock when they
 * change it; a reader without the lock may see the old or the new time, never
 * a torn one.
 */
#include <stdatomic.h>
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
	int64_t		now = clock_ms();

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
