/*
 * auth.c
 *		Credentials: headers made at send time, sessions, what to redact.
 *
 * Templates are evaluated over {"secret", "session", "param"}. The results
 * hold secrets: they go into a request and nowhere else.
 */
#include "postgres.h"

#include "connector/expr.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Context for auth templates; NULL and *error when a required secret cannot be had. */
static Jsonb *
auth_context(const SeManifest *m, SeSession *session, const SeSecrets *secrets, Jsonb *param,
			 char **error)
{
	JsonbParseState *state = NULL;
	ListCell *lc;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	jv_push_member(&state, "param", param ? jv_from_jsonb(param) : NULL);
	jv_push_member(&state, "session",
				   session && session->values ? jv_from_jsonb(session->values) : NULL);
	jv_push_key(&state, "secret");
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	foreach (lc, m->secrets)
	{
		SeDeclared *d = lfirst(lc);
		char *why = NULL;
		const char *value = secrets ? secrets->get(secrets->arg, d->name, &why) : NULL;

		if (value)
			jv_push_member(&state, d->name, jv_string(value));
		else if (d->required)
		{
			*error = why ? why : psprintf("secret \"%s\" is not set", d->name);
			return NULL;
		}
	}
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* Only the names of templates go into messages here: values may be secrets. */
static void
make_headers(SeEval *ev, List *specs, List **headers, char **error)
{
	MemoryContext cxt = CurrentMemoryContext;
	ListCell *lc;

	PG_TRY();
	{
		foreach (lc, specs)
		{
			SeNamedExpr *n = lfirst(lc);
			SeHeader *h = palloc(sizeof(SeHeader));

			h->name = pstrdup(n->name);
			h->value = se_eval_text(ev, n->expr);
			if (ev->status != SE_RENDER_OK || h->value == NULL)
				*error = psprintf("header \"%s\" cannot be made: a secret or parameter is missing",
								  n->name);
			else if (strpbrk(h->value, "\r\n"))
				*error = psprintf("header \"%s\" would hold a line break", n->name);
			if (*error)
				break;
			*headers = lappend(*headers, h);
		}
	}
	PG_CATCH();
	{
		se_eval_caught(ev, cxt);
		*error = pstrdup("the credentials cannot be put into a header");
	}
	PG_END_TRY();
}

SeAuthStatus
se_auth_headers(const SeManifest *m, SeSession *session, const SeSecrets *secrets, Jsonb *param,
				List **headers, char **error)
{
	SeEval ev;
	Jsonb *ctx;

	*headers = NIL;
	*error = NULL;
	if (m->auth->login &&
		(session == NULL || session->values == NULL ||
		 (session->expires_at != 0 && session->expires_at <= GetCurrentTimestamp())))
		return SE_AUTH_NEED_LOGIN;
	ctx = auth_context(m, session, secrets, param, error);
	if (ctx == NULL)
		return SE_AUTH_FAILED;
	se_eval_init(&ev, m, ctx, se_make_vars(ctx, NULL, NULL, NULL));
	make_headers(&ev, m->auth->headers, headers, error);
	return *error ? SE_AUTH_FAILED : SE_AUTH_OK;
}

bool
se_login_request(const SeManifest *m, const SeSecrets *secrets, Jsonb *param, SeRequestOut *out,
				 char **error)
{
	SeEval ev;
	SeRendered r;
	Jsonb *ctx;

	*error = NULL;
	memset(out, 0, sizeof(*out));
	if (m->auth->login == NULL)
		return false;
	ctx = auth_context(m, NULL, secrets, param, error);
	if (ctx == NULL)
		return false;
	se_eval_init(&ev, m, ctx, se_make_vars(ctx, NULL, NULL, NULL));
	se_render_request(&ev, m->auth->login, false, &r);
	if (r.status != SE_RENDER_OK)
	{
		*error = psprintf("the login request cannot be made: %s",
						  r.code ? r.code : "its conditions say no");
		return false;
	}
	*out = r.request;
	return true;
}

static Jsonb *
read_session(SeEval *ev, const SeAuthSpec *auth, int64 *lifetime_ms)
{
	JsonbParseState *state = NULL;
	ListCell *lc;
	char *seconds;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	foreach (lc, auth->save)
	{
		SeNamedExpr *n = lfirst(lc);
		JsonbValue *v = se_eval(ev, n->expr);

		if (v == NULL || v->type == jbvNull)
		{
			se_eval_fail(ev, "bad_answer", "the login's answer has no \"%s\"", n->name);
			return NULL;
		}
		jv_push_member(&state, n->name, v);
	}
	seconds = se_eval_text(ev, auth->expires_in);
	*lifetime_ms = seconds ? strtoll(seconds, NULL, 10) * 1000 : 0;
	return jv_to_jsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* read_session() with its errors caught; a function of its own, so that longjmp clobbers nothing. */
static Jsonb *
try_read_session(SeEval *ev, const SeAuthSpec *auth, int64 *lifetime_ms)
{
	MemoryContext cxt = CurrentMemoryContext;
	Jsonb *volatile values = NULL;

	PG_TRY();
	{
		values = read_session(ev, auth, lifetime_ms);
	}
	PG_CATCH();
	{
		se_eval_caught(ev, cxt);
	}
	PG_END_TRY();
	return values;
}

bool
se_login_answer(const SeManifest *m, const SeAnswer *a, SeSession *session, SeVerdict *verdict,
				char **error)
{
	Jsonb *values;
	int64 lifetime_ms = 0;
	SeEval ev;

	*error = NULL;
	se_session_expire(session);
	se_classify_with(m, m->auth->login_rules, a, verdict);
	if (verdict->outcome != SE_DONE)
	{
		*error = psprintf("login failed: %s", verdict->message ? verdict->message
											  : verdict->code  ? verdict->code
															   : "no reason given");
		return false;
	}
	se_eval_init(&ev, m, a->json, se_make_vars(NULL, NULL, NULL, a));
	ev.inbound = true;
	values = try_read_session(&ev, m->auth, &lifetime_ms);
	if (ev.status != SE_RENDER_OK)
	{
		*error = ev.message;
		return false;
	}
	session->cxt =
		AllocSetContextCreate(TopMemoryContext, "sync_ext session", ALLOCSET_SMALL_SIZES);
	session->values = MemoryContextAlloc(session->cxt, VARSIZE(values));
	memcpy(session->values, values, VARSIZE(values));
	/* A token that runs out while it travels is of no use: renew a little early. */
	if (lifetime_ms > 0)
		session->expires_at =
			GetCurrentTimestamp() + (lifetime_ms - Min(lifetime_ms / 10, 30000)) * 1000;
	return true;
}

void
se_session_expire(SeSession *session)
{
	if (session->cxt)
	{
		/* Freed memory is not cleared by itself. */
		if (session->values)
			explicit_bzero(session->values, VARSIZE(session->values));
		MemoryContextDelete(session->cxt);
	}
	memset(session, 0, sizeof(*session));
}

static List *
add_secret(List *list, char *text)
{
	/* Blanking out something this short would blank out half of every body. */
	return text && strlen(text) >= 4 ? lappend(list, text) : list;
}

List *
se_secret_values(const SeManifest *m, SeSession *session, const SeSecrets *secrets, Jsonb *param)
{
	List *list = NIL;
	List *headers;
	ListCell *lc;
	char *error;
	JvIter i;

	foreach (lc, m->secrets)
	{
		const char *value = secrets->get(secrets->arg, ((SeDeclared *) lfirst(lc))->name, &error);

		list = add_secret(list, value ? pstrdup(value) : NULL);
	}
	jv_iter_init(&i, session && session->values ? jv_from_jsonb(session->values) : NULL);
	while (jv_iter_next(&i))
		list = add_secret(list, jv_text(&i.value));
	if (se_auth_headers(m, session, secrets, param, &headers, &error) == SE_AUTH_OK)
	{
		foreach (lc, headers)
		{
			SeHeader *h = lfirst(lc);
			char *space = strrchr(h->value, ' ');

			list = add_secret(list, h->value);
			/* Behind "Bearer " and "Session " the credential stands alone too. */
			if (space)
				list = add_secret(list, pstrdup(space + 1));
		}
	}
	return list;
}
