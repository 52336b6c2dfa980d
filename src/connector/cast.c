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
#include "connector/cast.h"
#include "connector/expr.h"
#include "connector/money.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/numeric.h"

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

JsonbValue *
se_cast_fault(SeEval *ev, const char *code, const char *text, const char *reason)
{
	se_eval_fail(ev, code, "value \"%s\" %s", text, reason);
	return NULL;
}

/* ---- numbers and money ---- */

/* Decimal text of a number or of a string that holds one; NULL after a failure. */
char *
se_cast_decimal(SeEval *ev, JsonbValue *v)
{
	char *text = jv_text(v);
	char plain[400];

	if (text && (v->type == jbvNumeric || v->type == jbvString) &&
		se_decimal_shift(text, 0, false, plain, sizeof(plain)) == SE_SHIFT_OK)
		return text[0] == '+' ? text + 1 : text;
	se_cast_fault(ev, "not_a_number", text ? text : "", "is not a number");
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
			se_eval_fail(ev, "not_representable", "%s cannot be said in whole %s", text, unit);
			return NULL;
		default:
			return se_cast_fault(ev, "not_a_number", text, "is not a number");
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
	ev->at = x->at;
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
	char *text = se_cast_decimal(ev, v);
	int digits;

	if (text == NULL)
		return NULL;
	digits = currency_digits(ev, x, &currency);
	ev->at = x->at;
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
	return se_cast_fault(ev, "not_a_boolean", text ? text : "", "is not a boolean");
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
		return se_cast_fault(ev, "not_json", text, error ? error : "is empty");
	return jv_from_jsonb(jb);
}

/* Codes, a currency above all, are ASCII in every locale: a Turkish one would make INR of no inr. */
static JsonbValue *
in_case(char *text, int len, bool upper)
{
	bool ascii = true;

	for (int i = 0; i < len; i++)
		ascii &= !IS_HIGHBIT_SET(text[i]);
	if (!ascii)
		return jv_string(upper ? str_toupper(text, len, DEFAULT_COLLATION_OID)
							   : str_tolower(text, len, DEFAULT_COLLATION_OID));
	for (int i = 0; i < len; i++)
		text[i] = (char) (upper ? pg_ascii_toupper((unsigned char) text[i])
								: pg_ascii_tolower((unsigned char) text[i]));
	return jv_string(text);
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
			return in_case(text, len, true);
		case CAST_LOWER:
			return in_case(text, len, false);
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
		return se_cast_fault(ev, "not_a_scalar", jv_text(v), "is no single value");
	switch (cast)
	{
		case CAST_NUMBER:
			text = se_cast_decimal(ev, v);
			return text ? shifted(ev, text, 0, false, "") : NULL;
		case CAST_INTEGER:
			text = se_cast_decimal(ev, v);
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
			return se_cast_time(ev, x, cast, v);
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
