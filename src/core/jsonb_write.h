/*
 * jsonb_write.h: writes jsonb in its on-disk form, front to back.
 *
 * The server's own way builds a tree of JsonbValue, sorts it and then walks it. A captured row has
 * its keys known and sorted beforehand, so its values can go straight into the buffer, which is
 * most of what makes capture cheap.
 */
#ifndef SE_JSONB_WRITE_H
#define SE_JSONB_WRITE_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

/* Largest body of an event; a larger row gives a key-only event. */
#define SE_EVENT_LIMIT ((Size) 64 * 1024 * 1024)

typedef struct SeJsonWriter
{
	StringInfoData buf;
	Size limit;	   /* SE_EVENT_LIMIT, unless the caller sets another */
	bool overflow; /* something did not fit; the content is garbage */
} SeJsonWriter;

/* An object or array being written: its entries are numbered keys first, then values. */
typedef struct SeJsonContainer
{
	int entries;  /* offset of the JEntry array */
	int base;	  /* offset where the data begins */
	uint32 total; /* bytes of data covered by finished entries */
	int next;	  /* entry to finish next */
} SeJsonContainer;

extern void se_json_begin(SeJsonWriter *w, Size size_hint);
extern Jsonb *se_json_end(SeJsonWriter *w);

extern void se_json_open(SeJsonWriter *w, SeJsonContainer *c, uint32 flag, int count);
extern void se_json_entry(SeJsonWriter *w, SeJsonContainer *c, uint32 type);

/* Each puts the bytes of one value and returns the type bits of its entry. */
extern uint32 se_json_string(SeJsonWriter *w, const char *data, Size len);
extern uint32 se_json_numeric(SeJsonWriter *w, const void *numeric);
extern uint32 se_json_container(SeJsonWriter *w, const JsonbContainer *container, Size len);
extern uint32 se_json_value(SeJsonWriter *w, const JsonbValue *value);
extern uint32 se_json_jsonb(SeJsonWriter *w, Jsonb *json);

/* Room for len more bytes? If not, the writer is marked as overflown. */
static inline bool
se_json_fits(SeJsonWriter *w, Size len)
{
	if (unlikely(w->overflow || len > w->limit || w->buf.len + len > w->limit))
	{
		w->overflow = true;
		return false;
	}
	return true;
}

/* Order of keys in a jsonb object: by length, then by bytes. */
extern int se_json_compare_keys(const char *a, int alen, const char *b, int blen);

/* An object of these pairs, which are put in order; NULL when it is larger than `limit`. */
extern Jsonb *se_json_from_pairs(JsonbPair *pairs, int count, Size limit);

/* An object of the given keys, sorted here, with text values; NULL values are left out. */
extern Jsonb *se_json_from_strings(int count, const char *const *keys, const char *const *values);

/*
 * What of the old values differs from the new body: an object of the old values, or NULL when
 * nothing but ignorable keys differs. Of several olds the earliest value of a key counts. With
 * lines_changed the object gets "lines": null, and something differs in any case.
 */
extern Jsonb *se_json_difference(List *olds, Jsonb *body, List *ignorable, bool lines_changed);

#endif
