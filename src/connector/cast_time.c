/*
 * cast_time.c
 *		Casts between instants, days and their parts.
 *
 * A day is taken from an instant in a named zone, through the server's own
 * calendar; no session setting has a say in it.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "connector/cast.h"
#include "connector/money.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/formatting.h"
#include "utils/timestamp.h"

static bool
instant_of(SeEval *ev, JsonbValue *v, TimestampTz *at)
{
	char *text = jv_text(v);

	if (v->type == jbvString && se_parse_time(text, at))
		return true;
	se_cast_fault(ev, "not_a_time", text ? text : "", "is no ISO 8601 date or time");
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
		name = jv_get_text(se_var(&ev->vars, "entity", 6), "timezone");
	if (ev->status != SE_RENDER_OK)
		return NULL;
	ev->at = x->at;
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
	char *text = se_cast_decimal(ev, v);
	char usec[500];
	int64 value;

	if (text == NULL)
		return NULL;
	if (se_decimal_shift(text, places, true, usec, sizeof(usec)) != SE_SHIFT_OK ||
		strlen(usec) > 18)
		return se_cast_fault(ev, "not_a_time", text, "is no time since 1970");
	value = strtoll(usec, NULL, 10) - epoch;
	if (!IS_VALID_TIMESTAMP(value))
		return se_cast_fault(ev, "not_a_time", text, "is no time since 1970");
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
		return se_cast_fault(ev, "not_a_time", jv_text(v), "is out of range");
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
		return se_cast_fault(ev, "not_a_time", jv_text(v), "has no valid date parts");
	if (jv_get(v, "hour") == NULL)
		return jv_string(psprintf("%04d-%02d-%02d", tm.tm_year, tm.tm_mon, tm.tm_mday));
	zone = zone_of(ev, x, false);
	if (zone == NULL)
		return NULL;
	tz = DetermineTimeZoneOffset(&tm, zone);
	if (tm2timestamp(&tm, usec, &tz, &at) != 0)
		return se_cast_fault(ev, "not_a_time", jv_text(v), "is out of range");
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
		return se_cast_fault(ev, "not_a_time", text ? text : "", "is no HTTP date");
	return cast_from_epoch(ev, jv_int(seconds), 6);
}

JsonbValue *
se_cast_time(SeEval *ev, const SeExpr *x, SeCast cast, JsonbValue *v)
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
