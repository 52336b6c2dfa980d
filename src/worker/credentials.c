/*
 * credentials.c: see credentials.h.
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "http/secrets.h"
#include "worker/credentials.h"

#define CREDENTIALS_MS 10

typedef struct SeCredentials
{
	MemoryContext cxt;
	List *headers;
	TimestampTz headers_until; /* 0: none */
	SeRedactor *redactor;
	TimestampTz redactor_until;
} SeCredentials;

static void
wipe_headers(SeCredentials *c)
{
	ListCell *cell;

	/* Freed memory is not cleared by itself. */
	foreach (cell, c->headers)
	{
		SeHeader *header = lfirst(cell);

		explicit_bzero(header->value, strlen(header->value));
	}
	c->headers = NIL;
	c->headers_until = 0;
	MemoryContextReset(c->cxt);
}

static SeCredentials *
credentials_of(SeSystem *system)
{
	SeCredentials *c = system->credentials;

	if (c != NULL)
		return c;
	c = MemoryContextAllocZero(TopMemoryContext, sizeof(SeCredentials));
	c->cxt = AllocSetContextCreate(TopMemoryContext, "sync_ext credentials", ALLOCSET_SMALL_SIZES);
	system->credentials = c;
	return c;
}

void
se_credentials_forget(SeSystem *system)
{
	SeCredentials *c = system->credentials;

	if (c == NULL)
		return;
	wipe_headers(c);
	se_redactor_free(c->redactor);
	MemoryContextDelete(c->cxt);
	pfree(c);
	system->credentials = NULL;
}

static SeHeader *
copy_header(const SeHeader *header)
{
	SeHeader *copy = palloc(sizeof(SeHeader));

	copy->name = pstrdup(header->name);
	copy->value = pstrdup(header->value);
	return copy;
}

/* What templates leave behind while they are evaluated stays in the caller's context. */
static void
keep_headers(SeCredentials *c, List *headers)
{
	MemoryContext old;
	ListCell *cell;

	wipe_headers(c);
	old = MemoryContextSwitchTo(c->cxt);
	foreach (cell, headers)
		c->headers = lappend(c->headers, copy_header(lfirst(cell)));
	MemoryContextSwitchTo(old);
}

SeAuthStatus
se_credentials_headers(SeSystem *system, TimestampTz now, List **headers, char **error)
{
	SeCredentials *c = credentials_of(system);
	SeAuthStatus status;
	List *fresh;

	*error = NULL;
	if (c->headers_until > now)
	{
		*headers = c->headers;
		return SE_AUTH_OK;
	}
	status = se_auth_headers(system->manifest, &system->session, &system->secrets, system->param,
							 &fresh, error);
	if (status != SE_AUTH_OK)
	{
		wipe_headers(c);
		return status;
	}
	keep_headers(c, fresh);
	c->headers_until = TimestampTzPlusMilliseconds(now, CREDENTIALS_MS);
	if (system->session.expires_at != 0)
		c->headers_until = Min(c->headers_until, system->session.expires_at);
	*headers = c->headers;
	return SE_AUTH_OK;
}

const SeRedactor *
se_credentials_redactor(SeSystem *system)
{
	SeCredentials *c = credentials_of(system);
	TimestampTz now = GetCurrentTimestamp();
	SeRedactor *fresh;
	const char **secrets;
	List *values;
	int n = 0;
	ListCell *cell;

	if (c->redactor_until > now)
		return c->redactor;
	values = se_secret_values(system->manifest, &system->session, &system->secrets, system->param);
	secrets = palloc(sizeof(char *) * (list_length(values) + 1));
	foreach (cell, values)
		secrets[n++] = lfirst(cell);
	fresh = se_redactor_make(secrets, n);
	if (fresh == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"),
						errdetail("A text could not be freed of secrets.")));
	se_redactor_free(c->redactor);
	c->redactor = fresh;
	c->redactor_until = TimestampTzPlusMilliseconds(now, CREDENTIALS_MS);
	return c->redactor;
}
