/*
 * encode.c
 *		Percent and form encoding.
 */
#include "postgres.h"

#include "connector/expr.h"
#include "mb/pg_wchar.h"

/* RFC 3986 unreserved characters. */
static const bool unreserved[256] = {
	['A' ... 'Z'] = true, ['a' ... 'z'] = true, ['0' ... '9'] = true, ['-'] = true,
	['.'] = true,		  ['_'] = true,			['~'] = true};

/* Those stay; everything else is %XX of its UTF-8 bytes. */
void
se_append_percent(StringInfo buf, const char *text)
{
	static const char hex[] = "0123456789ABCDEF";
	size_t len = strlen(text);
	const char *utf8 = pg_server_to_any(text, (int) len, PG_UTF8);
	const unsigned char *p;
	char *to;

	if (utf8 != text)
		len = strlen(utf8);
	enlargeStringInfo(buf, (int) Min(len * 3, PG_INT32_MAX));
	to = buf->data + buf->len;

	for (p = (const unsigned char *) utf8; *p; p++)
	{
		if (unreserved[*p])
			*to++ = (char) *p;
		else
		{
			*to++ = '%';
			*to++ = hex[*p >> 4];
			*to++ = hex[*p & 15];
		}
	}
	*to = '\0';
	buf->len = (int) (to - buf->data);
}

/* `name` is where the value stands; what is appended to it for a member is taken off again. */
static void
append_pairs(StringInfo buf, StringInfo name, JsonbValue *value)
{
	int outer = name->len;
	JvIter i;
	char *text;

	if (jv_count(value) > 0)
	{
		jv_iter_init(&i, value);
		while (jv_iter_next(&i))
		{
			JsonbValue member = i.value;

			if (outer > 0)
				appendStringInfoChar(name, '[');
			if (i.object)
				se_append_percent(name, i.key);
			else
				appendStringInfo(name, "%d", i.index);
			if (outer > 0)
				appendStringInfoChar(name, ']');
			append_pairs(buf, name, &member);
			name->len = outer;
		}
		return;
	}
	if (outer == 0)
		return;
	/* null and empty containers are sent as an empty value: 'unset' in form APIs. */
	if (buf->len > 0)
		appendStringInfoChar(buf, '&');
	appendBinaryStringInfo(buf, name->data, name->len);
	appendStringInfoChar(buf, '=');
	text = value->type == jbvBinary ? NULL : jv_text(value);
	if (text)
		se_append_percent(buf, text);
}

/* Nested members as a[b][0]=…, as PHP began it and billing APIs read it. */
void
se_append_form(StringInfo buf, JsonbValue *value)
{
	StringInfoData own;
	StringInfoData name;

	initStringInfo(&own);
	initStringInfo(&name);
	append_pairs(&own, &name, value);
	appendBinaryStringInfo(buf, own.data, own.len);
	pfree(own.data);
	pfree(name.data);
}
