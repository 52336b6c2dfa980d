/*
 * document.c: headers and lines that make one event per transaction.
 *
 * While the transaction runs, only notes are taken: which record, header or line, and what the
 * header's columns were. They form a stack with levels, like the events (see events.c). Before
 * commit the notes of a record are summed up: inserted, deleted, changed or, after all, not.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "capture/document.h"
#include "capture/document_read.h"
#include "capture/events.h"
#include "capture/origin.h"
#include "core/wake.h"

/* Headers that are read and locked at a time. */
#define DOCUMENTS_AT_ONCE 256

typedef struct Note
{
	Oid header_relid;
	int object_id;
	int origin;
	char op; /* I, U, D of the header; L: a line */
	const char *object;
	const char *record_id;
	char **key_texts;
	bool partial; /* of the value */
	Jsonb *value;
} Note;

typedef struct NoteLevel
{
	SubTransactionId subid;
	int first;
} NoteLevel;

/* Where a record was last noted by a line: a second such note says nothing new. */
typedef struct LineKey
{
	int object_id;
	const char *record_id;
} LineKey;

typedef struct LineEntry
{
	LineKey key;
	int note;
} LineEntry;

static Note *notes = NULL;
static int note_count = 0;
static int note_room = 0;
static NoteLevel *levels = NULL;
static int level_count = 0;
static int level_room = 0;
static HTAB *noted_lines = NULL;

static uint32
hash_key(const void *data, Size size)
{
	const LineKey *key = data;

	return hash_combine(hash_bytes((const unsigned char *) key->record_id, strlen(key->record_id)),
						(uint32) key->object_id);
}

static int
compare_key(const void *a, const void *b, Size size)
{
	const LineKey *x = a;
	const LineKey *y = b;

	return x->object_id != y->object_id || strcmp(x->record_id, y->record_id) != 0;
}

static HTAB *
create_key_hash(const char *name, Size entrysize, MemoryContext context)
{
	HASHCTL ctl = {.keysize = sizeof(LineKey), .entrysize = entrysize, .hcxt = context};

	ctl.hash = hash_key;
	ctl.match = compare_key;
	return hash_create(name, 256, &ctl, HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

void
se_documents_forget(void)
{
	notes = NULL;
	levels = NULL;
	noted_lines = NULL;
	note_count = note_room = 0;
	level_count = level_room = 0;
}

bool
se_documents_pending(void)
{
	return note_count > 0;
}

static void
enter_level(void)
{
	SubTransactionId subid = GetCurrentSubTransactionId();

	if (level_count > 0 && levels[level_count - 1].subid == subid)
		return;
	if (level_count == level_room)
	{
		level_room = Max(8, level_room * 2);
		levels = levels == NULL
					 ? MemoryContextAlloc(se_events_context(), sizeof(NoteLevel) * level_room)
					 : repalloc(levels, sizeof(NoteLevel) * level_room);
	}
	levels[level_count].subid = subid;
	levels[level_count].first = note_count;
	level_count++;
}

static Note *
new_note(void)
{
	if (note_count == note_room)
	{
		note_room = Max(16, note_room * 2);
		notes = notes == NULL
					? MemoryContextAllocHuge(se_events_context(), sizeof(Note) * note_room)
					: repalloc_huge(notes, sizeof(Note) * note_room);
	}
	return &notes[note_count++];
}

/*
 * A line note of the record that is still alive, be it of a parent subtransaction: should that
 * abort, so does the current one. An index behind the end, or of another record by now, is one of
 * an aborted subtransaction.
 */
static bool
line_is_noted(int object_id, const char *record_id)
{
	LineKey key = {object_id, record_id};
	LineEntry *entry;

	if (noted_lines == NULL)
		return false;
	entry = hash_search(noted_lines, &key, HASH_FIND, NULL);
	return entry != NULL && entry->note < note_count && notes[entry->note].op == 'L' &&
		   notes[entry->note].object_id == object_id &&
		   notes[entry->note].origin == se_origin_system &&
		   strcmp(notes[entry->note].record_id, record_id) == 0;
}

static void
remember_line(const Note *note)
{
	LineKey key = {note->object_id, note->record_id};
	LineEntry *entry;
	bool found;

	if (noted_lines == NULL)
		noted_lines =
			create_key_hash("sync_ext noted lines", sizeof(LineEntry), se_events_context());
	entry = hash_search(noted_lines, &key, HASH_ENTER, &found);
	entry->note = note_count - 1;
}

void
se_document_note(SeTable *table, char op, const char *record_id, char **key_texts, Jsonb *value,
				 bool partial)
{
	Note *note;
	MemoryContext old;

	if (op == 'L' && line_is_noted(table->object_id, record_id))
		return;

	old = MemoryContextSwitchTo(se_events_context());
	enter_level();
	note = new_note();
	note->header_relid = table->header_relid;
	note->object_id = table->object_id;
	note->origin = se_origin_system;
	note->op = op;
	note->object = pstrdup(table->object);
	note->record_id = pstrdup(record_id);
	note->key_texts = palloc(sizeof(char *) * table->key_count);
	for (int i = 0; i < table->key_count; i++)
		note->key_texts[i] = pstrdup(key_texts[i]);
	note->partial = partial;
	note->value = NULL;
	if (value != NULL)
	{
		note->value = palloc(VARSIZE(value));
		memcpy(note->value, value, VARSIZE(value));
	}
	if (op == 'L')
		remember_line(note);
	MemoryContextSwitchTo(old);
	se_wake_at_commit();
}

void
se_documents_abort_sub(SubTransactionId subid)
{
	if (level_count == 0 || levels[level_count - 1].subid != subid)
		return;
	/* What the notes point to stays until the transaction ends: the hash may hold its keys. */
	note_count = levels[level_count - 1].first;
	level_count--;
}

void
se_documents_commit_sub(SubTransactionId subid, SubTransactionId parent)
{
	if (level_count == 0 || levels[level_count - 1].subid != subid)
		return;
	if (level_count > 1 && levels[level_count - 2].subid == parent)
		level_count--;
	else
		levels[level_count - 1].subid = parent;
}

/*
 * Summing up.
 */

static void
add_note(SeDocument *document, const Note *note)
{
	/* Changes of an app and of a pull in one transaction: the event must reach every system. */
	if (document->origin != note->origin)
		document->origin = 0;
	if (note->op == 'L')
	{
		document->lines_changed = true;
		return;
	}
	if (!document->known)
	{
		document->known = true;
		document->existed_before = note->op != 'I';
	}
	document->header_written = true;
	document->partial = document->partial || note->partial;
	document->exists = note->op != 'D';
	if (note->op == 'D')
		document->deleted = note->value;
	if (note->value != NULL)
		document->olds = lappend(document->olds, note->value);
}

typedef struct DocumentEntry
{
	LineKey key;
	SeDocument document;
} DocumentEntry;

static int
compare_documents(const void *a, const void *b)
{
	const SeDocument *x = *(SeDocument *const *) a;
	const SeDocument *y = *(SeDocument *const *) b;

	if (x->object_id != y->object_id)
		return x->object_id > y->object_id ? 1 : -1;
	return strcmp(x->record_id, y->record_id);
}

/* The records of the notes, sorted: every flush locks headers in the same order. */
static SeDocument **
sum_up(int *count)
{
	HTAB *hash = create_key_hash("sync_ext documents", sizeof(DocumentEntry), CurrentMemoryContext);
	SeDocument **documents;
	HASH_SEQ_STATUS status;
	DocumentEntry *entry;

	for (int i = 0; i < note_count; i++)
	{
		Note *note = &notes[i];
		LineKey key = {note->object_id, note->record_id};
		bool found;

		entry = hash_search(hash, &key, HASH_ENTER, &found);
		if (!found)
		{
			memset(&entry->document, 0, sizeof(SeDocument));
			entry->document.header_relid = note->header_relid;
			entry->document.object = note->object;
			entry->document.object_id = note->object_id;
			entry->document.record_id = note->record_id;
			entry->document.key_texts = note->key_texts;
			entry->document.origin = note->origin;
			entry->document.existed_before = true;
			entry->document.exists = true;
		}
		add_note(&entry->document, note);
	}

	documents = palloc(sizeof(SeDocument *) * hash_get_num_entries(hash));
	*count = 0;
	hash_seq_init(&status, hash);
	while ((entry = hash_seq_search(&status)) != NULL)
		documents[(*count)++] = &entry->document;
	qsort(documents, *count, sizeof(SeDocument *), compare_documents);
	return documents;
}

/* Deleted documents need no reading; created and deleted again, nothing happened. */
static void
add_deleted(SeDocument *document)
{
	int origin = se_origin_system;

	if (!document->existed_before)
		return;
	se_origin_system = document->origin;
	se_event_add(document->object_id, document->partial ? 'K' : 'D', document->record_id,
				 document->deleted, NULL);
	se_origin_system = origin;
}

/* Reads those documents of documents[from .. to) that need, or do not need, a lock. */
static void
read_range(SeDocument **documents, int from, int to, bool lock)
{
	SeDocument **batch = palloc(sizeof(SeDocument *) * DOCUMENTS_AT_ONCE);
	int count = 0;

	for (int i = from; i < to; i++)
	{
		if (!documents[i]->exists || documents[i]->header_written == lock)
			continue;
		batch[count++] = documents[i];
		if (count == DOCUMENTS_AT_ONCE)
		{
			se_documents_read(batch, count, lock);
			count = 0;
		}
	}
	if (count > 0)
		se_documents_read(batch, count, lock);
	pfree(batch);
}

void
se_documents_flush(void)
{
	MemoryContext work =
		AllocSetContextCreate(CurrentMemoryContext, "sync_ext documents", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(work);
	int saved_origin = se_origin_system;
	SeDocument **documents;
	int count;
	int from = 0;

	documents = sum_up(&count);
	while (from < count)
	{
		int to = from;

		while (to < count && documents[to]->object_id == documents[from]->object_id)
		{
			if (!documents[to]->exists)
				add_deleted(documents[to]);
			to++;
		}
		read_range(documents, from, to, true);
		read_range(documents, from, to, false);
		from = to;
	}
	note_count = 0;
	level_count = 0;
	se_origin_system = saved_origin;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(work);
}
