/*
 * change_guard.c: the trigger of tables whose changes a guard holds to a condition.
 *
 * It renders the row as an event would have it and asks sync._guard_change(), as the extension's owner,
 * because who writes the table need not have any right in schema sync. The row is rendered before
 * that, with the writer's rights: output functions of a table owner's types are code of his.
 *
 * AFTER each row, so that what is judged is what stays, whatever other triggers made of it, and so that
 * a form of write that no statement trigger sees (rows put into a partition, cascades) is seen.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "capture/table.h"
#include "core/role.h"

PG_FUNCTION_INFO_V1(se_change_guard);

static Jsonb *
render(SeTable *table, TupleTableSlot *slot)
{
	slot_getallattrs(slot);
	/* NULL: too large for an event, and so for a condition; the function says so. */
	if (!se_row_fits(table->shape, slot->tts_values, slot->tts_isnull))
		return NULL;
	return se_render_row(table->shape, slot->tts_values, slot->tts_isnull, NULL);
}

static void
ask(Oid owner, SeTable *table, const char *record_id, Jsonb *new, Jsonb *old, Oid relid)
{
	static SPIPlanPtr plan = NULL;
	Oid types[5] = {TEXTOID, TEXTOID, JSONBOID, JSONBOID, OIDOID};
	Datum values[5];
	char nulls[5] = "     ";
	Oid user;
	int security;

	values[0] = CStringGetTextDatum(table->object);
	values[1] = CStringGetTextDatum(record_id);
	values[2] = PointerGetDatum(new);
	values[3] = PointerGetDatum(old);
	values[4] = ObjectIdGetDatum(relid);
	nulls[2] = new == NULL ? 'n' : ' ';
	nulls[3] = old == NULL ? 'n' : ' ';
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(owner, security | SECURITY_LOCAL_USERID_CHANGE);
	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT sync._guard_change($1, $2, $3, $4, $5)", 5, types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare the question of a guard");
	}
	if (SPI_execute_plan(plan, values, nulls, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not ask the guards of object \"%s\"", table->object);
	SetUserIdAndSecContext(user, security);
	SPI_finish();
}

/* Trigger sync_demand on a tracked table; its argument is the object. */
PGDLLEXPORT Datum
se_change_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	bool update;
	SeTable *table;
	TupleTableSlot *slot;
	Jsonb *new;
	Jsonb *old;
	char *record_id;
	int pin;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) || trigger->tg_trigger->tgnargs != 1)
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("function \"sync.change_guard\" must be an AFTER trigger of rows"),
						errhint("sync.set_guard() makes it.")));
	update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	table = se_table_lookup(trigger->tg_relation, trigger->tg_trigger->tgargs[0]);
	if (table->role == SE_TABLE_LINES)
		return PointerGetDatum(NULL);
	slot = update ? trigger->tg_newslot : trigger->tg_trigslot;
	pin = se_pin_settings(table->shape);
	new = render(table, slot);
	old = update ? render(table, trigger->tg_trigslot) : NULL;
	record_id = se_table_record_id(table, slot->tts_values, slot->tts_isnull);
	se_unpin_settings(pin);
	ask(se_function_owner(fcinfo->flinfo->fn_oid), table, record_id, new, old,
		RelationGetRelid(trigger->tg_relation));
	return PointerGetDatum(NULL);
}
