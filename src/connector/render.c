/*
 * render.c
 *		Operation + context → request.
 */
#include "postgres.h"

#include "connector/expr.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

/* Literal parts of a path stand as written; values are percent-encoded, missing ones are errors. */
static void
append_target_path(SeEval *ev, StringInfo buf, const SeExpr *x)
{
	int i;

	if (x->kind == SE_X_CONST)
	{
		appendStringInfoString(buf, jv_text(x->constant));
		return;
	}
	for (i = 0; i < x->nitems && ev->status == SE_RENDER_OK; i++)
	{
		const SeExpr *item = x->items[i];
		char *text = jv_text(se_eval(ev, item));

		if (ev->status != SE_RENDER_OK)
			return;
		ev->at = x->at;
		if ((text == NULL || text[0] == '\0') && se_is_to_come(ev, item))
			appendStringInfoString(buf, jv_text(se_name_to_come(ev, item)));
		else if (text == NULL || text[0] == '\0')
			se_eval_fail(ev, "required", "a part of the path has no value");
		else if (item->kind == SE_X_CONST)
			appendStringInfoString(buf, text);
		else if (strcmp(text, ".") == 0 || strcmp(text, "..") == 0)
			se_eval_fail(ev, "bad_value", "a part of the path must not be \"%s\"", text);
		else
			se_append_percent(buf, text);
	}
}

static const SeExpr *
path_of(SeEval *ev, const SeRequestSpec *spec)
{
	ListCell *lc;

	foreach (lc, spec->ways)
	{
		SeWay *way = lfirst(lc);

		if (se_eval_predicate(ev, way->when))
			return way->path;
	}
	return spec->path;
}

static void
append_query(SeEval *ev, StringInfo buf, const SeRequestSpec *spec)
{
	JsonbValue *query = spec->query ? se_eval(ev, spec->query) : NULL;
	StringInfoData form;

	if (ev->status != SE_RENDER_OK || query == NULL)
		return;
	initStringInfo(&form);
	se_append_form(&form, query);
	if (form.len > 0)
		appendStringInfo(buf, "%c%s", strchr(buf->data, '?') ? '&' : '?', form.data);
}

static void
add_headers(SeEval *ev, List *specs, List **headers)
{
	ListCell *lc;

	foreach (lc, specs)
	{
		SeNamedExpr *n = lfirst(lc);
		char *value = jv_text(se_eval(ev, n->expr));
		SeHeader *h;

		if (ev->status != SE_RENDER_OK)
			return;
		if (value == NULL)
			continue;
		/* A line break would let data write headers of its own. */
		if (strpbrk(value, "\r\n"))
		{
			ev->at = n->expr->at;
			se_eval_fail(ev, "bad_value", "a header must not hold a line break");
			return;
		}
		h = palloc(sizeof(SeHeader));
		h->name = pstrdup(n->name);
		h->value = value;
		*headers = lappend(*headers, h);
	}
}

static void
add_body(SeEval *ev, const SeRequestSpec *spec, SeRequestOut *out)
{
	JsonbValue *body;
	StringInfoData buf;
	char *utf8;

	if (spec->body == NULL)
		return;
	ev->withheld = ev->owned;
	body = se_eval(ev, spec->body);
	ev->withheld = NULL;
	if (ev->status == SE_RENDER_OK && (ev->touched || ev->says_nothing))
		ev->status = SE_RENDER_SKIP;
	if (ev->status != SE_RENDER_OK)
		return;
	initStringInfo(&buf);
	if (spec->encoding == SE_ENC_FORM)
	{
		if (body)
			se_append_form(&buf, body);
		out->content_type = pstrdup("application/x-www-form-urlencoded");
	}
	else
	{
		appendStringInfoString(&buf, body ? jv_json(body) : "{}");
		out->content_type = pstrdup("application/json");
		out->json = body;
	}
	utf8 = pg_server_to_any(buf.data, buf.len, PG_UTF8);
	out->body = utf8;
	out->body_len = strlen(utf8);
}

static void
render_parts(SeEval *ev, const SeRequestSpec *spec, SeRequestOut *out)
{
	StringInfoData target;

	if ((spec->when && !se_eval_predicate(ev, spec->when)) ||
		(spec->unless && se_eval_predicate(ev, spec->unless)))
	{
		ev->status = SE_RENDER_SKIP;
		return;
	}
	initStringInfo(&target);
	append_target_path(ev, &target, path_of(ev, spec));
	append_query(ev, &target, spec);
	out->method = pstrdup(spec->method);
	out->target = target.data;
	if (ev->m->common)
		add_headers(ev, ev->m->common->headers, &out->headers);
	add_headers(ev, spec->headers, &out->headers);
	add_body(ev, spec, out);
}

void
se_render_request(SeEval *ev, const SeRequestSpec *spec, bool takes_key, SeRendered *out)
{
	MemoryContext cxt = CurrentMemoryContext;

	memset(out, 0, sizeof(*out));
	PG_TRY();
	{
		render_parts(ev, spec, &out->request);
	}
	PG_CATCH();
	{
		se_eval_caught(ev, cxt);
	}
	PG_END_TRY();

	out->status = ev->status;
	out->request.takes_key = takes_key;
	out->code = ev->code;
	out->message = ev->message;
	out->wait_object = ev->wait_object;
	out->wait_key = ev->wait_key;
	out->wait_by = ev->wait_by;
	out->wait_state = ev->wait_state;
}

bool
se_is_unbound(Jsonb *ctx)
{
	JsonbValue *remote = ctx ? jv_get(jv_from_jsonb(ctx), "remote") : NULL;

	return jv_is_null(jv_get(remote, "id"));
}

static void
render_operation(const SeManifest *m, const SeOperation *op, Jsonb *ctx, const SeRefs *refs,
				 bool ahead, SeRendered *out)
{
	SeEval ev;

	se_eval_init(&ev, m, ctx, se_make_vars(ctx, ctx, NULL, NULL));
	ev.refs = refs;
	ev.ahead = ahead;
	ev.creating = op->kind == SE_OP_CREATE || (op->kind == SE_OP_UPSERT && se_is_unbound(ctx));
	if (op->partial && !ev.creating && ctx != NULL)
		ev.owned = jv_get(jv_from_jsonb(ctx), "withheld");
	se_render_request(&ev, op->request, op->takes_key, out);
	out->ahead = ev.named;
}

void
se_render(const SeManifest *m, const SeOperation *op, Jsonb *ctx, const SeRefs *refs,
		  SeRendered *out)
{
	render_operation(m, op, ctx, refs, false, out);
}

void
se_render_ahead(const SeManifest *m, const SeOperation *op, Jsonb *ctx, const SeRefs *refs,
				SeRendered *out)
{
	render_operation(m, op, ctx, refs, true, out);
}
