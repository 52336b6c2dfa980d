/*
 * state.c: external ids, mirror and inbox, each read or written by one statement per page.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "core/spi.h"
#include "pull/internal.h"

/* A column of parameters: one value per item, gathered into an array. */
typedef struct SeArg
{
	Datum *values;
	bool *nulls;
	int n;
} SeArg;

static SeArg
arg_make(int n)
{
	SeArg arg = {palloc(sizeof(Datum) * Max(n, 1)), palloc(sizeof(bool) * Max(n, 1)), 0};

	return arg;
}

static void
arg_add(SeArg *arg, Datum value, bool isnull)
{
	arg->values[arg->n] = value;
	arg->nulls[arg->n++] = isnull;
}

static void
arg_text(SeArg *arg, const char *text)
{
	arg_add(arg, text != NULL ? CStringGetTextDatum(text) : (Datum) 0, text == NULL);
}

static void
arg_json(SeArg *arg, Jsonb *json)
{
	arg_add(arg, JsonbPGetDatum(json), json == NULL);
}

static Datum
arg_array(const SeArg *arg, Oid type)
{
	int dims[1] = {arg->n};
	int lower[1] = {1};
	bool by_value = type == TIMESTAMPTZOID || type == BOOLOID || type == INT4OID;
	int len = type == TIMESTAMPTZOID ? 8 : type == INT4OID ? 4 : type == BOOLOID ? 1 : -1;
	char align = type == TIMESTAMPTZOID ? TYPALIGN_DOUBLE
				 : type == BOOLOID		? TYPALIGN_CHAR
										: TYPALIGN_INT;

	return PointerGetDatum(
		construct_md_array(arg->values, arg->nulls, 1, dims, lower, type, len, by_value, align));
}

static Datum
remote_ids(SeItem **items, int n)
{
	SeArg arg = arg_make(n);

	for (int i = 0; i < n; i++)
		arg_text(&arg, items[i]->remote_id);
	return arg_array(&arg, TEXTOID);
}

static TimestampTz
time_or_0(uint64 row, int col)
{
	bool isnull;
	Datum value = se_spi_datum(row, col, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}

static bool
is_true(uint64 row, int col)
{
	bool isnull;
	Datum value = se_spi_datum(row, col, &isnull);

	return !isnull && DatumGetBool(value);
}

static Jsonb *
json_copy(uint64 row, int col)
{
	bool isnull;
	Datum value = se_spi_datum(row, col, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(value);
}

/*
 * What is known of each item's remote record before the page. LATERAL with LIMIT keeps the planner
 * at one index probe per item: a page is small beside the mirror, whatever its statistics say.
 */
void
se_state_read(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID, INT4OID, TEXTARRAYOID, JSONBARRAYOID};
	Datum values[4];
	SeArg records = arg_make(n);
	uint64 rows;

	for (int i = 0; i < n; i++)
		arg_json(&records, items[i]->record);
	values[0] = Int32GetDatum(target->system_id);
	values[1] = Int32GetDatum(target->object_id);
	values[2] = remote_ids(items, n);
	values[3] = arg_array(&records, JSONBOID);
	rows = se_spi_execute(
		&plan,
		"SELECT i.n::int, m.remote_id IS NOT NULL, m.fields, m.version,"
		" m.version_at, m.pushed_at, m.deleted,"
		" CASE WHEN m.version IS NULL THEN m.raw = i.record END,"
		" e.record_id, b.id IS NOT NULL, b.item = 'null'"
		" FROM unnest($3, $4) WITH ORDINALITY i (remote_id, record, n)"
		" LEFT JOIN LATERAL (SELECT * FROM sync.mirror x WHERE x.system_id = $1"
		" AND x.object_id = $2 AND x.remote_id = i.remote_id LIMIT 1) m ON true"
		" LEFT JOIN LATERAL (SELECT x.record_id FROM sync.external_id x"
		" WHERE x.system_id = $1 AND x.object_id = $2 AND x.remote_id = i.remote_id"
		" LIMIT 1) e ON true"
		" LEFT JOIN LATERAL (SELECT x.id, x.item FROM sync.inbox x WHERE x.system_id = $1"
		" AND x.object_id = $2 AND x.remote_id = i.remote_id LIMIT 1) b ON true",
		4, types, values, NULL, false, 0);
	for (uint64 i = 0; i < rows; i++)
	{
		bool isnull;
		SeItem *item = items[DatumGetInt32(se_spi_datum(i, 1, &isnull)) - 1];

		item->in_mirror = is_true(i, 2);
		item->mirror_fields = json_copy(i, 3);
		item->mirror_version = se_spi_text(i, 4);
		item->mirror_version_at = time_or_0(i, 5);
		item->pushed_at = time_or_0(i, 6);
		item->mirror_deleted = is_true(i, 7);
		item->same_raw = is_true(i, 8);
		item->bound = se_spi_text(i, 9);
		item->in_inbox = is_true(i, 10);
		item->to_be_read = is_true(i, 11);
	}
	SPI_freetuptable(SPI_tuptable);
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
	SeArg records = arg_make(n);
	SeArg remotes = arg_make(n);
	SeArg numbers = arg_make(n);
	SeArg versions = arg_make(n);
	uint64 rows;

	for (int i = 0; i < n; i++)
	{
		arg_text(&records, items[i]->record_id);
		arg_text(&remotes, items[i]->remote_id);
		arg_text(&numbers, items[i]->map.remote_number);
		arg_text(&versions, items[i]->map.version);
	}
	if (n == 0)
		return;
	values[0] = Int32GetDatum(target->system_id);
	values[1] = Int32GetDatum(target->object_id);
	values[2] = arg_array(&records, TEXTOID);
	values[3] = arg_array(&remotes, TEXTOID);
	values[4] = arg_array(&numbers, TEXTOID);
	values[5] = arg_array(&versions, TEXTOID);
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
	if (rows != n)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 n == 1 ? errmsg("record %s of object \"%s\" is bound to another remote id than %s",
								 items[0]->record_id, target->object, items[0]->remote_id)
						: errmsg("a record of object \"%s\" is bound to another remote id",
								 target->object)));
}

void
se_state_mirror(const SeTarget *target, SeItem **items, int n, int64 applied_seq)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID,		  INT4OID,		INT8OID,
				   TEXTARRAYOID,  TEXTARRAYOID, JSONBARRAYOID,
				   JSONBARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID,
				   BOOLARRAYOID,  BOOLARRAYOID, TIMESTAMPTZARRAYOID};
	Datum values[12];
	SeArg columns[9];
	const Oid column_types[] = {TEXTOID,		TEXTOID, JSONBOID, JSONBOID,	  TEXTOID,
								TIMESTAMPTZOID, BOOLOID, BOOLOID,  TIMESTAMPTZOID};

	if (n == 0)
		return;
	for (int i = 0; i < lengthof(columns); i++)
		columns[i] = arg_make(n);
	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];
		bool gone = item->fate == SE_FATE_DELETE;
		/* A journal may still hold older states than one that was read directly. */
		bool direct = item->fetched || (target->pull->events != NULL && !item->journal);

		arg_text(&columns[0], item->remote_id);
		arg_text(&columns[1], item->record_id);
		arg_json(&columns[2],
				 gone ? NULL : se_fields_with_lines(item->map.fields, item->map.lines));
		arg_json(&columns[3], gone ? NULL : item->record);
		arg_text(&columns[4], item->map.version);
		arg_add(&columns[5], TimestampTzGetDatum(item->map.version_at), !item->map.has_version_at);
		arg_add(&columns[6], BoolGetDatum(gone), false);
		arg_add(&columns[7], BoolGetDatum(item->fate != SE_FATE_MIRROR), false);
		arg_add(&columns[8], TimestampTzGetDatum(item->began_at), !direct);
	}
	values[0] = Int32GetDatum(target->system_id);
	values[1] = Int32GetDatum(target->object_id);
	values[2] = Int64GetDatum(applied_seq);
	for (int i = 0; i < lengthof(columns); i++)
		values[3 + i] = arg_array(&columns[i], column_types[i]);
	se_spi_execute(
		&plan,
		"INSERT INTO sync.mirror AS m (system_id, object_id, remote_id, record_id, fields,"
		" raw, version, version_at, applied_seq, deleted, pushed_at)"
		" SELECT $1, $2, u.remote_id, u.record_id, coalesce(u.fields, '{}'), u.raw,"
		" u.version, u.version_at, CASE WHEN u.changed THEN $3 END, u.gone, u.as_of"
		" FROM unnest($4, $5, $6, $7, $8, $9, $10, $11, $12) u (remote_id, record_id,"
		" fields, raw, version, version_at, gone, changed, as_of)"
		" ON CONFLICT (system_id, object_id, remote_id) DO UPDATE"
		" SET record_id = excluded.record_id,"
		" fields = CASE WHEN excluded.deleted THEN m.fields ELSE excluded.fields END,"
		" raw = CASE WHEN excluded.deleted THEN m.raw ELSE excluded.raw END,"
		" version = CASE WHEN excluded.deleted THEN m.version ELSE excluded.version END,"
		" version_at = CASE WHEN excluded.deleted"
		" THEN coalesce(excluded.version_at, m.version_at) ELSE excluded.version_at END,"
		" applied_seq = coalesce(excluded.applied_seq, m.applied_seq),"
		" seen_at = excluded.seen_at, deleted = excluded.deleted,"
		" pushed_at = greatest(m.pushed_at, excluded.pushed_at)",
		lengthof(types), types, values, NULL, false, 0);
}

/*
 * After pushes. A version that the answer did not tell is unknown from now on: the one before the
 * push would make a page that is older than the push look newer than what we know.
 */
void
se_state_pushed(const SeTarget *target, SeItem **items, int n, TimestampTz now, bool whole)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID,		 INT4OID,		TIMESTAMPTZOID, BOOLOID,	  TEXTARRAYOID,
				   TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID,	TEXTARRAYOID, TIMESTAMPTZARRAYOID,
				   BOOLARRAYOID};
	Datum values[11];
	SeArg columns[7];
	const Oid column_types[] = {TEXTOID, TEXTOID,		 JSONBOID, JSONBOID,
								TEXTOID, TIMESTAMPTZOID, BOOLOID};

	if (n == 0)
		return;
	for (int i = 0; i < lengthof(columns); i++)
		columns[i] = arg_make(n);
	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];

		arg_text(&columns[0], item->remote_id);
		arg_text(&columns[1], item->record_id);
		arg_json(&columns[2], item->map.fields != NULL
								  ? se_fields_with_lines(item->map.fields, item->map.lines)
								  : NULL);
		arg_json(&columns[3], item->record);
		arg_text(&columns[4], item->map.version);
		arg_add(&columns[5], TimestampTzGetDatum(item->map.version_at), !item->map.has_version_at);
		arg_add(&columns[6], BoolGetDatum(item->deleted), false);
	}
	values[0] = Int32GetDatum(target->system_id);
	values[1] = Int32GetDatum(target->object_id);
	values[2] = TimestampTzGetDatum(now);
	values[3] = BoolGetDatum(whole);
	for (int i = 0; i < lengthof(columns); i++)
		values[4 + i] = arg_array(&columns[i], column_types[i]);
	se_spi_execute(
		&plan,
		"INSERT INTO sync.mirror AS m (system_id, object_id, remote_id, record_id, fields,"
		" raw, version, version_at, pushed_at, deleted)"
		" SELECT $1, $2, u.remote_id, u.record_id, coalesce(u.fields, '{}'), u.raw,"
		" u.version, u.version_at, $3, u.gone"
		" FROM unnest($5, $6, $7, $8, $9, $10, $11) u (remote_id, record_id, fields,"
		" raw, version, version_at, gone)"
		" ON CONFLICT (system_id, object_id, remote_id) DO UPDATE"
		" SET record_id = excluded.record_id,"
		" fields = CASE WHEN $4 THEN excluded.fields ELSE m.fields || excluded.fields END,"
		" raw = coalesce(excluded.raw, m.raw), version = excluded.version,"
		" version_at = excluded.version_at, pushed_at = excluded.pushed_at,"
		" seen_at = excluded.seen_at, deleted = excluded.deleted",
		lengthof(types), types, values, NULL, false, 0);
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
 * once. Others are looked at again by themselves after 1 min, 2 min, … 64 min, give or take a
 * quarter: what was wrong may have been put right without anybody telling us.
 */
void
se_state_inbox_put(const SeTarget *target, SeItem **items, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid types[] = {INT4OID,		 INT4OID,	   TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID,
				   TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID,	TIMESTAMPTZARRAYOID};
	Datum values[10];
	SeArg columns[8];
	const Oid column_types[] = {TEXTOID, JSONBOID, JSONBOID, TEXTOID,
								TEXTOID, INT4OID,  TEXTOID,	 TIMESTAMPTZOID};
	JsonbValue null = {.type = jbvNull};
	Jsonb *json_null = JsonbValueToJsonb(&null);

	if (n == 0)
		return;
	for (int i = 0; i < lengthof(columns); i++)
		columns[i] = arg_make(n);
	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];
		bool read_again = item->fate == SE_FATE_READ_AGAIN || item->record == NULL;
		bool mapped = !read_again && item->map.fields != NULL;

		arg_text(&columns[0], item->remote_id);
		arg_json(&columns[1], read_again ? json_null : item->record);
		arg_json(&columns[2],
				 mapped ? se_fields_with_lines(item->map.fields, item->map.lines) : NULL);
		arg_text(&columns[3], item->sqlstate);
		arg_text(&columns[4], item->reason);
		arg_add(&columns[5], Int32GetDatum(item->wait_object_id), item->wait_object_id == 0);
		arg_text(&columns[6], item->wait_remote_id);
		arg_add(&columns[7], TimestampTzGetDatum(state_as_of(target, item)), read_again);
	}
	values[0] = Int32GetDatum(target->system_id);
	values[1] = Int32GetDatum(target->object_id);
	for (int i = 0; i < lengthof(columns); i++)
		values[2 + i] = arg_array(&columns[i], column_types[i]);
	se_spi_execute(
		&plan,
		"INSERT INTO sync.inbox AS b (system_id, object_id, remote_id, item, mapped,"
		" sqlstate, reason, wait_object_id, wait_remote_id, received_at, retry_at)"
		" SELECT $1, $2, u.remote_id, u.item, u.mapped, u.sqlstate, u.reason, u.wait_object_id,"
		" u.wait_remote_id, coalesce(u.as_of, clock_timestamp()), clock_timestamp()"
		" + CASE WHEN u.item = 'null' THEN interval '0' ELSE interval '1 min' END"
		" FROM unnest($3, $4, $5, $6, $7, $8, $9, $10) u (remote_id, item, mapped, sqlstate,"
		" reason, wait_object_id, wait_remote_id, as_of)"
		" ON CONFLICT (system_id, object_id, remote_id) DO UPDATE"
		" SET item = excluded.item, mapped = excluded.mapped,"
		" sqlstate = excluded.sqlstate, reason = excluded.reason,"
		" wait_object_id = excluded.wait_object_id,"
		" wait_remote_id = excluded.wait_remote_id,"
		" received_at = CASE WHEN b.item = excluded.item THEN b.received_at"
		" ELSE excluded.received_at END,"
		/* A page that lists the same again neither counts as a try nor puts one off. */
		" attempts = CASE WHEN b.item <> excluded.item THEN 1"
		" WHEN b.item = 'null' OR b.retry_at > clock_timestamp() THEN b.attempts"
		" ELSE b.attempts + 1 END,"
		" retry_at = CASE WHEN b.item <> excluded.item THEN excluded.retry_at"
		" WHEN b.item = 'null' OR b.retry_at > clock_timestamp() THEN b.retry_at"
		" ELSE clock_timestamp() + power(2, least(b.attempts, 6))"
		" * interval '1 min' * (0.75 + random() / 2) END",
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
	SeArg arg = arg_make(n);
	Datum values[3];

	if (n == 0)
		return 0;
	for (int i = 0; i < n; i++)
		arg_text(&arg, ids[i]);
	values[0] = Int32GetDatum(system_id);
	values[1] = Int32GetDatum(object_id);
	values[2] = arg_array(&arg, TEXTOID);
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
	SeArg arg = arg_make(n);
	Datum values[4];

	if (n == 0)
		return 0;
	for (int i = 0; i < n; i++)
		arg_text(&arg, ids[i]);
	values[0] = Int32GetDatum(system_id);
	values[1] = Int32GetDatum(object_id);
	values[2] = arg_array(&arg, TEXTOID);
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

/* Numbers drawn by earlier events are lower, those of later ones higher. */
int64
se_state_draw_seq(void)
{
	static SPIPlanPtr plan = NULL;
	bool isnull;
	int64 seq;

	se_spi_execute(&plan, "SELECT nextval('sync.outbox_seq')", 0, NULL, NULL, NULL, false, 0);
	seq = DatumGetInt64(se_spi_datum(0, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return seq;
}
