/*
 * stripe_list.c
 *		Lists of Stripe-like objects: order, paging, filters.
 */
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "form.h"
#include "stripe.h"

/* What a list is asked for. */
typedef struct Page
{
	int64_t limit;
	int64_t gt, gte, lt, lte; /* bounds of created */
	json_t *types;			  /* events: wanted types, NULL: all */
	const char *filters;
	bool hides_canceled;	  /* subscriptions, unless a status is asked for */
	bool looks_inside;		  /* objects have to be read to know whether they belong */
	int64_t visible_until_ms; /* the fault late_page hides what is younger */
} Page;

static int
append_dump(const char *text, size_t len, void *buf)
{
	buf_append(buf, text, len);
	return 0;
}

static void
dump(const json_t *json, Buf *out)
{
	json_dump_callback(json, append_dump, out, JSON_COMPACT | JSON_ENCODE_ANY);
}

/* An invoice shows its first ten lines only. */
static json_t *
with_fewer_lines(const json_t *invoice)
{
	json_t *copy = json_copy((json_t *) invoice);
	json_t *lines = json_copy(json_object_get(invoice, "lines"));
	json_t *shown = json_array();

	for (size_t i = 0; i < LINES_SHOWN; i++)
		json_array_append(shown, json_array_get(json_object_get(lines, "data"), i));
	json_object_set_new(lines, "data", shown);
	json_object_set_new(lines, "has_more", json_true());
	json_object_set_new(copy, "lines", lines);
	return copy;
}

void
stripe_render(const Obj *obj, Buf *out)
{
	json_t *data = json_object_get(json_object_get(obj->json, "lines"), "data");

	if (obj->text != NULL)
		buf_puts(out, obj->text);
	else if (json_array_size(data) > LINES_SHOWN)
	{
		json_t *copy = with_fewer_lines(obj->json);

		dump(copy, out);
		json_decref(copy);
	}
	else
		dump(obj->json, out);
}

static bool
read_created(Call *call, Page *page)
{
	json_t *created = json_object_get(call->params, "created");
	const char *name;
	json_t *value;

	page->gt = page->gte = INT64_MIN;
	page->lt = page->lte = INT64_MAX;
	if (json_is_string(created))
		page->gte = page->lte = param_int(call, "created", 0);
	json_object_foreach (created, name, value)
	{
		const char *text = json_string_value(value);
		int64_t bound = text ? strtoll(text, NULL, 10) : 0;

		if (strcmp(name, "gt") == 0)
			page->gt = bound;
		else if (strcmp(name, "gte") == 0)
			page->gte = bound;
		else if (strcmp(name, "lt") == 0)
			page->lt = bound;
		else if (strcmp(name, "lte") == 0)
			page->lte = bound;
		else
			return stripe_error(call, 400, "invalid_request_error", "parameter_unknown", "created",
								"Received unknown parameter: created[%s]", name);
	}
	return true;
}

static bool
read_page(Call *call, const char *filters, Page *page)
{
	const char *name;
	json_t *value;

	memset(page, 0, sizeof(*page));
	page->filters = filters;
	page->visible_until_ms = clock_ms() - call->req->hide_newer_ms;
	page->limit = param_int(call, "limit", 10);
	if (page->limit < 1 || page->limit > 100)
		return stripe_error(call, 400, "invalid_request_error", "parameter_invalid_integer",
							"limit",
							"This value must be between 1 and 100 (it currently is '%lld').",
							(long long) page->limit);
	json_object_foreach (call->params, name, value)
	{
		if (!in_list("limit,starting_after,ending_before,expand,created", name) &&
			!in_list(filters, name))
			return stripe_error(call, 400, "invalid_request_error", "parameter_unknown", name,
								"Received unknown parameter: %s", name);
	}
	return read_created(call, page);
}

static bool
is_filtered(const Call *call, const Page *page)
{
	const char *name;
	json_t *value;

	json_object_foreach (call->params, name, value)
	{
		if (in_list(page->filters, name))
			return true;
	}
	return page->hides_canceled;
}

static bool
attribute_equals(const json_t *attribute, const char *wanted)
{
	if (json_is_boolean(attribute))
		return strcmp(wanted, json_is_true(attribute) ? "true" : "false") == 0;
	return json_is_string(attribute) && strcmp(json_string_value(attribute), wanted) == 0;
}

static bool
json_passes(const Call *call, const Page *page, const Obj *obj, const json_t *json)
{
	const char *status = param_string(call, "status");
	const char *name;
	json_t *value;

	json_object_foreach (call->params, name, value)
	{
		const char *wanted = json_string_value(value);

		if (wanted == NULL || !in_list(page->filters, name))
			continue;
		if (strcmp(name, "status") == 0 && strcmp(wanted, "all") == 0)
			continue;
		if (!attribute_equals(store_attribute(obj, json, name), wanted))
			return false;
	}
	/* Stripe leaves cancelled subscriptions out unless they are asked for */
	return status != NULL || !page->hides_canceled ||
		   strcmp(get_string(json, "status"), "canceled") != 0;
}

static bool
passes_filters(const Call *call, const Page *page, const Obj *obj)
{
	json_t *json;
	bool passes;

	if (!page->looks_inside)
		return true;
	json = store_read(obj);
	passes = json_passes(call, page, obj, json);
	json_decref(json);
	return passes;
}

static bool
is_wanted_type(const Page *page, const char *type)
{
	size_t i;
	json_t *wanted;

	if (page->types == NULL)
		return true;
	json_array_foreach (page->types, i, wanted)
	{
		const char *pattern = json_string_value(wanted);
		size_t len = pattern ? strlen(pattern) : 0;

		/* "invoice.*" */
		if (len > 0 && pattern[len - 1] == '*' && strncmp(pattern, type, len - 1) == 0)
			return true;
		if (len > 0 && strcmp(pattern, type) == 0)
			return true;
	}
	return false;
}

static bool
belongs(const Call *call, const Page *page, const Obj *obj)
{
	if (obj->deleted || obj->created_ms > page->visible_until_ms)
		return false;
	if (obj->created <= page->gt || obj->created < page->gte || obj->created >= page->lt ||
		obj->created > page->lte)
		return false;
	if (obj->type != NULL)
		return is_wanted_type(page, obj->type);
	return passes_filters(call, page, obj);
}

/* The rows that a list is taken from: of one reference where that is asked for, else all. */
static Hits
candidates(const Call *call, const Collection *coll, const Page *page)
{
	Hits all = {.rows = coll->rows, .count = coll->count};
	const char *name;
	json_t *value;

	json_object_foreach (call->params, name, value)
	{
		if (coll->indexed != NULL && in_list(coll->indexed, name) && in_list(page->filters, name) &&
			json_is_string(value))
			return store_by_reference(coll, name, json_string_value(value));
	}
	return all;
}

/* Where the first row at or behind this position is. */
static int64_t
row_at(const Hits *from, size_t pos)
{
	size_t low = 0;
	size_t high = from->count;

	while (low < high)
	{
		size_t middle = (low + high) / 2;

		if (from->rows[middle]->pos < pos)
			low = middle + 1;
		else
			high = middle;
	}
	return (int64_t) low;
}

/* One page, newest first. False: a cursor names nothing that we have. */
static bool
collect(Call *call, const Collection *coll, const char *object, const Page *page, Obj **rows,
		size_t *count, bool *has_more)
{
	const char *after = param_string(call, "starting_after");
	const char *before = param_string(call, "ending_before");
	const char *anchor_id = after ? after : before;
	const Obj *anchor = anchor_id ? store_peek(coll, anchor_id) : NULL;
	int64_t step = after || !before ? -1 : 1;
	int64_t oldest = page->gte > page->gt ? page->gte : page->gt;
	Hits from;
	int64_t at;

	if (anchor_id != NULL && anchor == NULL)
	{
		(void) stripe_missing(call, object, after ? "starting_after" : "ending_before", anchor_id);
		call->reply->status = 400;
		return false;
	}
	from = candidates(call, coll, page);
	at = anchor ? row_at(&from, anchor->pos + (step > 0)) : (int64_t) from.count;
	at -= step < 0;
	*count = 0;
	*has_more = false;
	for (; at >= 0 && at < (int64_t) from.count; at += step)
	{
		if (step < 0 && !coll->unsorted && from.rows[at]->created < oldest)
			break;
		if (!belongs(call, page, from.rows[at]))
			continue;
		*has_more = *count == (size_t) page->limit;
		if (*has_more)
			break;
		rows[(*count)++] = from.rows[at];
	}
	if (from.rows != coll->rows)
		free(from.rows);
	/* walked towards the newest: turn round */
	for (size_t i = 0; step > 0 && i < *count / 2; i++)
	{
		Obj *swap = rows[i];

		rows[i] = rows[*count - 1 - i];
		rows[*count - 1 - i] = swap;
	}
	return true;
}

static void
list_collection(Call *call, const Collection *coll, const char *object, const Page *page)
{
	Obj *rows[100];
	Buf *out = &call->reply->body;
	size_t count;
	bool has_more;

	if (!collect(call, coll, object, page, rows, &count, &has_more))
		return;
	call->reply->status = 200;
	buf_puts(out, "{\"object\":\"list\",\"data\":[");
	for (size_t i = 0; i < count; i++)
	{
		if (i > 0)
			buf_puts(out, ",");
		stripe_render(rows[i], out);
	}
	buf_printf(out, "],\"has_more\":%s,\"url\":\"%s\"}", has_more ? "true" : "false",
			   call->req->path);
}

void
stripe_list(Call *call, Resource *res)
{
	Page page;

	if (!read_page(call, res->filters, &page))
		return;
	page.hides_canceled = res == &subscriptions;
	page.looks_inside = is_filtered(call, &page);
	list_collection(call, &res->coll, res->object, &page);
}

void
stripe_list_events(Call *call)
{
	Page page;
	const char *type = param_string(call, "type");

	if (!read_page(call, "type,types,delivery_success", &page))
		return;
	if (type != NULL)
		page.types = json_pack("[s]", type);
	else if (param_given(call, "types"))
		page.types = param_list(call, "types");
	list_collection(call, stripe_events(), "event", &page);
	json_decref(page.types);
}

/* Lines keep the order of the document. */
void
stripe_list_lines(Call *call, const Obj *invoice)
{
	json_t *data = json_object_get(json_object_get(invoice->json, "lines"), "data");
	const char *after = param_string(call, "starting_after");
	json_t *shown = json_array();
	size_t from = 0;
	size_t i;
	json_t *line;
	Page page;

	if (!read_page(call, "", &page))
	{
		json_decref(shown);
		return;
	}
	json_array_foreach (data, i, line)
	{
		if (after != NULL && strcmp(get_string(line, "id"), after) == 0)
			from = i + 1;
	}
	for (i = from; i < json_array_size(data) && json_array_size(shown) < (size_t) page.limit; i++)
		json_array_append(shown, json_array_get(data, i));
	reply_json(call->reply, 200,
			   json_pack("{s:s, s:o, s:b, s:s}", "object", "list", "data", shown, "has_more",
						 i < json_array_size(data), "url", call->req->path));
}
