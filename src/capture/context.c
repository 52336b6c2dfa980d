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
static Jsonb *cached = NULL;
static bool cached_valid = false;

void
se_event_context_forget(void)
{
	cached_valid = false;
	cached = NULL;
}

static bool
is_unchanged(const char *const *now)
{
	if (!cached_valid)
		return false;
	for (int i = 0; i < SETTINGS; i++)
	{
		if (strcmp(now[i], seen[i]) != 0)
			return false;
	}
	return true;
}

/* NULL when no setting is set. SET LOCAL may change them from one statement to the next. */
Jsonb *
se_event_context(MemoryContext transaction_context)
{
	static const char *const keys[SETTINGS + 1] = {"actor", "reason", "correlation_id",
												   "causation_id", "user"};
	const char *const settings[SETTINGS] = {se_actor, se_reason, se_correlation_id,
											se_causation_id};
	const char *now[SETTINGS];
	const char *values[SETTINGS + 1];
	bool any = false;
	MemoryContext old;

	for (int i = 0; i < SETTINGS; i++)
	{
		now[i] = settings[i] ? settings[i] : "";
		values[i] = now[i][0] != '\0' ? now[i] : NULL;
		any = any || values[i] != NULL;
	}
	if (is_unchanged(now))
		return cached;

	old = MemoryContextSwitchTo(transaction_context);
	cached_valid = false;
	for (int i = 0; i < SETTINGS; i++)
		seen[i] = pstrdup(now[i]);
	values[SETTINGS] = any ? GetUserNameFromId(GetSessionUserId(), true) : NULL;
	cached = any ? se_json_from_strings(SETTINGS + 1, keys, values) : NULL;
	cached_valid = true;
	MemoryContextSwitchTo(old);
	return cached;
}
