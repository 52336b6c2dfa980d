/*
 * known.c: what is known of the items of a page before it is applied.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

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

static char *
text_or_null(Datum value, bool isnull)
{
	return isnull ? NULL : TextDatumGetCString(value);
}

static TimestampTz
time_or_0(Datum value, bool isnull)
{
	return isnull ? 0 : DatumGetTimestampTz(value);
}

static const char *const mirror_names[] = {"fields",  "version", "version_at", "pushed_at",
										   "deleted", "raw",	 "mapping",	   "record_id"};

static void
take_mirror(SeItem *item, const Datum *values, const bool *nulls)
{
	item->in_mirror = true;
	item->mirror_fields = DatumGetJsonbPCopy(values[0]);
	item->mirror_version = text_or_null(values[1], nulls[1]);
	item->mirror_version_at = time_or_0(values[2], nulls[2]);
	item->pushed_at = time_or_0(values[3], nulls[3]);
	item->mirror_deleted = DatumGetBool(values[4]);
	item->same_raw = !nulls[5] && nulls[1] && is_same_raw(item, values[5]);
	if (item->same_raw && !nulls[6])
		item->mirror_mapping = DatumGetInt64(values[6]);
	if (!nulls[7])
		item->bound = TextDatumGetCString(values[7]);
}

static const char *const binding_names[] = {"record_id", "remote_number", "remote_version"};

static void
take_binding(SeItem *item, const Datum *values, const bool *nulls)
{
	item->bound = text_or_null(values[0], nulls[0]);
	item->bound_number = text_or_null(values[1], nulls[1]);
	item->bound_version = text_or_null(values[2], nulls[2]);
}

static const char *const inbox_names[] = {"item"};

static void
take_inbox(SeItem *item, const Datum *values, const bool *nulls)
{
	JsonbValue v;

	item->in_inbox = true;
	item->to_be_read =
		JsonbExtractScalar(&DatumGetJsonbP(values[0])->root, &v) && v.type == jbvNull;
}

/*
 * A listed record that is bound and, letter for letter, what the mirror holds says nothing new, as
 * long as the mapping is the one that made the mirror's fields of it.
 */
static bool
is_unchanged(const SeTarget *target, const SeItem *item)
{
	return item->same_raw && item->mirror_mapping != 0 && item->mirror_mapping == target->mapping &&
		   item->bound != NULL && !item->in_inbox && !item->mirror_deleted && !item->deleted &&
		   !item->fetched && !item->refetch && !item->stored && !item->has_at;
}

void
se_state_read(const SeTarget *target, SeItem **items, int n)
{
	SeItem **rest = palloc(sizeof(SeItem *) * Max(n, 1));
	int nrest = 0;

	se_rows_find("mirror", target, items, n, mirror_names, lengthof(mirror_names), take_mirror);
	se_rows_find("inbox", target, items, n, inbox_names, lengthof(inbox_names), take_inbox);
	for (int i = 0; i < n; i++)
	{
		items[i]->known = true;
		items[i]->unchanged = is_unchanged(target, items[i]);
		if (items[i]->unchanged)
			continue;
		items[i]->bound = NULL;
		rest[nrest++] = items[i];
	}
	se_rows_find("external_id", target, rest, nrest, binding_names, lengthof(binding_names),
				 take_binding);
}
