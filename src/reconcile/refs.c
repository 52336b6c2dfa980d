/*
 * refs.c: documents with their references read anew.
 *
 * Which references mean another record than they name, or none, is looked up set-wise in SQL
 * (73_reconcile_2_refs.sql); here each of them is replaced.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

extern PGDLLEXPORT Datum se_refs_read(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_refs_read);

/* A member of an object that is an object; NULL: there is none. */
static JsonbContainer *
part_of(JsonbContainer *object, const char *name, int len)
{
	JsonbValue v;

	if (object == NULL || getKeyJsonValueFromContainer(object, name, len, &v) == NULL ||
		v.type != jbvBinary || !JsonContainerIsObject(v.val.binary.data))
		return NULL;
	return v.val.binary.data;
}

/* What a reference means, in place of what it names. */
static void
read_ref(JsonbContainer *meanings, const JsonbValue *field, JsonbValue *value)
{
	JsonbContainer *ids = part_of(meanings, field->val.string.val, field->val.string.len);
	JsonbValue meant;
	const char *id;
	int len;

	if (ids == NULL)
		return;
	if (value->type == jbvString)
	{
		id = value->val.string.val;
		len = value->val.string.len;
	}
	else if (value->type == jbvNumeric)
	{
		id = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
		len = strlen(id);
	}
	else
		return;
	if (getKeyJsonValueFromContainer(ids, id, len, &meant) != NULL)
		*value = meant;
}

static JsonbValue *push_object(JsonbParseState **state, JsonbContainer *object,
							   JsonbContainer *meanings, JsonbContainer *of_lines);

static void
push_lines(JsonbParseState **state, JsonbContainer *lines, JsonbContainer *meanings)
{
	JsonbIterator *it = JsonbIteratorInit(lines);
	JsonbIteratorToken token;
	JsonbValue line;

	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	while ((token = JsonbIteratorNext(&it, &line, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (line.type == jbvBinary && JsonContainerIsObject(line.val.binary.data))
			push_object(state, line.val.binary.data, meanings, NULL);
		else
			pushJsonbValue(state, WJB_ELEM, &line);
	}
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

static JsonbValue *
push_object(JsonbParseState **state, JsonbContainer *object, JsonbContainer *meanings,
			JsonbContainer *of_lines)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue key;
	JsonbValue value;

	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &value, true);
		pushJsonbValue(state, WJB_KEY, &key);
		if (of_lines != NULL && value.type == jbvBinary && key.val.string.len == 5 &&
			strncmp(key.val.string.val, "lines", 5) == 0 &&
			JsonContainerIsArray(value.val.binary.data))
		{
			push_lines(state, value.val.binary.data, of_lines);
			continue;
		}
		read_ref(meanings, &key, &value);
		pushJsonbValue(state, WJB_VALUE, &value);
	}
	return pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/*
 * sync._refs_read(documents jsonb[], meanings): each with its references read so. meanings:
 * {"fields": {field: {id: id or null}}, "lines": the same of lines}, of those ids alone that mean something else.
 */
Datum
se_refs_read(PG_FUNCTION_ARGS)
{
	Jsonb *all = PG_GETARG_JSONB_P(1);
	JsonbContainer *of_fields = NULL;
	JsonbContainer *of_lines = NULL;
	Datum *documents;
	bool *nulls;
	int lower = 1;
	int n;

	if (JB_ROOT_IS_OBJECT(all))
	{
		of_fields = part_of(&all->root, "fields", 6);
		of_lines = part_of(&all->root, "lines", 5);
	}
	if (of_fields == NULL && of_lines == NULL)
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), JSONBOID, -1, false, TYPALIGN_INT, &documents,
					  &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		JsonbParseState *state = NULL;
		Jsonb *document = nulls[i] ? NULL : DatumGetJsonbP(documents[i]);

		CHECK_FOR_INTERRUPTS();
		if (document != NULL && JB_ROOT_IS_OBJECT(document))
			documents[i] = JsonbPGetDatum(
				JsonbValueToJsonb(push_object(&state, &document->root, of_fields, of_lines)));
	}
	PG_RETURN_ARRAYTYPE_P(
		construct_md_array(documents, nulls, 1, &n, &lower, JSONBOID, -1, false, TYPALIGN_INT));
}
