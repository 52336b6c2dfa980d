/*
 * show.c
 *		Requests, verdicts, pages and records as jsonb: what SQL is shown of them.
 */
#include "postgres.h"

#include "connector/show.h"

JsonbParseState *
se_show_begin(void)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	return state;
}

void
se_show_text(JsonbParseState **state, const char *key, const char *text)
{
	if (text)
		jv_push_member(state, key, jv_string(text));
}

void
se_show_jsonb(JsonbParseState **state, const char *key, Jsonb *jb)
{
	if (jb)
		jv_push_member(state, key, jv_from_jsonb(jb));
}

void
se_show_time(JsonbParseState **state, const char *key, bool has, TimestampTz at)
{
	if (has)
		se_show_text(state, key, se_format_time(at));
}

Jsonb *
se_show_end(JsonbParseState **state)
{
	return jv_to_jsonb(pushJsonbValue(state, WJB_END_OBJECT, NULL));
}

Jsonb *
se_headers_json(List *headers)
{
	JsonbParseState *state = se_show_begin();
	ListCell *lc;

	foreach (lc, headers)
		se_show_text(&state, ((SeHeader *) lfirst(lc))->name, ((SeHeader *) lfirst(lc))->value);
	return se_show_end(&state);
}

Jsonb *
se_rendered_json(const SeRendered *r)
{
	static const char *const names[] = {"ok", "skip", "wait", "invalid"};
	JsonbParseState *state = se_show_begin();
	char *error = NULL;
	Jsonb *json = NULL;

	se_show_text(&state, "status", names[r->status]);
	if (r->status == SE_RENDER_OK)
	{
		se_show_text(&state, "method", r->request.method);
		se_show_text(&state, "target", r->request.target);
		se_show_text(&state, "content_type", r->request.content_type);
		if (r->request.headers)
			se_show_jsonb(&state, "headers", se_headers_json(r->request.headers));
		if (r->request.body && strcmp(r->request.content_type, "application/json") == 0)
			json = se_parse_json(r->request.body, r->request.body_len, &error);
		if (json)
			se_show_jsonb(&state, "body", json);
		else
			se_show_text(&state, "body", r->request.body);
		jv_push_member(&state, "takes_key", jv_bool(r->request.takes_key));
	}
	se_show_text(&state, "wait_object", r->wait_object);
	se_show_text(&state, "wait_key", r->wait_key);
	se_show_text(&state, "wait_by", r->wait_by);
	se_show_text(&state, "wait_state", r->wait_state);
	se_show_text(&state, "code", r->code);
	se_show_text(&state, "message", r->message);
	return se_show_end(&state);
}

Jsonb *
se_mapped_json(const SeMapped *r)
{
	static const char *const names[] = {"ok", "skip", "wait", "invalid"};
	JsonbParseState *state = se_show_begin();

	se_show_text(&state, "status", names[r->status]);
	se_show_text(&state, "remote_id", r->remote_id);
	se_show_text(&state, "remote_number", r->remote_number);
	se_show_text(&state, "version", r->version);
	se_show_time(&state, "version_at", r->has_version_at, r->version_at);
	if (r->deleted)
		jv_push_member(&state, "deleted", jv_bool(true));
	se_show_text(&state, "our_id", r->our_id);
	se_show_text(&state, "merged_into", r->merged_into);
	se_show_jsonb(&state, "fields", r->fields);
	se_show_jsonb(&state, "lines", r->lines);
	se_show_text(&state, "wait_object", r->wait_object);
	se_show_text(&state, "wait_remote_id", r->wait_remote_id);
	if (r->wait_fetch)
		jv_push_member(&state, "wait_fetch", jv_bool(true));
	se_show_text(&state, "code", r->code);
	se_show_text(&state, "reason", r->reason);
	return se_show_end(&state);
}

void
se_show_verdict(JsonbParseState **state, const SeVerdict *v)
{
	se_show_text(state, "outcome", se_outcome_name(v->outcome));
	se_show_text(state, "code", v->code);
	se_show_text(state, "message", v->message);
	se_show_text(state, "request_id", v->request_id);
	if (v->retry_after_ms >= 0)
		jv_push_member(state, "retry_after_ms", jv_int(v->retry_after_ms));
	if (v->replayed)
		jv_push_member(state, "replayed", jv_bool(true));
	se_show_text(state, "then", v->then);
}

void
se_show_extract(JsonbParseState **state, const SeExtract *x)
{
	ListCell *lc;

	se_show_text(state, "error", x->error);
	if (x->matches >= 0)
		jv_push_member(state, "matches", jv_int(x->matches));
	se_show_text(state, "remote_id", x->remote_id);
	se_show_text(state, "remote_number", x->remote_number);
	se_show_text(state, "version", x->version);
	se_show_time(state, "version_at", x->has_version_at, x->version_at);
	if (x->differences == NIL)
		return;
	jv_push_key(state, "differences");
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	foreach (lc, x->differences)
	{
		SeDifference *d = lfirst(lc);

		se_show_text(state, d->name,
					 psprintf("theirs %s, ours %s", d->remote ? d->remote : "(none)",
							  d->ours ? d->ours : "(none)"));
	}
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

Jsonb *
se_page_item_json(const SePageItem *item)
{
	JsonbParseState *state = se_show_begin();

	se_show_text(&state, "remote_id", item->remote_id);
	se_show_time(&state, "at", item->has_at, item->at);
	if (item->deleted)
		jv_push_member(&state, "deleted", jv_bool(true));
	if (item->refetch)
		jv_push_member(&state, "refetch", jv_bool(true));
	se_show_jsonb(&state, "record", item->record);
	return se_show_end(&state);
}
