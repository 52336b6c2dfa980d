/*
 * known.c: what is known of the items of a page before it is applied.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/lookup.h"
#include "pull/internal.h"

/*
 * Jsonb is written in one way only, but for numbers (1.0 and 1.00), where the slow comparison
 * decides.
 */
static bool
is_same_raw(const SeItem *item, Datum value)
{
	Jsonb *raw;

	if (item->record == NULL)
		return false;
	raw = DatumGetJsonbP(value);
	if (VARSIZE(raw) == VARSIZE(item->record) &&
		memcmp(VARDATA(raw), VARDATA(item->record), VARSIZE(raw) - VARHDRSZ) == 0)
		return true;
	return compareJsonbContainers(&raw->root, &item->record->root) == 0;
}

/* Columns, by their place in the table. */
enum
{
	MIRROR_RECORD_ID = 4,
	MIRROR_FIELDS,
	MIRROR_RAW,
	MIRROR_VERSION,
	MIRROR_VERSION_AT,
	MIRROR_PUSHED_AT,
	MIRROR_DELETED = 12,
	MIRROR_MAPPING,
	MIRROR_AGREED,
	MIRROR_CORRECTED,
	MIRROR_CAUSE,
	MIRROR_CORRELATION,
	EXTERNAL_RECORD_ID = 3,
	EXTERNAL_NUMBER = 5,
	EXTERNAL_VERSION,
	INBOX_ITEM = 5,
	OBJECT_FINANCIAL = 9,
	ALIAS_RECORD_ID = 4
};

static TimestampTz
time_or_0(SeLookup *row, int attnum)
{
	bool isnull;
	Datum value = se_lookup_datum(row, attnum, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}

static void
take_mirror(SeItem *item, SeLookup *row)
{
	bool isnull;
	Datum raw;
	Datum mapping;

	item->in_mirror = true;
	item->bound = item->mirror_record = se_lookup_text(row, MIRROR_RECORD_ID);
	item->mirror_fields = (Jsonb *) se_lookup_copy(row, MIRROR_FIELDS);
	item->mirror_version = se_lookup_text(row, MIRROR_VERSION);
	item->mirror_version_at = time_or_0(row, MIRROR_VERSION_AT);
	item->pushed_at = time_or_0(row, MIRROR_PUSHED_AT);
	item->mirror_deleted = DatumGetBool(se_lookup_datum(row, MIRROR_DELETED, &isnull));
	raw = se_lookup_datum(row, MIRROR_RAW, &isnull);
	item->same_raw = !isnull && is_same_raw(item, raw);
	item->mirror_agreed = (Jsonb *) se_lookup_copy(row, MIRROR_AGREED);
	item->mirror_corrected = (Jsonb *) se_lookup_copy(row, MIRROR_CORRECTED);
	item->mirror_cause = se_lookup_text(row, MIRROR_CAUSE);
	item->mirror_correlation = se_lookup_text(row, MIRROR_CORRELATION);
	mapping = se_lookup_datum(row, MIRROR_MAPPING, &isnull);
	item->mirror_mapping = isnull ? 0 : DatumGetInt64(mapping);
}

static void
take_agreed(SeItem *item, SeLookup *row)
{
	item->mirror_agreed = (Jsonb *) se_lookup_copy(row, MIRROR_AGREED);
}

static void
take_binding(SeItem *item, SeLookup *row)
{
	item->bound = se_lookup_text(row, EXTERNAL_RECORD_ID);
	item->bound_number = se_lookup_text(row, EXTERNAL_NUMBER);
	item->bound_version = se_lookup_text(row, EXTERNAL_VERSION);
}

static void
take_alias(SeItem *item, SeLookup *row)
{
	if (item->bound == NULL)
		item->alias = se_lookup_text(row, ALIAS_RECORD_ID);
}

static void
take_inbox(SeItem *item, SeLookup *row)
{
	Jsonb *waiting = (Jsonb *) se_lookup_copy(row, INBOX_ITEM);
	JsonbValue v;

	item->in_inbox = true;
	item->to_be_read = JsonbExtractScalar(&waiting->root, &v) && v.type == jbvNull;
}

/* Looks each item up by its remote id. */
static void
find_rows(const char *table, const char *index, const SeTarget *target, SeItem **items, int n,
		  void (*found)(SeItem *item, SeLookup *row))
{
	SeLookup lookup;

	if (n == 0 || se_rows_none(table))
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	se_lookup_open(&lookup, table, index, 3);
	for (int i = 0; i < n; i++)
	{
		const Datum keys[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id),
							  CStringGetTextDatum(items[i]->remote_id)};

		if (se_lookup_find(&lookup, keys))
			found(items[i], &lookup);
	}
	se_lookup_close(&lookup);
	PopActiveSnapshot();
}

/*
 * A listed record that is bound and, letter for letter, what the mirror holds says nothing new, as
 * long as the mapping is the one that made the mirror's fields of it, and the list does not say that
 * it changed at another time.
 */
static bool
is_unchanged(const SeTarget *target, const SeItem *item)
{
	return item->same_raw && item->mirror_mapping != 0 && item->mirror_mapping == target->mapping &&
		   item->bound != NULL && !item->in_inbox && !item->mirror_deleted && !item->deleted &&
		   !item->fetched && !item->refetch && !item->stored && !item->journal &&
		   (!item->has_at || item->at == item->mirror_version_at);
}

void
se_state_read(const SeTarget *target, SeItem **items, int n)
{
	SeItem **rest = palloc(sizeof(SeItem *) * Max(n, 1));
	int nrest = 0;

	find_rows("mirror", "mirror_pkey", target, items, n, take_mirror);
	find_rows("inbox", "inbox_system_id_object_id_remote_id_key", target, items, n, take_inbox);
	for (int i = 0; i < n; i++)
	{
		items[i]->known = true;
		items[i]->unchanged = is_unchanged(target, items[i]);
		if (items[i]->unchanged)
			continue;
		items[i]->bound = NULL;
		rest[nrest++] = items[i];
	}
	find_rows("external_id", "external_id_system_id_object_id_remote_id_key", target, rest, nrest,
			  take_binding);
	find_rows("external_alias", "external_alias_pkey", target, rest, nrest, take_alias);
}

static void
take_presence(SeItem *item, SeLookup *row)
{
	item->in_mirror = true;
}

static void
take_state(SeItem *item, SeLookup *row)
{
	bool isnull;

	item->in_mirror = true;
	item->mirror_record = se_lookup_text(row, MIRROR_RECORD_ID);
	item->mirror_fields = (Jsonb *) se_lookup_copy(row, MIRROR_FIELDS);
	item->mirror_deleted = DatumGetBool(se_lookup_datum(row, MIRROR_DELETED, &isnull));
}

bool
se_is_financial(int object_id)
{
	const Datum key = Int32GetDatum(object_id);
	SeLookup lookup;
	bool isnull;
	bool financial = false;

	PushActiveSnapshot(GetTransactionSnapshot());
	se_lookup_open(&lookup, "object", "object_pkey", 1);
	if (se_lookup_find(&lookup, &key))
		financial = DatumGetBool(se_lookup_datum(&lookup, OBJECT_FINANCIAL, &isnull));
	se_lookup_close(&lookup);
	PopActiveSnapshot();
	return financial;
}

void
se_state_read_bound(const SeTarget *target, SeItem **items, int n)
{
	find_rows("mirror", "mirror_pkey", target, items, n,
			  target->financial ? take_state : take_presence);
	find_rows("external_id", "external_id_system_id_object_id_remote_id_key", target, items, n,
			  take_binding);
}

void
se_state_read_agreed(const SeTarget *target, SeItem **items, int n)
{
	SeItem **some = palloc(sizeof(SeItem *) * Max(n, 1));
	int nsome = 0;

	for (int i = 0; i < n; i++)
	{
		if (items[i]->mirror_agreed != NULL)
			some[nsome++] = items[i];
	}
	find_rows("mirror", "mirror_pkey", target, some, nsome, take_agreed);
}
