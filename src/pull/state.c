/*
 * state.c: external ids, mirror and inbox, each read or written by one statement per page.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "core/json.h"
#include "core/spi.h"
#include "pull/internal.h"
#include "push/push.h"

static Datum
remote_ids(SeItem **items, int n)
{
	SeArg arg = se_arg_make(n);

	for (int i = 0; i < n; i++)
		se_arg_text(&arg, items[i]->remote_id);
	return se_arg_array(&arg, TEXTOID);
}

/* The remote record that the item's was bound to is gone, and another stands under our id. */
static bool
bind_anew(const SeTarget *target, SeItem *item)
{
	static SPIPlanPtr mirror_plan = NULL;
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum values[] = {
		Int32GetDatum(target->system_id), Int32GetDatum(target->object_id), 0, 0, 0, 0};
	const char *const texts[] = {item->record_id, item->remote_id, item->map.remote_number,
								 item->map.version};
	char nulls[] = "      ";
	uint64 rows;

	for (int i = 0; i < lengthof(texts); i++)
	{
		if (texts[i] != NULL)
			values[2 + i] = CStringGetTextDatum(texts[i]);
		else
			nulls[2 + i] = 'n';
	}
	(void) se_spi_execute(&mirror_plan,
						  "UPDATE sync.mirror m SET deleted = true, mapping = NULL"
						  " FROM sync.external_id x WHERE x.system_id = $1 AND x.object_id = $2"
						  " AND x.record_id = $3 AND m.system_id = $1 AND m.object_id = $2"
						  " AND m.remote_id = x.remote_id AND NOT m.deleted"
						  " RETURNING m.remote_id, m.fields",
						  3, types, values, NULL, false, 0);
	se_history_gone(target, item);
	SPI_freetuptable(SPI_tuptable);
	rows = se_spi_execute(&plan,
						  "UPDATE sync.external_id SET remote_id = $4, remote_number = $5,"
						  " remote_version = $6, bound_at = pg_catalog.clock_timestamp()"
						  " WHERE system_id = $1 AND object_id = $2 AND record_id = $3",
						  lengthof(types), types, values, nulls, false, 0);
	return rows == 1;
}

/*
 * Binds records and renews number and version of bound ones. A record that stands bound to another
 * remote id is not updated, comes back missing, and makes this raise.
 */
void
se_state_bind(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID};
	Datum values[6];
	SeArg records = se_arg_make(n);
	SeArg remotes = se_arg_make(n);
	SeArg numbers = se_arg_make(n);
	SeArg versions = se_arg_make(n);
	uint64 rows;

	for (int i = 0; i < n; i++)
	{
		se_arg_text(&records, items[i]->record_id);
		se_arg_text(&remotes, items[i]->remote_id);
		se_arg_text(&numbers, items[i]->map.remote_number);
		se_arg_text(&versions, items[i]->map.version);
	}
	if (n == 0)
		return;
	values[0] = Int32GetDatum(target->system_id);
	values[1] = Int32GetDatum(target->object_id);
	values[2] = se_arg_array(&records, TEXTOID);
	values[3] = se_arg_array(&remotes, TEXTOID);
	values[4] = se_arg_array(&numbers, TEXTOID);
	values[5] = se_arg_array(&versions, TEXTOID);
	rows = se_spi_execute(
		&plan,
		"INSERT INTO sync.external_id AS x"
		" (system_id, object_id, record_id, remote_id, remote_number, remote_version)"
		" SELECT $1, $2, u.* FROM unnest($3, $4, $5, $6) u"
		" ON CONFLICT (system_id, object_id, record_id) DO UPDATE"
		" SET remote_number = coalesce(excluded.remote_number, x.remote_number),"
		" remote_version = excluded.remote_version"
		" WHERE x.remote_id = excluded.remote_id RETURNING 1",
		6, types, values, NULL, false, 0);
	SPI_freetuptable(SPI_tuptable);
	if (rows != n && !(n == 1 && items[0]->rebinds && bind_anew(target, items[0])))
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 n == 1 ? errmsg("record %s of object \"%s\" is bound to another remote id than %s",
								 items[0]->record_id, target->object, items[0]->remote_id)
						: errmsg("a record of object \"%s\" is bound to another remote id",
								 target->object)));
}

void
se_state_bind_new(const SeTarget *target, SeItem **items, int n)
{
	static const char *const names[] = {"system_id",	 "object_id",	   "record_id", "remote_id",
										"remote_number", "remote_version", "bound_at"};
	SeArg columns[lengthof(names)];
	TimestampTz now = GetCurrentTimestamp();

	if (n == 0)
		return;
	for (int i = 0; i < lengthof(columns); i++)
		columns[i] = se_arg_make(n);
	for (int i = 0; i < n; i++)
	{
		se_arg_add(&columns[0], Int32GetDatum(target->system_id), false);
		se_arg_add(&columns[1], Int32GetDatum(target->object_id), false);
		se_arg_text(&columns[2], items[i]->record_id);
		se_arg_text(&columns[3], items[i]->remote_id);
		se_arg_text(&columns[4], items[i]->map.remote_number);
		se_arg_text(&columns[5], items[i]->map.version);
		se_arg_add(&columns[6], TimestampTzGetDatum(now), false);
	}
	se_rows_insert("external_id", 0, names, columns, lengthof(columns), n);
}

/* Columns of the mirror that a page writes, in the order of mirror_columns(). */
static const char *const mirror_names[] = {"remote_id", "record_id",	  "fields",
										   "raw",		"version",		  "version_at",
										   "deleted",	"pushed_at",	  "applied_seq",
										   "mapping",	"agreed",		  "corrected",
										   "cause",		"correlation_id", "system_id",
										   "object_id", "seen_at"};

#define MIRROR_PAGE_COLUMNS 14 /* those that differ from item to item */
#define MIRROR_NEWS_COLUMNS 12 /* of these, those that a page changes in known rows */

static void
mirror_columns(const SeTarget *target, SeItem **items, int n, int64 applied_seq, SeArg *columns)
{
	for (int i = 0; i < MIRROR_PAGE_COLUMNS; i++)
		columns[i] = se_arg_make(n);
	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];
		bool gone = item->fate == SE_FATE_DELETE;
		/* A journal may still hold older states than one that was read directly. */
		bool direct = item->fetched || (target->pull->events != NULL && !item->journal);

		se_arg_text(&columns[0], item->remote_id);
		se_arg_text(&columns[1], item->record_id);
		se_arg_json(&columns[2], gone ? se_obj_empty()
									  : se_fields_with_lines(item->map.fields, item->map.lines));
		se_arg_json(&columns[3], gone ? NULL : item->record);
		se_arg_text(&columns[4], item->map.version);
		se_arg_add(&columns[5], TimestampTzGetDatum(item->map.version_at),
				   !item->map.has_version_at);
		se_arg_add(&columns[6], BoolGetDatum(gone), false);
		se_arg_add(&columns[7], TimestampTzGetDatum(item->began_at), !direct);
		se_arg_add(&columns[8], Int64GetDatum(applied_seq), item->fate == SE_FATE_MIRROR);
		se_arg_add(&columns[9], Int64GetDatum(target->mapping), gone || !item->map.settled);
		se_arg_json(&columns[10], item->merged ? item->agreed : item->mirror_agreed);
		se_arg_json(&columns[11], item->merged ? item->corrected : item->mirror_corrected);
		se_arg_text(&columns[12], item->cause);
		se_arg_text(&columns[13], item->correlation_id);
	}
}

static void
mirror_insert(const SeTarget *target, SeItem **items, int n, int64 applied_seq)
{
	SeArg columns[lengthof(mirror_names)];
	const Datum same[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id),
						  TimestampTzGetDatum(GetCurrentTimestamp())};

	if (n == 0)
		return;
	mirror_columns(target, items, n, applied_seq, columns);
	for (int i = 0; i < lengthof(same); i++)
	{
		columns[MIRROR_PAGE_COLUMNS + i] = se_arg_make(n);
		for (int k = 0; k < n; k++)
			se_arg_add(&columns[MIRROR_PAGE_COLUMNS + i], same[i], false);
	}
	se_rows_insert("mirror", 0, mirror_names, columns, lengthof(columns), n);
}

static void
mirror_update(const SeTarget *target, SeItem **items, int n, int64 applied_seq)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {
		INT4OID,	   INT4OID,		 TEXTARRAYOID,		  TEXTARRAYOID, JSONBARRAYOID,
		JSONBARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, BOOLARRAYOID, TIMESTAMPTZARRAYOID,
		INT8ARRAYOID,  INT8ARRAYOID, JSONBARRAYOID,		  JSONBARRAYOID};
	const Oid column_types[] = {TEXTOID, TEXTOID,		 JSONBOID, JSONBOID,
								TEXTOID, TIMESTAMPTZOID, BOOLOID,  TIMESTAMPTZOID,
								INT8OID, INT8OID,		 JSONBOID, JSONBOID};
	Datum values[lengthof(types)];
	SeArg columns[MIRROR_PAGE_COLUMNS];

	if (n == 0)
		return;
	mirror_columns(target, items, n, applied_seq, columns);
	values[0] = Int32GetDatum(target->system_id);
	values[1] = Int32GetDatum(target->object_id);
	for (int i = 0; i < MIRROR_NEWS_COLUMNS; i++)
		values[2 + i] = se_arg_array(&columns[i], column_types[i]);
	se_spi_execute(
		&plan,
		"UPDATE sync.mirror m SET record_id = u.record_id,"
		" fields = CASE WHEN u.gone THEN m.fields ELSE u.fields END,"
		" raw = CASE WHEN u.gone THEN m.raw ELSE u.raw END,"
		" version = CASE WHEN u.gone THEN m.version ELSE u.version END,"
		" version_at = CASE WHEN u.gone"
		" THEN coalesce(u.version_at, m.version_at) ELSE u.version_at END,"
		" applied_seq = coalesce(u.applied_seq, m.applied_seq),"
		" seen_at = clock_timestamp(), deleted = u.gone,"
		" pushed_at = greatest(m.pushed_at, u.as_of), mapping = u.mapping,"
		" agreed = u.agreed, corrected = u.corrected"
		" FROM unnest($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) u (remote_id, record_id,"
		" fields, raw, version, version_at, gone, as_of, applied_seq, mapping, agreed, corrected)"
		" WHERE m.system_id = $1 AND m.object_id = $2 AND m.remote_id = u.remote_id",
		lengthof(types), types, values, NULL, false, 0);
}

/* The new state of each item; what is new in the mirror is inserted, the rest updated. */
void
se_state_mirror(const SeTarget *target, SeItem **items, int n, int64 applied_seq)
{
	SeItem **fresh = palloc(sizeof(SeItem *) * Max(n, 1));
	SeItem **known = palloc(sizeof(SeItem *) * Max(n, 1));
	int nfresh = 0;
	int nknown = 0;

	for (int i = 0; i < n; i++)
	{
		if (items[i]->in_mirror)
			known[nknown++] = items[i];
		else
			fresh[nfresh++] = items[i];
	}
	mirror_insert(target, fresh, nfresh, applied_seq);
	mirror_update(target, known, nknown, applied_seq);
	se_history_page(target, items, n);
	for (int i = 0; i < n; i++)
	{
		if (items[i]->record_id != NULL)
			se_push_notify_record(target->system_id, target->object_id, items[i]->record_id);
	}
}

/* Columns of the mirror that a push writes into a new row. */
static const char *const pushed_names[] = {"remote_id", "record_id",	  "fields",	   "raw",
										   "version",	"version_at",	  "deleted",   "agreed",
										   "cause",		"correlation_id", "system_id", "object_id",
										   "pushed_at", "seen_at"};

#define PUSHED_COLUMNS 10 /* those that differ from item to item */

static void
pushed_columns(SeItem **items, int n, SeArg *columns)
{
	for (int i = 0; i < PUSHED_COLUMNS; i++)
		columns[i] = se_arg_make(n);
	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];

		se_arg_text(&columns[0], item->remote_id);
		se_arg_text(&columns[1], item->record_id);
		se_arg_json(&columns[2], item->map.fields != NULL
									 ? se_fields_with_lines(item->map.fields, item->map.lines)
									 : se_obj_empty());
		se_arg_json(&columns[3], item->record);
		se_arg_text(&columns[4], item->map.version);
		se_arg_add(&columns[5], TimestampTzGetDatum(item->map.version_at),
				   !item->map.has_version_at);
		se_arg_add(&columns[6], BoolGetDatum(item->deleted), false);
		se_arg_json(&columns[7], item->agreed);
		se_arg_text(&columns[8], item->cause);
		se_arg_text(&columns[9], item->correlation_id);
	}
}

void
se_state_pushed_new(const SeTarget *target, SeItem **items, int n, TimestampTz now)
{
	SeArg columns[lengthof(pushed_names)];
	const Datum same[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id),
						  TimestampTzGetDatum(now), TimestampTzGetDatum(GetCurrentTimestamp())};

	if (n == 0)
		return;
	pushed_columns(items, n, columns);
	for (int i = 0; i < lengthof(same); i++)
	{
		columns[PUSHED_COLUMNS + i] = se_arg_make(n);
		for (int k = 0; k < n; k++)
			se_arg_add(&columns[PUSHED_COLUMNS + i], same[i], false);
	}
	se_rows_insert("mirror", 0, pushed_names, columns, lengthof(columns), n);
	se_history_pushed_new(target, items, n);
}

#define PUSHED_SQL                                                                                 \
	"INSERT INTO sync.mirror AS m (system_id, object_id, remote_id, record_id, fields,"            \
	" raw, version, version_at, pushed_at, deleted, agreed, cause, correlation_id)"                \
	" SELECT $1, $2, u.remote_id, u.record_id, u.fields, u.raw,"                                   \
	" u.version, u.version_at, $3, u.gone, u.agreed, u.cause, u.correlation_id"                    \
	" FROM unnest($5, $6, $7, $8, $9, $10, $11, $12, $13, $14) u (remote_id, record_id, fields,"   \
	" raw, version, version_at, gone, agreed, cause, correlation_id)"                              \
	" ON CONFLICT (system_id, object_id, remote_id) DO UPDATE"                                     \
	" SET record_id = excluded.record_id,"                                                         \
	" fields = CASE WHEN $4 THEN excluded.fields ELSE m.fields || excluded.fields END,"            \
	" agreed = CASE WHEN $4 OR m.agreed IS NULL THEN excluded.agreed"                              \
	" ELSE nullif((m.agreed - ARRAY(SELECT jsonb_object_keys(excluded.fields)))"                   \
	" || coalesce(excluded.agreed, '{}'), '{}') END,"                                              \
	" raw = coalesce(excluded.raw, m.raw), version = excluded.version,"                            \
	" version_at = excluded.version_at, pushed_at = excluded.pushed_at,"                           \
	" seen_at = excluded.seen_at, deleted = excluded.deleted, mapping = NULL,"                     \
	" cause = excluded.cause, correlation_id = excluded.correlation_id"

/*
 * After pushes. A version that the answer did not tell is unknown from now on: the one before the
 * push would make a page that is older than the push look newer than what we know.
 */
void
se_state_pushed(const SeTarget *target, SeItem **items, int n, TimestampTz now, bool whole)
{
	static SPIPlanPtr plan = NULL;
	static SPIPlanPtr financial_plan = NULL;
	Oid types[] = {INT4OID,		 INT4OID,		TIMESTAMPTZOID, BOOLOID,	  TEXTARRAYOID,
				   TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID,	TEXTARRAYOID, TIMESTAMPTZARRAYOID,
				   BOOLARRAYOID, JSONBARRAYOID, TEXTARRAYOID,	TEXTARRAYOID};
	Datum values[lengthof(types)];
	SeArg columns[PUSHED_COLUMNS];
	const Oid column_types[] = {TEXTOID,		TEXTOID, JSONBOID, JSONBOID, TEXTOID,
								TIMESTAMPTZOID, BOOLOID, JSONBOID, TEXTOID,	 TEXTOID};

	if (n == 0)
		return;
	pushed_columns(items, n, columns);
	values[0] = Int32GetDatum(target->system_id);
	values[1] = Int32GetDatum(target->object_id);
	values[2] = TimestampTzGetDatum(now);
	values[3] = BoolGetDatum(whole);
	for (int i = 0; i < lengthof(columns); i++)
		values[4 + i] = se_arg_array(&columns[i], column_types[i]);
	if (!target->financial)
	{
		se_spi_execute(&plan, PUSHED_SQL, lengthof(types), types, values, NULL, false, 0);
		return;
	}
	se_spi_execute(&financial_plan, PUSHED_SQL " RETURNING m.remote_id, m.fields, m.deleted",
				   lengthof(types), types, values, NULL, false, 0);
	se_history_pushed(target, items, n);
	SPI_freetuptable(SPI_tuptable);
}

void
se_state_seen(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTARRAYOID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id),
					  remote_ids(items, n)};

	if (n > 0)
		se_spi_execute(&plan,
					   "UPDATE sync.mirror SET seen_at = clock_timestamp()"
					   " WHERE system_id = $1 AND object_id = $2 AND remote_id = ANY ($3)",
					   3, types, values, NULL, false, 0);
}

void
se_state_inbox_clear(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTARRAYOID};
	Datum values[] = {Int32GetDatum(target->system_id), Int32GetDatum(target->object_id),
					  remote_ids(items, n)};

	if (n > 0)
		se_spi_execute(&plan,
					   "DELETE FROM sync.inbox"
					   " WHERE system_id = $1 AND object_id = $2 AND remote_id = ANY ($3)",
					   3, types, values, NULL, false, 0);
}

/*
 * Since when what the item says has been true at the latest. When it is applied out of the inbox, a
 * push or read that ended later than this stands against it.
 */
static TimestampTz
state_as_of(const SeTarget *target, const SeItem *item)
{
	if (item->journal && !item->fetched && item->has_at)
		return Min(item->began_at, item->at - se_journal_margin(target->pull));
	return item->began_at;
}

/*
 * Keeps items with their reason. JSON null as the item says 'read it by id'; such a row is due at
 * once. JSON false says that the record is gone, which could not be followed. Others are looked at again by themselves after 1 min, 2 min, … 64 min (seconds, where an app
 * only had the row locked), give or take a quarter: what was wrong may have been put right without
 * anybody telling us.
 */
void
se_state_inbox_put(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID,		 INT4OID,	   TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID,
				   TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID,	TIMESTAMPTZARRAYOID,
				   TEXTARRAYOID, TEXTARRAYOID};
	Datum values[12];
	SeArg columns[10];
	const Oid column_types[] = {TEXTOID, JSONBOID, JSONBOID,	   TEXTOID, TEXTOID,
								INT4OID, TEXTOID,  TIMESTAMPTZOID, TEXTOID, TEXTOID};
	JsonbValue null = {.type = jbvNull};
	JsonbValue gone = {.type = jbvBool};
	Jsonb *json_null = JsonbValueToJsonb(&null);
	Jsonb *json_gone = JsonbValueToJsonb(&gone);

	if (n == 0)
		return;
	for (int i = 0; i < lengthof(columns); i++)
		columns[i] = se_arg_make(n);
	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];
		bool is_gone = item->fate == SE_FATE_INBOX && item->deleted;
		bool read_again = !is_gone && (item->fate == SE_FATE_READ_AGAIN || item->record == NULL);
		bool mapped = !read_again && !is_gone && item->map.fields != NULL;

		se_arg_text(&columns[0], item->remote_id);
		se_arg_json(&columns[1], is_gone ? json_gone : read_again ? json_null : item->record);
		se_arg_json(&columns[2],
					mapped ? se_fields_with_lines(item->map.fields, item->map.lines) : NULL);
		se_arg_text(&columns[3], item->sqlstate);
		se_arg_text(&columns[4], item->reason);
		se_arg_add(&columns[5], Int32GetDatum(item->wait_object_id), item->wait_object_id == 0);
		se_arg_text(&columns[6], item->wait_remote_id);
		se_arg_add(&columns[7], TimestampTzGetDatum(state_as_of(target, item)), read_again);
		se_arg_text(&columns[8], item->map.our_id);
		se_arg_text(&columns[9], item->map.remote_number);
	}
	values[0] = Int32GetDatum(target->system_id);
	values[1] = Int32GetDatum(target->object_id);
	for (int i = 0; i < lengthof(columns); i++)
		values[2 + i] = se_arg_array(&columns[i], column_types[i]);
	se_spi_execute(
		&plan,
		"INSERT INTO sync.inbox AS b (system_id, object_id, remote_id, item, mapped,"
		" sqlstate, reason, wait_object_id, wait_remote_id, received_at, our_id, remote_number,"
		" retry_at)"
		" SELECT $1, $2, u.remote_id, u.item, u.mapped, u.sqlstate, u.reason, u.wait_object_id,"
		" u.wait_remote_id, coalesce(u.as_of, clock_timestamp()), u.our_id, u.remote_number,"
		" clock_timestamp() + CASE WHEN u.item = 'null' THEN interval '0'"
		/* A person's decision makes it due, and nothing else would help. */
		" WHEN u.sqlstate = 'SE063' THEN NULL"
		" WHEN u.sqlstate = '55P03' THEN interval '1 s' ELSE interval '1 min' END"
		" FROM unnest($3, $4, $5, $6, $7, $8, $9, $10, $11, $12) u (remote_id, item, mapped,"
		" sqlstate, reason, wait_object_id, wait_remote_id, as_of, our_id, remote_number)"
		" ON CONFLICT (system_id, object_id, remote_id) DO UPDATE"
		" SET item = excluded.item, mapped = excluded.mapped,"
		" sqlstate = excluded.sqlstate, reason = excluded.reason,"
		" wait_object_id = excluded.wait_object_id,"
		" wait_remote_id = excluded.wait_remote_id, our_id = excluded.our_id,"
		" remote_number = excluded.remote_number,"
		" received_at = CASE WHEN b.item = excluded.item THEN b.received_at"
		" ELSE excluded.received_at END,"
		/* A page that lists the same again neither counts as a try nor puts one off. */
		" attempts = CASE WHEN b.item <> excluded.item THEN 1"
		" WHEN b.item = 'null' OR b.retry_at > clock_timestamp() THEN b.attempts"
		" ELSE b.attempts + 1 END,"
		" retry_at = CASE WHEN b.item <> excluded.item OR excluded.retry_at IS NULL"
		" THEN excluded.retry_at WHEN b.item = 'null' OR b.retry_at > clock_timestamp() THEN b.retry_at"
		" ELSE clock_timestamp() + power(2, least(b.attempts, 6))"
		" * CASE WHEN excluded.sqlstate = '55P03' THEN interval '1 s' ELSE interval '1 min' END"
		" * (0.75 + random() / 2) END",
		lengthof(types), types, values, NULL, false, 0);
}

void
se_state_inbox_forget(int64 *ids, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT8OID};

	for (int i = 0; i < n; i++)
	{
		Datum values[] = {Int64GetDatum(ids[i])};

		se_spi_execute(&plan, "DELETE FROM sync.inbox WHERE id = $1", 1, types, values, NULL, false,
					   0);
	}
}

/* Records of this object became bound: inbox items that refer to them are due. */
int64
se_state_release(int system_id, int object_id, char **ids, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTARRAYOID};
	SeArg arg = se_arg_make(n);
	Datum values[3];

	if (n == 0 || se_rows_none("inbox"))
		return 0;
	for (int i = 0; i < n; i++)
		se_arg_text(&arg, ids[i]);
	values[0] = Int32GetDatum(system_id);
	values[1] = Int32GetDatum(object_id);
	values[2] = se_arg_array(&arg, TEXTOID);
	return se_spi_execute(&plan,
						  "UPDATE sync.inbox SET retry_at = clock_timestamp()"
						  " WHERE system_id = $1 AND wait_object_id = $2"
						  " AND wait_remote_id = ANY ($3)",
						  3, types, values, NULL, false, 0);
}

/*
 * Rows without an item are read by id as soon as possible. What is in the inbox already stays as
 * it is.
 */
int64
se_state_want(int system_id, int object_id, char **ids, int n, const char *reason)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTARRAYOID, TEXTOID};
	SeArg arg = se_arg_make(n);
	Datum values[4];

	if (n == 0)
		return 0;
	for (int i = 0; i < n; i++)
		se_arg_text(&arg, ids[i]);
	values[0] = Int32GetDatum(system_id);
	values[1] = Int32GetDatum(object_id);
	values[2] = se_arg_array(&arg, TEXTOID);
	values[3] = CStringGetTextDatum(reason);
	return se_spi_execute(&plan,
						  "INSERT INTO sync.inbox (system_id, object_id, remote_id, item, reason,"
						  " retry_at)"
						  " SELECT DISTINCT $1, $2, r, jsonb 'null', $4, clock_timestamp()"
						  " FROM unnest($3) r"
						  " WHERE EXISTS (SELECT FROM sync.stream s WHERE s.system_id = $1"
						  " AND s.object_id = $2 AND s.state = 'active')"
						  " ON CONFLICT DO NOTHING",
						  4, types, values, NULL, false, 0);
}
