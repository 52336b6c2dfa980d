/*
 * stripe_params.c
 *		Parameters of Stripe-like calls: checking, converting, storing. Small readings of JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "form.h"
#include "stripe.h"

static const char currencies[] =
	"usd,aed,afn,all,amd,ang,aoa,ars,aud,awg,azn,bam,bbd,bdt,bgn,bhd,bif,bmd,bnd,bob,brl,bsd,bwp,"
	"byn,bzd,cad,cdf,chf,clp,cny,cop,crc,cve,czk,djf,dkk,dop,dzd,egp,etb,eur,fjd,fkp,gbp,gel,gip,"
	"gmd,gnf,gtq,gyd,hkd,hnl,htg,huf,idr,ils,inr,isk,jmd,jod,jpy,kes,kgs,khr,kmf,krw,kwd,kyd,kzt,"
	"lak,lbp,lkr,lrd,lsl,mad,mdl,mga,mkd,mmk,mnt,mop,mur,mvr,mwk,mxn,myr,mzn,nad,ngn,nio,nok,npr,"
	"nzd,omr,pab,pen,pgk,php,pkr,pln,pyg,qar,ron,rsd,rub,rwf,sar,sbd,scr,sek,sgd,shp,sle,sos,srd,"
	"std,szl,thb,tjs,tnd,top,try,ttd,twd,tzs,uah,ugx,uyu,uzs,vnd,vuv,wst,xaf,xcd,xof,xpf,yer,zar,zmw";

/* Is name one of "a,b,c"? */
bool
in_list(const char *choices, const char *name)
{
	size_t len = strlen(name);

	for (const char *p = choices; p != NULL && *p != '\0';)
	{
		const char *comma = strchrnul(p, ',');

		if ((size_t) (comma - p) == len && strncmp(p, name, len) == 0)
			return true;
		p = *comma ? comma + 1 : comma;
	}
	return false;
}

int
currency_decimals(const char *currency)
{
	if (in_list("bif,clp,djf,gnf,jpy,kmf,krw,mga,pyg,rwf,ugx,vnd,vuv,xaf,xof,xpf", currency))
		return 0;
	return in_list("bhd,jod,kwd,omr,tnd", currency) ? 3 : 2;
}

/* Scaled by 10^12, the precision of Stripe's decimal strings. */
static bool
parse_decimal(const char *text, __int128 *out)
{
	bool negative = *text == '-';
	int fraction = -1;
	__int128 value = 0;
	int digits = 0;

	for (text += negative; *text != '\0'; text++)
	{
		if (*text == '.' && fraction < 0)
			fraction = 0;
		else if (*text >= '0' && *text <= '9' && fraction < 12 && ++digits <= 24)
		{
			value = value * 10 + (*text - '0');
			fraction += fraction >= 0;
		}
		else
			return false;
	}
	for (int i = fraction < 0 ? 0 : fraction; i < 12; i++)
		value *= 10;
	*out = negative ? -value : value;
	return digits > 0;
}

/* Minor units, half away from zero. */
int64_t
multiply_decimal(const char *decimal, int64_t quantity)
{
	const __int128 one = (__int128) 1000000000000;
	__int128 value = 0;

	(void) parse_decimal(decimal, &value);
	value *= quantity;
	return (int64_t) ((value < 0 ? value - one / 2 : value + one / 2) / one);
}

static bool
parse_int(const char *text, int64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoll(text, &end, 10);
	return *text != '\0' && *text != ' ' && *end == '\0' && errno == 0;
}

static bool
is_email(const char *text)
{
	const char *at = strchr(text, '@');

	return at != NULL && at != text && at[1] != '\0' && strchr(at + 1, '@') == NULL &&
		   strpbrk(text, " \t\r\n,;<>") == NULL && at[1] != '.' && text[strlen(text) - 1] != '.';
}

static bool
check_metadata(Call *call, const json_t *value)
{
	const char *key;
	json_t *member;

	if (json_is_string(value) && json_string_length(value) == 0)
		return true;
	if (!json_is_object(value))
		return stripe_error(call, 400, "invalid_request_error", NULL, "metadata", "Invalid hash");
	if (json_object_size(value) > 50)
		return stripe_error(call, 400, "invalid_request_error", NULL, "metadata",
							"Metadata can have up to 50 keys.");
	json_object_foreach ((json_t *) value, key, member)
	{
		if (!json_is_string(member))
			return stripe_error(
				call, 400, "invalid_request_error", NULL, "metadata",
				"Metadata values must be strings, but for key %s you passed in a value "
				"of type hash",
				key);
		if (strlen(key) > 40)
			return stripe_error(
				call, 400, "invalid_request_error", NULL, "metadata",
				"Metadata keys can have up to 40 characters, but you passed in one that "
				"is %zu characters.",
				strlen(key));
		if (json_string_length(member) > 500)
			return stripe_error(
				call, 400, "invalid_request_error", NULL, "metadata",
				"Metadata values can have up to 500 characters, but you passed in a "
				"value that is %zu characters.",
				json_string_length(member));
	}
	return true;
}

static bool
check_members(Call *call, const Param *p, const json_t *hash, const char *prefix)
{
	const char *name;
	json_t *value;
	char full[200];

	if (p->choices == NULL)
		return true;
	if (!json_is_object(hash))
		return stripe_error(call, 400, "invalid_request_error", NULL, prefix, "Invalid object");
	json_object_foreach ((json_t *) hash, name, value)
	{
		snprintf(full, sizeof(full), "%s[%s]", prefix, name);
		if (!in_list(p->choices, name))
			return stripe_error(call, 400, "invalid_request_error", "parameter_unknown", full,
								"Received unknown parameter: %s", full);
	}
	return true;
}

static bool
check_list(Call *call, const Param *p, const json_t *value)
{
	json_t *list = form_list(value);
	char prefix[100];
	size_t i;
	json_t *item;
	bool ok = list != NULL;

	if (!ok)
		return stripe_error(call, 400, "invalid_request_error", NULL, p->name, "Invalid array");
	json_array_foreach (list, i, item)
	{
		snprintf(prefix, sizeof(prefix), "%s[%zu]", p->name, i);
		ok = ok && check_members(call, p, item, prefix);
	}
	json_decref(list);
	return ok;
}

static bool
check_number(Call *call, const Param *p, const char *text)
{
	int64_t number;

	if (!parse_int(text, &number))
		return stripe_error(call, 400, "invalid_request_error", "parameter_invalid_integer",
							p->name, "Invalid integer: %s", text);
	if (p->type == P_AMOUNT && number < 0)
		return stripe_error(call, 400, "invalid_request_error", "parameter_invalid_integer",
							p->name, "This value must be greater than or equal to 0.");
	return true;
}

static bool
check_text(Call *call, const Param *p, const char *text)
{
	__int128 decimal;

	switch (p->type)
	{
		case P_EMAIL:
			return is_email(text) ||
				   stripe_error(call, 400, "invalid_request_error", "email_invalid", p->name,
								"Invalid email address: %s", text);
		case P_INT:
		case P_AMOUNT:
			return check_number(call, p, text);
		case P_TIME:
			return strcmp(text, "now") == 0 || check_number(call, p, text);
		case P_DECIMAL:
			return parse_decimal(text, &decimal) ||
				   stripe_error(
					   call, 400, "invalid_request_error", NULL, p->name,
					   "Invalid decimal: %s; must contain at maximum twelve decimal places.", text);
		case P_BOOL:
			return in_list("true,false", text) ||
				   stripe_error(call, 400, "invalid_request_error", NULL, p->name,
								"Invalid boolean: %s", text);
		case P_CURRENCY:
			return in_list(currencies, text) ||
				   stripe_error(
					   call, 400, "invalid_request_error", NULL, p->name,
					   "Invalid currency: %s. Stripe currently supports these currencies: %s", text,
					   currencies);
		case P_ENUM:
			return in_list(p->choices, text) ||
				   stripe_error(call, 400, "invalid_request_error", NULL, p->name,
								"Invalid %s: must be one of %s", p->name, p->choices);
		default:
			return strlen(text) <= 5000 ||
				   stripe_error(call, 400, "invalid_request_error", "parameter_invalid_string",
								p->name, "Invalid string: must be at most 5000 characters");
	}
}

static bool
check_param(Call *call, const Param *p, const json_t *value)
{
	if (p->type == P_ANY)
		return true;
	if (p->type == P_METADATA)
		return check_metadata(call, value);
	/* the empty string unsets, where something may be unset */
	if (json_is_string(value) && json_string_length(value) == 0)
		return !(p->flags & PF_REQUIRED) ||
			   stripe_error(
				   call, 400, "invalid_request_error", "parameter_invalid_empty", p->name,
				   "You passed an empty string for '%s'. We assume empty values are an attempt "
				   "to unset a parameter; however '%s' cannot be unset.",
				   p->name, p->name);
	if (p->type == P_LIST)
		return check_list(call, p, value);
	if (p->type == P_HASH)
		return check_members(call, p, value, p->name);
	if (!json_is_string(value))
		return stripe_error(call, 400, "invalid_request_error", NULL, p->name,
							"Invalid string: {}");
	return check_text(call, p, json_string_value(value));
}

static const Param *
find_param(const Param *spec, const char *name, bool creating)
{
	for (; spec->name != NULL; spec++)
	{
		if (strcmp(spec->name, name) == 0)
			return (spec->flags & (creating ? PF_UPDATE : PF_CREATE)) ? NULL : spec;
	}
	return NULL;
}

bool
params_check(Call *call, const Param *spec, bool creating)
{
	const char *name;
	json_t *value;

	json_object_foreach (call->params, name, value)
	{
		const Param *p = find_param(spec, name, creating);

		if (strcmp(name, "expand") == 0)
			continue;
		if (p == NULL)
			return stripe_error(call, 400, "invalid_request_error", "parameter_unknown", name,
								"Received unknown parameter: %s", name);
		/* Stripe reads currencies in any case and shows them in lower case */
		if (p->type == P_CURRENCY && json_is_string(value))
		{
			char *lower = xstrdup(json_string_value(value));

			for (char *c = lower; *c; c++)
				*c = (char) (*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
			json_string_set(value, lower);
			free(lower);
		}
		if (!check_param(call, p, value))
			return false;
	}
	for (; creating && spec->name != NULL; spec++)
	{
		if ((spec->flags & PF_REQUIRED) && !param_given(call, spec->name))
			return stripe_error(call, 400, "invalid_request_error", "parameter_missing", spec->name,
								"Missing required param: %s.", spec->name);
	}
	return true;
}

static void
merge_metadata(json_t *json, const json_t *given)
{
	json_t *metadata = json_object_get(json, "metadata");
	const char *key;
	json_t *value;

	if (json_is_string(given))
	{
		json_object_clear(metadata);
		return;
	}
	json_object_foreach ((json_t *) given, key, value)
	{
		if (json_string_length(value) == 0)
			json_object_del(metadata, key);
		else
			json_object_set(metadata, key, value);
	}
}

static json_t *
converted(const Param *p, json_t *value)
{
	const char *text = json_string_value(value);

	if (text != NULL && *text == '\0')
		return json_null();
	switch (p->type)
	{
		case P_INT:
		case P_AMOUNT:
		case P_TIME:
			return json_integer(strtoll(text, NULL, 10));
		case P_BOOL:
			return json_boolean(strcmp(text, "true") == 0);
		case P_LIST:
			return form_list(value);
		default:
			return json_deep_copy(value);
	}
}

/* Puts the parameters that are plain attributes into the object. */
void
params_store(Call *call, const Param *spec, json_t *json)
{
	for (; spec->name != NULL; spec++)
	{
		json_t *value = json_object_get(call->params, spec->name);

		if (value == NULL || !(spec->flags & PF_STORE))
			continue;
		if (spec->type == P_METADATA)
			merge_metadata(json, value);
		else
			json_object_set_new(json, spec->name, converted(spec, value));
	}
}

bool
param_given(const Call *call, const char *name)
{
	return json_object_get(call->params, name) != NULL;
}

/* NULL if absent or empty. */
const char *
param_string(const Call *call, const char *name)
{
	const char *value = get_string(call->params, name);

	return value != NULL && *value != '\0' ? value : NULL;
}

int64_t
param_int(const Call *call, const char *name, int64_t absent)
{
	const char *value = param_string(call, name);

	return value ? strtoll(value, NULL, 10) : absent;
}

bool
param_bool(const Call *call, const char *name)
{
	const char *value = param_string(call, name);

	return value != NULL && strcmp(value, "true") == 0;
}

/* A new reference; an empty list if absent. */
json_t *
param_list(const Call *call, const char *name)
{
	json_t *list = form_list(json_object_get(call->params, name));

	return list ? list : json_array();
}

/* ---- small readings of JSON ---- */

const char *
get_string(const json_t *json, const char *name)
{
	return json_string_value(json_object_get(json, name));
}

int64_t
get_int(const json_t *json, const char *name)
{
	return json_integer_value(json_object_get(json, name));
}

void
set_int(json_t *json, const char *name, int64_t value)
{
	json_object_set_new(json, name, json_integer(value));
}

void
set_string(json_t *json, const char *name, const char *value)
{
	json_object_set_new(json, name, value ? json_string(value) : json_null());
}

void
set_null(json_t *json, const char *name)
{
	json_object_set_new(json, name, json_null());
}

/*
 * Gives what the caller did not set the value that the API shows then. Takes
 * over the reference to defaults.
 */
void
add_missing(json_t *json, json_t *defaults)
{
	json_object_update_missing(json, defaults);
	json_decref(defaults);
}
