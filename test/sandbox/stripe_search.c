/*
 * stripe_search.c
 *		The search endpoints: metadata['k']:'v' AND email:'x' …
 *
 * A search sees what was written config.search_lag_ms ago, as Stripe's does
 * that is fed asynchronously.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "stripe.h"

#define MAX_CLAUSES 10

typedef struct Clause
{
	char field[64];
	char key[64]; /* of metadata */
	char value[512];
	char op; /* ':' equals, '~' contains, '<', '>', and 'l', 'g' with '=' */
	bool negated;
} Clause;

typedef struct Query
{
	Clause clauses[MAX_CLAUSES];
	size_t count;
	bool any; /* joined by OR */
} Query;

static const char *
skip_space(const char *p)
{
	while (*p == ' ')
		p++;
	return p;
}

/* Reads a quoted or bare word; NULL if there is none or it is too long. */
static const char *
read_word(const char *p, const char *stop, char *out, size_t size)
{
	char quote = *p == '\'' || *p == '"' ? *p++ : '\0';
	size_t n = 0;

	while (*p != '\0' && (quote ? *p != quote : strchr(stop, *p) == NULL))
	{
		if (quote && *p == '\\' && p[1] != '\0')
			p++;
		if (n + 1 >= size)
			return NULL;
		out[n++] = *p++;
	}
	out[n] = '\0';
	if (quote && *p++ != quote)
		return NULL;
	return quote || n > 0 ? p : NULL;
}

static const char *
read_clause(const char *p, Clause *c)
{
	memset(c, 0, sizeof(*c));
	c->negated = *p == '-';
	p = read_word(p + c->negated, "[:~<> ", c->field, sizeof(c->field));
	if (p != NULL && *p == '[')
	{
		p = read_word(p + 1, "]", c->key, sizeof(c->key));
		if (p == NULL || *p++ != ']')
			return NULL;
	}
	if (p == NULL)
		return NULL;
	p = skip_space(p);
	if (*p == '\0' || strchr(":~<>", *p) == NULL)
		return NULL;
	c->op = *p++;
	if (*p == '=' && (c->op == '<' || c->op == '>'))
	{
		c->op = c->op == '<' ? 'l' : 'g';
		p++;
	}
	return read_word(skip_space(p), " ", c->value, sizeof(c->value));
}

static bool
parse_query(const char *p, Query *q)
{
	memset(q, 0, sizeof(*q));
	for (p = skip_space(p); *p != '\0'; p = skip_space(p))
	{
		if (q->count > 0)
		{
			bool any = strncasecmp(p, "OR ", 3) == 0;

			if (!any && strncasecmp(p, "AND ", 4) != 0)
				return false;
			/* Stripe, too, takes either AND or OR, not both */
			if (q->count > 1 && q->any != any)
				return false;
			q->any = any;
			p = skip_space(p + (any ? 3 : 4));
		}
		if (q->count == MAX_CLAUSES)
			return false;
		p = read_clause(p, &q->clauses[q->count++]);
		if (p == NULL)
			return false;
	}
	return q->count > 0;
}

static bool
compare_number(const Clause *c, int64_t have)
{
	int64_t want = strtoll(c->value, NULL, 10);

	switch (c->op)
	{
		case '<':
			return have < want;
		case '>':
			return have > want;
		case 'l':
			return have <= want;
		case 'g':
			return have >= want;
		default:
			return have == want;
	}
}

static bool
clause_holds(const Clause *c, const json_t *json)
{
	const json_t *value = json_object_get(json, c->field);
	bool holds;

	if (c->key[0] != '\0')
		value = json_object_get(value, c->key);
	if (json_is_integer(value))
		holds = compare_number(c, json_integer_value(value));
	else if (json_is_boolean(value))
		holds = strcmp(c->value, json_is_true(value) ? "true" : "false") == 0;
	else if (!json_is_string(value))
		holds = strcmp(c->value, "null") == 0;
	else if (c->op == '~')
		holds = strcasestr(json_string_value(value), c->value) != NULL;
	else
		holds = strcasecmp(json_string_value(value), c->value) == 0;
	return holds != c->negated;
}

static bool
query_holds(const Query *q, const json_t *json)
{
	for (size_t i = 0; i < q->count; i++)
	{
		if (clause_holds(&q->clauses[i], json) == q->any)
			return q->any;
	}
	return !q->any;
}

/* The clause that the metadata index can answer, if one alone suffices. */
static const Clause *
indexed_clause(const Query *q)
{
	for (size_t i = 0; i < q->count && (!q->any || q->count == 1); i++)
	{
		const Clause *c = &q->clauses[i];

		if (strcmp(c->field, "metadata") == 0 && c->op == ':' && !c->negated &&
			strcmp(c->value, "null") != 0)
			return c;
	}
	return NULL;
}

static void
search_rows(Obj *const *rows, size_t count, const Query *q, int64_t limit, size_t skip,
			json_t *found, bool *has_more)
{
	const Obj *last = NULL;

	for (size_t i = count; i > 0 && !*has_more; i--)
	{
		const Obj *obj = rows[i - 1];
		json_t *seen = obj == last || obj->deleted ? NULL : store_search_view(obj);

		/* the index may name an object twice, but only in succession or outdated */
		if (seen == NULL || !query_holds(q, seen))
		{
			json_decref(seen);
			continue;
		}
		last = obj;
		if (skip > 0)
			skip--;
		else if ((int64_t) json_array_size(found) == limit)
			*has_more = true;
		else
			json_array_append(found, seen);
		json_decref(seen);
	}
}

void
stripe_search(Call *call, Resource *res)
{
	static const Param spec[] = {
		{"query", P_TEXT, PF_REQUIRED, NULL},
		{"limit", P_AMOUNT, 0, NULL},
		{"page", P_TEXT, 0, NULL},
		{.name = NULL},
	};
	json_t *found;
	json_t *next;
	bool has_more = false;
	int64_t limit = param_int(call, "limit", 10);
	size_t skip = (size_t) param_int(call, "page", 0);
	const Clause *indexed;
	Query q;

	if (!params_check(call, spec, true))
		return;
	if (limit < 1 || limit > 100)
	{
		(void) stripe_error(call, 400, "invalid_request_error", "parameter_invalid_integer",
							"limit", "This value must be between 1 and 100.");
		return;
	}
	if (!parse_query(param_string(call, "query"), &q))
	{
		(void) stripe_error(call, 400, "invalid_request_error", NULL, "query",
							"We were unable to parse your search query.");
		return;
	}
	found = json_array();
	indexed = indexed_clause(&q);
	if (indexed != NULL)
	{
		const Hits *hits = store_by_metadata(&res->coll, indexed->key, indexed->value);

		if (hits != NULL)
			search_rows(hits->rows, hits->count, &q, limit, skip, found, &has_more);
	}
	else
		search_rows(res->coll.rows, res->coll.count, &q, limit, skip, found, &has_more);
	next = has_more ? json_sprintf("%zu", skip + (size_t) limit) : json_null();
	reply_json(call->reply, 200,
			   json_pack("{s:s, s:o, s:b, s:o, s:s}", "object", "search_result", "data", found,
						 "has_more", (int) has_more, "next_page", next, "url", call->req->path));
}
