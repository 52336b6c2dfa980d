/*
 * document_read.c: documents as they are at the end of the transaction.
 *
 * Two transactions may change lines of one document at a time; only the header's row lock puts
 * them in order. Who changed lines only takes that lock here, and draws the sequence number and
 * reads the lines after it: what the other one committed is then seen, and the later event is the
 * more complete one. The snapshots are the latest, also under REPEATABLE READ, because the event
 * tells what the commit makes true, not what the transaction could see.
 *
 * Tables are read as their owner, like foreign keys do: the writer may not be allowed to see the
 * rows. Queries name every operator and table with its schema.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_oper.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "capture/document_read.h"
#include "capture/events.h"
#include "capture/origin.h"
#include "capture/table.h"

/* Another user and pinned settings for the time of a query. */
typedef struct Disguise
{
	Oid user;
	int security;
	int nest_level;
} Disguise;

static void
become_owner(Disguise *disguise, Relation rel)
{
	GetUserIdAndSecContext(&disguise->user, &disguise->security);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   disguise->security | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
	disguise->nest_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("DateStyle", "ISO, YMD", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
}

static void
become_self(Disguise *disguise)
{
	AtEOXact_GUC(true, disguise->nest_level);
	SetUserIdAndSecContext(disguise->user, disguise->security);
}

/* " AND h.column OPERATOR(schema.=) k.kN::type" for each key column. */
static void
append_key_join(StringInfo sql, Relation rel, List *columns)
{
	int number = 1;
	ListCell *lc;

	foreach (lc, columns)
	{
		AttrNumber attnum = get_attnum(RelationGetRelid(rel), lfirst(lc));
		Oid type = attnum > 0 ? get_atttype(RelationGetRelid(rel), attnum) : InvalidOid;
		TypeCacheEntry *cache;
		HeapTuple tuple;
		Form_pg_operator form;

		if (!OidIsValid(type))
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
							errmsg("column \"%s\" of table \"%s\" does not exist",
								   (char *) lfirst(lc), RelationGetRelationName(rel)),
							errhint("Call sync.track() again for the table.")));
		cache = lookup_type_cache(type, TYPECACHE_EQ_OPR);
		tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(cache->eq_opr));
		if (!HeapTupleIsValid(tuple))
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
							errmsg("type %s has no equality operator", format_type_be(type))));
		form = (Form_pg_operator) GETSTRUCT(tuple);
		appendStringInfo(sql, "%s t.%s OPERATOR(%s.%s) k.k%d::%s", number == 1 ? "" : " AND",
						 quote_identifier(lfirst(lc)),
						 quote_identifier(get_namespace_name(form->oprnamespace)),
						 NameStr(form->oprname), number, format_type_be_qualified(type));
		ReleaseSysCache(tuple);
		number++;
	}
}

/* The rows of a table whose columns hold one of the given keys; column 1 says which. */
static SPIPlanPtr
prepare(Relation rel, List *key, List *order, const char *tail)
{
	StringInfoData sql;
	StringInfoData arrays;
	StringInfoData names;
	int count = list_length(key);
	Oid *types = palloc(sizeof(Oid) * count);
	SPIPlanPtr plan;
	ListCell *lc;

	initStringInfo(&sql);
	initStringInfo(&arrays);
	initStringInfo(&names);
	for (int i = 0; i < count; i++)
	{
		types[i] = TEXTARRAYOID;
		appendStringInfo(&arrays, "%spg_catalog.unnest($%d)", i == 0 ? "" : ", ", i + 1);
		appendStringInfo(&names, "k%d, ", i + 1);
	}
	appendStringInfo(
		&sql, "SELECT k.n, t.* FROM ROWS FROM (%s) WITH ORDINALITY AS k(%sn) JOIN %s AS t ON",
		arrays.data, names.data,
		quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
								   RelationGetRelationName(rel)));
	append_key_join(&sql, rel, key);
	appendStringInfoString(&sql, " ORDER BY k.n");
	foreach (lc, order)
		appendStringInfo(&sql, ", t.%s", quote_identifier(lfirst(lc)));
	appendStringInfoString(&sql, tail);

	plan = SPI_prepare_cursor(sql.data, count, types, CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL)
		elog(ERROR, "could not prepare the reading of \"%s\": %s", RelationGetRelationName(rel),
			 SPI_result_code_string(SPI_result));
	return plan;
}

/* Runs a plan over the keys of the documents with a snapshot of its own. */
static void
execute(SPIPlanPtr *plan, Relation rel, List *key, List *order, const char *tail, Datum *parameters)
{
	Disguise disguise;
	Snapshot snapshot;

	become_owner(&disguise, rel);
	if (*plan == NULL)
	{
		SPIPlanPtr prepared = prepare(rel, key, order, tail);

		if (SPI_keepplan(prepared) != 0)
			elog(ERROR, "could not keep a plan");
		*plan = prepared;
	}
	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (SPI_execute_snapshot(*plan, parameters, NULL, snapshot, InvalidSnapshot, false, false, 0) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read \"%s\": %s", RelationGetRelationName(rel),
			 SPI_result_code_string(SPI_result));
	UnregisterSnapshot(snapshot);
	become_self(&disguise);
}

/* The shape of a result, kept with the table as long as the result looks the same. */
static SeShape *
result_shape(SeTable *table, TupleDesc desc, bool header)
{
	SeShape **shape = header ? &table->header_shape : &table->line_shape;
	TupleDesc *known = header ? &table->header_desc : &table->line_desc;
	MemoryContext old;

	if (*shape != NULL && equalTupleDescs(*known, desc))
		return *shape;
	old = MemoryContextSwitchTo(table->context);
	*shape = NULL;
	*known = CreateTupleDescCopy(desc);
	*shape = se_shape_build(desc, 2, header);
	MemoryContextSwitchTo(old);
	return *shape;
}

static Datum *
key_parameters(SeTable *table, SeDocument **documents, int count)
{
	int columns = list_length(table->header_key);
	Datum *parameters = palloc(sizeof(Datum) * columns);
	Datum *texts = palloc(sizeof(Datum) * count);

	for (int c = 0; c < columns; c++)
	{
		for (int i = 0; i < count; i++)
			texts[i] = CStringGetTextDatum(documents[i]->key_texts[c]);
		parameters[c] =
			PointerGetDatum(construct_array(texts, count, TEXTOID, -1, false, TYPALIGN_INT));
	}
	return parameters;
}

/* Place of a result row among the documents. */
static int
document_of(SPITupleTable *result, uint64 row)
{
	bool isnull;

	return (int) DatumGetInt64(SPI_getbinval(result->vals[row], result->tupdesc, 1, &isnull)) - 1;
}

static void
deform(SPITupleTable *result, uint64 row, Datum **values, bool **nulls)
{
	int natts = result->tupdesc->natts;

	*values = palloc(sizeof(Datum) * natts);
	*nulls = palloc(sizeof(bool) * natts);
	heap_deform_tuple(result->vals[row], result->tupdesc, *values, *nulls);
}

/* The lines from row `first` on that belong to one document, as an array; NULL: too large. */
static Jsonb *
render_lines(SeShape *shape, SPITupleTable *result, uint64 total, uint64 *first, int document)
{
	SeJsonWriter w;
	SeJsonContainer c;
	uint64 end = *first;
	bool fits = true;

	while (end < total && document_of(result, end) == document)
		end++;
	se_json_begin(&w, shape->size_hint * (end - *first));
	se_json_open(&w, &c, JB_FARRAY, (int) (end - *first));
	for (; *first < end; (*first)++)
	{
		Datum *values;
		bool *nulls;

		if (!fits)
			continue;
		deform(result, *first, &values, &nulls);
		fits = se_row_fits(shape, values, nulls);
		if (fits)
			se_render_object(&w, shape, values, nulls, NULL);
		fits = fits && !w.overflow;
		se_json_entry(&w, &c, JENTRY_ISCONTAINER);
	}
	return fits ? se_json_end(&w) : NULL;
}

/* Key columns only, for a document that is too large. */
static Jsonb *
render_key(SeTable *table, SeShape *shape, const Datum *values, const bool *nulls)
{
	bool *chosen = palloc0(sizeof(bool) * shape->count);
	ListCell *lc;

	foreach (lc, table->header_key)
	{
		SeColumn *column = se_shape_column(shape, lfirst(lc));

		if (column != NULL)
			chosen[column - shape->columns] = true;
	}
	return se_render_some(shape, values, nulls, chosen);
}

static void
add_event(SeTable *table, SeDocument *document, SeShape *shape, SPITupleTable *headers, uint64 row,
		  Jsonb *lines)
{
	Datum *values;
	bool *nulls;
	Jsonb *body = NULL;
	Jsonb *old = NULL;
	char op = 'U';

	deform(headers, row, &values, &nulls);
	if (lines != NULL && !document->partial && se_row_fits(shape, values, nulls))
		body = se_render_row(shape, values, nulls, lines);

	if (body == NULL)
	{
		op = 'K';
		body = render_key(table, shape, values, nulls);
	}
	else if (!document->existed_before)
		op = 'I';
	else
	{
		old = se_json_difference(document->olds, body, table->volatile_columns,
								 document->lines_changed);
		if (old == NULL)
			return;
	}
	se_origin_system = document->origin;
	se_event_add(document->object_id, op, document->record_id, body, old);
}

static void
read_documents(SeTable *table, Relation header, Relation lines, SeDocument **documents, int count,
			   bool lock)
{
	Datum *parameters = key_parameters(table, documents, count);
	SPITupleTable *headers;
	uint64 header_count;
	SPITupleTable *line_rows;
	uint64 line_count;
	uint64 next = 0;
	SeShape *header_shape;
	SeShape *line_shape;
	int pin;

	if (lock)
		execute(&table->lock_plan, header, table->header_key, NIL, " FOR NO KEY UPDATE OF t",
				parameters);
	else
		execute(&table->read_plan, header, table->header_key, NIL, "", parameters);
	headers = SPI_tuptable;
	header_count = SPI_processed;

	execute(&table->lines_plan, lines, table->line_parent, table->line_key, "", parameters);
	line_rows = SPI_tuptable;
	line_count = SPI_processed;

	header_shape = result_shape(table, headers->tupdesc, true);
	line_shape = result_shape(table, line_rows->tupdesc, false);
	pin = se_pin_settings(header_shape->pinned ? header_shape : line_shape);
	for (uint64 row = 0; row < header_count; row++)
	{
		int document = document_of(headers, row);
		Jsonb *array;

		/* Lines without a header belong to nobody. */
		while (next < line_count && document_of(line_rows, next) < document)
			next++;
		array = render_lines(line_shape, line_rows, line_count, &next, document);
		add_event(table, documents[document], header_shape, headers, row, array);
	}
	se_unpin_settings(pin);
	SPI_freetuptable(headers);
	SPI_freetuptable(line_rows);
}

void
se_documents_read(SeDocument **documents, int count, bool lock)
{
	Relation header = table_open(documents[0]->header_relid, AccessShareLock);
	SeTable *table = se_table_lookup(header, documents[0]->object);
	Relation lines;

	if (!OidIsValid(table->line_relid))
	{
		table_close(header, NoLock);
		return;
	}
	lines = table_open(table->line_relid, AccessShareLock);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	read_documents(table, header, lines, documents, count, lock);
	SPI_finish();
	PopActiveSnapshot();
	table_close(lines, NoLock);
	table_close(header, NoLock);
}

bool
se_document_exists(SeTable *table, char **key_texts)
{
	Relation header = table_open(table->header_relid, AccessShareLock);
	SeDocument document = {.key_texts = key_texts};
	SeDocument *documents[] = {&document};
	bool found;

	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	execute(&table->read_plan, header, table->header_key, NIL, "",
			key_parameters(table, documents, 1));
	found = SPI_processed > 0;
	SPI_finish();
	PopActiveSnapshot();
	table_close(header, NoLock);
	return found;
}
