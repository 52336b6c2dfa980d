/*
 * findings.c: what was decided about fields and is worth a row: conflicts, corrections, audit.
 *
 * Written in the transaction of the page, after the rows and the mirror. The rows are still locked, so
 * a correction's event, which holds the record as it now stands, is in its place among the others.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "capture/correction.h"
#include "core/json.h"
#include "core/spi.h"
#include "pull/internal.h"
#include "push/record_body.h"

static Datum
text_or_null(const char *text, char *null)
{
	*null = text == NULL ? 'n' : ' ';
	return text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

static Datum
json_or_null(Jsonb *json, char *null)
{
	*null = json == NULL ? 'n' : ' ';
	return json == NULL ? (Datum) 0 : JsonbPGetDatum(json);
}

static void
audit(const SeTarget *target, const char *action, const SeItem *item, Jsonb *detail)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {TEXTOID, TEXTOID, TEXTOID, INT4OID, JSONBOID};
	Datum values[] = {CStringGetTextDatum(action), CStringGetTextDatum(target->object),
					  CStringGetTextDatum(item->record_id), Int32GetDatum(target->system_id),
					  JsonbPGetDatum(detail)};

	se_spi_execute(&plan,
				   "SELECT sync._audit($1, $2, $3,"
				   " (SELECT y.name FROM sync.system y WHERE y.id = $4), $5)",
				   5, types, values, NULL, false, 0);
	SPI_freetuptable(SPI_tuptable);
}

static Jsonb *
finding_detail(const SeItem *item, const SeFinding *v, int64 conflict)
{
	SeObjBuilder b;

	se_obj_begin(&b);
	if (conflict != 0)
	{
		se_obj_int(&b, "conflict", conflict);
		se_obj_text(&b, "kind", v->kind);
	}
	se_obj_text(&b, "field", v->field);
	se_obj_text(&b, "remote_id", item->remote_id);
	if (v->ours != NULL)
		se_obj_value(&b, "hub", v->ours);
	if (v->theirs != NULL)
		se_obj_value(&b, "remote", v->theirs);
	se_obj_text(&b, "policy", v->policy);
	return se_obj_end(&b);
}

/* A conflict is opened once; what is heard of it afterwards goes into its row. */
static void
keep_conflict(const SeTarget *target, const SeItem *item, const SeFinding *v)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {TEXTOID, INT4OID,		TEXTOID,  TEXTOID,		  INT4OID, TEXTOID, JSONBOID,
				   INT4OID, TIMESTAMPTZOID, JSONBOID, TIMESTAMPTZOID, TEXTOID, TEXTOID};
	char nulls[lengthof(types) + 1] = "             ";
	Datum values[lengthof(types)];
	bool isnull;
	int64 id;
	bool opened;

	values[0] = CStringGetTextDatum(v->kind);
	values[1] = Int32GetDatum(target->object_id);
	values[2] = CStringGetTextDatum(item->record_id);
	values[3] = text_or_null(v->field, &nulls[3]);
	values[4] = Int32GetDatum(target->system_id);
	values[5] = CStringGetTextDatum(item->remote_id);
	values[6] = json_or_null(v->ours, &nulls[6]);
	values[7] = Int32GetDatum(v->hub_origin);
	nulls[7] = v->hub_origin < 0 ? 'n' : ' ';
	values[8] = TimestampTzGetDatum(v->hub_at);
	nulls[8] = v->hub_at == 0 ? 'n' : ' ';
	values[9] = json_or_null(v->theirs, &nulls[9]);
	values[10] = TimestampTzGetDatum(item->map.version_at);
	nulls[10] = item->map.has_version_at ? ' ' : 'n';
	values[11] = CStringGetTextDatum(v->policy);
	values[12] = CStringGetTextDatum(v->message);
	se_spi_execute(&plan,
				   "INSERT INTO sync.conflict_entry AS c (kind, object_id, record_id, field,"
				   " system_id, remote_id, hub_value, hub_origin, hub_at, remote_value, remote_at,"
				   " policy, message)"
				   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
				   " ON CONFLICT (object_id, record_id, field, system_id)"
				   " WHERE resolved_at IS NULL DO UPDATE SET hub_value = excluded.hub_value,"
				   " remote_value = excluded.remote_value, remote_at = excluded.remote_at"
				   " RETURNING c.id, c.xmax = 0",
				   lengthof(types), types, values, nulls, false, 0);
	id = DatumGetInt64(se_spi_datum(0, 1, &isnull));
	opened = DatumGetBool(se_spi_datum(0, 2, &isnull));
	SPI_freetuptable(SPI_tuptable);
	if (opened)
		audit(target, "conflict.opened", item, finding_detail(item, v, id));
}

/* Conflicts that have come to an end without anybody deciding; field NULL: all of the record. */
static void
settle(const SeTarget *target, const SeItem *item, const char *field, const char *kind,
	   const char *reason)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID};
	char nulls[] = "      ";
	Datum values[6];
	uint64 n;
	SeObjBuilder b;

	if (se_rows_none("conflict_entry"))
		return;
	values[0] = Int32GetDatum(target->object_id);
	values[1] = CStringGetTextDatum(item->record_id);
	values[2] = Int32GetDatum(target->system_id);
	values[3] = text_or_null(field, &nulls[3]);
	values[4] = text_or_null(kind, &nulls[4]);
	values[5] = CStringGetTextDatum(reason);
	n = se_spi_execute(&plan,
					   "UPDATE sync.conflict_entry SET resolved_at = clock_timestamp(), reason = $6"
					   " WHERE object_id = $1 AND record_id = $2 AND system_id = $3"
					   " AND ($4 IS NULL OR field = $4) AND ($5 IS NULL OR kind = $5)"
					   " AND resolved_at IS NULL RETURNING id",
					   6, types, values, nulls, false, 0);
	if (n == 0)
		return;
	se_obj_begin(&b);
	se_obj_text(&b, "conflicts", se_spi_text(0, 1));
	se_obj_text(&b, "field", field);
	se_obj_text(&b, "why", reason);
	SPI_freetuptable(SPI_tuptable);
	audit(target, "conflict.settled", item, se_obj_end(&b));
}

/* Has the record as it stands sent to this system alone. */
static void
push_back(const SeTarget *target, const SeItem *item, const SeFinding *v)
{
	SeObjBuilder b;

	se_obj_begin(&b);
	se_obj_value(&b, v->field, v->theirs);
	se_correction_add(target->object_id, 'U', item->record_id,
					  se_record_body(target->object_id, item->record_id), se_obj_end(&b),
					  target->system_id);
}

static void
write_finding(const SeTarget *target, const SeItem *item, const SeFinding *v)
{
	switch (v->what)
	{
		case SE_MERGE_CONFLICT:
		case SE_MERGE_REPEATED:
		case SE_MERGE_NEWS:
			keep_conflict(target, item, v);
			break;
		case SE_MERGE_SETTLED:
			settle(target, item, v->field, NULL, "both sides say the same");
			break;
		case SE_MERGE_REJECT:
			audit(target, "violation.rejected", item, finding_detail(item, v, 0));
			break;
		case SE_MERGE_CORRECT:
			push_back(target, item, v);
			audit(target, "violation.corrected", item, finding_detail(item, v, 0));
			break;
		case SE_MERGE_NOTHING:
			audit(target, "change.lost", item, finding_detail(item, v, 0));
			break;
		default:
			elog(ERROR, "finding %d is nothing to be written", v->what);
	}
}

/* The fields of records that an app has changed have been set again, or have become a conflict. */
static void
forget_overridden(const SeTarget *target, const SeItem *item)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, TEXTOID, INT4OID};
	Datum values[] = {Int32GetDatum(target->object_id), CStringGetTextDatum(item->record_id),
					  Int32GetDatum(target->system_id)};

	se_spi_execute(&plan,
				   "DELETE FROM sync.correction WHERE object_id = $1 AND record_id = $2"
				   " AND system_id = $3",
				   3, types, values, NULL, false, 0);
}

void
se_findings_write(const SeTarget *target, SeItem **items, int n)
{
	ListCell *lc;

	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];

		if (item->fate != SE_FATE_APPLY && item->fate != SE_FATE_MIRROR &&
			item->fate != SE_FATE_DELETE)
			continue; /* SE_FATE_NOTHING: of a push, as a rule */
		foreach (lc, item->findings)
			write_finding(target, item, lfirst(lc));
		if (item->overridden != NIL)
			forget_overridden(target, item);
		if (item->fate == SE_FATE_DELETE && item->record_id != NULL && !item->stays)
			settle(target, item, NULL, NULL, "the system deleted the record");
		else if (item->fate != SE_FATE_DELETE && item->mirror_deleted && item->record_id != NULL)
			settle(target, item, NULL, "deleted", "the system brought the record back");
	}
}

SeConflict *
se_conflicts_open(const SeTarget *target, SeItem **items, int n, int *count)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTARRAYOID};
	SeArg records = se_arg_make(n);
	Datum values[3];
	SeConflict *conflicts;

	*count = 0;
	if (n == 0 || se_rows_none("conflict_entry"))
		return NULL;
	for (int i = 0; i < n; i++)
		se_arg_text(&records, items[i]->record_id);
	values[0] = Int32GetDatum(target->object_id);
	values[1] = Int32GetDatum(target->system_id);
	values[2] = se_arg_array(&records, TEXTOID);
	*count = (int) se_spi_execute(&plan,
								  "SELECT c.id, c.record_id, c.field FROM sync.conflict_entry c"
								  " WHERE c.resolved_at IS NULL AND c.object_id = $1"
								  " AND c.record_id = ANY ($3) AND c.system_id = $2",
								  3, types, values, NULL, false, 0);
	conflicts = palloc(sizeof(SeConflict) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		bool isnull;

		conflicts[i].id = DatumGetInt64(se_spi_datum(i, 1, &isnull));
		conflicts[i].record_id = se_spi_text(i, 2);
		conflicts[i].field = se_spi_text(i, 3);
	}
	SPI_freetuptable(SPI_tuptable);
	return conflicts;
}

void
se_merge_overridden(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, TEXTOID, INT4OID};

	if (se_rows_none("correction"))
		return;
	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];
		Datum values[3];
		uint64 rows;

		if (!item->fetched || item->bound == NULL)
			continue;
		values[0] = Int32GetDatum(target->object_id);
		values[1] = CStringGetTextDatum(item->bound);
		values[2] = Int32GetDatum(target->system_id);
		rows = se_spi_execute(&plan,
							  "SELECT c.field FROM sync.correction c WHERE c.object_id = $1"
							  " AND c.record_id = $2 AND c.system_id = $3",
							  3, types, values, NULL, false, 0);
		for (uint64 k = 0; k < rows; k++)
			item->overridden = lappend(item->overridden, se_spi_text(k, 1));
		SPI_freetuptable(SPI_tuptable);
	}
}
