/*
 * page.c
 *		Walking lists and journals, reading single records, completing lines.
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
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "connector/expr.h"
#include "connector/money.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MAX_ITEMS	  100000
#define SCRATCH_ITEMS 100	/* so many items are read before what reading them took is given back */
#define MAX_POSITION  65536 /* of a token, link or id, in bytes */

typedef struct Walk
{
	JsonbValue *cursor;
	JsonbValue *page; /* NULL at the first page */
	bool full;
	bool events;
	const char *since;
	const SeOperation *op;
	const SePageSpec *spec;
} Walk;

/* Milliseconds in three digits: some vendors read ".5" as five of them. */
static char *
floor_time(TimestampTz at, int64 resolution_ms)
{
	int64 unit = resolution_ms * 1000;
	char *text;
	char *fraction;
	int digits;

	/* Instants before 2000 do not occur as marks; modulo is safe for the others. */
	if (unit > 1 && at > 0)
		at -= at % unit;
	text = se_format_time(at);
	fraction = text ? strchr(text, '.') : NULL;
	if (fraction == NULL)
		return text;
	digits = strlen(fraction) - 2;
	return psprintf("%.*s%.*sZ", (int) strlen(text) - 1, text, (6 - digits) % 3, "00");
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
		w->events = kind && strcmp(kind, "events") == 0;
	}
	else
	{
		/* The journal does not reach back for ever: what is old comes from the list. */
		w->events = pull->events && (pull->list == NULL || (time && !w->full));
		if (time && !w->full && se_parse_time(time, &at))
			w->since = floor_time(at - pull->lookback_ms * 1000, pull->resolution_ms);
	}
	if (w->since == NULL && !w->events)
		w->full = true;
	w->op = w->events ? pull->events : pull->list;
	w->spec = w->events ? pull->events_page : pull->list_page;
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
	Jsonb *all;
	char *link;

	open_walk(&w, pull, cursor);
	all = se_make_vars(vars, NULL, cursor_vars(&w), NULL);
	se_eval_init(&ev, m, vars, all);
	se_render_request(&ev, w.op->request, false, out);
	link = jv_get_text(w.page, "link");
	if (link && out->status == SE_RENDER_OK)
		out->request.target = link_target(m, all, link);
	if (op)
		*op = w.op;
}

/* ---- reading a page ---- */

typedef struct Reader
{
	SeEval *ev;
	const SePull *pull;
	Walk w;
	Jsonb *answer;
	bool has_max;
	TimestampTz max;
	TimestampTz first_at; /* of the page */
	TimestampTz last_at;
	bool sorted; /* each item has a time, none before that of the item before it */
	int nitems;	 /* as the vendor counts them */
	int nnameless;
	char *last_id;
	uint64 content;		/* hash of all items */
	bool counted;		/* pages are taken as the vendor counts them */
	bool anew;			/* from this page on */
	MemoryContext keep; /* what an item leaves behind goes here */
} Reader;

static SePageItem *
read_item(Reader *r, Jsonb *item)
{
	const SePageSpec *spec = r->w.spec;
	SeEval *ev = r->ev;
	SePageItem *out = palloc0(sizeof(SePageItem));

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
		return NULL;
	out->record = spec->record ? se_eval_path(ev, spec->record) : item;
	out->remote_id = se_eval_text(ev, spec->id);
	out->deleted = spec->deleted && se_eval_predicate(ev, spec->deleted);
	if (out->record && JB_ROOT_IS_SCALAR(out->record))
		out->record = NULL;
	if (out->remote_id == NULL && out->record && ev->status == SE_RENDER_OK)
	{
		ev->root = out->record;
		out->remote_id = se_eval_text(ev, r->pull->record->id);
	}
	if (out->remote_id == NULL && out->record == NULL)
		se_eval_fail(ev, "bad_answer", "an item has no id");
	r->nnameless += out->remote_id == NULL;
	return ev->status == SE_RENDER_OK ? out : NULL;
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
item_copy(const SePageItem *item)
{
	SePageItem *copy = palloc(sizeof(SePageItem));

	*copy = *item;
	copy->record =
		item->record ? (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(item->record)) : NULL;
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
	while (jv_iter_next(&i))
	{
		Jsonb *raw;
		SePageItem *item;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(scratch);
		raw = jv_to_jsonb(&i.value);
		r->content = hash_any_extended_of(raw, r->content);
		item = read_item(r, raw);
		MemoryContextSwitchTo(r->keep);
		if (ev->status != SE_RENDER_OK)
			return false;
		r->nitems++;
		if (item != NULL)
			out->items = lappend(out->items, item_copy(item));
		if (r->nitems % SCRATCH_ITEMS == 0)
		{
			r->last_id = r->last_id ? pstrdup(r->last_id) : NULL;
			MemoryContextReset(scratch);
		}
	}
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

/* When the vendor answered: its own clock if it says, else ours with room for its being behind. */
static char *
answered_at(const SeAnswer *a)
{
	const char *date = se_find_header(a->headers, "date");
	int64 seconds;
	const int64 epoch = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY;

	if (date && se_parse_http_date(date, &seconds))
		return se_format_time((seconds - epoch) * USECS_PER_SEC);
	return se_format_time(GetCurrentTimestamp() - 300 * USECS_PER_SEC);
}

/*
 * In a list by change time, a record that changes while it is walked moves to the end, and what
 * follows it moves up by one: a page that is counted off then misses a record. So the next page is
 * asked for by the time of the last item of this one, as long as that leads on. What shares that
 * instant comes again, which does no harm. A vendor that then lists what is older (it cuts off a
 * fraction, or ignores the parameter) is walked by its own pages after all.
 */
static char *
advance(Reader *r)
{
	TimestampTz since;
	char *next;

	if (!r->w.spec->by_time || r->counted || !r->sorted || r->nitems == 0 ||
		r->first_at == r->last_at)
		return NULL;
	next = floor_time(r->last_at, r->pull->resolution_ms);
	if (next == NULL || !se_parse_time(next, &since) || since <= r->first_at)
		return NULL;
	return next;
}

/* Does a page that was asked for by time begin where it should? */
static void
look_at_start(Reader *r)
{
	TimestampTz since;

	r->counted = jv_get(r->w.page, "counted") != NULL;
	if (r->counted || !r->w.spec->by_time || r->w.page == NULL || r->w.since == NULL ||
		r->nitems == 0 || !r->sorted || !se_parse_time(r->w.since, &since))
		return;
	r->counted = r->anew = r->first_at < since;
}

/*
 * A walk that leads back to where it has been would never end. Compared with one earlier place,
 * which moves up at each power of two, every circle is noticed after at most twice its length.
 * Two pages of the same items are one, whatever the vendor calls them.
 */
static bool
in_circle(Reader *r, JsonbParseState **state, const char *place)
{
	JsonbValue *seen = r->anew ? NULL : jv_get(r->w.page, "seen");
	char *n = jv_get_text(seen, "n");
	char *seen_place = jv_get_text(seen, "place");
	char *seen_items = jv_get_text(seen, "items");
	int64 count = (n ? strtoll(n, NULL, 10) : 0) + 1;
	char *here =
		psprintf(UINT64_FORMAT, DatumGetUInt64(hash_any_extended((const unsigned char *) place,
																 strlen(place), 0)));
	char *items = psprintf(UINT64_FORMAT, r->content);

	if ((seen_place && strcmp(seen_place, here) == 0) ||
		(seen_items && r->nitems > 0 && strcmp(seen_items, items) == 0))
	{
		se_eval_fail(r->ev, "bad_answer", "the pages go round in a circle");
		return true;
	}
	if ((count & (count - 1)) == 0)
	{
		seen_place = here;
		seen_items = items;
	}
	jv_push_key(state, "seen");
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	jv_push_member(state, "n", jv_int(count));
	jv_push_member(state, "place", jv_string(seen_place));
	jv_push_member(state, "items", jv_string(seen_items));
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
	return false;
}

/* Only what can stand in the first line of a request; where it leads is not the vendor's to say. */
static bool
is_fit(Reader *r, const char *position, bool link)
{
	const char *p;

	for (p = position; link && *p; p++)
		if ((unsigned char) *p <= ' ' || (unsigned char) *p >= 0x7f)
			break;
	if (strlen(position) <= MAX_POSITION && (!link || *p == '\0'))
		return true;
	se_eval_fail(r->ev, "bad_answer", "the next page has an address that cannot be asked for");
	return false;
}

/* Whether more pages follow, and where; members go into the new cursor.page. */
static bool
next_position(Reader *r, JsonbParseState **state, char **since)
{
	const SePageSpec *spec = r->w.spec;
	SeEval *ev = r->ev;
	JsonbValue *token = spec->token ? se_eval(ev, spec->token) : NULL;
	char *text = jv_text(token);
	char *link = se_eval_text(ev, spec->link);
	char *before = jv_get_text(r->w.page, spec->token ? "token" : "last_id");
	char *position;
	char *offset;

	if (ev->status != SE_RENDER_OK || (spec->more && !se_eval_predicate(ev, spec->more)))
		return false;
	if (spec->link)
	{
		if (link == NULL || link[0] == '\0' || !is_fit(r, link, true) || in_circle(r, state, link))
			return false;
		jv_push_member(state, "link", jv_string(link));
		return true;
	}
	if (spec->token && (text == NULL || text[0] == '\0'))
		return false;
	if (!spec->token && !spec->last_id && !spec->offset)
		return false;
	if (!spec->token && (r->nitems == 0 || (!spec->more && r->nitems < spec->page_size)))
		return false;
	look_at_start(r);
	if (r->counted)
		jv_push_member(state, "counted", jv_bool(true));
	if ((*since = advance(r)) != NULL)
		return !in_circle(r, state, *since);
	/* A vendor that hands out the same position again would keep us here for ever. */
	if (!spec->offset && before &&
		strcmp(before, spec->token	? text
					   : r->last_id ? r->last_id
									: "") == 0)
	{
		se_eval_fail(ev, "bad_answer", "the next page is this page again");
		return false;
	}
	offset = jv_get_text(r->w.page, "offset");
	position =
		spec->token ? text
		: spec->offset
			? psprintf(INT64_FORMAT, (offset ? (int64) strtoll(offset, NULL, 10) : 0) + r->nitems)
		: r->last_id ? r->last_id
					 : "";
	if (!is_fit(r, position, false) ||
		in_circle(r, state, psprintf("%s %s", r->w.since ? r->w.since : "", position)))
		return false;
	if (spec->token)
		jv_push_member(state, "token", token);
	else if (spec->last_id)
		jv_push_member(state, "last_id", r->last_id ? jv_string(r->last_id) : NULL);
	if (spec->offset)
		jv_push_member(state, "offset",
					   jv_int((offset ? strtoll(offset, NULL, 10) : 0) + r->nitems));
	return true;
}

/* The later of what the walk saw before and what this page holds. */
static char *
latest(Reader *r)
{
	char *before = jv_get_text(r->w.page, "max");
	TimestampTz at;

	if (before && se_parse_time(before, &at) && (!r->has_max || at > r->max))
		return before;
	return r->has_max ? se_format_time(r->max) : NULL;
}

/* The mark never moves back, whatever a vendor's clock does. */
static char *
new_mark(Reader *r, const char *answered)
{
	char *old = jv_get_text(r->w.cursor, "time");
	char *seen = r->w.spec->mark_answered ? NULL : latest(r);
	char *mark = seen;
	TimestampTz a, b;

	/* An empty first walk must not list everything again and again. */
	if (mark == NULL && (r->w.spec->mark_answered || old == NULL))
		mark = pstrdup(answered);
	/* A list that hands over to a journal hands over what happened while it was read. */
	if (!r->w.events && r->pull->events)
		mark = pstrdup(answered);
	if (old && (mark == NULL || (se_parse_time(old, &a) && se_parse_time(mark, &b) && b < a)))
		mark = old;
	return mark;
}

static void
build_next(Reader *r, const SeAnswer *a, SePage *out)
{
	JsonbParseState *page = NULL;
	JsonbParseState *state = NULL;
	char *answered = jv_get_text(r->w.page, "answered");
	char *max = latest(r);
	char *old = jv_get_text(r->w.cursor, "time");
	char *since = NULL;
	bool more;

	if (answered == NULL)
		answered = answered_at(a);
	pushJsonbValue(&page, WJB_BEGIN_OBJECT, NULL);
	jv_push_member(&page, "kind", jv_string(r->w.events ? "events" : "list"));
	jv_push_member(&page, "answered", jv_string(answered));
	if (max)
		jv_push_member(&page, "max", jv_string(max));
	more = next_position(r, &page, &since);
	if (r->ev->status != SE_RENDER_OK)
		return;
	if (since || r->w.since)
		jv_push_member(&page, "since", jv_string(since ? since : r->w.since));
	out->last = !more;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (out->last)
		old = new_mark(r, answered);
	if (old)
		jv_push_member(&state, "time", jv_string(old));
	if (more)
		jv_push_member(&state, "page",
					   jv_from_jsonb(jv_to_jsonb(pushJsonbValue(&page, WJB_END_OBJECT, NULL))));
	if (more && r->w.full)
		jv_push_member(&state, "full", jv_bool(true));
	out->next = jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
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
			build_next(&r, a, out);
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

/* ---- single records ---- */

static Jsonb *
with_id(Jsonb *vars, const char *id)
{
	JsonbParseState *state = NULL;
	JsonbValue *v = vars ? jv_from_jsonb(vars) : NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_push_member(&state, "id", jv_string(id));
	jv_push_member(&state, "param", jv_get(v, "param"));
	jv_push_member(&state, "entity", jv_get(v, "entity"));
	return jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

void
se_fetch_request(const SeManifest *m, const SePull *pull, const char *remote_id, Jsonb *vars,
				 SeRendered *out)
{
	SeEval ev;

	se_eval_init(&ev, m, with_id(vars, remote_id), se_make_vars(vars, NULL, NULL, NULL));
	se_render_request(&ev, pull->fetch->request, false, out);
}

static void
read_fetched(SeEval *ev, const SePull *pull, SePageItem *out)
{
	const SeResponseSpec *spec = pull->fetch->response;
	JsonbValue *v;

	if (spec->items)
	{
		v = se_eval_list(ev, spec->items);
		out->deleted = v && jv_count(v) == 0;
		if (v == NULL || out->deleted)
			return;
		v = getIthJsonbValueFromContainer(v->val.binary.data, 0);
	}
	else
		v = spec->record ? se_eval(ev, spec->record) : jv_from_jsonb(ev->root);
	if (!JV_IS_OBJECT(v))
	{
		se_eval_fail(ev, "bad_answer", "the answer holds no record");
		return;
	}
	out->record = jv_to_jsonb(v);
	ev->root = out->record;
	out->remote_id = se_eval_text(ev, pull->record->id);
	out->deleted = pull->record->deleted && se_eval_predicate(ev, pull->record->deleted);
}

void
se_fetch_record(const SeManifest *m, const SePull *pull, const SeAnswer *a, Jsonb *vars,
				SePageItem *out, char **error)
{
	MemoryContext cxt = CurrentMemoryContext;
	SeEval ev;

	memset(out, 0, sizeof(*out));
	*error = NULL;
	se_eval_init(&ev, m, a->json, se_make_vars(vars, NULL, NULL, a));
	ev.inbound = true;
	ev.at = pull->fetch->request->at;
	PG_TRY();
	{
		if (a->json == NULL)
			se_eval_fail(&ev, "bad_answer", "the answer is not JSON");
		else
			read_fetched(&ev, pull, out);
	}
	PG_CATCH();
	{
		se_eval_caught(&ev, cxt);
	}
	PG_END_TRY();
	*error = ev.status == SE_RENDER_OK ? NULL : ev.message;
}

/* ---- the rest of a record's lines ---- */

void
se_more_request(const SeManifest *m, const SePull *pull, Jsonb *record, Jsonb *vars,
				SeRendered *out)
{
	SeEval ev;

	if (pull->more == NULL)
	{
		memset(out, 0, sizeof(*out));
		out->status = SE_RENDER_SKIP;
		return;
	}
	se_eval_init(&ev, m, record, se_make_vars(vars, record, NULL, NULL));
	se_render_request(&ev, pull->more->request, false, out);
}

/*
 * The answer is a list of the record's own kind (items and a sign that more
 * follow): it takes the place of the record's list, with the items before it.
 */
Jsonb *
se_more_merge(const SeManifest *m, const SePull *pull, Jsonb *record, const SeAnswer *a,
			  char **error)
{
	const SeResponseSpec *spec = pull->more->response;
	JsonbValue *v = jv_from_jsonb(record);
	JsonbValue *page = a->json ? jv_from_jsonb(a->json) : NULL;
	JsonbValue *have = jv_get(jv_get(v, spec->list_key), spec->items_key);
	JsonbValue *rest = jv_get(page, spec->items_key);
	JsonbParseState *state = NULL;
	JsonbValue *parts[] = {have, rest};
	JvIter i;
	int k;

	*error = NULL;
	if (!JV_IS_ARRAY(rest) || jv_count(rest) == 0)
	{
		*error = "the answer holds no further lines";
		return NULL;
	}
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_iter_init(&i, v);
	while (jv_iter_next(&i))
	{
		JsonbValue *member = palloc(sizeof(JsonbValue));

		*member = i.value;
		if (strcmp(i.key, spec->list_key) != 0)
			jv_push_member(&state, i.key, member);
	}
	jv_push_key(&state, spec->list_key);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_iter_init(&i, page);
	while (jv_iter_next(&i))
	{
		JsonbValue *member = palloc(sizeof(JsonbValue));

		*member = i.value;
		if (strcmp(i.key, spec->items_key) != 0)
			jv_push_member(&state, i.key, member);
	}
	jv_push_key(&state, spec->items_key);
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (k = 0; k < 2; k++)
	{
		jv_iter_init(&i, parts[k]);
		while (jv_iter_next(&i))
		{
			JsonbValue *item = palloc(sizeof(JsonbValue));

			*item = i.value;
			jv_push_value(&state, false, item);
		}
	}
	pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}
