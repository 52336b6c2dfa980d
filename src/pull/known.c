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

static const char *const mirror_names[] = {"fields",	"version", "version_at",
										   "pushed_at", "deleted", "raw"};

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

void
se_state_read(const SeTarget *target, SeItem **items, int n)
{
	se_rows_find("mirror", target, items, n, mirror_names, lengthof(mirror_names), take_mirror);
	se_rows_find("external_id", target, items, n, binding_names, lengthof(binding_names),
				 take_binding);
	se_rows_find("inbox", target, items, n, inbox_names, lengthof(inbox_names), take_inbox);
}
