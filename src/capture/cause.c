/*
 * cause.c: see cause.h. Whoever applies a page says it before the rows are written; the events take it
 * when they are made, which for documents is at commit.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "capture/cause.h"
#include "capture/events.h"
#include "core/jsonb_write.h"

typedef struct CauseKey
{
	int64 object_id;
	uint64 hash; /* of the record id */
} CauseKey;

typedef struct Cause
{
	CauseKey key;
	char *record_id;
	Jsonb *context;
} Cause;

static HTAB *causes = NULL; /* memory of the transaction's events */

static CauseKey
key_of(int object_id, const char *record_id)
{
	CauseKey key = {object_id, hash_bytes_extended((const unsigned char *) record_id,
												   (int) strlen(record_id), 0)};

	return key;
}

void
se_cause_set(int object_id, const char *record_id, const char *cause, const char *correlation_id)
{
	static const char *const names[] = {"causation_id", "correlation_id"};
	const char *values[] = {cause, correlation_id != NULL ? correlation_id : cause};
	CauseKey key = key_of(object_id, record_id);
	MemoryContext old = MemoryContextSwitchTo(se_events_context());
	Cause *entry;

	if (causes == NULL)
	{
		HASHCTL ctl = {.keysize = sizeof(CauseKey),
					   .entrysize = sizeof(Cause),
					   .hcxt = CurrentMemoryContext};

		causes = hash_create("sync_ext causes", 128, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = hash_search(causes, &key, HASH_ENTER, NULL);
	entry->record_id = pstrdup(record_id);
	entry->context = se_json_from_strings(lengthof(names), names, values);
	MemoryContextSwitchTo(old);
}

Jsonb *
se_cause_of(int object_id, const char *record_id)
{
	CauseKey key;
	Cause *entry;

	if (causes == NULL)
		return NULL;
	key = key_of(object_id, record_id);
	entry = hash_search(causes, &key, HASH_FIND, NULL);
	return entry != NULL && strcmp(entry->record_id, record_id) == 0 ? entry->context : NULL;
}

void
se_cause_forget(void)
{
	causes = NULL;
}
