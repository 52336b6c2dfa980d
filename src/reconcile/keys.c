/*
 * keys.c: the key of a row out of a record id, without an error for what is none.
 *
 * A record id may be of before a table's key was changed, or somebody's mistake. It finds no row, and that is
 * for the comparison to say of that record alone: a cast that fails would end it for all.
 */
#include "postgres.h"

#include "common/int.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

extern PGDLLEXPORT Datum se_whole_number(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_key_part(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_whole_number);
PG_FUNCTION_INFO_V1(se_key_part);

/* sync._whole_number(text): the bigint that is written so by the server, else NULL. */
Datum
se_whole_number(PG_FUNCTION_ARGS)
{
	text *in = PG_GETARG_TEXT_PP(0);
	const char *s = VARDATA_ANY(in);
	int len = VARSIZE_ANY_EXHDR(in);
	bool minus = len > 0 && s[0] == '-';
	int first = minus ? 1 : 0;
	int64 value = 0; /* negative, because there is one more of those */

	/* no sign alone, no zeros before it, no -0 */
	if (len == first || (s[first] == '0' && len > 1))
		PG_RETURN_NULL();
	for (int i = first; i < len; i++)
	{
		if (s[i] < '0' || s[i] > '9' || pg_mul_s64_overflow(value, 10, &value) ||
			pg_sub_s64_overflow(value, s[i] - '0', &value))
			PG_RETURN_NULL();
	}
	if (!minus && pg_sub_s64_overflow(0, value, &value))
		PG_RETURN_NULL();
	PG_RETURN_INT64(value);
}

static int
hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The character behind a backslash at *s, which then points at its last byte; -1: the server writes none so. */
static int
escaped(const char **s, const char *end)
{
	static const char from[] = "\"\\bfnrt";
	static const char to[] = "\"\\\b\f\n\r\t";
	const char *known;

	if (++*s == end)
		return -1;
	if (**s == 'u')
	{
		int high = end - *s > 4 ? hex_digit((*s)[3]) : -1;
		int low = high < 0 ? -1 : hex_digit((*s)[4]);

		if (low < 0 || (*s)[1] != '0' || (*s)[2] != '0')
			return -1;
		*s += 4;
		return high << 4 | low;
	}
	known = memchr(from, **s, sizeof(from) - 1);
	return known != NULL ? to[known - from] : -1;
}

/* A string of a JSON document at s, as the server writes it; where it ends, NULL: there is none. */
static const char *
read_string(const char *s, const char *end, StringInfo out)
{
	if (s == end || *s++ != '"')
		return NULL;
	for (; s < end && *s != '"'; s++)
	{
		int c = *s == '\\' ? escaped(&s, end) : (unsigned char) *s;

		if (c <= 0)
			return NULL;
		appendStringInfoChar(out, (char) c);
	}
	return s < end ? s + 1 : NULL;
}

/* sync._key_part(record_id, place, columns): ids of several columns are arrays of their texts. */
Datum
se_key_part(PG_FUNCTION_ARGS)
{
	text *in = PG_GETARG_TEXT_PP(0);
	int place = PG_GETARG_INT32(1);
	int columns = PG_GETARG_INT32(2);
	const char *s = VARDATA_ANY(in);
	const char *end = s + VARSIZE_ANY_EXHDR(in);
	StringInfoData part;
	text *found = NULL;

	initStringInfo(&part);
	if (s == end || *s++ != '[')
		PG_RETURN_NULL();
	for (int i = 1; i <= columns; i++)
	{
		if (i > 1 && (end - s < 2 || *s++ != ',' || *s++ != ' '))
			PG_RETURN_NULL();
		resetStringInfo(&part);
		s = read_string(s, end, &part);
		if (s == NULL)
			PG_RETURN_NULL();
		if (i == place)
			found = cstring_to_text_with_len(part.data, part.len);
	}
	if (found == NULL || end - s != 1 || *s != ']')
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(found);
}
