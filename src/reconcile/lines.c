/*
 * lines.c: whether the lines of a document agree to the letter, told fast.
 *
 * true is sure; false means only that it takes a closer look (src/pull/same.c): in another order, or written
 * otherwise.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/jsonb.h"

#include "core/json.h"

extern PGDLLEXPORT Datum se_lines_agree(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(se_lines_agree);

/* Whether each member of their line is the same in ours, which may have more. */
static bool
line_agrees(JsonbContainer *ours, JsonbContainer *theirs)
{
	JsonbIterator *it = JsonbIteratorInit(theirs);
	JsonbIteratorToken token;
	JsonbValue key;
	JsonbValue value;
	JsonbValue mine;

	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &value, true);
		if (getKeyJsonValueFromContainer(ours, key.val.string.val, key.val.string.len, &mine) ==
				NULL ||
			!se_json_equal(&mine, &value))
			return false;
	}
	return true;
}

static bool
next_line(JsonbIterator **it, JsonbValue *line)
{
	return JsonbIteratorNext(it, line, true) == WJB_ELEM && line->type == jbvBinary &&
		   JsonContainerIsObject(line->val.binary.data);
}

/* sync._lines_agree(ours, theirs): as many lines, and each of theirs the one of ours at its place. */
Datum
se_lines_agree(PG_FUNCTION_ARGS)
{
	Jsonb *ours = PG_GETARG_JSONB_P(0);
	Jsonb *theirs = PG_GETARG_JSONB_P(1);
	JsonbIterator *our_lines;
	JsonbIterator *their_lines;
	JsonbValue mine;
	JsonbValue line;

	if (!JB_ROOT_IS_ARRAY(ours) || !JB_ROOT_IS_ARRAY(theirs) || JB_ROOT_IS_SCALAR(theirs) ||
		JB_ROOT_COUNT(ours) != JB_ROOT_COUNT(theirs))
		PG_RETURN_BOOL(false);
	our_lines = JsonbIteratorInit(&ours->root);
	their_lines = JsonbIteratorInit(&theirs->root);
	(void) JsonbIteratorNext(&our_lines, &mine, true);
	(void) JsonbIteratorNext(&their_lines, &line, true);
	for (uint32 i = 0; i < JB_ROOT_COUNT(theirs); i++)
	{
		if (!next_line(&our_lines, &mine) || !next_line(&their_lines, &line) ||
			!line_agrees(mine.val.binary.data, line.val.binary.data))
			PG_RETURN_BOOL(false);
	}
	PG_RETURN_BOOL(true);
}
