/*
 * money.c
 *		Exact decimal text arithmetic, ISO 4217 digits, HTTP dates.
 *
 * Plain C on text, so that tests include this file without a server and no
 * amount ever meets a binary float.
 */
#include "connector/money.h"

#include <stdio.h>
#include <string.h>

/* ISO 4217 as of 2026, without funds and precious metals; a space around each code. */
static const char no_digits[] =
	" BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF ";
static const char two_digits[] =
	" AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD"
	" CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD"
	" HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD"
	" MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON"
	" RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD"
	" TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG ";
static const char three_digits[] = " BHD IQD JOD KWD LYD OMR TND ";
static const char four_digits[] = " CLF UYW ";

int
se_iso_minor_units(const char *currency)
{
	char needle[6];

	if (strlen(currency) != 3 || strspn(currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != 3)
		return -1;
	snprintf(needle, sizeof(needle), " %s ", currency);
	if (strstr(two_digits, needle))
		return 2;
	if (strstr(no_digits, needle))
		return 0;
	if (strstr(three_digits, needle))
		return 3;
	if (strstr(four_digits, needle))
		return 4;
	return -1;
}

/* Split text into sign, digits and the position of the point; false when it is no decimal. */
static bool
split_decimal(const char *text, bool *negative, char *digits, size_t size, size_t *ndigits,
			  size_t *nfraction)
{
	bool point = false;

	*negative = (*text == '-');
	if (*text == '-' || *text == '+')
		text++;
	*ndigits = *nfraction = 0;
	for (; *text; text++)
	{
		if (*text == '.' && !point)
			point = true;
		else if (*text >= '0' && *text <= '9' && *ndigits < size)
		{
			digits[(*ndigits)++] = *text;
			if (point)
				(*nfraction)++;
		}
		else
			return false;
	}
	return *ndigits > 0;
}

SeShift
se_decimal_shift(const char *text, int places, bool integer, char *out, size_t size)
{
	char digits[400];
	bool negative;
	size_t n, fraction, whole, i, o = 0;
	bool zero = true;

	if (strlen(text) > 300 || places > 60 || places < -60)
		return SE_SHIFT_TOO_LONG;
	if (!split_decimal(text, &negative, digits, sizeof(digits), &n, &fraction))
		return SE_SHIFT_NOT_NUMBER;

	/* Append the zeros that the new point needs behind it, then move it. */
	while (places > 0 && fraction < (size_t) places)
		digits[n++] = '0', fraction++;
	if (places >= 0)
		fraction -= places;
	else
		fraction += (size_t) -places;
	if (fraction >= n)
	{
		/* 0.05: the point stands before the first digit we have */
		size_t pad = fraction - n + 1;

		memmove(digits + pad, digits, n);
		memset(digits, '0', pad);
		n += pad;
	}
	whole = n - fraction;

	for (i = whole; i < n; i++)
		if (integer && digits[i] != '0')
			return SE_SHIFT_FRACTION;
	if (integer)
		n = whole;
	for (i = 0; i < n; i++)
		if (digits[i] != '0')
			zero = false;
	if (n + 3 > size)
		return SE_SHIFT_TOO_LONG;

	if (negative && !zero)
		out[o++] = '-';
	for (i = 0; i + 1 < whole && digits[i] == '0'; i++)
		;
	for (; i < whole; i++)
		out[o++] = digits[i];
	if (n > whole)
	{
		out[o++] = '.';
		for (; i < n; i++)
			out[o++] = digits[i];
	}
	out[o] = '\0';
	return SE_SHIFT_OK;
}

bool
se_parse_http_date(const char *text, int64_t *seconds)
{
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	char day_name[4], month[4], rest[4];
	int day, year, hour, minute, second, m;
	const char *found;
	int64_t y, era, yoe, doy, doe;

	if (sscanf(text, "%3[A-Za-z], %2d %3[A-Za-z] %4d %2d:%2d:%2d %3s", day_name, &day, month, &year,
			   &hour, &minute, &second, rest) != 8)
		return false;
	found = strstr(months, month);
	if (strlen(month) != 3 || found == NULL || (found - months) % 3 != 0 ||
		strcmp(rest, "GMT") != 0)
		return false;
	if (day < 1 || day > 31 || year < 1970 || year > 9999 || hour < 0 || hour > 23 || minute < 0 ||
		minute > 59 || second < 0 || second > 60)
		return false;

	/* Days since 1970-01-01 in the proleptic Gregorian calendar, years beginning in March. */
	m = (int) (found - months) / 3 + 1;
	y = year - (m <= 2);
	era = y / 400;
	yoe = y - era * 400;
	doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
	*seconds = (era * 146097 + doe - 719468) * 86400 + hour * 3600 + minute * 60 + second;
	return true;
}
