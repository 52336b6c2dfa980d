/*
 * cause.c: what of ours the changes of a page follow from, as far as that can be known.
 *
 * The mirror of a record holds the event of ours that was pushed to it last, with its correlation id.
 * What the system does to that record later carries both on. A record that the system has made by
 * itself takes them from the record that it refers to, of several from the one that was pushed last:
 * the invoice belongs to the subscription of which we told the system, and so to the order behind it.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "capture/cause.h"
#include "core/lookup.h"
#include "pull/internal.h"

/* Columns of sync.mirror. */
enum
{
	MIRROR_PUSHED_AT = 9,
	MIRROR_CAUSE = 16,
	MIRROR_CORRELATION
};

static void
look_up(const SeTarget *target, SeLookup *mirror, SeRef *ref)
{
	const Datum keys[] = {Int32GetDatum(target->system_id), Int32GetDatum(ref->object_id),
						  CStringGetTextDatum(ref->key)};
	bool isnull;
	Datum pushed_at;

	ref->cause_looked_up = true;
	if (ref->object_id == 0 || ref->by != NULL || !se_lookup_find(mirror, keys))
		return;
	pushed_at = se_lookup_datum(mirror, MIRROR_PUSHED_AT, &isnull);
	ref->pushed_at = isnull ? 0 : DatumGetTimestampTz(pushed_at);
	ref->cause = se_lookup_text(mirror, MIRROR_CAUSE);
	ref->correlation_id = se_lookup_text(mirror, MIRROR_CORRELATION);
}

static void
take_from_refs(const SeTarget *target, SeLookup *mirror, SeItem *item)
{
	const SeRef *last = NULL;
	ListCell *lc;

	foreach (lc, item->refs)
	{
		SeRef *ref = lfirst(lc);

		if (!ref->cause_looked_up)
			look_up(target, mirror, ref);
		if (ref->cause != NULL && (last == NULL || ref->pushed_at > last->pushed_at))
			last = ref;
	}
	if (last == NULL)
		return;
	item->cause = last->cause;
	item->correlation_id = last->correlation_id;
}

/* Finds causes and tells the capture, before the rows are written. */
void
se_causes_find(const SeTarget *target, SeItem **items, int n)
{
	SeLookup mirror;
	bool open = false;

	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];

		if (item->in_mirror)
		{
			item->cause = item->mirror_cause;
			item->correlation_id = item->mirror_correlation;
		}
		else if (item->refs != NIL && item->cause == NULL)
		{
			if (!open)
			{
				PushActiveSnapshot(GetTransactionSnapshot());
				se_lookup_open(&mirror, "mirror", "mirror_pkey", 3);
			}
			open = true;
			take_from_refs(target, &mirror, item);
		}
		if (item->cause != NULL && item->record_id != NULL)
			se_cause_set(target->object_id, item->record_id, item->cause, item->correlation_id);
	}
	if (open)
	{
		se_lookup_close(&mirror);
		PopActiveSnapshot();
	}
}
