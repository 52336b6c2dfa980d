/*
 * http_tap.h
 *		The little of TAP that the tests of src/http need.
 */
#ifndef HTTP_TAP_H
#define HTTP_TAP_H

#include <stdarg.h>
#include <stdio.h>

static int tap_count;
static int tap_failed;

__attribute__((format(printf, 2, 3))) static int
ok(int passed, const char *fmt, ...)
{
	va_list args;

	if (!passed)
		tap_failed++;
	printf("%sok %d - ", passed ? "" : "not ", ++tap_count);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	return passed;
}

static int
tap_done(void)
{
	printf("1..%d\n", tap_count);
	return tap_failed ? 1 : 0;
}

#endif /* HTTP_TAP_H */
