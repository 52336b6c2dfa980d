/*
 * schema.c
 *		Validator for the part of JSON Schema that manifests need.
 *
 * jansson and libc only, so that unit tests include this file without a
 * server. A fault is reported where it is deepest: of several alternatives
 * (anyOf, oneOf), the one that went furthest into the document is the one the
 * author meant.
 */
#include "connector/schema.h"

#include <jansson.h>
#include <regex.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MAX_DEPTH 128

typedef struct Check
{
	json_t *root; /* for $ref */
	SeSchemaError *error;
	int depth;
} Check;

static bool check_node(Check *c, json_t *schema, json_t *doc, const char *at);

static bool fault(Check *c, const char *at, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static bool
fault(Check *c, const char *at, const char *fmt, ...)
{
	va_list args;

	snprintf(c->error->pointer, sizeof(c->error->pointer), "%s", at);
	va_start(args, fmt);
	vsnprintf(c->error->message, sizeof(c->error->message), fmt, args);
	va_end(args);
	return false;
}

/* at/key with the two escapes of RFC 6901. */
static void
child_pointer(char *out, size_t size, const char *at, const char *key)
{
	size_t n = (size_t) snprintf(out, size, "%s/", at);

	for (; *key && n + 3 < size; key++)
	{
		if (*key == '~' || *key == '/')
		{
			out[n++] = '~';
			out[n++] = *key == '~' ? '0' : '1';
		}
		else
			out[n++] = *key;
	}
	if (n < size)
		out[n] = '\0';
}

static bool
has_type(json_t *doc, const char *type)
{
	if (strcmp(type, "object") == 0)
		return json_is_object(doc);
	if (strcmp(type, "array") == 0)
		return json_is_array(doc);
	if (strcmp(type, "string") == 0)
		return json_is_string(doc);
	if (strcmp(type, "integer") == 0)
		return json_is_integer(doc);
	if (strcmp(type, "number") == 0)
		return json_is_number(doc);
	if (strcmp(type, "boolean") == 0)
		return json_is_boolean(doc);
	return strcmp(type, "null") == 0 && json_is_null(doc);
}

static bool
check_type(Check *c, json_t *schema, json_t *doc, const char *at)
{
	json_t *type = json_object_get(schema, "type");
	json_t *one;
	size_t i;

	if (json_is_string(type) && !has_type(doc, json_string_value(type)))
		return fault(c, at, "must be of type %s", json_string_value(type));
	if (json_is_array(type))
	{
		json_array_foreach (type, i, one)
		{
			if (json_is_string(one) && has_type(doc, json_string_value(one)))
				return true;
		}
		return fault(c, at, "has a type that is not allowed here");
	}
	return true;
}

static bool
check_enum(Check *c, json_t *schema, json_t *doc, const char *at)
{
	json_t *values = json_object_get(schema, "enum");
	json_t *constant = json_object_get(schema, "const");
	json_t *one;
	size_t i;
	char list[300] = "";

	if (constant && !json_equal(constant, doc))
		return fault(c, at, "has a value that is not allowed here");
	if (!json_is_array(values))
		return true;
	json_array_foreach (values, i, one)
	{
		size_t n = strlen(list);

		if (json_equal(one, doc))
			return true;
		if (json_is_string(one))
			snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "", json_string_value(one));
	}
	return fault(c, at, "must be one of: %s", list);
}

static bool
matches(const char *pattern, const char *text, bool *bad_pattern)
{
	regex_t re;
	bool hit;

	*bad_pattern = regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB) != 0;
	if (*bad_pattern)
		return false;
	hit = regexec(&re, text, 0, NULL, 0) == 0;
	regfree(&re);
	return hit;
}

static bool
check_pattern(Check *c, json_t *pattern, const char *text, const char *at, const char *what)
{
	bool bad;

	if (!json_is_string(pattern) || matches(json_string_value(pattern), text, &bad))
		return true;
	if (bad)
		return fault(c, at, "the schema has a bad pattern: %s", json_string_value(pattern));
	return fault(c, at, "%s \"%.80s\" does not match %s", what, text, json_string_value(pattern));
}

static bool
check_scalar(Check *c, json_t *schema, json_t *doc, const char *at)
{
	json_t *limit;

	if (json_is_string(doc))
	{
		limit = json_object_get(schema, "minLength");
		if (json_is_integer(limit) && json_string_length(doc) < (size_t) json_integer_value(limit))
			return fault(c, at, "is too short");
		limit = json_object_get(schema, "maxLength");
		if (json_is_integer(limit) && json_string_length(doc) > (size_t) json_integer_value(limit))
			return fault(c, at, "is too long");
		return check_pattern(c, json_object_get(schema, "pattern"), json_string_value(doc), at,
							 "value");
	}
	if (json_is_number(doc))
	{
		limit = json_object_get(schema, "minimum");
		if (json_is_number(limit) && json_number_value(doc) < json_number_value(limit))
			return fault(c, at, "must be at least %g", json_number_value(limit));
		limit = json_object_get(schema, "maximum");
		if (json_is_number(limit) && json_number_value(doc) > json_number_value(limit))
			return fault(c, at, "must be at most %g", json_number_value(limit));
	}
	return true;
}

static bool
check_members(Check *c, json_t *schema, json_t *doc, const char *at)
{
	json_t *properties = json_object_get(schema, "properties");
	json_t *additional = json_object_get(schema, "additionalProperties");
	json_t *names = json_object_get(json_object_get(schema, "propertyNames"), "pattern");
	const char *key;
	json_t *value;

	json_object_foreach (doc, key, value)
	{
		json_t *known = json_object_get(properties, key);
		char pointer[512];

		child_pointer(pointer, sizeof(pointer), at, key);
		if (!check_pattern(c, names, key, pointer, "name"))
			return false;
		if (known)
		{
			if (!check_node(c, known, value, pointer))
				return false;
		}
		else if (json_is_false(additional))
			return fault(c, pointer, "is not known here");
		else if (json_is_object(additional) && !check_node(c, additional, value, pointer))
			return false;
	}
	return true;
}

static bool
check_object(Check *c, json_t *schema, json_t *doc, const char *at)
{
	json_t *required = json_object_get(schema, "required");
	json_t *least = json_object_get(schema, "minProperties");
	json_t *name;
	size_t i;

	if (!check_members(c, schema, doc, at))
		return false;
	json_array_foreach (required, i, name)
	{
		if (json_is_string(name) && !json_object_get(doc, json_string_value(name)))
			return fault(c, at, "needs \"%s\"", json_string_value(name));
	}
	if (json_is_integer(least) && json_object_size(doc) < (size_t) json_integer_value(least))
		return fault(c, at, "must not be empty");
	return true;
}

static bool
check_array(Check *c, json_t *schema, json_t *doc, const char *at)
{
	json_t *items = json_object_get(schema, "items");
	json_t *least = json_object_get(schema, "minItems");
	json_t *one;
	size_t i, j;

	if (json_is_integer(least) && json_array_size(doc) < (size_t) json_integer_value(least))
		return fault(c, at, "needs at least %d items", (int) json_integer_value(least));
	json_array_foreach (doc, i, one)
	{
		char pointer[512];

		snprintf(pointer, sizeof(pointer), "%s/%zu", at, i);
		if (json_is_object(items) && !check_node(c, items, one, pointer))
			return false;
		for (j = 0; json_is_true(json_object_get(schema, "uniqueItems")) && j < i; j++)
		{
			if (json_equal(one, json_array_get(doc, j)))
				return fault(c, pointer, "is there twice");
		}
	}
	return true;
}

static int
pointer_depth(const char *pointer)
{
	int n = 0;

	for (; *pointer; pointer++)
		n += *pointer == '/';
	return n;
}

/* anyOf (at least one) and oneOf (exactly one); keeps the deepest fault. */
static bool
check_alternatives(Check *c, json_t *list, bool exactly_one, json_t *doc, const char *at)
{
	SeSchemaError *outer = c->error;
	SeSchemaError deepest = {.pointer = "", .message = ""};
	SeSchemaError mine;
	json_t *one;
	size_t i;
	int hits = 0;

	json_array_foreach (list, i, one)
	{
		c->error = &mine;
		if (check_node(c, one, doc, at))
			hits++;
		else if (deepest.message[0] == '\0' ||
				 pointer_depth(mine.pointer) > pointer_depth(deepest.pointer))
			deepest = mine;
	}
	c->error = outer;
	if (hits == 1 || (hits > 1 && !exactly_one))
		return true;
	if (hits > 1)
		return fault(c, at, "fits several alternatives, must fit one");
	*outer = deepest;
	return false;
}

static bool
check_combined(Check *c, json_t *schema, json_t *doc, const char *at)
{
	json_t *list;
	json_t *one;
	size_t i;

	json_array_foreach (json_object_get(schema, "allOf"), i, one)
	{
		if (!check_node(c, one, doc, at))
			return false;
	}
	if ((list = json_object_get(schema, "anyOf")) && !check_alternatives(c, list, false, doc, at))
		return false;
	if ((list = json_object_get(schema, "oneOf")) && !check_alternatives(c, list, true, doc, at))
		return false;
	if ((one = json_object_get(schema, "not")))
	{
		SeSchemaError *outer = c->error;
		SeSchemaError ignored;
		bool hit;

		c->error = &ignored;
		hit = check_node(c, one, doc, at);
		c->error = outer;
		if (hit)
			return fault(c, at, "has a form that is not allowed here");
	}
	return true;
}

static json_t *
resolve(Check *c, json_t *schema)
{
	const char *ref = json_string_value(json_object_get(schema, "$ref"));

	if (ref == NULL)
		return schema;
	if (strncmp(ref, "#/definitions/", 14) != 0)
		return NULL;
	return json_object_get(json_object_get(c->root, "definitions"), ref + 14);
}

static bool
check_node(Check *c, json_t *schema, json_t *doc, const char *at)
{
	bool ok;
	int hops = 0;

	while (json_object_get(schema, "$ref"))
	{
		json_t *target = resolve(c, schema);

		/* A chain of references longer than this goes in a circle. */
		if (!json_is_object(target) || ++hops > 32)
			return fault(c, at, "the schema has a reference that leads nowhere");
		schema = target;
	}
	if (++c->depth > MAX_DEPTH)
	{
		c->depth--;
		return fault(c, at, "is nested too deeply");
	}
	ok = check_type(c, schema, doc, at) && check_enum(c, schema, doc, at) &&
		 check_scalar(c, schema, doc, at);
	if (ok && json_is_object(doc))
		ok = check_object(c, schema, doc, at);
	if (ok && json_is_array(doc))
		ok = check_array(c, schema, doc, at);
	ok = ok && check_combined(c, schema, doc, at);
	c->depth--;
	return ok;
}

bool
se_schema_check(const char *schema_text, const char *doc_text, SeSchemaError *error)
{
	json_error_t problem;
	json_t *schema = json_loads(schema_text, 0, &problem);
	json_t *doc = schema ? json_loads(doc_text, JSON_DECODE_ANY, &problem) : NULL;
	Check c = {.root = schema, .error = error};
	bool ok = false;

	error->pointer[0] = error->message[0] = '\0';
	if (doc)
		ok = check_node(&c, schema, doc, "");
	else
		(void) fault(&c, "", "%s cannot be read: %s", schema ? "the document" : "the schema",
					 problem.text);
	json_decref(schema);
	json_decref(doc);
	return ok;
}
