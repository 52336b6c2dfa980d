/*
 * cast.c
 *		Casts of the manifest language.
 *
 * Money is moved between major and minor units as decimal text; instants and
 * days go through the server's own calendar with a named zone. A value that
 * cannot be said exactly is an error of the record, never rounded.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/base64.h"
#include "connector/expr.h"
#include "connector/money.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/formatting.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

typedef enum SeCast
{
	CAST_STRING,
	CAST_NUMBER,
	CAST_INTEGER,
	CAST_BOOLEAN,
	CAST_MINOR,
	CAST_MINOR_DECIMAL,
	CAST_MAJOR,
	CAST_EPOCH,
	CAST_EPOCH_MS,
	CAST_FROM_EPOCH,
	CAST_FROM_EPOCH_MS,
	CAST_TIMESTAMP,
	CAST_FORMAT,
	CAST_HTTP_DATE,
	CAST_FROM_HTTP_DATE,
	CAST_DATE,
	CAST_DATE_IN_ZONE,
	CAST_LAST_DATE_IN_ZONE,
	CAST_DAY_START,
	CAST_DAY_END,
	CAST_YEAR,
	CAST_MONTH,
	CAST_DAY,
	CAST_DATE_PARTS,
	CAST_TIMESTAMP_PARTS,
	CAST_FROM_PARTS,
	CAST_UPPER,
	CAST_LOWER,
	CAST_TRIM,
	CAST_BASE64,
	CAST_JSON,
	CAST_FROM_JSON,
	CAST_ESCAPE_QUOTES,
	CAST_FIRST_LINE,
	CAST_OTHER_LINES
} SeCast;

static const struct
{
	const char *name;
	SeCast cast;
} cast_names[] = {{"string", CAST_STRING},
				  {"number", CAST_NUMBER},
				  {"integer", CAST_INTEGER},
				  {"boolean", CAST_BOOLEAN},
				  {"minor", CAST_MINOR},
				  {"minor_decimal", CAST_MINOR_DECIMAL},
				  {"major", CAST_MAJOR},
				  {"epoch", CAST_EPOCH},
				  {"epoch_ms", CAST_EPOCH_MS},
				  {"from_epoch", CAST_FROM_EPOCH},
				  {"from_epoch_ms", CAST_FROM_EPOCH_MS},
				  {"timestamp", CAST_TIMESTAMP},
				  {"format", CAST_FORMAT},
				  {"http_date", CAST_HTTP_DATE},
				  {"from_http_date", CAST_FROM_HTTP_DATE},
				  {"date", CAST_DATE},
				  {"date_in_zone", CAST_DATE_IN_ZONE},
				  {"last_date_in_zone", CAST_LAST_DATE_IN_ZONE},
				  {"day_start", CAST_DAY_START},
				  {"day_end", CAST_DAY_END},
				  {"year", CAST_YEAR},
				  {"month", CAST_MONTH},
				  {"day", CAST_DAY},
				  {"date_parts", CAST_DATE_PARTS},
				  {"timestamp_parts", CAST_TIMESTAMP_PARTS},
				  {"from_parts", CAST_FROM_PARTS},
				  {"upper", CAST_UPPER},
				  {"lower", CAST_LOWER},
				  {"trim", CAST_TRIM},
				  {"base64", CAST_BASE64},
				  {"json", CAST_JSON},
				  {"from_json", CAST_FROM_JSON},
				  {"escape_quotes", CAST_ESCAPE_QUOTES},
				  {"first_line", CAST_FIRST_LINE},
				  {"other_lines", CAST_OTHER_LINES}};

int
se_cast_by_name(const char *name)
{
	int i;

	for (i = 0; i < lengthof(cast_names); i++)
		if (strcmp(cast_names[i].name, name) == 0)
			return cast_names[i].cast;
	return -1;
}

static JsonbValue *
bad_value(SeEval *ev, const char *code, const char *text, const char *reason)
{
	se_eval_fail(ev, code, "value \"%s\" %s", text, reason);
	return NULL;
}

/* ---- numbers and money ---- */

/* Decimal text of a number or of a string that holds one; NULL after a failure. */
static char *
decimal_of(SeEval *ev, JsonbValue *v)
{
	char *text = jv_text(v);
	char plain[400];

	if (text && (v->type == jbvNumeric || v->type == jbvString) &&
		se_decimal_shift(text, 0, false, plain, sizeof(plain)) == SE_SHIFT_OK)
		return text[0] == '+' ? text + 1 : text;
	bad_value(ev, "not_a_number", text ? text : "", "is not a number");
	return NULL;
}

static JsonbValue *
shifted(SeEval *ev, const char *text, int places, bool integer, const char *unit)
{
	char out[500];

	switch (se_decimal_shift(text, places, integer, out, sizeof(out)))
	{
		case SE_SHIFT_OK:
			return jv_numeric(out);
		case SE_SHIFT_FRACTION:
			se_eval_fail(ev, "not_representable", "amount %s cannot be said in whole %s", text,
						 unit);
			return NULL;
		default:
			return bad_value(ev, "not_a_number", text, "is not a number");
	}
}

/* Digits of the currency that the option names; the vendor's deviations come first. */
static int
currency_digits(SeEval *ev, const SeExpr *x, char **currency)
{
	JsonbValue *own;
	int digits;
	char *code = x->opt->currency ? se_eval_text(ev, x->opt->currency) : NULL;
	char *p;

	if (ev->status != SE_RENDER_OK)
		return -1;
	if (code == NULL)
	{
		se_eval_fail(ev, "no_currency", "the amount has no currency");
		return -1;
	}
	for (p = code; *p; p++)
		*p = pg_ascii_toupper((unsigned char) *p);
	*currency = code;
	own = ev->m->minor_units ? jv_get(jv_from_jsonb(ev->m->minor_units), code) : NULL;
	if (own)
		return atoi(jv_text(own));
	digits = se_iso_minor_units(code);
	if (digits < 0)
		se_eval_fail(ev, "unknown_currency", "\"%s\" is no ISO 4217 currency", code);
	return digits;
}

/* 1999.000 → 1999: some vendors limit the decimals they read. */
static JsonbValue *
without_zeros(JsonbValue *v)
{
	return v ? jv_numeric(numeric_normalize(v->val.numeric)) : NULL;
}

static JsonbValue *
cast_money(SeEval *ev, const SeExpr *x, SeCast cast, JsonbValue *v)
{
	char *currency = NULL;
	char *text = decimal_of(ev, v);
	int digits;

	if (text == NULL)
		return NULL;
	digits = currency_digits(ev, x, &currency);
	if (digits < 0)
		return NULL;
	if (cast == CAST_MAJOR)
		return shifted(ev, text, -digits, false, currency);
	if (cast == CAST_MINOR)
		return shifted(ev, text, digits, true, psprintf("minor units of %s", currency));
	return without_zeros(shifted(ev, text, digits, false, currency));
}

static JsonbValue *
cast_boolean(SeEval *ev, JsonbValue *v)
{
	char *text = jv_text(v);
	bool value;

	if (v->type == jbvBool)
		return v;
	if (text && (v->type == jbvString || v->type == jbvNumeric) && parse_bool(text, &value))
		return jv_bool(value);
	return bad_value(ev, "not_a_boolean", text ? text : "", "is not a boolean");
}

/* ---- time ---- */

static bool
instant_of(SeEval *ev, JsonbValue *v, TimestampTz *at)
{
	char *text = jv_text(v);

	if (v->type == jbvString && se_parse_time(text, at))
		return true;
	bad_value(ev, "not_a_time", text ? text : "", "is no ISO 8601 date or time");
	return false;
}

/*
 * The zone that the option names, else the legal entity's ('entity'), else UTC.
 * A named zone that is missing is an error: a wrong accounting day is worse
 * than none.
 */
static pg_tz *
zone_of(SeEval *ev, const SeExpr *x, bool entity)
{
	char *name = "UTC";
	pg_tz *zone;

	if (x->opt->zone)
		name = se_eval_text(ev, x->opt->zone);
	else if (entity)
		name = jv_get_text(jv_get(jv_from_jsonb(ev->vars), "entity"), "timezone");
	if (ev->status != SE_RENDER_OK)
		return NULL;
	zone = name ? pg_tzset(name) : NULL;
	if (zone == NULL)
		se_eval_fail(ev, "no_zone", "%s",
					 name ? psprintf("\"%s\" is no time zone", name)
						  : "no time zone is known: name one, or set the system's legal_entity");
	return zone;
}

static bool
local_parts(SeEval *ev, TimestampTz at, pg_tz *zone, struct pg_tm *tm, fsec_t *fsec)
{
	int tz;

	if (timestamp2tm(at, &tz, tm, fsec, NULL, zone) == 0)
		return true;
	se_eval_fail(ev, "not_a_time", "time out of range");
	return false;
}

static JsonbValue *
cast_epoch(SeEval *ev, JsonbValue *v, int64 per_second)
{
	const int64 epoch = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	const int64 unit = USECS_PER_SEC / per_second;
	TimestampTz at;
	int64 usec;

	if (!instant_of(ev, v, &at))
		return NULL;
	usec = at + epoch;
	/* Round towards the past, also before 1970. */
	return jv_int(usec >= 0 ? usec / unit : -((-usec + unit - 1) / unit));
}

static JsonbValue *
cast_from_epoch(SeEval *ev, JsonbValue *v, int places)
{
	const int64 epoch = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	char *text = decimal_of(ev, v);
	char usec[500];
	int64 value;

	if (text == NULL)
		return NULL;
	if (se_decimal_shift(text, places, true, usec, sizeof(usec)) != SE_SHIFT_OK ||
		strlen(usec) > 18)
		return bad_value(ev, "not_a_time", text, "is no time since 1970");
	value = strtoll(usec, NULL, 10) - epoch;
	if (!IS_VALID_TIMESTAMP(value))
		return bad_value(ev, "not_a_time", text, "is no time since 1970");
	return jv_string(se_format_time(value));
}

/* A day is a day everywhere: text without a time stays what it is. */
static JsonbValue *
cast_date_in_zone(SeEval *ev, const SeExpr *x, JsonbValue *v, bool before)
{
	TimestampTz at;
	struct pg_tm tm;
	fsec_t fsec;
	pg_tz *zone;

	if (!instant_of(ev, v, &at))
		return NULL;
	if (v->type == jbvString && v->val.string.len == 10)
		return v;
	zone = zone_of(ev, x, true);
	/* A period that ends at midnight covers the day before. */
	if (zone == NULL || !local_parts(ev, before ? at - 1 : at, zone, &tm, &fsec))
		return NULL;
	return jv_string(psprintf("%04d-%02d-%02d", tm.tm_year, tm.tm_mon, tm.tm_mday));
}

/* First or last microsecond of a day in a zone. */
static JsonbValue *
cast_day_edge(SeEval *ev, const SeExpr *x, JsonbValue *v, bool end)
{
	TimestampTz at;
	struct pg_tm tm;
	fsec_t fsec;
	int tz;
	pg_tz *zone;

	if (!instant_of(ev, v, &at))
		return NULL;
	zone = zone_of(ev, x, true);
	if (zone == NULL)
		return NULL;
	if (v->val.string.len == 10 ? timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0
								: !local_parts(ev, at, zone, &tm, &fsec))
		return NULL;
	if (end)
		j2date(date2j(tm.tm_year, tm.tm_mon, tm.tm_mday) + 1, &tm.tm_year, &tm.tm_mon, &tm.tm_mday);
	tm.tm_hour = tm.tm_min = tm.tm_sec = 0;
	tz = DetermineTimeZoneOffset(&tm, zone);
	if (tm2timestamp(&tm, 0, &tz, &at) != 0)
		return bad_value(ev, "not_a_time", jv_text(v), "is out of range");
	return jv_string(se_format_time(end ? at - 1 : at));
}

/* Day of an instant in its zone, or the day itself; parts of it as asked for. */
static JsonbValue *
cast_parts(SeEval *ev, const SeExpr *x, SeCast cast, JsonbValue *v)
{
	JsonbParseState *state = NULL;
	TimestampTz at;
	struct pg_tm tm;
	fsec_t fsec;
	pg_tz *zone;

	if (!instant_of(ev, v, &at) || (zone = zone_of(ev, x, false)) == NULL)
		return NULL;
	if (v->val.string.len == 10)
		zone = pg_tzset("UTC");
	if (!local_parts(ev, at, zone, &tm, &fsec))
		return NULL;
	if (cast == CAST_YEAR)
		return jv_int(tm.tm_year);
	if (cast == CAST_MONTH)
		return jv_int(tm.tm_mon);
	if (cast == CAST_DAY)
		return jv_int(tm.tm_mday);

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_push_member(&state, "year", jv_int(tm.tm_year));
	jv_push_member(&state, "month", jv_int(tm.tm_mon));
	jv_push_member(&state, "day", jv_int(tm.tm_mday));
	if (cast == CAST_TIMESTAMP_PARTS)
	{
		jv_push_member(&state, "hour", jv_int(tm.tm_hour));
		jv_push_member(&state, "minute", jv_int(tm.tm_min));
		jv_push_member(&state, "second", jv_int(tm.tm_sec));
		jv_push_member(&state, "microsecond", jv_int(fsec));
	}
	return jv_from_jsonb(jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

static bool
part(JsonbValue *v, const char *key, int least, int most, int *out)
{
	char *text = jv_get_text(v, key);

	*out = least == 1 ? 1 : 0;
	if (text == NULL)
		return true;
	*out = atoi(text);
	return strspn(text, "0123456789") == strlen(text) && *out >= least && *out <= most;
}

/* {"year", "month", "day"} is a day; with "hour" (…"microsecond") an instant in the zone. */
static JsonbValue *
cast_from_parts(SeEval *ev, const SeExpr *x, JsonbValue *v)
{
	struct pg_tm tm = {0};
	int usec, tz;
	pg_tz *zone;
	TimestampTz at;

	if (!JV_IS_OBJECT(v) || !part(v, "year", 1, 9999, &tm.tm_year) ||
		!part(v, "month", 1, 12, &tm.tm_mon) || !part(v, "day", 1, 31, &tm.tm_mday) ||
		!part(v, "hour", 0, 23, &tm.tm_hour) || !part(v, "minute", 0, 59, &tm.tm_min) ||
		!part(v, "second", 0, 59, &tm.tm_sec) || !part(v, "microsecond", 0, 999999, &usec) ||
		ValidateDate(DTK_DATE_M, false, false, false, &tm) != 0)
		return bad_value(ev, "not_a_time", jv_text(v), "has no valid date parts");
	if (jv_get(v, "hour") == NULL)
		return jv_string(psprintf("%04d-%02d-%02d", tm.tm_year, tm.tm_mon, tm.tm_mday));
	zone = zone_of(ev, x, false);
	if (zone == NULL)
		return NULL;
	tz = DetermineTimeZoneOffset(&tm, zone);
	if (tm2timestamp(&tm, usec, &tz, &at) != 0)
		return bad_value(ev, "not_a_time", jv_text(v), "is out of range");
	return jv_string(se_format_time(at));
}

static JsonbValue *
cast_format(SeEval *ev, const SeExpr *x, JsonbValue *v, const char *pattern)
{
	TimestampTz at;
	struct pg_tm tm;
	fsec_t fsec;
	Timestamp local;
	pg_tz *zone;

	if (!instant_of(ev, v, &at) || (zone = zone_of(ev, x, false)) == NULL ||
		!local_parts(ev, at, zone, &tm, &fsec))
		return NULL;
	if (pattern == NULL)
	{
		se_eval_fail(ev, "no_format", "the cast \"format\" needs \"format\"");
		return NULL;
	}
	tm2timestamp(&tm, fsec, NULL, &local);
	return jv_string(TextDatumGetCString(DirectFunctionCall2Coll(timestamp_to_char, C_COLLATION_OID,
																 TimestampGetDatum(local),
																 CStringGetTextDatum(pattern))));
}

static JsonbValue *
cast_from_http_date(SeEval *ev, JsonbValue *v)
{
	int64 seconds;
	char *text = jv_text(v);

	if (text == NULL || !se_parse_http_date(text, &seconds))
		return bad_value(ev, "not_a_time", text ? text : "", "is no HTTP date");
	return cast_from_epoch(ev, jv_int(seconds), 6);
}

static JsonbValue *
cast_time(SeEval *ev, const SeExpr *x, SeCast cast, JsonbValue *v)
{
	TimestampTz at;

	switch (cast)
	{
		case CAST_EPOCH:
			return cast_epoch(ev, v, 1);
		case CAST_EPOCH_MS:
			return cast_epoch(ev, v, 1000);
		case CAST_FROM_EPOCH:
			return cast_from_epoch(ev, v, 6);
		case CAST_FROM_EPOCH_MS:
			return cast_from_epoch(ev, v, 3);
		case CAST_TIMESTAMP:
			return instant_of(ev, v, &at) ? jv_string(se_format_time(at)) : NULL;
		case CAST_DATE:
			return instant_of(ev, v, &at) ? jv_string(pnstrdup(v->val.string.val, 10)) : NULL;
		case CAST_FORMAT:
			return cast_format(ev, x, v, x->opt->format);
		case CAST_HTTP_DATE:
			return cast_format(ev, x, v, "Dy, DD Mon YYYY HH24:MI:SS \"GMT\"");
		case CAST_FROM_HTTP_DATE:
			return cast_from_http_date(ev, v);
		case CAST_DATE_IN_ZONE:
			return cast_date_in_zone(ev, x, v, false);
		case CAST_LAST_DATE_IN_ZONE:
			return cast_date_in_zone(ev, x, v, true);
		case CAST_DAY_START:
			return cast_day_edge(ev, x, v, false);
		case CAST_DAY_END:
			return cast_day_edge(ev, x, v, true);
		case CAST_FROM_PARTS:
			return cast_from_parts(ev, x, v);
		default:
			return cast_parts(ev, x, cast, v);
	}
}

/* ---- text ---- */

static JsonbValue *
cast_base64(JsonbValue *v)
{
	char *text = jv_text(v);
	int len = strlen(text);
	int size = pg_b64_enc_len(len);
	char *out = palloc(size + 1);
	int n = pg_b64_encode(text, len, out, size);

	out[Max(n, 0)] = '\0';
	return jv_string(out);
}

/* For vendors' query languages: quotes and backslashes of a value cannot end the literal around it. */
static JsonbValue *
cast_escape_quotes(const char *text)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (; *text; text++)
	{
		if (strchr("'\"\\", *text))
			appendStringInfoChar(&buf, '\\');
		appendStringInfoChar(&buf, *text);
	}
	return jv_string(buf.data);
}

static JsonbValue *
cast_from_json(SeEval *ev, JsonbValue *v)
{
	char *error = NULL;
	char *text = jv_text(v);
	Jsonb *jb = se_parse_json(text, strlen(text), &error);

	if (jb == NULL)
		return bad_value(ev, "not_json", text, error ? error : "is empty");
	return jv_from_jsonb(jb);
}

static JsonbValue *
cast_text(SeEval *ev, SeCast cast, JsonbValue *v)
{
	char *text = jv_text(v);
	int len = strlen(text);

	switch (cast)
	{
		case CAST_STRING:
			return jv_string(text);
		case CAST_UPPER:
			return jv_string(str_toupper(text, len, DEFAULT_COLLATION_OID));
		case CAST_LOWER:
			return jv_string(str_tolower(text, len, DEFAULT_COLLATION_OID));
		case CAST_TRIM:
			while (len > 0 && isspace((unsigned char) text[len - 1]))
				text[--len] = '\0';
			while (isspace((unsigned char) *text))
				text++;
			return jv_string(text);
		case CAST_BASE64:
			return cast_base64(v);
		case CAST_JSON:
			return jv_string(jv_json(v));
		case CAST_ESCAPE_QUOTES:
			return cast_escape_quotes(text);
		case CAST_FIRST_LINE:
			return jv_string(pnstrdup(text, strcspn(text, "\r\n")));
		case CAST_OTHER_LINES:
			text += strcspn(text, "\n");
			return text[0] && text[1] ? jv_string(text + 1) : NULL;
		default:
			return cast_from_json(ev, v);
	}
}

static JsonbValue *
apply_cast(SeEval *ev, const SeExpr *x, SeCast cast, JsonbValue *v)
{
	char *text;

	if (v->type == jbvBinary && cast != CAST_JSON && cast != CAST_FROM_PARTS && cast != CAST_STRING)
		return bad_value(ev, "not_a_scalar", jv_text(v), "is no single value");
	switch (cast)
	{
		case CAST_NUMBER:
			text = decimal_of(ev, v);
			return text ? shifted(ev, text, 0, false, "") : NULL;
		case CAST_INTEGER:
			text = decimal_of(ev, v);
			return text ? shifted(ev, text, 0, true, "numbers") : NULL;
		case CAST_BOOLEAN:
			return cast_boolean(ev, v);
		case CAST_MINOR:
		case CAST_MINOR_DECIMAL:
		case CAST_MAJOR:
			return cast_money(ev, x, cast, v);
		case CAST_STRING:
		case CAST_UPPER:
		case CAST_LOWER:
		case CAST_TRIM:
		case CAST_BASE64:
		case CAST_JSON:
		case CAST_FROM_JSON:
		case CAST_ESCAPE_QUOTES:
		case CAST_FIRST_LINE:
		case CAST_OTHER_LINES:
			return cast_text(ev, cast, v);
		default:
			return cast_time(ev, x, cast, v);
	}
}

/* All casts of an expression in order; missing and null pass through. */
JsonbValue *
se_apply_casts(SeEval *ev, const SeExpr *x, JsonbValue *v)
{
	int i;

	for (i = 0; i < x->opt->ncasts && v && v->type != jbvNull; i++)
	{
		ev->at = x->at;
		v = apply_cast(ev, x, (SeCast) x->opt->casts[i], v);
		if (ev->status != SE_RENDER_OK)
			return NULL;
	}
	return v;
}
