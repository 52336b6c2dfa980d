/*
 * page_next.c
 *		Where a walk goes on behind a page, and its mark when it has ended.
 *
 * The vendor says where the next page is; here that is checked, so that a walk neither misses what
 * moves meanwhile nor goes round in a circle.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "connector/money.h"
#include "connector/page.h"
#include "utils/timestamp.h"

#define MAX_POSITION 65536 /* of a token, link or id, in bytes */

/* Milliseconds in three digits: some vendors read ".5" as five of them. */
char *
se_page_floor_time(TimestampTz at, int64 resolution_ms)
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
	next = se_page_floor_time(r->last_at, r->pull->resolution_ms);
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

/* When the last walk went back all the way, and what the mark was then. */
static void
push_deep(Reader *r, JsonbParseState **state, const char *answered, const char *mark)
{
	JsonbValue *before = jv_get(r->w.cursor, "deep");

	if (mark == NULL || !r->w.deep)
	{
		if (before)
			jv_push_member(state, "deep", before);
		return;
	}
	jv_push_key(state, "deep");
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	jv_push_member(state, "at", jv_string(answered));
	jv_push_member(state, "time", jv_string(mark));
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/* Members of an object go into another. */
static void
push_all(JsonbParseState **state, JsonbValue *object)
{
	JvIter i;

	jv_iter_init(&i, object);
	while (jv_iter_next(&i))
	{
		JsonbValue *member = palloc(sizeof(JsonbValue));

		*member = i.value;
		jv_push_member(state, i.key, member);
	}
}

static void
push_part(JsonbParseState **page, int part)
{
	if (part > 0)
		jv_push_member(page, "part", jv_int(part));
}

/*
 * A record was found whose part is to be listed: that begins, and where the list of such records
 * goes on is kept for later.
 */
static bool
enter_record(Reader *r, JsonbParseState **page, SePage *out)
{
	JsonbParseState *outer = NULL;
	SePageItem *record = out->items != NIL ? linitial(out->items) : NULL;
	char *since = NULL;
	bool more;

	out->items = NIL; /* they are not what is pulled */
	if (record == NULL || record->remote_id == NULL)
		return false;
	pushJsonbValue(&outer, WJB_BEGIN_OBJECT, NULL);
	more = next_position(r, &outer, &since);
	push_part(page, r->w.part);
	jv_push_member(page, "within", jv_string(record->remote_id));
	if (more)
		jv_push_member(page, "outer",
					   jv_from_jsonb(jv_to_jsonb(pushJsonbValue(&outer, WJB_END_OBJECT, NULL))));
	return r->ev->status == SE_RENDER_OK;
}

/* Whether the walk goes on, and where: in this list, with the next record, or in the next list. */
static bool
go_on(Reader *r, JsonbParseState **page, char **since, SePage *out)
{
	JsonbParseState *position = NULL;
	JsonbValue *outer = r->w.within ? jv_get(r->w.page, "outer") : NULL;

	if (r->w.outer && enter_record(r, page, out))
		return true;
	pushJsonbValue(&position, WJB_BEGIN_OBJECT, NULL);
	if (r->ev->status == SE_RENDER_OK && next_position(r, &position, since))
	{
		push_all(page, jv_from_jsonb(jv_to_jsonb(pushJsonbValue(&position, WJB_END_OBJECT, NULL))));
		push_part(page, r->w.part);
		if (r->w.within)
			jv_push_member(page, "within", jv_string(r->w.within));
		if (outer)
			jv_push_member(page, "outer", outer);
		return true;
	}
	if (r->ev->status != SE_RENDER_OK)
		return false;
	if (outer)
	{
		push_all(page, outer);
		push_part(page, r->w.part);
		return true;
	}
	if (r->w.events || r->w.part + 1 >= r->pull->nparts)
		return false;
	push_part(page, r->w.part + 1);
	return true;
}

void
se_page_build_next(Reader *r, const SeAnswer *a, SePage *out)
{
	JsonbParseState *page = NULL;
	JsonbParseState *state = NULL;
	char *answered = jv_get_text(r->w.page, "answered");
	char *max;
	char *old = jv_get_text(r->w.cursor, "time");
	char *since = NULL;
	bool more;

	if (r->w.outer)
		r->has_max = false; /* when those records changed says nothing of what is pulled */
	max = latest(r);
	if (answered == NULL)
		answered = answered_at(a);
	pushJsonbValue(&page, WJB_BEGIN_OBJECT, NULL);
	jv_push_member(&page, "kind", jv_string(r->w.events ? "events" : "list"));
	jv_push_member(&page, "answered", jv_string(answered));
	if (r->w.deep)
		jv_push_member(&page, "deep", jv_bool(true));
	if (max)
		jv_push_member(&page, "max", jv_string(max));
	more = go_on(r, &page, &since, out);
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
	push_deep(r, &state, answered, out->last ? old : NULL);
	if (more)
		jv_push_member(&state, "page",
					   jv_from_jsonb(jv_to_jsonb(pushJsonbValue(&page, WJB_END_OBJECT, NULL))));
	if (more && r->w.full)
		jv_push_member(&state, "full", jv_bool(true));
	out->next = jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}
