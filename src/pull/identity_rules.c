/*
 * identity_rules.c: identity by what people declared: rules, decisions about single records, and
 * matching before anything is bound. The rules themselves are SQL (sync._match), so that
 * sync.match_preview() and a page find the same.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "core/json.h"
#include "core/spi.h"
#include "pull/identity.h"

static Datum
remote_ids_of(List *items)
{
	SeArg ids = se_arg_make(list_length(items));
	ListCell *lc;

	foreach (lc, items)
		se_arg_text(&ids, ((SeItem *) lfirst(lc))->remote_id);
	return se_arg_array(&ids, TEXTOID);
}

static SeItem *
item_at(List *items, uint64 row)
{
	bool isnull;

	return list_nth(items, DatumGetInt32(se_spi_datum(row, 1, &isnull)) - 1);
}

void
se_identify_decided(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTARRAYOID};
	List *open = se_open_items(items, n);
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id), 0};
	List *to_bind = NIL;
	List *candidates = NIL;
	uint64 rows;
	bool isnull;
	ListCell *lc;

	if (open == NIL || se_rows_none("match_candidate"))
		return;
	values[2] = remote_ids_of(open);
	rows = se_spi_execute(
		&plan,
		/* Several candidates may become one by themselves; what else is in doubt stays so. */
		"SELECT u.n::int, c.record_id, c.decision IS NULL FROM unnest($3)"
		" WITH ORDINALITY u (remote_id, n) JOIN sync.match_candidate c ON c.system_id = $1"
		" AND c.object_id = $2 AND c.remote_id = u.remote_id"
		" AND (c.decision IS NOT NULL OR cardinality(c.candidates) = 1) ORDER BY u.n",
		3, types, values, NULL, true, 0);
	for (uint64 i = 0; i < rows; i++)
	{
		SeItem *item = item_at(open, i);
		SeCandidate *candidate = palloc0(sizeof(SeCandidate));

		if (DatumGetBool(se_spi_datum(i, 3, &isnull)))
		{
			se_refuse(item, SE_MATCH_SEVERAL, pstrdup("who it is waits for a person's decision"));
			continue;
		}
		candidate->item = item;
		candidate->record_id = se_spi_text(i, 2);
		item->decided_new = candidate->record_id == NULL;
		if (item->decided_new)
			continue;
		item->candidates = list_make1(candidate);
		candidates = lappend(candidates, candidate);
		to_bind = lappend(to_bind, item);
	}
	SPI_freetuptable(SPI_tuptable);
	se_settle(target, to_bind, candidates, items, n, false);
	foreach (lc, to_bind)
	{
		SeItem *item = lfirst(lc);

		if (!item->binds)
			se_refuse(item, SE_MATCH_SEVERAL,
					  pstrdup("was decided to be a record of ours that is bound to another"));
	}
}

bool
se_refuse_undecided(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id)};
	bool deciding;
	bool isnull;
	ListCell *lc;

	se_spi_execute(&plan, "SELECT sync._is_deciding($1, $2)", 2, types, values, NULL, false, 0);
	deciding = DatumGetBool(se_spi_datum(0, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	if (!deciding)
		return false;
	foreach (lc, se_open_items(items, n))
		se_refuse(lfirst(lc), SE_MATCH_UNDECIDED,
				  pstrdup("which record of ours it is waits to be decided"));
	return true;
}

/* [{"n": 1, "f": {fields}}, …] */
static Jsonb *
rule_items(List *open)
{
	JsonbParseState *state = NULL;
	ListCell *lc;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	foreach (lc, open)
	{
		SeItem *item = lfirst(lc);
		SeObjBuilder b;
		Jsonb *object;
		JsonbValue v = {.type = jbvBinary};

		se_obj_begin(&b);
		se_obj_int(&b, "n", foreach_current_index(lc) + 1);
		se_obj_value(&b, "f", item->map.fields);
		object = se_obj_end(&b);
		v.val.binary.data = &object->root;
		v.val.binary.len = VARSIZE(object) - VARHDRSZ;
		pushJsonbValue(&state, WJB_ELEM, &v);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

static bool
has_rules(const SeTarget *target)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id)};

	if (se_rows_none("match_rule"))
		return false;
	return se_spi_execute(&plan,
						  "SELECT FROM sync.match_rule r WHERE r.object_id = $2"
						  " AND (r.system_id = $1 OR r.system_id IS NULL) LIMIT 1",
						  2, types, values, NULL, true, 1) > 0;
}

bool
se_identify_by_rules(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, JSONBOID};
	List *open;
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id), 0};
	uint64 rows;

	if (!has_rules(target))
		return false;
	open = se_open_items(items, n);
	if (open == NIL)
		return true;
	values[2] = JsonbPGetDatum(rule_items(open));
	rows = se_spi_execute(&plan, "SELECT m.n, m.record_id FROM sync._match($1, $2, $3) m", 3, types,
						  values, NULL, false, 0);
	se_settle(target, open, se_take_candidates(open, rows), items, n, false);
	return true;
}

/* [{"remote_id", "remote_number", "candidates", "message", "mapped"}, …] */
static Jsonb *
ambiguous_item(const SeItem *item)
{
	JsonbParseState *state = NULL;
	SeObjBuilder b;
	ListCell *lc;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	foreach (lc, item->candidates)
	{
		SeCandidate *candidate = lfirst(lc);
		JsonbValue v = {.type = jbvString};

		v.val.string.val = candidate->record_id;
		v.val.string.len = strlen(candidate->record_id);
		if (!candidate->taken)
			pushJsonbValue(&state, WJB_ELEM, &v);
	}
	se_obj_begin(&b);
	se_obj_text(&b, "remote_id", item->remote_id);
	se_obj_text(&b, "remote_number", item->map.remote_number);
	se_obj_text(&b, "message", item->reason);
	se_obj_value(&b, "mapped", item->map.fields);
	se_obj_value(&b, "candidates", JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
	return se_obj_end(&b);
}

void
se_match_note(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, JSONBARRAYOID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id), 0};
	SeArg told = se_arg_make(Max(n, 1));

	for (int i = 0; i < n; i++)
	{
		if (items[i]->several && items[i]->fate == SE_FATE_INBOX)
			se_arg_json(&told, ambiguous_item(items[i]));
	}
	if (told.n == 0)
		return;
	values[2] = se_arg_array(&told, JSONBOID);
	se_spi_execute(&plan, "SELECT sync._match_ambiguous($1, $2, to_jsonb($3))", 3, types, values,
				   NULL, false, 0);
}

void
se_match_settled(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTARRAYOID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id), 0};
	List *settled = NIL;

	if (n == 0 || se_rows_none("match_candidate"))
		return;
	for (int i = 0; i < n; i++)
		settled = lappend(settled, items[i]);
	values[2] = remote_ids_of(settled);
	se_spi_execute(&plan, "SELECT sync._match_settled($1, $2, $3)", 3, types, values, NULL, false,
				   0);
}

void
se_follow_merges(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	static SPIPlanPtr gone_plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTOID, TEXTOID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id), 0, 0};

	for (int i = 0; i < n; i++)
	{
		const SeItem *item = items[i];

		values[2] = CStringGetTextDatum(item->remote_id);
		if (item->alias != NULL && item->deleted)
			se_spi_execute(&gone_plan, "SELECT sync._alias_gone($1, $2, $3)", 3, types, values,
						   NULL, false, 0);
		if (item->map.merged_into == NULL || item->map.merged_into[0] == '\0' ||
			item->bound == NULL || strlen(item->map.merged_into) > SE_MAX_REMOTE_ID)
			continue;
		values[3] = CStringGetTextDatum(item->map.merged_into);
		se_spi_execute(&plan, "SELECT sync._follow_merge($1, $2, $3, $4)", 4, types, values, NULL,
					   false, 0);
	}
}
