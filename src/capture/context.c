/*
 * context.c: who acts for what reason, as the session says by its settings.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "capture/events.h"
#include "core/jsonb_write.h"
#include "core/guc.h"

#define SETTINGS 4

/* The settings as they were when `cached` was made; memory of the transaction. */
static char *seen[SETTINGS];
static bool seen_attributed = false;
static Oid seen_user = InvalidOid;
static Jsonb *cached = NULL;
static bool cached_valid = false;

void
se_event_context_forget(void)
{
	cached_valid = false;
	cached = NULL;
}

static bool
is_unchanged(const char *const *now, bool attributed)
{
	if (!cached_valid || attributed != seen_attributed || GetSessionUserId() != seen_user)
		return false;
	for (int i = 0; i < SETTINGS; i++)
	{
		if (strcmp(now[i], seen[i]) != 0)
			return false;
	}
	return true;
}

/*
 * NULL when no setting is set, unless the session's user must be known whatever is set (attributed): he
 * may not approve what he has changed. Who has become another by SET SESSION AUTHORIZATION is known
 * by the login, too. SET LOCAL may change settings from one statement to the next.
 */
Jsonb *
se_event_context(MemoryContext transaction_context, bool attributed)
{
	static const char *const keys[SETTINGS + 2] = {"actor",		   "reason", "correlation_id",
												   "causation_id", "user",	 "login"};
	const char *const settings[SETTINGS] = {se_actor, se_reason, se_correlation_id,
											se_causation_id};
	const char *now[SETTINGS];
	const char *values[SETTINGS + 2];
	bool any = attributed;
	MemoryContext old;

	for (int i = 0; i < SETTINGS; i++)
	{
		now[i] = settings[i] ? settings[i] : "";
		values[i] = now[i][0] != '\0' ? now[i] : NULL;
		any = any || values[i] != NULL;
	}
	if (is_unchanged(now, attributed))
		return cached;

	old = MemoryContextSwitchTo(transaction_context);
	cached_valid = false;
	for (int i = 0; i < SETTINGS; i++)
		seen[i] = pstrdup(now[i]);
	values[SETTINGS] = any ? GetUserNameFromId(GetSessionUserId(), true) : NULL;
	values[SETTINGS + 1] = attributed && GetAuthenticatedUserId() != GetSessionUserId()
							   ? GetUserNameFromId(GetAuthenticatedUserId(), true)
							   : NULL;
	cached = any ? se_json_from_strings(SETTINGS + 2, keys, values) : NULL;
	seen_attributed = attributed;
	seen_user = GetSessionUserId();
	cached_valid = true;
	MemoryContextSwitchTo(old);
	return cached;
}
