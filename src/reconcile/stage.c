/*
 * stage.c: what a listing writes: its records, beside the mirror and with the mirror's fields, and how
 * far its job is.
 *
 * They stand in a table of their own. A reconciliation must not change what it compares: were they
 * applied as a pull applies them, the differences that it is to find would be gone, and nobody the wiser.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/json.h"
#include "core/rows.h"
#include "core/spi.h"
#include "reconcile/internal.h"
#include "worker/jobs.h"

bool
se_stage_begin(const SeListing *listing)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT8OID};
	Datum values[] = {Int64GetDatum(listing->id)};

	return se_spi_execute(&plan,
						  "SELECT FROM sync.job j WHERE j.id = $1 AND j.state = 'running'"
						  " FOR UPDATE SKIP LOCKED",
						  1, types, values, NULL, false, 0) == 1;
}

void
se_stage_progress(const SeListing *listing, Jsonb *cursor, int records, Jsonb *result)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT8OID, JSONBOID, INT8OID, JSONBOID};
	Datum values[] = {Int64GetDatum(listing->id), JsonbPGetDatum(cursor), Int64GetDatum(records),
					  JsonbPGetDatum(result)};
	char nulls[] = {' ', cursor == NULL ? 'n' : ' ', ' ', result == NULL ? 'n' : ' ', '\0'};

	se_spi_execute(&plan,
				   "UPDATE sync.job AS j SET done = j.done + $3, failures = 0, last_error = NULL,"
				   " step_at = clock_timestamp(),"
				   " cursor = CASE WHEN $2 IS NULL THEN j.cursor"
				   " ELSE j.cursor || jsonb_build_object('walk', $2) END,"
				   " result = j.result || coalesce((SELECT jsonb_object_agg(r.key,"
				   " r.value::bigint + coalesce((j.result ->> r.key)::bigint, 0))"
				   " FROM jsonb_each_text($4) r), '{}')"
				   " WHERE j.id = $1",
				   4, types, values, nulls, false, 0);
}

void
se_stage_phase(const SeListing *listing, const char *phase, bool ours)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT8OID, TEXTOID, BOOLOID};
	Datum values[] = {Int64GetDatum(listing->id), CStringGetTextDatum(phase), BoolGetDatum(ours)};

	se_spi_execute(&plan,
				   "UPDATE sync.job AS j SET phase = $2, next_step_at = CASE WHEN $3"
				   " THEN j.next_step_at ELSE clock_timestamp() END"
				   " WHERE j.id = $1 AND j.state = 'running'",
				   3, types, values, NULL, false, 0);
	if (!ours)
		se_jobs_look();
}

void
se_stage_total(const SeListing *listing, const SeCount *told)
{
	static SPIPlanPtr plan = NULL;
	bool known = told->error == NULL && told->count >= 0;
	Oid types[] = {INT8OID, INT8OID, JSONBOID, TEXTOID};
	Datum values[] = {Int64GetDatum(listing->id), Int64GetDatum(told->count),
					  JsonbPGetDatum(told->amounts),
					  told->error == NULL ? (Datum) 0 : CStringGetTextDatum(told->error)};
	char nulls[] = {' ', known ? ' ' : 'n', told->amounts == NULL ? 'n' : ' ',
					told->error == NULL ? 'n' : ' ', '\0'};

	se_spi_execute(&plan,
				   "UPDATE sync.job AS j SET phase = 'listing', failures = 0, last_error = NULL,"
				   " cursor = j.cursor || jsonb_build_object('phase_at', clock_timestamp()),"
				   " total = coalesce($2, j.total), step_at = clock_timestamp(),"
				   " result = j.result || jsonb_strip_nulls(jsonb_build_object("
				   "'told_count', $2, 'told_amounts', $3, 'count_error', $4))"
				   " WHERE j.id = $1 AND j.state = 'running'",
				   4, types, values, nulls, false, 0);
}

void
se_stage_failure(const SeListing *listing, const char *message, bool again, bool final)
{
	static SPIPlanPtr plan = NULL;
	static SPIPlanPtr end_plan = NULL;
	Oid types[] = {INT8OID, INT4OID, TEXTOID, BOOLOID};
	Datum values[] = {Int64GetDatum(listing->id), Int32GetDatum(listing->failures),
					  CStringGetTextDatum(message), BoolGetDatum(again)};
	Oid end_types[] = {INT8OID, TEXTOID};
	Datum end_values[] = {Int64GetDatum(listing->id), CStringGetTextDatum(message)};

	se_spi_execute(&plan,
				   "UPDATE sync.job AS j SET failures = $2, last_error = $3,"
				   " cursor = CASE WHEN $4 THEN j.cursor - 'walk' ELSE j.cursor END,"
				   " done = CASE WHEN $4 THEN 0 ELSE j.done END"
				   " WHERE j.id = $1 AND j.state = 'running'",
				   4, types, values, NULL, false, 0);
	if (final)
		se_spi_execute(&end_plan,
					   "SELECT sync._job_end(j, 'failed', $2) FROM sync.job j"
					   " WHERE j.id = $1 AND j.state = 'running'",
					   2, end_types, end_values, NULL, false, 0);
}

void
se_stage_unread(const SeListing *listing, const char *remote_id, const char *message, bool give_up)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT8OID, TEXTOID, TEXTOID, BOOLOID};
	Datum values[] = {Int64GetDatum(listing->id), CStringGetTextDatum(remote_id),
					  CStringGetTextDatum(message), BoolGetDatum(give_up)};

	se_spi_execute(&plan,
				   "UPDATE sync.listed_record AS l SET tries = l.tries + 1,"
				   " to_read = NOT ($4 AND l.tries >= 2),"
				   " problem = CASE WHEN $4 AND l.tries >= 2"
				   " THEN 'it could not be read by id: ' || $3 ELSE l.problem END"
				   " WHERE l.job_id = $1 AND l.remote_id = $2",
				   4, types, values, NULL, false, 0);
}

/* ---- records ---- */

/*
 * Whether the item is one of those that should be here. Money that only the system knows of is always
 * worth a question, also where the pull makes nothing of it.
 */
static bool
counts(const SeTarget *target, const SeItem *item)
{
	if (item->dropped || item->remote_id == NULL || strlen(item->remote_id) > SE_MAX_REMOTE_ID ||
		item->alias != NULL)
		return false;
	if (item->unchanged || item->deleted || item->bound != NULL)
		return true;
	if (item->map.status == SE_MAP_SKIP ||
		(item->map.merged_into != NULL && item->map.merged_into[0] != '\0'))
		return false;
	return target->pull->on_missing != SE_MISSING_IGNORE || item->map.our_id != NULL ||
		   target->financial;
}

/* The record as the mirror would have it; NULL where it cannot be said. */
static Jsonb *
fields_of(const SeItem *item)
{
	if (item->unchanged)
		return item->mirror_fields;
	if (item->deleted || item->record == NULL || item->map.status != SE_MAP_OK)
		return NULL;
	return se_fields_with_lines(item->map.fields, item->map.lines);
}

static const char *
problem_of(const SeItem *item)
{
	if (item->unchanged || item->deleted || item->map.status == SE_MAP_OK)
		return NULL;
	if (item->map.status == SE_MAP_SKIP)
		return "the mapping leaves it out";
	return item->map.reason != NULL ? item->map.reason : "it cannot be mapped";
}

enum
{
	REMOTE_ID,
	NUMBER,
	OUR_ID,
	FIELDS,
	VERSION,
	VERSION_AT,
	AS_OF,
	DELETED,
	PROBLEM,
	EXPECTED,
	NCOLUMNS
};

static void
put(SeArg *c, const SeItem *item, bool expected)
{
	bool has_at = item->unchanged ? item->mirror_version_at != 0 : item->map.has_version_at;

	se_arg_text(&c[REMOTE_ID], item->remote_id);
	se_arg_text(&c[NUMBER], item->map.remote_number);
	se_arg_text(&c[OUR_ID], item->map.our_id);
	se_arg_json(&c[FIELDS], fields_of(item));
	se_arg_text(&c[VERSION], item->unchanged ? item->mirror_version : item->map.version);
	se_arg_add(&c[VERSION_AT],
			   TimestampTzGetDatum(item->unchanged ? item->mirror_version_at
												   : item->map.version_at),
			   !has_at);
	se_arg_add(&c[AS_OF], TimestampTzGetDatum(item->began_at), false);
	se_arg_add(&c[DELETED], BoolGetDatum(item->deleted), false);
	se_arg_text(&c[PROBLEM], problem_of(item));
	se_arg_add(&c[EXPECTED], BoolGetDatum(expected), false);
}

void
se_stage_records(const SeListing *listing, SeTarget *target, SeItem *items, int n)
{
	static SPIPlanPtr plan = NULL;
	static const Oid columns[NCOLUMNS] = {TEXTOID, TEXTOID,		   TEXTOID,		   JSONBOID,
										  TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID,
										  TEXTOID, BOOLOID};
	Oid types[] = {INT8OID,		  TEXTARRAYOID, TEXTARRAYOID,		 TEXTARRAYOID,
				   JSONBARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID,
				   BOOLARRAYOID,  TEXTARRAYOID, BOOLARRAYOID};
	Datum values[NCOLUMNS + 1];
	SeArg args[NCOLUMNS];

	if (n == 0)
		return;
	se_deletes_policy(target);
	se_page_read(target, items, n);
	for (int i = 0; i < NCOLUMNS; i++)
		args[i] = se_arg_make(n);
	for (int i = 0; i < n; i++)
	{
		bool expected = counts(target, &items[i]);

		/* A read by id answers the question, whatever it says. */
		if (expected || items[i].fetched)
			put(args, &items[i], expected);
	}
	values[0] = Int64GetDatum(listing->id);
	for (int i = 0; i < NCOLUMNS; i++)
		values[i + 1] = se_arg_array(&args[i], columns[i]);
	se_spi_execute(
		&plan,
		"INSERT INTO sync.listed_record AS l (job_id, remote_id, remote_number, our_id, fields,"
		" version, version_at, as_of, deleted, problem, expected)"
		" SELECT $1, r.* FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11) r"
		" ON CONFLICT (job_id, remote_id) DO UPDATE SET remote_number = excluded.remote_number,"
		" our_id = excluded.our_id, fields = excluded.fields, version = excluded.version,"
		" version_at = excluded.version_at, as_of = excluded.as_of, deleted = excluded.deleted,"
		" problem = excluded.problem, expected = excluded.expected, to_read = false, tries = 0"
		" WHERE l.as_of <= excluded.as_of",
		lengthof(types), types, values, NULL, false, 0);
}
