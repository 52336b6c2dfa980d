/*
 * attributed.c: objects whose every event must say who made the change, because a policy holds their
 * deliveries for somebody else's approval.
 *
 * For other objects an event carries its author only where a setting was set: it costs bytes in every row
 * of the outbox.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "nodes/bitmapset.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "capture/events.h"

static bool known = false;
static Oid registry = InvalidOid;
static Bitmapset *attributed = NULL;

/* A statement trigger on sync.object turns each change of it into this. */
static void
forget(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == registry)
		known = false;
}

static void
add_row(TupleTableSlot *slot)
{
	int id = SPI_fnumber(slot->tts_tupleDescriptor, "id");
	int flag = SPI_fnumber(slot->tts_tupleDescriptor, "attributed");

	slot_getallattrs(slot);
	if (id <= 0 || flag <= 0)
		elog(ERROR, "a column of sync.object is missing");
	if (DatumGetBool(slot->tts_values[flag - 1]))
		attributed = bms_add_member(attributed, DatumGetInt32(slot->tts_values[id - 1]));
}

/* Past the executor, with the latest snapshot: see table.c. */
static void
load(void)
{
	Relation rel;
	Snapshot snapshot;
	TupleTableSlot *slot;
	TableScanDesc scan;
	MemoryContext old;

	registry = get_relname_relid("object", get_namespace_oid("sync", false));
	rel = table_open(registry, AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	slot = table_slot_create(rel, NULL);
	scan = table_beginscan(rel, snapshot, 0, NULL);
	old = MemoryContextSwitchTo(TopMemoryContext);
	bms_free(attributed);
	attributed = NULL;
	/* First the flag: an invalidation during the scan clears it again. */
	known = true;
	PG_TRY();
	{
		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
			add_row(slot);
	}
	PG_CATCH();
	{
		known = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
}

bool
se_object_is_attributed(int object_id)
{
	static bool watching = false;

	if (!watching)
		CacheRegisterRelcacheCallback(forget, (Datum) 0);
	watching = true;
	if (unlikely(!known))
		load();
	return attributed != NULL && bms_is_member(object_id, attributed);
}
