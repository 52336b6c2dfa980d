/*
 * listed.c: entries of a journal that were dealt with before.
 *
 * A journal is read back a little again and again, because entries may come to light late. What was
 * listed before says nothing new: without this memory, an entry that lies near a push would have its
 * record read by id with each walk, for ever where nothing else happens. A process that does not know
 * deals with it once more, which does no harm.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "pull/internal.h"

#define MAX_ENTRIES 200000 /* beyond it all is forgotten */

typedef struct Entry
{
	uint64 hash; /* of record id, time and contents */
	TimestampTz listed_at;
} Entry;

static uint64
hash_of(const SeItem *item)
{
	uint64 hash = hash_bytes_extended((const unsigned char *) item->remote_id,
									  (int) strlen(item->remote_id), item->deleted ? 1 : 0);

	hash = hash_combine64(hash, (uint64) item->at);
	if (item->record != NULL)
		hash =
			hash_combine64(hash, hash_bytes_extended((const unsigned char *) VARDATA(item->record),
													 (int) (VARSIZE(item->record) - VARHDRSZ), 0));
	return hash;
}

bool
se_listed_before(const SeStream *stream, SeItem *item)
{
	Entry *entry = NULL;

	/* Without a time or an id, two entries could be the same to us and are not. */
	if (!item->journal || !item->has_at || item->remote_id == NULL)
		return false;
	item->entry = hash_of(item);
	if (stream->entries != NULL)
		entry = hash_search(stream->entries, &item->entry, HASH_FIND, NULL);
	if (entry != NULL)
		entry->listed_at = GetCurrentTimestamp();
	return entry != NULL;
}

void
se_listed_forget(SeStream *stream)
{
	if (stream->entries != NULL)
		hash_destroy(stream->entries);
	stream->entries = NULL;
}

/* The page of these items is applied. */
void
se_listed_note(SeStream *stream, const SeItem *items, int n)
{
	TimestampTz now = GetCurrentTimestamp();

	if (stream->entries != NULL && hash_get_num_entries(stream->entries) > MAX_ENTRIES)
		se_listed_forget(stream);
	for (int i = 0; i < n; i++)
	{
		Entry *entry;

		if (items[i].entry == 0)
			continue;
		if (stream->entries == NULL)
		{
			HASHCTL ctl = {0};

			ctl.keysize = sizeof(uint64);
			ctl.entrysize = sizeof(Entry);
			ctl.hcxt = se_pull_cxt;
			stream->entries = hash_create("sync_ext journal entries", 256, &ctl,
										  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		}
		entry = hash_search(stream->entries, &items[i].entry, HASH_ENTER, NULL);
		entry->listed_at = now;
	}
}

/* A walk has ended: entries that even the longest walk back lists no more are forgotten. */
void
se_listed_sweep(SeStream *stream, int64 lookback_ms)
{
	TimestampTz oldest = GetCurrentTimestamp() - Max(lookback_ms * 4, 60000) * 1000;
	HASH_SEQ_STATUS seq;
	Entry *entry;

	if (stream->entries == NULL || stream->swept_at > oldest)
		return;
	stream->swept_at = GetCurrentTimestamp();
	hash_seq_init(&seq, stream->entries);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		if (entry->listed_at < oldest)
			hash_search(stream->entries, &entry->hash, HASH_REMOVE, NULL);
	}
}
