/*
 * audit.c: the hash of an audit row.
 *
 * The row is written down as a sequence of netstrings ("5:hello,", "-" for NULL) in UTF-8, with times as
 * microseconds since 1970, so neither a setting of the session nor a dump and restore changes it, and
 * an auditor can compute it with any tool. doc/audit.md has the list.
 *
 * Detail and reason go in as a hash of their own, over a salt: when something is erased of them, that
 * hash stays and the salt goes, and nobody can find out by trying what it was.
 */
#include "postgres.h"

#include <openssl/sha.h>

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "capture/capture.h"

#define EPOCH_US ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

PG_FUNCTION_INFO_V1(se_audit_hash);
PG_FUNCTION_INFO_V1(se_audit_content_hash);
PG_FUNCTION_INFO_V1(se_writer_incarnation);

typedef struct AuditRow
{
	TupleDesc desc;
	Datum values[MaxHeapAttributeNumber];
	bool nulls[MaxHeapAttributeNumber];
} AuditRow;

static void
open_row(AuditRow *row, HeapTupleHeader header)
{
	HeapTupleData tuple;

	row->desc =
		lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header), HeapTupleHeaderGetTypMod(header));
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, row->desc, row->values, row->nulls);
}

/* By name, since a later version may order them anew. */
static Datum
column(const AuditRow *row, const char *name, bool *isnull)
{
	for (int i = 0; i < row->desc->natts; i++)
	{
		if (strcmp(NameStr(TupleDescAttr(row->desc, i)->attname), name) == 0)
		{
			*isnull = row->nulls[i];
			return row->values[i];
		}
	}
	elog(ERROR, "sync.audit has no column \"%s\"", name);
}

static void
put(StringInfo out, const char *text)
{
	char *utf8;

	if (text == NULL)
	{
		appendStringInfoChar(out, '-');
		return;
	}
	utf8 = pg_server_to_any(text, (int) strlen(text), PG_UTF8);
	appendStringInfo(out, "%zu:%s,", strlen(utf8), utf8);
}

/* How each type is written; settings have no say. */
static char *
as_text(Datum value, Oid type)
{
	switch (type)
	{
		case INT4OID:
			return psprintf("%d", DatumGetInt32(value));
		case INT8OID:
			return psprintf(INT64_FORMAT, DatumGetInt64(value));
		case XID8OID:
			return psprintf(UINT64_FORMAT, DatumGetUInt64(value));
		case TIMESTAMPTZOID:
			return psprintf(INT64_FORMAT, DatumGetTimestampTz(value) + EPOCH_US);
		case TEXTOID:
			return TextDatumGetCString(value);
		case NAMEOID:
			return NameStr(*DatumGetName(value));
		case JSONBOID:
		{
			Jsonb *json = DatumGetJsonbP(value);

			return JsonbToCString(NULL, &json->root, VARSIZE(json));
		}
		case UUIDOID:
			return DatumGetCString(DirectFunctionCall1(uuid_out, value));
		case INETOID:
			return DatumGetCString(DirectFunctionCall1(inet_out, value));
	}
	elog(ERROR, "a column of sync.audit has type %u", type);
}

static void
put_column(StringInfo out, const AuditRow *row, const char *name)
{
	for (int i = 0; i < row->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(row->desc, i);

		if (strcmp(NameStr(att->attname), name) == 0)
		{
			put(out, row->nulls[i] ? NULL : as_text(row->values[i], att->atttypid));
			return;
		}
	}
	elog(ERROR, "sync.audit has no column \"%s\"", name);
}

static bytea *
sha256(const StringInfo text)
{
	bytea *hash = palloc(VARHDRSZ + SHA256_DIGEST_LENGTH);

	SET_VARSIZE(hash, VARHDRSZ + SHA256_DIGEST_LENGTH);
	SHA256((const unsigned char *) text->data, text->len, (unsigned char *) VARDATA(hash));
	return hash;
}

/* As it was when it was written: what erased something has kept the hash. */
static bytea *
content_hash(const AuditRow *row)
{
	static const char *const parts[] = {"salt", "detail", "reason"};
	StringInfoData text;
	bool isnull;
	Datum kept = column(row, "content_hash", &isnull);

	if (!isnull)
		return DatumGetByteaPP(kept);
	initStringInfo(&text);
	for (size_t i = 0; i < lengthof(parts); i++)
		put_column(&text, row, parts[i]);
	return sha256(&text);
}

/* sync._audit_content_hash(row) */
PGDLLEXPORT Datum
se_audit_content_hash(PG_FUNCTION_ARGS)
{
	AuditRow row;
	bytea *hash;

	open_row(&row, PG_GETARG_HEAPTUPLEHEADER(0));
	hash = content_hash(&row);
	ReleaseTupleDesc(row.desc);
	PG_RETURN_BYTEA_P(hash);
}

/* sync._audit_hash(row) */
PGDLLEXPORT Datum
se_audit_hash(PG_FUNCTION_ARGS)
{
	static const char *const before[] = {"id",	   "at",	 "incarnation", "xid",
										 "action", "object", "record_id",	"system"};
	static const char *const after[] = {"session_user_name", "role_name",	"actor",
										"correlation_id",	 "client_addr", "application"};
	AuditRow row;
	StringInfoData text;
	bytea *content;
	bytea *hash;
	char *hex;

	open_row(&row, PG_GETARG_HEAPTUPLEHEADER(0));
	initStringInfo(&text);
	put(&text, "sync_ext audit 1");
	for (size_t i = 0; i < lengthof(before); i++)
		put_column(&text, &row, before[i]);
	content = content_hash(&row);
	hex = palloc0(2 * VARSIZE_ANY_EXHDR(content) + 1);
	hex_encode(VARDATA_ANY(content), VARSIZE_ANY_EXHDR(content), hex);
	put(&text, hex);
	for (size_t i = 0; i < lengthof(after); i++)
		put_column(&text, &row, after[i]);
	hash = sha256(&text);
	ReleaseTupleDesc(row.desc);
	PG_RETURN_BYTEA_P(hash);
}

/* sync._writer_incarnation() */
PGDLLEXPORT Datum
se_writer_incarnation(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(se_incarnation());
}
