/*
 * jsonb_write.c: writes jsonb in its on-disk form, front to back.
 *
 * A container is a header word, one JEntry per key and value, and then their bytes. An entry holds
 * the length of its bytes, every JB_OFFSET_STRIDE-th the offset of their end instead. Numbers and
 * nested containers begin at multiples of four; the padding counts as part of the entry.
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/memutils.h"

#include "core/jsonb_write.h"

#define FIRST_SIZE 1024

void
se_json_begin(SeJsonWriter *w, Size size_hint)
{
	w->buf.maxlen = size_hint == 0 ? FIRST_SIZE : (int) Min(size_hint, SE_EVENT_LIMIT) + 1;
	w->buf.data = palloc(w->buf.maxlen);
	w->buf.cursor = 0;
	w->buf.len = VARHDRSZ;
	w->limit = SE_EVENT_LIMIT;
	w->overflow = false;
}

/* The finished value, or NULL when it did not fit. */
Jsonb *
se_json_end(SeJsonWriter *w)
{
	if (w->overflow)
	{
		pfree(w->buf.data);
		return NULL;
	}
	SET_VARSIZE(w->buf.data, w->buf.len);
	return (Jsonb *) w->buf.data;
}

static void
reserve(SeJsonWriter *w, int len)
{
	enlargeStringInfo(&w->buf, len);
	w->buf.len += len;
}

static void
align(SeJsonWriter *w)
{
	int padding = INTALIGN(w->buf.len) - w->buf.len;

	if (padding > 0)
	{
		reserve(w, padding);
		memset(w->buf.data + w->buf.len - padding, 0, padding);
	}
}

/* Begins an object of count pairs or an array of count elements. */
void
se_json_open(SeJsonWriter *w, SeJsonContainer *c, uint32 flag, int count)
{
	uint32 header = (uint32) count | flag;
	int entries = flag == JB_FOBJECT ? 2 * count : count;

	if (count > SE_EVENT_LIMIT / (2 * sizeof(JEntry)) || !se_json_fits(w, entries * sizeof(JEntry)))
	{
		w->overflow = true;
		return;
	}
	align(w);
	appendBinaryStringInfo(&w->buf, (char *) &header, sizeof(header));
	c->entries = w->buf.len;
	reserve(w, entries * sizeof(JEntry));
	c->base = w->buf.len;
	c->total = 0;
	c->next = 0;
}

/* Closes the entry whose bytes have just been put. */
void
se_json_entry(SeJsonWriter *w, SeJsonContainer *c, uint32 type)
{
	uint32 total;
	JEntry entry;

	if (w->overflow)
		return;
	total = (uint32) (w->buf.len - c->base);
	if (c->next % JB_OFFSET_STRIDE == 0)
		entry = type | total | JENTRY_HAS_OFF;
	else
		entry = type | (total - c->total);
	memcpy(w->buf.data + c->entries + c->next * sizeof(JEntry), &entry, sizeof(entry));
	c->total = total;
	c->next++;
}

uint32
se_json_string(SeJsonWriter *w, const char *data, Size len)
{
	if (se_json_fits(w, len))
		appendBinaryStringInfo(&w->buf, data, (int) len);
	return JENTRY_ISSTRING;
}

/* The number must be plain: neither compressed nor with a short header. */
uint32
se_json_numeric(SeJsonWriter *w, const void *numeric)
{
	if (se_json_fits(w, VARSIZE(numeric) + sizeof(int)))
	{
		align(w);
		appendBinaryStringInfo(&w->buf, numeric, VARSIZE(numeric));
	}
	return JENTRY_ISNUMERIC;
}

/* A finished container may be copied: its offsets are relative and its start is aligned. */
uint32
se_json_container(SeJsonWriter *w, const JsonbContainer *container, Size len)
{
	if (se_json_fits(w, len + sizeof(int)))
	{
		align(w);
		appendBinaryStringInfo(&w->buf, (const char *) container, (int) len);
	}
	return JENTRY_ISCONTAINER;
}

uint32
se_json_value(SeJsonWriter *w, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return JENTRY_ISNULL;
		case jbvBool:
			return value->val.boolean ? JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE;
		case jbvString:
			return se_json_string(w, value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return se_json_numeric(w, value->val.numeric);
		case jbvBinary:
			return se_json_container(w, value->val.binary.data, value->val.binary.len);
		default:
			elog(ERROR, "unexpected kind of jsonb value: %d", (int) value->type);
	}
	return 0;
}

uint32
se_json_jsonb(SeJsonWriter *w, Jsonb *json)
{
	JsonbValue scalar;

	if (JB_ROOT_IS_SCALAR(json) && JsonbExtractScalar(&json->root, &scalar))
		return se_json_value(w, &scalar);
	return se_json_container(w, &json->root, VARSIZE(json) - VARHDRSZ);
}

int
se_json_compare_keys(const char *a, int alen, const char *b, int blen)
{
	if (alen != blen)
		return alen > blen ? 1 : -1;
	return memcmp(a, b, alen);
}

static int
compare_pairs(const void *a, const void *b)
{
	const JsonbPair *x = a;
	const JsonbPair *y = b;

	return se_json_compare_keys(x->key.val.string.val, x->key.val.string.len, y->key.val.string.val,
								y->key.val.string.len);
}

/* Bytes that it takes at most. */
static Size
size_of(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return value->val.string.len;
		case jbvNumeric:
			return VARSIZE(value->val.numeric) + sizeof(int);
		case jbvBinary:
			return value->val.binary.len + sizeof(int);
		default:
			return 0;
	}
}

Jsonb *
se_json_from_pairs(JsonbPair *pairs, int count, Size limit)
{
	SeJsonWriter w;
	SeJsonContainer c;
	Size size = VARHDRSZ + sizeof(uint32);

	for (int i = 0; i < count; i++)
		size += 2 * sizeof(JEntry) + size_of(&pairs[i].key) + size_of(&pairs[i].value);
	qsort(pairs, count, sizeof(JsonbPair), compare_pairs);
	se_json_begin(&w, Min(size, limit));
	w.limit = limit;
	se_json_open(&w, &c, JB_FOBJECT, count);
	for (int i = 0; i < count; i++)
		se_json_entry(&w, &c, se_json_value(&w, &pairs[i].key));
	for (int i = 0; i < count; i++)
		se_json_entry(&w, &c, se_json_value(&w, &pairs[i].value));
	return se_json_end(&w);
}

static void
set_string(JsonbValue *value, const char *data, int len)
{
	value->type = jbvString;
	value->val.string.val = unconstify(char *, data);
	value->val.string.len = len;
}

Jsonb *
se_json_from_strings(int count, const char *const *keys, const char *const *values)
{
	JsonbPair *pairs = palloc(sizeof(JsonbPair) * count);
	int used = 0;

	for (int i = 0; i < count; i++)
	{
		if (values[i] == NULL)
			continue;
		set_string(&pairs[used].key, keys[i], strlen(keys[i]));
		set_string(&pairs[used].value, values[i], strlen(values[i]));
		used++;
	}
	return se_json_from_pairs(pairs, used, SE_EVENT_LIMIT);
}

/* Both sides were written by this file, so equal values have equal bytes. */
static bool
values_equal(const JsonbValue *a, const JsonbValue *b)
{
	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvNull:
			return true;
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		case jbvString:
			return a->val.string.len == b->val.string.len &&
				   memcmp(a->val.string.val, b->val.string.val, a->val.string.len) == 0;
		case jbvNumeric:
			return VARSIZE(a->val.numeric) == VARSIZE(b->val.numeric) &&
				   memcmp(a->val.numeric, b->val.numeric, VARSIZE(a->val.numeric)) == 0;
		case jbvBinary:
			return a->val.binary.len == b->val.binary.len &&
				   memcmp(a->val.binary.data, b->val.binary.data, a->val.binary.len) == 0;
		default:
			return false;
	}
}

static bool
has_key(const JsonbPair *pairs, int count, const JsonbValue *key)
{
	for (int i = 0; i < count; i++)
	{
		if (values_equal(&pairs[i].key, key))
			return true;
	}
	return false;
}

static bool
is_ignorable(List *ignorable, const JsonbValue *key)
{
	ListCell *lc;

	foreach (lc, ignorable)
	{
		const char *name = lfirst(lc);

		if (strlen(name) == key->val.string.len &&
			memcmp(name, key->val.string.val, key->val.string.len) == 0)
			return true;
	}
	return false;
}

/* Adds the pairs of an object whose keys are not there yet; returns the new count. */
static int
add_pairs(JsonbPair **pairs, int count, int *room, Jsonb *object)
{
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbValue value;
	JsonbPair pair;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			pair.key = value;
		else if (token == WJB_VALUE && !has_key(*pairs, count, &pair.key))
		{
			pair.value = value;
			if (count == *room)
			{
				*room *= 2;
				*pairs = repalloc(*pairs, sizeof(JsonbPair) * *room);
			}
			(*pairs)[count++] = pair;
		}
	}
	return count;
}

Jsonb *
se_json_difference(List *olds, Jsonb *body, List *ignorable, bool lines_changed)
{
	int room = 32;
	int count = 0;
	int kept = 0;
	bool differs = lines_changed;
	JsonbPair *pairs = palloc(sizeof(JsonbPair) * room);
	ListCell *lc;

	foreach (lc, olds)
		count = add_pairs(&pairs, count, &room, lfirst(lc));

	for (int i = 0; i < count; i++)
	{
		JsonbValue *key = &pairs[i].key;
		JsonbValue *now = getKeyJsonValueFromContainer(&body->root, key->val.string.val,
													   key->val.string.len, NULL);

		if (now != NULL && values_equal(&pairs[i].value, now))
			continue;
		if (!is_ignorable(ignorable, key))
			differs = true;
		pairs[kept++] = pairs[i];
	}
	if (!differs)
		return NULL;

	if (lines_changed)
	{
		if (kept == room)
			pairs = repalloc(pairs, sizeof(JsonbPair) * (room + 1));
		set_string(&pairs[kept].key, "lines", 5);
		pairs[kept].value.type = jbvNull;
		kept++;
	}
	return se_json_from_pairs(pairs, kept, SE_EVENT_LIMIT);
}
