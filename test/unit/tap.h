/*
 * tap.h
 *		The little that a unit test needs to print TAP.
 *
 * Usage: call ok(), is_int(), is_str() as often as needed, then return
 * done_testing() from main.
 */
#ifndef SYNC_EXT_TAP_H
#define SYNC_EXT_TAP_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int tap_count;
static int tap_failures;

static bool
ok(bool good, const char *name)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++tap_count, name);
	if (!good)
		tap_failures++;
	fflush(stdout);
	return good;
}

static bool
is_int(int64_t got, int64_t expected, const char *name)
{
	bool good = ok(got == expected, name);

	if (!good)
		fprintf(stderr, "# %s: got %" PRId64 ", expected %" PRId64 "\n", name, got, expected);
	return good;
}

static bool
is_str(const char *got, const char *expected, const char *name)
{
	bool good = (got == NULL || expected == NULL) ? got == expected : strcmp(got, expected) == 0;

	ok(good, name);
	if (!good)
		fprintf(stderr, "# %s: got \"%s\", expected \"%s\"\n", name, got ? got : "(null)",
				expected ? expected : "(null)");
	return good;
}

static int
done_testing(void)
{
	printf("1..%d\n", tap_count);
	return tap_failures == 0 ? 0 : 1;
}

#endif
