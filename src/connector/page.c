/*
 * page.c
 *		Walking lists and journals: asking for a page and reading it.
 *
 * A walk goes from its first page to its last with the same 'since', so that
 * the pages belong together whatever happens between them. The mark moves when
 * the walk ends, never in its middle: pages may come newest first, or in the
 * order of ids. State of a walk, in cursor.page:
 *
 *	since		where it began (absent: from the beginning of time)
 *	kind		list or events
 *	token, last_id, offset		position
 *	counted		pages are asked for by their number only: see advance()
 *	seen		how far the walk is, and where it was: see in_circle()
 *	max			latest change time seen
 *	answered	when the vendor answered the first page, by its own clock
 *	deep		the walk goes back the whole lookback: see look_back()
 *	part		which of several lists, absent: the first
 *	within		the record whose part is listed, where a list is asked for by record
 *	outer		where the list of such records goes on; absent: it was the last one
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "connector/page.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MAX_ITEMS	  100000
#define SCRATCH_ITEMS 100 /* so many items are read before what reading them took is given back */

#define DEEP_LOOKBACK_MS 10000 /* a lookback shorter than this is always gone back */
#define NEAR_PART		 10	   /* of a lookback, that each walk goes back */

static bool
time_of(JsonbValue *object, const char *key, TimestampTz *at)
{
	char *text = jv_get_text(object, key);

	return text && se_parse_time(text, at);
}

/*
 * From when a walk reads. A journal may show entries late, by up to its lookback; going back so far
 * with each walk would read every entry as often as the lookback holds walks. So most walks go back a
 * tenth of it, and one in each half of it goes back all the way, counted from where the last such
 * walk left the mark: whatever can have come to light since is read by that one.
 *
 * When the last one was is known by the vendor's clock. One that is not near ours makes every walk a
 * deep one.
 */
static char *
look_back(Walk *w, const SePull *pull, TimestampTz mark)
{
	JsonbValue *deep = jv_get(w->cursor, "deep");
	int64 back_ms = pull->lookback_ms;
	TimestampTz at;
	TimestampTz from;

	w->deep = w->events && back_ms >= DEEP_LOOKBACK_MS;
	if (w->deep && time_of(deep, "at", &at) && time_of(deep, "time", &from))
	{
		int64 ago_ms = (GetCurrentTimestamp() - at) / 1000;

		w->deep = ago_ms < 0 || ago_ms >= back_ms / 2;
		if (w->deep)
			mark = Min(mark, from);
		else
			back_ms = Max(back_ms / NEAR_PART, Min(2 * pull->resolution_ms, back_ms));
	}
	return se_page_floor_time(mark - back_ms * 1000, pull->resolution_ms);
}

/* Of a cursor that an older manifest left behind, what is no more begins anew. */
static void
open_part(Walk *w, const SePull *pull)
{
	char *number = jv_get_text(w->page, "part");
	const SeListPart *part;

	w->part = number ? atoi(number) : 0;
	if (w->part < 0 || w->part >= pull->nparts)
		w->part = 0;
	part = &pull->parts[w->part];
	w->within = part->within ? jv_get_text(w->page, "within") : NULL;
	w->outer = part->within != NULL && w->within == NULL;
	w->op = w->outer ? part->within : part->op;
	w->spec = w->outer ? part->within_page : part->page;
}

static void
open_walk(Walk *w, const SePull *pull, Jsonb *cursor)
{
	JsonbValue *full;
	char *time;
	TimestampTz at;

	memset(w, 0, sizeof(*w));
	w->cursor = cursor ? jv_from_jsonb(cursor) : NULL;
	w->page = jv_get(w->cursor, "page");
	full = jv_get(w->cursor, "full");
	w->full = full && full->type == jbvBool && full->val.boolean;
	time = jv_get_text(w->cursor, "time");
	if (w->page)
	{
		char *kind = jv_get_text(w->page, "kind");

		w->since = jv_get_text(w->page, "since");
		w->deep = jv_get(w->page, "deep") != NULL;
		w->events = kind && strcmp(kind, "events") == 0;
	}
	else
	{
		/* The journal does not reach back for ever: what is old comes from the list. */
		w->events = pull->events && (pull->list == NULL || (time && !w->full));
		if (time && !w->full && se_parse_time(time, &at))
			w->since = look_back(w, pull, at);
	}
	if (w->since == NULL && !w->events)
		w->full = true;
	w->op = w->events ? pull->events : pull->list;
	w->spec = w->events ? pull->events_page : pull->list_page;
	if (!w->events && pull->nparts > 0)
		open_part(w, pull);
	/* A full walk of an object that has a journal only has no list to walk. */
	if (w->op == NULL)
	{
		w->op = pull->events ? pull->events : pull->list;
		w->spec = pull->events ? pull->events_page : pull->list_page;
		w->events = pull->events != NULL;
	}
}

/* What templates see as $cursor. */
static Jsonb *
cursor_vars(const Walk *w)
{
	JsonbParseState *state = NULL;
	static const char *const copied[] = {"token", "last_id", "offset"};
	int i;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (w->since)
		jv_push_member(&state, "since", jv_string(w->since));
	for (i = 0; i < lengthof(copied); i++)
	{
		JsonbValue *v = jv_get(w->page, copied[i]);

		if (v)
			jv_push_member(&state, copied[i], v);
	}
	if (w->within)
		jv_push_member(&state, "within", jv_string(w->within));
	if (w->spec->page_size > 0)
		jv_push_member(&state, "limit", jv_int(w->spec->page_size));
	return jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * Path and query of a link. Only these are used: where a link points is the
 * vendor's business, where we send credentials is ours.
 */
static char *
link_target(const SeManifest *m, Jsonb *vars, const char *link)
{
	char *base = jv_get_text(jv_get(jv_from_jsonb(vars), "param"), "base_url");
	const char *path = strstr(link, "://");
	const char *prefix;

	if (path)
	{
		path = strchr(path + 3, '/');
		link = path ? path : "/";
	}
	base = base ? base : m->base_url ? pstrdup(m->base_url) : "";
	prefix = strstr(base, "://");
	prefix = prefix ? strchr(prefix + 3, '/') : NULL;
	if (prefix)
	{
		size_t n = strlen(prefix);

		while (n > 0 && prefix[n - 1] == '/')
			n--;
		if (strncmp(link, prefix, n) == 0 && link[n] == '/')
			link += n;
	}
	return link[0] == '/' ? pstrdup(link) : psprintf("/%s", link);
}

void
se_list_request(const SeManifest *m, const SePull *pull, Jsonb *cursor, Jsonb *vars,
				SeRendered *out, const SeOperation **op)
{
	SeEval ev;
	Walk w;
	char *link;

	open_walk(&w, pull, cursor);
	se_eval_init(&ev, m, vars, se_make_vars(vars, NULL, cursor_vars(&w), NULL));
	se_render_request(&ev, w.op->request, false, out);
	link = jv_get_text(w.page, "link");
	if (link && out->status == SE_RENDER_OK)
		out->request.target = link_target(m, vars, link);
	if (op)
		*op = w.op;
}

/* ---- reading a page ---- */

/* What the page leaves behind: a copy, since the answer goes before the page is applied. */
static Jsonb *
record_of(Reader *r, JsonbValue *v)
{
	MemoryContext old = MemoryContextSwitchTo(r->keep);
	Jsonb *record = jv_to_jsonb(v);

	MemoryContextSwitchTo(old);
	return record;
}

/* A part of another record says whose: the list was asked for by that, the item itself may not know. */
static Jsonb *
with_owner(Reader *r, JsonbValue *v)
{
	MemoryContext old = MemoryContextSwitchTo(r->keep);
	JsonbParseState *state = NULL;
	JvIter i;
	Jsonb *record;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_iter_init(&i, v);
	while (jv_iter_next(&i))
	{
		JsonbValue *member = palloc(sizeof(JsonbValue));

		*member = i.value;
		jv_push_member(&state, i.key, member);
	}
	jv_push_member(&state, "within", jv_string(r->w.within));
	record = jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	MemoryContextSwitchTo(old);
	return record;
}

/* False: the item does not count, or its answer is no good, as r->ev says. */
static bool
read_item(Reader *r, Jsonb *item, SePageItem *out)
{
	const SePageSpec *spec = r->w.spec;
	SeEval *ev = r->ev;

	ev->root = item;
	if (spec->last_id)
		r->last_id = se_eval_text(ev, spec->last_id);
	if (spec->time)
		out->has_at = se_eval_time(ev, spec->time, &out->at);
	r->sorted &= out->has_at && (r->nitems == 0 || out->at >= r->last_at);
	r->last_at = out->at;
	if (r->nitems == 0)
		r->first_at = out->at;
	if (out->has_at && (!r->has_max || out->at > r->max))
	{
		r->max = out->at;
		r->has_max = true;
	}
	if (spec->when && !se_eval_predicate(ev, spec->when))
		return false;
	out->record = item;
	if (spec->record)
	{
		JsonbValue *record = se_eval_value(ev, spec->record);

		out->record = JV_IS_OBJECT(record) || JV_IS_ARRAY(record) ? record_of(r, record) : NULL;
	}
	else if (JB_ROOT_IS_SCALAR(item))
		out->record = NULL;
	out->remote_id = se_eval_text(ev, spec->id);
	out->deleted = spec->deleted && se_eval_predicate(ev, spec->deleted);
	if (out->remote_id == NULL && out->record && ev->status == SE_RENDER_OK)
	{
		ev->root = out->record;
		out->remote_id = se_eval_text(ev, r->pull->record->id);
	}
	if (out->remote_id == NULL && out->record == NULL)
		se_eval_fail(ev, "bad_answer", "an item has no id");
	r->nnameless += out->remote_id == NULL;
	return ev->status == SE_RENDER_OK;
}

/* Two states of one record within one tick of the vendor's clock: neither is known to be newer. */
static int
by_id_and_time(const ListCell *a, const ListCell *b)
{
	const SePageItem *x = lfirst(a);
	const SePageItem *y = lfirst(b);
	int c = strcmp(x->remote_id, y->remote_id);

	return c != 0 ? c : x->at < y->at ? -1 : x->at > y->at;
}

static void
mark_ties(const SePull *pull, List *items)
{
	int64 unit = Max(pull->resolution_ms * 1000, 1);
	List *timed = NIL;
	SePageItem *before = NULL;
	ListCell *lc;

	if (!pull->refetch_on_tie)
		return;
	foreach (lc, items)
	{
		SePageItem *item = lfirst(lc);

		if (item->has_at && item->remote_id != NULL)
			timed = lappend(timed, item);
	}
	list_sort(timed, by_id_and_time);
	foreach (lc, timed)
	{
		SePageItem *item = lfirst(lc);

		if (before != NULL && strcmp(before->remote_id, item->remote_id) == 0 &&
			before->at / unit == item->at / unit)
			before->refetch = item->refetch = true;
		before = item;
	}
}

static uint64
hash_any_extended_of(Jsonb *json, uint64 seed)
{
	return DatumGetUInt64(
		hash_any_extended((unsigned char *) VARDATA(json), VARSIZE(json) - VARHDRSZ, seed));
}

static List *
reversed(List *list)
{
	List *other = NIL;

	for (int i = list_length(list) - 1; i >= 0; i--)
		other = lappend(other, list_nth(list, i));
	return other;
}

static SePageItem *
item_kept(const SePageItem *item)
{
	SePageItem *copy = palloc(sizeof(SePageItem));

	*copy = *item;
	copy->remote_id = item->remote_id ? pstrdup(item->remote_id) : NULL;
	return copy;
}

static bool
read_items(Reader *r, SePage *out)
{
	SeEval *ev = r->ev;
	JsonbValue *items = se_eval_list(ev, r->w.spec->items);
	JvIter i;
	MemoryContext scratch;

	if (items == NULL)
		return false;
	r->keep = CurrentMemoryContext;
	scratch = AllocSetContextCreate(r->keep, "sync_ext page items", ALLOCSET_DEFAULT_SIZES);
	if (jv_count(items) > MAX_ITEMS)
	{
		se_eval_fail(ev, "bad_answer", "a page of %d items is too large", jv_count(items));
		return false;
	}
	r->sorted = true;
	jv_iter_init(&i, items);
	MemoryContextSwitchTo(scratch);
	while (jv_iter_next(&i))
	{
		SePageItem item = {0};
		Jsonb *raw = r->w.spec->record						 ? jv_to_jsonb(&i.value)
					 : r->w.within && JV_IS_OBJECT(&i.value) ? with_owner(r, &i.value)
															 : record_of(r, &i.value);
		bool counts;

		CHECK_FOR_INTERRUPTS();
		r->content = hash_any_extended_of(raw, r->content);
		counts = read_item(r, raw, &item);
		if (ev->status != SE_RENDER_OK)
			break;
		r->nitems++;
		MemoryContextSwitchTo(r->keep);
		if (counts)
			out->items = lappend(out->items, item_kept(&item));
		if (r->nitems % SCRATCH_ITEMS == 0)
		{
			r->last_id = r->last_id ? pstrdup(r->last_id) : NULL;
			MemoryContextReset(scratch);
		}
		MemoryContextSwitchTo(scratch);
	}
	MemoryContextSwitchTo(r->keep);
	if (ev->status != SE_RENDER_OK)
		return false;
	/* One record without an id is a fault of that record; all of them, of the mapping. */
	if (r->nnameless > 0 && r->nnameless == list_length(out->items))
	{
		se_eval_fail(ev, "bad_answer", "an item has no id");
		return false;
	}
	if (r->w.spec->newest_first)
		out->items = reversed(out->items);
	ev->root = r->answer;
	mark_ties(r->pull, out->items);
	return true;
}

void
se_list_page(const SeManifest *m, const SePull *pull, const SeAnswer *a, Jsonb *cursor, Jsonb *vars,
			 SePage *out)
{
	MemoryContext cxt = CurrentMemoryContext;
	SeEval ev;
	Reader r = {0};

	memset(out, 0, sizeof(*out));
	open_walk(&r.w, pull, cursor);
	r.pull = pull;
	r.ev = &ev;
	se_eval_init(&ev, m, a->json, se_make_vars(vars, NULL, cursor_vars(&r.w), a));
	r.answer = ev.root;
	ev.inbound = true;
	ev.at = r.w.op->request->at;
	out->full = r.w.full;
	PG_TRY();
	{
		if (a->json == NULL)
			se_eval_fail(&ev, "bad_answer", "the answer is not JSON");
		else if (read_items(&r, out))
			se_page_build_next(&r, a, out);
	}
	PG_CATCH();
	{
		se_eval_caught(&ev, cxt);
	}
	PG_END_TRY();
	if (ev.status != SE_RENDER_OK)
	{
		out->error = ev.message;
		out->items = NIL;
		out->next = cursor;
		out->last = false;
	}
}
