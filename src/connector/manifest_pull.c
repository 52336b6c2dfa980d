/*
 * manifest_pull.c
 *		The pull side of a manifest's object.
 */
#include "postgres.h"

#include "connector/expr.h"

/*
 * Whether a part of a request is where the walk begins, as it stands. A cast that makes a day of it
 * would not do: then a later instant need not ask for less.
 */
static bool
says_since(JsonbValue *node)
{
	char *head = JV_IS_OBJECT(node) ? jv_get_text(node, "$") : jv_text(node);
	char *cast = JV_IS_OBJECT(node) ? jv_get_text(node, "cast") : NULL;
	JvIter i;

	if (head != NULL && strcmp(head, "$cursor.since") == 0)
		return cast == NULL || strcmp(cast, "epoch_ms") == 0 || strcmp(cast, "timestamp") == 0;
	jv_iter_init(&i, node);
	while (jv_iter_next(&i))
	{
		JsonbValue member = i.value;

		if (says_since(&member))
			return true;
	}
	return false;
}

static SePageSpec *
compile_page(SeCompiler *c, const char *at, JsonbValue *node, JsonbValue *cursor,
			 const char *cursor_at)
{
	SePageSpec *p = palloc0(sizeof(SePageSpec));
	JsonbValue *next = jv_get(node, "next");
	const char *next_at = se_pointer(at, "next");
	JsonbValue *flag;
	char *text;

	p->items = se_compile_path_of(c, at, node, "items");
	p->record = se_compile_path_of(c, at, node, "record");
	p->id = se_compile_expr_of(c, at, node, "id");
	p->when = se_compile_path_of(c, at, node, "keep");
	p->deleted = se_compile_path_of(c, at, node, "deleted");
	p->time = se_compile_expr_of(c, at, node, "time");
	if (p->time == NULL)
		p->time = se_compile_expr_of(c, cursor_at, cursor, "time");
	p->more = se_compile_path_of(c, next_at, next, "more");
	p->token = se_compile_expr_of(c, next_at, next, "token");
	p->link = se_compile_expr_of(c, next_at, next, "link");
	p->last_id = se_compile_expr_of(c, next_at, next, "last_id");
	flag = jv_get(next, "offset");
	p->offset = flag && flag->type == jbvBool && flag->val.boolean;
	text = jv_get_text(node, "order");
	p->newest_first = text && strcmp(text, "newest_first") == 0;
	p->by_time = text && strcmp(text, "oldest_first") == 0 && p->time && (p->token || p->offset) &&
				 says_since(jv_get(node, "query"));
	text = jv_get_text(node, "mark");
	p->mark_answered = text ? strcmp(text, "answered") == 0 : p->time == NULL;
	text = jv_get_text(node, "page_size");
	p->page_size = text ? atoi(text) : 0;
	if (p->more == NULL && p->token == NULL && p->link == NULL && p->page_size == 0 && next)
		se_bad_manifest(at, "needs \"page_size\" to know a last page from a full one");
	return p;
}

static SeRecordSpec *
compile_record(SeCompiler *c, const char *at, JsonbValue *node, JsonbValue *pull)
{
	SeRecordSpec *r = palloc0(sizeof(SeRecordSpec));
	const char *record_at = se_pointer(at, "record");
	const char *lines_at = se_pointer(at, "lines");
	JsonbValue *lines = jv_get(pull, "lines");

	r->id = se_compile_expr_of(c, record_at, node, "id");
	r->number = se_compile_expr_of(c, record_at, node, "number");
	r->version = se_compile_expr_of(c, record_at, node, "version");
	r->version_at = se_compile_expr_of(c, record_at, node, "version_at");
	r->our_id = se_compile_expr_of(c, record_at, node, "our_id");
	r->merged_into = se_compile_expr_of(c, record_at, node, "merged_into");
	r->deleted = se_compile_path_of(c, record_at, node, "deleted");
	r->skip = se_compile_path_of(c, record_at, node, "skip");
	r->fields = se_compile_named(c, se_pointer(at, "fields"), jv_get(pull, "fields"));
	if (lines)
	{
		r->lines = se_compile_path_of(c, lines_at, lines, "items");
		r->line_skip = se_compile_path_of(c, lines_at, lines, "skip");
		r->line_fields =
			se_compile_named(c, se_pointer(lines_at, "fields"), jv_get(lines, "fields"));
	}
	return r;
}

static void
compile_more(SeCompiler *c, SePull *p, const char *at, JsonbValue *node, SeEncoding encoding)
{
	p->more = se_compile_read(c, at, node, "more", encoding);
	if (p->more == NULL)
		return;
	p->more->response->list_key = jv_get_text(node, "list");
	p->more->response->items_key = jv_get_text(node, "items");
	if (p->more->request->when == NULL)
		se_bad_manifest(at, "needs \"when\": how a record tells that lines are missing");
}

static List *
compile_match(JsonbValue *node)
{
	List *match = NIL;
	JvIter i;

	jv_iter_init(&i, node);
	while (jv_iter_next(&i))
	{
		List *columns = NIL;
		JsonbValue *v = palloc(sizeof(JsonbValue));
		JvIter j;

		*v = i.value;
		if (v->type == jbvString)
			columns = list_make1(jv_text(v));
		jv_iter_init(&j, v);
		while (jv_iter_next(&j))
			columns = lappend(columns, jv_text(&j.value));
		match = lappend(match, columns);
	}
	return match;
}

static void
compile_policies(SePull *p, JsonbValue *node)
{
	char *missing = jv_get_text(node, "on_missing");
	JsonbValue *deleted = jv_get(node, "on_delete");

	p->on_missing = missing == NULL || strcmp(missing, "insert") == 0 ? SE_MISSING_INSERT
					: strcmp(missing, "inbox") == 0					  ? SE_MISSING_INBOX
																	  : SE_MISSING_IGNORE;
	p->on_delete = SE_DELETE_IGNORE;
	if (JV_IS_OBJECT(deleted))
	{
		p->on_delete = SE_DELETE_SET;
		p->delete_fields = jv_to_jsonb(jv_get(deleted, "set"));
	}
	else if (deleted && strcmp(jv_text(deleted), "delete") == 0)
		p->on_delete = SE_DELETE_ROW;
}

/* What another system owns is known from this one, too, and only compared. */
static void
compile_compared(SePull *p, const char *at, JsonbValue *node)
{
	JvIter i;
	ListCell *lc;

	jv_iter_init(&i, node);
	while (jv_iter_next(&i))
	{
		char *name = jv_text(&i.value);
		bool found = false;

		foreach (lc, p->record->fields)
			found |= strcmp(((SeNamedExpr *) lfirst(lc))->name, name) == 0;
		if (!found)
			se_bad_manifest(se_pointer_index(at, i.index), "\"fields\" has no \"%s\"", name);
		p->compared = lappend(p->compared, name);
	}
	if (p->compared != NIL && p->on_missing == SE_MISSING_INSERT)
		se_bad_manifest(
			at, "a record that is inserted needs all of its fields: say what \"on_missing\" does");
}

static void
compile_contract(SePull *p, const char *at, JsonbValue *node)
{
	JsonbValue *schema = jv_get(node, "schema");

	p->contract_version = jv_get_text(node, "version");
	if (schema != NULL)
		p->contract = se_compile_contract(se_pointer(at, "schema"), schema);
}

/* The endpoint that tells how many records there are, and what they add up to. */
static void
compile_count(SeCompiler *c, SePull *p, const char *at, JsonbValue *node, SeEncoding encoding)
{
	if (node == NULL)
		return;
	p->count = se_compile_read(c, at, node, "count", encoding);
	p->count_spec = palloc0(sizeof(SeCountSpec));
	p->count_spec->items = se_compile_path_of(c, at, node, "items");
	p->count_spec->count = se_compile_expr_of(c, at, node, "count");
	p->count_spec->amount = se_compile_expr_of(c, at, node, "amount");
	p->count_spec->currency = se_compile_expr_of(c, at, node, "currency");
	if ((p->count_spec->amount == NULL) != (p->count_spec->currency == NULL))
		se_bad_manifest(at, "\"amount\" and \"currency\" go together");
}

static void
compile_cursor(SePull *p, const char *at, JsonbValue *cursor)
{
	JsonbValue *v;

	p->resolution_ms = 1;
	if ((v = jv_get(cursor, "lookback")))
		p->lookback_ms = se_parse_duration(se_pointer(at, "lookback"), v);
	if ((v = jv_get(cursor, "resolution")))
		p->resolution_ms = Max(1, se_parse_duration(se_pointer(at, "resolution"), v));
	v = jv_get(cursor, "refetch_on_tie");
	p->refetch_on_tie = v && v->type == jbvBool && v->val.boolean;
}

/* A list of which each is a part of a record of another list: that one is walked one record at a time. */
static void
compile_within(SeCompiler *c, SeListPart *part, const char *at, JsonbValue *node,
			   JsonbValue *cursor, const char *cursor_at, SeEncoding encoding)
{
	part->within = se_compile_read(c, at, node, "within", encoding);
	if (part->within == NULL)
		return;
	part->within_page = compile_page(c, at, node, cursor, cursor_at);
	part->within_page->by_time = false;
	if (part->within_page->id == NULL || part->within_page->page_size != 1)
		se_bad_manifest(at, "needs \"id\", and a \"page_size\" of 1: one record at a time");
	if (jv_get(node, "within") || part->page->link || part->within_page->link)
		se_bad_manifest(at, "goes one level deep, and not by links");
}

static void
compile_lists(SeCompiler *c, SePull *p, const char *at, JsonbValue *node, JsonbValue *cursor,
			  const char *cursor_at, SeEncoding encoding)
{
	bool several = JV_IS_ARRAY(node);
	JvIter i;

	if (node == NULL)
		return;
	p->nparts = several ? jv_count(node) : 1;
	p->parts = palloc0(sizeof(SeListPart) * p->nparts);
	jv_iter_init(&i, node);
	for (int k = 0; k < p->nparts; k++)
	{
		SeListPart *part = &p->parts[k];
		JsonbValue *list = node;
		const char *here = several ? se_pointer_index(at, k) : at;

		if (several && jv_iter_next(&i))
		{
			list = palloc(sizeof(JsonbValue));
			*list = i.value;
		}
		part->op = se_compile_read(c, here, list, "list", encoding);
		part->page = compile_page(c, here, list, cursor, cursor_at);
		compile_within(c, part, se_pointer(here, "within"), jv_get(list, "within"), cursor,
					   cursor_at, encoding);
	}
	p->list = p->parts[0].op;
	p->list_page = p->parts[0].page;
}

SePull *
se_compile_pull(SeCompiler *c, const char *at, JsonbValue *node, const char *object,
				SeEncoding encoding)
{
	SePull *p = palloc0(sizeof(SePull));
	JsonbValue *cursor = jv_get(node, "cursor");
	const char *cursor_at = se_pointer(at, "cursor");
	JsonbValue *scan = jv_get(node, "scan_deletes");

	p->object = object;
	compile_lists(c, p, se_pointer(at, "list"), jv_get(node, "list"), cursor, cursor_at, encoding);
	p->events =
		se_compile_read(c, se_pointer(at, "events"), jv_get(node, "events"), "events", encoding);
	p->fetch =
		se_compile_read(c, se_pointer(at, "fetch"), jv_get(node, "fetch"), "fetch", encoding);
	compile_count(c, p, se_pointer(at, "count"), jv_get(node, "count"), encoding);
	if (p->list == NULL && p->events == NULL)
		se_bad_manifest(at, "needs \"list\" or \"events\"");
	if (p->events)
		p->events_page =
			compile_page(c, se_pointer(at, "events"), jv_get(node, "events"), cursor, cursor_at);
	compile_cursor(p, cursor_at, cursor);
	p->newest_first = (p->events ? p->events_page : p->list_page)->newest_first;
	p->record = compile_record(c, at, jv_get(node, "record"), node);
	p->has_lines = p->record->lines != NULL;
	compile_more(c, p, se_pointer(se_pointer(at, "lines"), "more"),
				 jv_get(jv_get(node, "lines"), "more"), encoding);
	p->match = compile_match(jv_get(node, "match"));
	compile_policies(p, node);
	compile_compared(p, se_pointer(at, "compared"), jv_get(node, "compared"));
	compile_contract(p, se_pointer(at, "contract"), jv_get(node, "contract"));
	p->scan_deletes = scan != NULL;
	if (scan)
		p->scan_every_ms = se_parse_duration(se_pointer(at, "scan_deletes"), jv_get(scan, "every"));
	if (p->refetch_on_tie && p->fetch == NULL)
		se_bad_manifest(cursor_at, "\"refetch_on_tie\" needs \"fetch\"");
	return p;
}
