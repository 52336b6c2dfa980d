/*
 * stripe_expand.c
 *		expand[]=data.source: ids in an answer become the objects that they name.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stripe.h"

#define MAX_DEPTH 4 /* as Stripe allows */

static void
expand_member(json_t *json, char *path, int depth)
{
	char *rest = path;
	const char *name = strsep(&rest, ".");
	json_t *value = json_object_get(json, name);
	json_t *item;
	size_t i;

	if (json_is_string(value))
	{
		value = stripe_any(json_string_value(value));
		if (value == NULL)
			return;
		json_object_set_new(json, name, value);
	}
	if (rest == NULL || depth == MAX_DEPTH)
		return;
	if (json_is_object(value))
		expand_member(value, rest, depth + 1);
	json_array_foreach (value, i, item)
	{
		char copy[256];

		snprintf(copy, sizeof(copy), "%s", rest);
		expand_member(item, copy, depth + 1);
	}
}

/* What was answered, with what was asked for in full. */
void
stripe_expand(Call *call)
{
	json_t *wanted = param_list(call, "expand");
	json_t *body;
	json_t *path;
	size_t i;

	if (json_array_size(wanted) > 0 && call->reply->status == 200)
	{
		body = json_loadb(call->reply->body.data, call->reply->body.len, 0, NULL);
		json_array_foreach (wanted, i, path)
		{
			char copy[256];

			snprintf(copy, sizeof(copy), "%s", json_string_value(path));
			expand_member(body, copy, 1);
		}
		reply_json(call->reply, 200, body);
	}
	json_decref(wanted);
}
