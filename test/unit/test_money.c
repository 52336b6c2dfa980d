/*
 * test_money.c
 *		Exact decimal shifts, currencies, HTTP dates.
 */
#include "tap.h"

#include "../../src/connector/money.c"

static void
shift(const char *text, int places, bool integer, const char *expected)
{
	char out[500];
	char name[700];

	snprintf(name, sizeof(name), "%s by %d", text, places);
	if (ok(se_decimal_shift(text, places, integer, out, sizeof(out)) == SE_SHIFT_OK, name))
		is_str(out, expected, "  is exact");
}

static void
refuse(const char *text, int places, bool integer, SeShift why)
{
	char out[500];

	is_int(se_decimal_shift(text, places, integer, out, sizeof(out)), why, text);
}

static void
test_shift(void)
{
	char long_number[400];

	shift("19.99", 2, true, "1999");
	shift("0.29", 2, true, "29"); /* 28.999… in binary */
	shift("1.005", 3, true, "1005");
	shift("980.00", 0, true, "980");
	shift("-0.01", 2, true, "-1");
	shift("-0.00", 2, true, "0");
	shift("007", 0, true, "7");
	shift("123456789012345678901234567890.12", 2, true, "12345678901234567890123456789012");
	shift("1999", -2, false, "19.99");
	shift("5", -2, false, "0.05");
	shift("0", -3, false, "0.000");
	shift("100000", -3, false, "100.000");
	shift("-5", -3, false, "-0.005");
	shift("12.5", -2, false, "0.125");
	shift("1.2345", 2, false, "123.45");
	shift("+7", 1, true, "70");
	shift(".5", 1, true, "5");
	refuse("19.999", 2, true, SE_SHIFT_FRACTION);
	refuse("0.5", 0, true, SE_SHIFT_FRACTION);
	refuse("", 2, true, SE_SHIFT_NOT_NUMBER);
	refuse("-", 2, true, SE_SHIFT_NOT_NUMBER);
	refuse("1e5", 2, true, SE_SHIFT_NOT_NUMBER);
	refuse("1.2.3", 2, true, SE_SHIFT_NOT_NUMBER);
	refuse("NaN", 2, true, SE_SHIFT_NOT_NUMBER);
	refuse("1,000.00", 2, true, SE_SHIFT_NOT_NUMBER);
	memset(long_number, '9', sizeof(long_number) - 1);
	long_number[sizeof(long_number) - 1] = '\0';
	refuse(long_number, 2, true, SE_SHIFT_TOO_LONG);
}

static void
test_currencies(void)
{
	is_int(se_iso_minor_units("USD"), 2, "USD");
	is_int(se_iso_minor_units("JPY"), 0, "JPY");
	is_int(se_iso_minor_units("BHD"), 3, "BHD");
	is_int(se_iso_minor_units("CLF"), 4, "CLF");
	is_int(se_iso_minor_units("MGA"), 2, "MGA");
	is_int(se_iso_minor_units("usd"), -1, "lower case is none");
	is_int(se_iso_minor_units("XXX"), -1, "XXX is none");
	is_int(se_iso_minor_units(" US"), -1, "a piece of the list is none");
	is_int(se_iso_minor_units(""), -1, "empty is none");
}

static void
test_dates(void)
{
	int64_t at = 0;

	ok(se_parse_http_date("Thu, 01 Jan 1970 00:00:00 GMT", &at) && at == 0, "the epoch");
	ok(se_parse_http_date("Sat, 31 Jan 2026 23:30:00 GMT", &at) && at == 1769902200,
	   "a day of ours");
	ok(se_parse_http_date("Thu, 29 Feb 2024 12:00:00 GMT", &at) && at == 1709208000, "a leap day");
	ok(!se_parse_http_date("120", &at), "a number is none");
	ok(!se_parse_http_date("Sat, 31 Jan 2026 23:30:00 CET", &at), "another zone is none");
	ok(!se_parse_http_date("Sat, 31 anJ 2026 23:30:00 GMT", &at), "another month is none");
	ok(!se_parse_http_date("Sat, 31 Jan 2026 24:30:00 GMT", &at), "another hour is none");
	ok(!se_parse_http_date("", &at), "empty is none");
}

int
main(void)
{
	test_shift();
	test_currencies();
	test_dates();
	return done_testing();
}
