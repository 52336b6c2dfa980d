/*
 * notice.c: see notice.h.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "core/spi.h"
#include "worker/notice.h"

#define KEY_LEN 160

typedef struct Notice
{
	char key[KEY_LEN];
	bool raised;
	bool dirty;
	char severity[8];
	char message[512];
	char hint[256];
} Notice;

static HTAB *notices = NULL;
static bool any_dirty = false;
static int nraised = 0;

static Notice *
find(const char *key, bool make, bool *found)
{
	char fixed[KEY_LEN] = {0};

	if (notices == NULL)
	{
		HASHCTL ctl = {.keysize = KEY_LEN, .entrysize = sizeof(Notice), .hcxt = TopMemoryContext};

		notices = hash_create("sync_ext notices", 32, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	strlcpy(fixed, key, sizeof(fixed));
	return hash_search(notices, fixed, make ? HASH_ENTER : HASH_FIND, found);
}

void
se_notice_put(const char *key, const char *severity, const char *message, const char *hint)
{
	bool found;
	Notice *notice = find(key, true, &found);

	if (found && notice->raised && strncmp(notice->message, message, 511) == 0)
		return;
	/* Logged once for each state, never once for each occurrence. */
	if (!found || !notice->raised)
		ereport(LOG, (errmsg("sync_ext: %s", message), hint ? errhint("%s", hint) : 0));
	if (!found || !notice->raised)
		nraised++;
	notice->raised = notice->dirty = any_dirty = true;
	strlcpy(notice->severity, severity, sizeof(notice->severity));
	strlcpy(notice->message, message, sizeof(notice->message));
	strlcpy(notice->hint, hint ? hint : "", sizeof(notice->hint));
}

void
se_notice_clear(const char *key)
{
	bool found;
	Notice *notice = notices == NULL ? NULL : find(key, false, &found);

	if (notice == NULL || !notice->raised)
		return;
	ereport(LOG, (errmsg("sync_ext: over: %s", notice->message)));
	notice->raised = false;
	nraised--;
	notice->dirty = any_dirty = true;
}

void
se_notice_clear_of(const char *kind, const char *name)
{
	if (nraised > 0)
		se_notice_clear(psprintf("%s:%s", kind, name));
}

void
se_notice_flush(void)
{
	static SPIPlanPtr put_plan = NULL;
	static SPIPlanPtr clear_plan = NULL;
	Oid types[4] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	HASH_SEQ_STATUS seq;
	Notice *notice;

	if (!any_dirty)
		return;
	se_txn_begin("writing notices");
	hash_seq_init(&seq, notices);
	while ((notice = hash_seq_search(&seq)) != NULL)
	{
		Datum values[4];

		if (!notice->dirty)
			continue;
		values[0] = CStringGetTextDatum(notice->key);
		values[1] = CStringGetTextDatum(notice->severity);
		values[2] = CStringGetTextDatum(notice->message);
		values[3] = CStringGetTextDatum(notice->hint);
		if (notice->raised)
			se_spi_execute(&put_plan,
						   "INSERT INTO sync.notice (key, severity, message, hint) "
						   "VALUES ($1, $2, $3, nullif($4, '')) ON CONFLICT (key) DO UPDATE "
						   "SET severity = excluded.severity, message = excluded.message, "
						   "hint = excluded.hint, last_at = pg_catalog.clock_timestamp(), "
						   "count = notice.count + 1",
						   4, types, values, NULL, false, 0);
		else
			se_spi_execute(&clear_plan, "DELETE FROM sync.notice WHERE key = $1", 1, types, values,
						   NULL, false, 0);
		notice->dirty = false;
	}
	any_dirty = false;
	se_txn_commit();
}
