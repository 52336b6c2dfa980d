/*
 * decide.c: what becomes of one item of a page. No queries; see README.md for the rules.
 */
#include "postgres.h"

#include "nodes/bitmapset.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "connector/expr.h"
#include "connector/money.h"
#include "core/json.h"
#include "pull/internal.h"

static char *
scalar_text(const JsonbValue *v)
{
	if (v->type == jbvString)
		return pnstrdup(v->val.string.val, v->val.string.len);
	if (v->type == jbvNumeric)
		return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
	return NULL;
}

bool
se_json_same(const JsonbValue *a, const JsonbValue *b)
{
	TimestampTz at;
	TimestampTz bt;
	char *left;
	char *right;
	char plain[2][400];

	if (se_json_equal(a, b))
		return true;
	left = a != NULL ? scalar_text(a) : NULL;
	right = b != NULL ? scalar_text(b) : NULL;
	if (left == NULL || right == NULL)
		return false;
	if (se_parse_time(left, &at) && se_parse_time(right, &bt))
		return at == bt;
	if (a->type == b->type ||
		se_decimal_shift(left, 0, false, plain[0], sizeof(plain[0])) != SE_SHIFT_OK ||
		se_decimal_shift(right, 0, false, plain[1], sizeof(plain[1])) != SE_SHIFT_OK)
		return strcmp(left, right) == 0;
	return strcmp(plain[0], plain[1]) == 0;
}

/* {…fields, "lines": […]}: the shape of a document in the mirror and in events. */
Jsonb *
se_fields_with_lines(Jsonb *fields, Jsonb *lines)
{
	JsonbParseState *state = NULL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue v;
	JsonbValue *whole;

	if (lines == NULL)
		return fields;
	it = JsonbIteratorInit(&fields->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_END_OBJECT)
			break;
		pushJsonbValue(&state, token, token == WJB_BEGIN_OBJECT ? NULL : &v);
	}
	v.type = jbvString;
	v.val.string.val = "lines";
	v.val.string.len = 5;
	pushJsonbValue(&state, WJB_KEY, &v);
	v.type = jbvBinary;
	v.val.binary.data = &lines->root;
	v.val.binary.len = VARSIZE(lines) - VARHDRSZ;
	pushJsonbValue(&state, WJB_VALUE, &v);
	whole = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(whole);
}

static void
to_inbox(SeItem *item, const char *sqlstate, char *reason)
{
	item->fate = SE_FATE_INBOX;
	item->sqlstate = sqlstate != NULL ? pstrdup(sqlstate) : NULL;
	item->reason = reason;
}

static bool
is_overridden(const SeItem *item, const char *name, int len)
{
	ListCell *lc;

	foreach (lc, item->overridden)
	{
		const char *field = lfirst(lc);

		if (strncmp(field, name, len) == 0 && field[len] == '\0')
			return true;
	}
	return false;
}

/* Another system owns it: the mirror knows it, so that it can be compared, and nobody writes it. */
static bool
is_compared(const SeTarget *target, const char *name, int len)
{
	ListCell *lc;

	foreach (lc, target->pull->compared)
	{
		const char *field = lfirst(lc);

		if (strncmp(field, name, len) == 0 && field[len] == '\0')
			return true;
	}
	return false;
}

/*
 * The fields that differ from the base (NULL: all of them), and their columns. Only those may be
 * written, so that a field which an app changed since, and which the other side did not, keeps the
 * app's value. False: a field has no column; the item goes to the inbox.
 */
static bool
take_differing(const SeTarget *target, SeTable *table, SeItem *item, Jsonb *fields, Jsonb *base)
{
	JsonbParseState *state = NULL;
	JsonbIterator *it = JsonbIteratorInit(&fields->root);
	JsonbIteratorToken token;
	JsonbValue v;
	SeColumn *column = NULL;
	JsonbValue key;

	item->changed_columns = NIL;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			key = v;
			column = se_table_column(table, v.val.string.val, v.val.string.len);
			if (column == NULL || column->generated)
			{
				to_inbox(item, "42703",
						 psprintf("table %s has no column \"%.*s\" that can be written",
								  table->quoted, v.val.string.len, v.val.string.val));
				return false;
			}
		}
		else if (token == WJB_VALUE)
		{
			JsonbValue old;

			if (is_compared(target, key.val.string.val, key.val.string.len))
				continue;
			if (base != NULL &&
				getKeyJsonValueFromContainer(&base->root, key.val.string.val, key.val.string.len,
											 &old) != NULL &&
				se_same_value(target, column, fields, &old, &v) &&
				!is_overridden(item, key.val.string.val, key.val.string.len))
				continue;
			item->changed_columns = lappend(item->changed_columns, column);
			if (base == NULL)
				continue;
			pushJsonbValue(&state, WJB_KEY, &key);
			pushJsonbValue(&state, WJB_VALUE, &v);
		}
	}
	item->changed = fields;
	if (base != NULL)
		item->changed = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	return true;
}

/* Columns that the lines name, in the table's order, which makes equal sets look equal. */
static bool
take_line_columns(SeTable *table, SeItem *item)
{
	Bitmapset *named = NULL;
	JsonbIterator *it = JsonbIteratorInit(&item->map.lines->root);
	JsonbIteratorToken token;
	JsonbValue v;
	int depth = 0;
	int i = -1;

	item->line_columns = NIL;
	while ((token = JsonbIteratorNext(&it, &v, depth == 2)) != WJB_DONE)
	{
		if (token == WJB_BEGIN_ARRAY || token == WJB_BEGIN_OBJECT)
			depth++;
		else if (token == WJB_END_ARRAY || token == WJB_END_OBJECT)
			depth--;
		else if (token == WJB_KEY)
		{
			SeColumn *column = se_table_column(table->lines, v.val.string.val, v.val.string.len);

			if (column == NULL || column->generated)
			{
				to_inbox(item, "42703",
						 psprintf("table %s has no column \"%.*s\" that can be written",
								  table->lines->quoted, v.val.string.len, v.val.string.val));
				return false;
			}
			named = bms_add_member(named, column - table->lines->columns);
		}
	}
	while ((i = bms_next_member(named, i)) >= 0)
		item->line_columns = lappend(item->line_columns, &table->lines->columns[i]);
	return true;
}

/* Fields and lines to write for an item that is going to be applied. */
static bool
take_changes(const SeTarget *target, SeTable *table, SeItem *item)
{
	/* A row that we deleted at their word comes back whole. */
	bool row_gone = item->mirror_deleted && target->pull->on_delete == SE_DELETE_ROW;
	Jsonb *known = item->in_mirror && item->bound != NULL && !row_gone ? item->mirror_fields : NULL;
	JsonbValue old;

	/* What we set at their word when it went away is not what the remote record says. */
	if (known != NULL && item->mirror_deleted && target->pull->on_delete == SE_DELETE_SET)
		known = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(known),
												   JsonbPGetDatum(target->pull->delete_fields)));
	item->is_new = item->bound != NULL && row_gone;
	if (is_overridden(item, "*", 1))
		known = NULL; /* an app deleted what is theirs: all of it is set again */
	item->base = known;
	if (!take_differing(target, table, item, item->map.fields, known))
		return false;
	item->changed_lines = false;
	if (item->map.lines == NULL)
		return true;
	if (table->lines == NULL)
	{
		to_inbox(item, "42P01",
				 psprintf("the mapping reads lines, but object \"%s\" has no line table",
						  target->object));
		return false;
	}
	if (known != NULL && getKeyJsonValueFromContainer(&known->root, "lines", 5, &old) != NULL &&
		old.type == jbvBinary && !is_overridden(item, "lines", 5) &&
		se_same_lines(target, table->lines, item->map.fields, &item->map.lines->root,
					  old.val.binary.data))
		return true;
	item->changed_lines = true;
	return take_line_columns(table, item);
}

int64
se_journal_margin(const SePull *pull)
{
	return Max(pull->lookback_ms, pull->resolution_ms) * 1000;
}

/*
 * A journal holds records as they were, so when it was asked says nothing; when the change was made
 * does, by the other side's clock. Near our last push or read the order is anybody's guess.
 */
static bool
is_near_push(const SeTarget *target, const SeItem *item)
{
	int64 margin = se_journal_margin(target->pull);

	return item->journal && !item->fetched && item->pushed_at != 0 &&
		   (!item->has_at || item->at <= item->pushed_at + margin);
}

/*
 * May the item be older than a push of ours? Its request then began before that push ended, or the
 * push is still out. A version that is newer than what the push left behind settles it.
 */
static bool
may_be_stale(const SeTarget *target, const SeItem *item, bool in_flight)
{
	if (in_flight)
		return true;
	if (item->refetch && !item->fetched)
		return true;
	if (is_near_push(target, item))
		return true;
	if (item->pushed_at != 0 && item->pushed_at >= item->began_at)
		return !(item->map.has_version_at && item->mirror_version_at != 0 &&
				 item->map.version_at > item->mirror_version_at);
	/* Two states of one instant: only a read by id tells which came last. */
	return !item->fetched && target->pull->refetch_on_tie && target->pull->fetch != NULL &&
		   item->in_mirror && item->map.has_version_at &&
		   item->map.version_at == item->mirror_version_at;
}

/* A page that lists an older state than one that was seen already. A read by id is always news. */
static bool
is_older(const SeItem *item)
{
	return item->in_mirror && !item->fetched && item->map.has_version_at &&
		   item->mirror_version_at != 0 && item->map.version_at < item->mirror_version_at;
}

static bool
same_version(const SeItem *item)
{
	if (item->map.has_version_at ? item->map.version_at != item->mirror_version_at
								 : item->mirror_version_at != 0)
		return false;
	if (item->map.version == NULL || item->mirror_version == NULL)
		return item->map.version == item->mirror_version;
	return strcmp(item->map.version, item->mirror_version) == 0;
}

static void
decide_deleted(const SeTarget *target, SeTable *table, SeItem *item, bool in_flight)
{
	item->record_id = item->bound;
	item->changed_columns = NIL;
	item->changed_lines = false;
	if (!item->in_mirror && item->bound == NULL)
		item->fate = SE_FATE_NOTHING;
	else if (item->mirror_deleted || is_older(item))
	{
		item->fate = SE_FATE_NOTHING;
		item->outdated = !item->mirror_deleted;
	}
	else if (!item->fetched && (in_flight || is_near_push(target, item) ||
								(item->pushed_at != 0 && item->pushed_at >= item->began_at)))
		item->fate = target->pull->fetch != NULL ? SE_FATE_READ_AGAIN : SE_FATE_HOLD;
	else
	{
		item->fate = SE_FATE_DELETE;
		if (target->pull->on_delete == SE_DELETE_SET && item->bound != NULL)
			take_differing(target, table, item, target->pull->delete_fields, NULL);
	}
	if (item->fate == SE_FATE_READ_AGAIN || item->fate == SE_FATE_HOLD)
		item->reason = pstrdup(SE_REASON_READ_AGAIN);
}

/* One that would be applied or is an echo: which of the two? */
static void
decide_live(const SeTarget *target, SeTable *table, SeItem *item, bool in_flight)
{
	bool known = item->in_mirror && item->bound != NULL;

	item->record_id = item->bound;
	if (known && is_older(item))
	{
		item->fate = SE_FATE_NOTHING;
		item->outdated = true;
		return;
	}
	if (!take_changes(target, table, item))
		return;
	if (known && !item->mirror_deleted && item->changed_columns == NIL && !item->changed_lines)
	{
		/*
		 * An echo. It changes no row whatever its age; but what may be stale must not become
		 * the mirror's version either.
		 */
		if (same_version(item) && (item->same_raw || item->map.version != NULL))
			item->fate = SE_FATE_NOTHING;
		else
			item->fate = may_be_stale(target, item, in_flight) ? SE_FATE_NOTHING : SE_FATE_MIRROR;
		return;
	}
	if (!may_be_stale(target, item, in_flight))
		item->fate = SE_FATE_APPLY;
	else
	{
		item->fate = target->pull->fetch != NULL ? SE_FATE_READ_AGAIN : SE_FATE_HOLD;
		item->reason = pstrdup(SE_REASON_READ_AGAIN);
	}
}

/*
 * The remote record of a record that was merged away, while the survivor is bound to another one. What
 * is done to it there changes nothing of ours; that it exists, and how it stands, is known.
 */
static void
decide_alias(SeItem *item)
{
	item->record_id = NULL;
	item->set_columns = NIL;
	item->set_lines = false;
	if (item->deleted)
		item->fate = item->in_mirror && !item->mirror_deleted ? SE_FATE_DELETE : SE_FATE_NOTHING;
	else if (item->record == NULL || item->map.status != SE_MAP_OK || is_older(item) ||
			 (item->same_raw && same_version(item) && !item->mirror_deleted))
		item->fate = SE_FATE_NOTHING;
	else
		item->fate = SE_FATE_MIRROR;
}

/*
 * An entry of a journal is a state of the past, and the inbox may hold a later one of the record: a
 * journal that runs backwards lists that on one page and this on the next. Which of them stands is read.
 * (Where the inbox only asks for a read, it goes on asking; see is_still_to_be_read().)
 */
static bool
is_behind_inbox(const SeTarget *target, const SeItem *item)
{
	return item->journal && item->in_inbox && !item->to_be_read && !item->fetched &&
		   !item->stored && target->pull->fetch != NULL;
}

void
se_decide(const SeTarget *target, SeTable *table, SeItem *item, bool in_flight)
{
	item->sqlstate = item->reason = item->wait_remote_id = NULL;
	item->outdated = false;
	item->wait_object_id = 0;
	if (item->alias != NULL)
	{
		decide_alias(item);
		return;
	}
	if (item->map.merged_into != NULL && item->map.merged_into[0] != '\0')
	{
		/* No delete, and nothing to create: se_follow_merges() */
		item->fate = SE_FATE_NOTHING;
		return;
	}
	if (item->deleted)
	{
		decide_deleted(target, table, item, in_flight);
		return;
	}
	if (item->record == NULL)
	{
		/* A journal that tells only who changed. */
		item->fate = target->pull->fetch != NULL ? SE_FATE_READ_AGAIN : SE_FATE_NOTHING;
		item->reason = pstrdup("listed as changed; it is read by id");
		return;
	}
	if (is_behind_inbox(target, item))
	{
		item->fate = SE_FATE_READ_AGAIN;
		item->reason = pstrdup("the inbox holds another state of it; it is read by id");
		return;
	}
	switch (item->map.status)
	{
		case SE_MAP_SKIP:
			item->fate = SE_FATE_NOTHING;
			break;
		case SE_MAP_WAIT:
			to_inbox(item, NULL,
					 item->map.reason != NULL ? item->map.reason
											  : pstrdup("refers to a record that is not here yet"));
			/* A reference by value of a column has no remote id to wait for; it is tried again. */
			if (item->map.wait_by != NULL || item->map.wait_object == NULL ||
				strlen(item->map.wait_remote_id) > SE_MAX_REMOTE_ID)
				break;
			item->wait_object_id = se_pull_object_id(item->map.wait_object);
			item->wait_remote_id = item->map.wait_remote_id;
			break;
		case SE_MAP_INVALID:
			to_inbox(item, NULL,
					 item->map.reason != NULL ? item->map.reason : pstrdup("cannot be mapped"));
			break;
		case SE_MAP_OK:
			decide_live(target, table, item, in_flight);
			break;
	}
}
