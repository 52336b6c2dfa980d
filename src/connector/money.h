/*
 * money.h
 *		Exact decimal text arithmetic, ISO 4217 digits, HTTP dates. No server,
 *		no binary floats.
 */
#ifndef SE_MONEY_H
#define SE_MONEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Minor-unit digits of a currency (three capitals); -1 when ISO 4217 does not know it. */
extern int se_iso_minor_units(const char *currency);

typedef enum SeShift
{
	SE_SHIFT_OK,
	SE_SHIFT_NOT_NUMBER,
	SE_SHIFT_TOO_LONG,
	SE_SHIFT_FRACTION /* digits would be lost */
} SeShift;

/*
 * Multiply decimal text by 10^places, exactly. integer: refuse a result with
 * a fraction other than zero. A negative shift keeps -places decimals at least
 * (1000 by -2 is 10.00).
 */
extern SeShift se_decimal_shift(const char *text, int places, bool integer, char *out, size_t size);

/* IMF-fixdate, as in Date and Retry-After, to seconds since 1970; false when it is none. */
extern bool se_parse_http_date(const char *text, int64_t *seconds);

#endif /* SE_MONEY_H */
