/*
 * form.c
 *		application/x-www-form-urlencoded with nested names.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "form.h"
#include "util.h"

/* Deeper than any vendor's parameters, shallow enough to be no attack. */
#define MAX_DEPTH 12

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

char *
url_decode(const char *text, size_t len, bool plus_is_space, size_t *out_len)
{
	char *out = xmalloc(len + 1);
	size_t n = 0;

	for (size_t i = 0; i < len; i++)
	{
		if (text[i] == '+' && plus_is_space)
			out[n++] = ' ';
		else if (text[i] == '%' && i + 2 < len && hex_value(text[i + 1]) >= 0 &&
				 hex_value(text[i + 2]) >= 0)
		{
			out[n++] = (char) (hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]));
			i += 2;
		}
		else
			out[n++] = text[i];
	}
	out[n] = '\0';
	if (out_len != NULL)
		*out_len = n;
	return out;
}

/* The child hash called name, made if absent; NULL if a plain value is there. */
static json_t *
descend(json_t *hash, const char *name)
{
	json_t *child = json_object_get(hash, name);

	if (child == NULL)
	{
		child = json_object();
		if (json_object_set_new(hash, name, child) != 0)
			return NULL;
	}
	return json_is_object(child) ? child : NULL;
}

static bool
store_value(json_t *hash, char *name, const char *value, size_t value_len)
{
	char *bracket = strchr(name, '[');
	const char *part = name;
	char next[24];
	json_t *leaf;

	if (bracket != NULL)
		*bracket++ = '\0';
	for (int depth = 0; bracket != NULL; depth++)
	{
		char *end = strchr(bracket, ']');

		if (end == NULL || depth == MAX_DEPTH || (end[1] != '\0' && end[1] != '['))
			return false;
		hash = descend(hash, part);
		if (hash == NULL)
			return false;
		*end = '\0';
		part = bracket;
		bracket = end[1] == '[' ? end + 2 : NULL;
		if (*part == '\0')
		{
			/* "a[]": the next free number */
			snprintf(next, sizeof(next), "%zu", json_object_size(hash));
			part = next;
		}
	}
	leaf = json_stringn(value, value_len);
	return leaf != NULL && json_object_set_new(hash, part, leaf) == 0;
}

static bool
decode_pair(json_t *into, const char *pair, size_t len)
{
	const char *equals = memchr(pair, '=', len);
	size_t name_len = equals ? (size_t) (equals - pair) : len;
	size_t decoded_len;
	char *name = url_decode(pair, name_len, true, &decoded_len);
	size_t value_len = 0;
	char *value =
		equals ? url_decode(equals + 1, len - name_len - 1, true, &value_len) : xstrdup("");
	bool ok = strlen(name) == decoded_len && *name != '\0';

	ok = ok && store_value(into, name, value, value_len);
	free(name);
	free(value);
	return ok;
}

bool
form_decode(json_t *into, const char *text, size_t len)
{
	while (len > 0)
	{
		const char *amp = memchr(text, '&', len);
		size_t part = amp ? (size_t) (amp - text) : len;

		if (part > 0 && !decode_pair(into, text, part))
			return false;
		if (amp == NULL)
			break;
		text += part + 1;
		len -= part + 1;
	}
	return true;
}

static int
compare_index(const void *a, const void *b)
{
	long x = strtol(*(const char *const *) a, NULL, 10);
	long y = strtol(*(const char *const *) b, NULL, 10);

	return (x > y) - (x < y);
}

json_t *
form_list(const json_t *object)
{
	json_t *copy = (json_t *) object; /* jansson iterates over non-const only */
	size_t count = json_object_size(object);
	const char **names;
	const char *name;
	json_t *value;
	json_t *list;
	size_t n = 0;

	if (!json_is_object(object))
		return NULL;
	names = xcalloc(count, sizeof(*names));
	json_object_foreach (copy, name, value)
	{
		if (*name == '\0' || name[strspn(name, "0123456789")] != '\0')
		{
			free(names);
			return NULL;
		}
		names[n++] = name;
	}
	qsort(names, n, sizeof(*names), compare_index);
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append(list, json_object_get(object, names[i]));
	free(names);
	return list;
}
