/*
 * drift.c: records that no longer fit what their manifest says of them.
 *
 * They are in the inbox, one by one; this says what changed at the other side, once for all of them.
 * Written with the page, so that what is counted is what is quarantined.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "core/spi.h"
#include "pull/internal.h"

void
se_drift_note(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID,		 INT4OID,	   TEXTOID,		 TEXTARRAYOID,
				   TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID};
	const char *version = target->pull->contract_version;
	SeArg columns[5];
	Datum values[8];
	int drifted = 0;

	for (int i = 0; i < lengthof(columns); i++)
		columns[i] = se_arg_make(Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		const SeItem *item = items[i];

		/* One that is tried again out of the inbox was counted when it came. */
		if (item->fate != SE_FATE_INBOX || item->stored || item->map.status != SE_MAP_INVALID ||
			item->map.drift.path == NULL)
			continue;
		se_arg_text(&columns[0], item->map.drift.path);
		se_arg_text(&columns[1], item->map.drift.kind);
		se_arg_text(&columns[2], item->map.drift.expected);
		se_arg_text(&columns[3], item->map.drift.got);
		se_arg_text(&columns[4], item->remote_id);
		drifted++;
	}
	if (drifted == 0)
		return;
	values[0] = Int32GetDatum(target->system_id);
	values[1] = Int32GetDatum(target->object_id);
	values[2] = CStringGetTextDatum(version != NULL ? version : target->manifest->version);
	for (int i = 0; i < lengthof(columns); i++)
		values[3 + i] = se_arg_array(&columns[i], TEXTOID);
	se_spi_execute(&plan, "SELECT sync._drift($1, $2, $3, $4, $5, $6, $7, $8)", lengthof(types),
				   types, values, NULL, false, 0);
	SPI_freetuptable(SPI_tuptable);
}
