/*
 * fold.c: aggregates that fold one side of a comparison into sums of hashes.
 *
 * A record of ours and what a system says of it have the same letters where they agree (letters.c). Each side hashes
 * the letters of id and values of every record under a key that is drawn for the run, and adds them up, modulo 2^64, in one
 * of some thousand buckets by id. Order does not matter, so each side is one pass, in parallel workers too, and
 * nothing is joined; only records in buckets whose sums are not the same are compared one by one. That a bucket of
 * records that differ has the same sums has a chance of 2^-64, and nobody who does not know the key can raise
 * it. What cannot be told in letters spoils its bucket: it is added in other letters on either side.
 *
 * The state of an aggregate is also its result, as a bytea: head, sums, groups (buckets.c reads it).
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/lsyscache.h"

#include "reconcile/fold.h"
#include "reconcile/letters.h"

PG_FUNCTION_INFO_V1(se_fold_row);
PG_FUNCTION_INFO_V1(se_fold_mirror);
PG_FUNCTION_INFO_V1(se_fold_binding);
PG_FUNCTION_INFO_V1(se_fold_combine);
PG_FUNCTION_INFO_V1(se_fold_write);
PG_FUNCTION_INFO_V1(se_fold_read);

extern PGDLLEXPORT Datum se_fold_row(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_fold_mirror(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_fold_binding(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_fold_combine(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_fold_write(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum se_fold_read(PG_FUNCTION_ARGS);

#define MOST_BUCKETS (1 << 20)

typedef struct GroupKey
{
	const char *text;
	int len;
	uint32 hash;
} GroupKey;

typedef struct GroupEntry
{
	GroupKey key;
	char status; /* of the table */
	SeGroup group;
} GroupEntry;

#define SH_PREFIX		  groups
#define SH_ELEMENT_TYPE	  GroupEntry
#define SH_KEY_TYPE		  GroupKey
#define SH_KEY			  key
#define SH_HASH_KEY(t, k) (k).hash
#define SH_EQUAL(t, a, b) ((a).len == (b).len && memcmp((a).text, (b).text, (a).len) == 0)
#define SH_SCOPE		  static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

typedef struct Fold
{
	SeFoldHead head;
	MemoryContext cxt;
	uint64 *values;
	uint64 *bindings; /* NULL: none are folded */
	groups_hash *groups;
	StringInfoData letters; /* of the record at hand */
	StringInfoData group;	/* key of its group */
	int ntypes;
	Oid *types; /* of its values, in the order of the members of a mirror */
	Oid id_type;
	ArrayType *names; /* of these members */
	SeMembers members;
	bool learnt; /* whether `members` are those named */
	bool unlike; /* whether they are others */
} Fold;

/* ---- state ---- */

static Fold *
make(MemoryContext cxt, const SeFoldHead *head)
{
	MemoryContext old = MemoryContextSwitchTo(cxt);
	Fold *fold = palloc0(sizeof(Fold));

	fold->cxt = cxt;
	fold->head = *head;
	fold->values = palloc0(sizeof(uint64) * head->nbuckets);
	if (head->binds)
		fold->bindings = palloc0(sizeof(uint64) * head->nbuckets);
	fold->groups = groups_create(cxt, 64, NULL);
	initStringInfo(&fold->letters);
	initStringInfo(&fold->group);
	MemoryContextSwitchTo(old);
	return fold;
}

static MemoryContext
aggregate_context(FunctionCallInfo fcinfo)
{
	MemoryContext cxt;

	if (!AggCheckCallContext(fcinfo, &cxt))
		elog(ERROR, "called outside of its aggregate");
	return cxt;
}

/* The state so far, or a new one by the arguments that all three aggregates begin with: key, buckets. */
static Fold *
state(FunctionCallInfo fcinfo, bool binds, bool *fresh)
{
	SeFoldHead head = {.binds = binds};
	bytea *key;

	*fresh = PG_ARGISNULL(0);
	if (!*fresh)
		return (Fold *) PG_GETARG_POINTER(0);
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		elog(ERROR, "a fold needs a key and a number of buckets");
	key = PG_GETARG_BYTEA_PP(1);
	head.nbuckets = PG_GETARG_INT32(2);
	if (VARSIZE_ANY_EXHDR(key) != SE_SIP_KEY_LEN || head.nbuckets < 1 ||
		head.nbuckets > MOST_BUCKETS || (head.nbuckets & (head.nbuckets - 1)) != 0)
		elog(ERROR, "a fold has a key of %d bytes and a power of two of buckets", SE_SIP_KEY_LEN);
	memcpy(head.key, VARDATA_ANY(key), SE_SIP_KEY_LEN);
	return make(aggregate_context(fcinfo), &head);
}

/* ---- records ---- */

static inline void
spoil(Fold *fold, char side)
{
	appendBinaryStringInfo(&fold->letters, "?", 1);
	appendBinaryStringInfo(&fold->letters, &side, 1);
}

/* The record at hand into the bucket of its id, the first `id_len` of its letters. */
static inline void
fold_in(Fold *fold, uint64 *sums, int id_len)
{
	const char *letters = fold->letters.data;

	sums[se_bucket(fold->head.key, fold->head.nbuckets, letters, id_len)] +=
		se_sip(fold->head.key, letters, fold->letters.len);
}

static GroupEntry *
group_of(Fold *fold, FunctionCallInfo fcinfo, int day_arg)
{
	StringInfo key = &fold->group;
	DateADT day = PG_ARGISNULL(day_arg) ? SE_NO_DAY : PG_GETARG_DATEADT(day_arg);
	int32 entity_len = SE_NO_ENTITY;
	GroupKey probe;
	GroupEntry *entry;
	bool found;

	resetStringInfo(key);
	appendBinaryStringInfo(key, (const char *) &day, sizeof(day));
	if (PG_ARGISNULL(day_arg + 1))
		appendBinaryStringInfo(key, (const char *) &entity_len, sizeof(entity_len));
	else
	{
		text *entity = PG_GETARG_TEXT_PP(day_arg + 1);

		entity_len = VARSIZE_ANY_EXHDR(entity);
		appendBinaryStringInfo(key, (const char *) &entity_len, sizeof(entity_len));
		appendBinaryStringInfo(key, VARDATA_ANY(entity), entity_len);
	}
	/* An empty currency and none are told apart by a byte. */
	if (!PG_ARGISNULL(day_arg + 2))
	{
		text *currency = PG_GETARG_TEXT_PP(day_arg + 2);

		appendBinaryStringInfo(key, "$", 1);
		appendBinaryStringInfo(key, VARDATA_ANY(currency), VARSIZE_ANY_EXHDR(currency));
	}
	probe.text = key->data;
	probe.len = key->len;
	probe.hash = hash_bytes((const unsigned char *) key->data, key->len);
	entry = groups_insert(fold->groups, probe, &found);
	if (!found)
	{
		char *copy = MemoryContextAlloc(fold->cxt, key->len);

		memcpy(copy, key->data, key->len);
		entry->key.text = copy;
		memset(&entry->group, 0, sizeof(SeGroup));
	}
	return entry;
}

/* Arguments of sync._fold_rows(). */
enum
{
	ROW_ID = 3,
	ROW_DAY,
	ROW_ENTITY,
	ROW_CURRENCY,
	ROW_AMOUNT,
	ROW_TOLD,
	ROW_VALUES
};

static void
learn_types(Fold *fold, FunctionCallInfo fcinfo)
{
	fold->ntypes = PG_NARGS() - ROW_VALUES;
	fold->types = MemoryContextAlloc(fold->cxt, sizeof(Oid) * Max(fold->ntypes, 1));
	fold->id_type = getBaseType(get_fn_expr_argtype(fcinfo->flinfo, ROW_ID));
	for (int i = 0; i < fold->ntypes; i++)
		fold->types[i] = getBaseType(get_fn_expr_argtype(fcinfo->flinfo, ROW_VALUES + i));
}

/* sync._fold_rows(key, buckets, id, day, entity, currency, amount, told, VARIADIC values): records of ours. */
Datum
se_fold_row(PG_FUNCTION_ARGS)
{
	bool fresh;
	Fold *fold = state(fcinfo, false, &fresh);
	GroupEntry *entry;
	bool known = true;
	int id_len;

	if (fresh)
		learn_types(fold, fcinfo);
	resetStringInfo(&fold->letters);
	if (PG_ARGISNULL(ROW_ID) ||
		!se_letters_key(&fold->letters, fold->id_type, PG_GETARG_DATUM(ROW_ID)))
		elog(ERROR, "a record cannot be told by an id of type %u", fold->id_type);
	id_len = fold->letters.len;
	for (int i = 0; known && i < fold->ntypes; i++)
		known = se_letters_column(&fold->letters, fold->types[i], PG_GETARG_DATUM(ROW_VALUES + i),
								  PG_ARGISNULL(ROW_VALUES + i));
	if (!known)
		spoil(fold, 'h');
	fold_in(fold, fold->values, id_len);
	entry = group_of(fold, fcinfo, ROW_DAY);
	entry->group.n++;
	if (!PG_ARGISNULL(ROW_AMOUNT) || !PG_ARGISNULL(ROW_TOLD))
	{
		MemoryContext old = MemoryContextSwitchTo(fold->cxt);

		if (!PG_ARGISNULL(ROW_AMOUNT))
			se_sum_add(&entry->group.amount, PG_GETARG_DATUM(ROW_AMOUNT));
		if (!PG_ARGISNULL(ROW_TOLD))
			se_sum_add(&entry->group.told, PG_GETARG_DATUM(ROW_TOLD));
		MemoryContextSwitchTo(old);
	}
	PG_RETURN_POINTER(fold);
}

/* Arguments of sync._fold_mirrors(). */
enum
{
	MIRROR_NAMES = 3,
	MIRROR_TYPES,
	MIRROR_RECORD,
	MIRROR_REMOTE,
	MIRROR_DELETED,
	MIRROR_FIELDS
};

static void
learn_names(Fold *fold, FunctionCallInfo fcinfo)
{
	MemoryContext old = MemoryContextSwitchTo(fold->cxt);
	ArrayType *types = PG_GETARG_ARRAYTYPE_P_COPY(MIRROR_TYPES);

	fold->names = PG_GETARG_ARRAYTYPE_P_COPY(MIRROR_NAMES);
	fold->ntypes = ArrayGetNItems(ARR_NDIM(types), ARR_DIMS(types));
	fold->types = (Oid *) ARR_DATA_PTR(types);
	if (ARR_HASNULL(types) || ARR_HASNULL(fold->names) ||
		fold->ntypes != ArrayGetNItems(ARR_NDIM(fold->names), ARR_DIMS(fold->names)))
		elog(ERROR, "each member of a mirror has a name and a type");
	MemoryContextSwitchTo(old);
}

/* Whether the members of a mirror are those that the rows are folded by; the same keys follow one another mostly. */
static bool
members_known(Fold *fold, JsonbContainer *object)
{
	MemoryContext old;
	Datum *names;
	int n;

	if (fold->learnt && se_members_are(&fold->members, object))
		return !fold->unlike;
	if (JsonContainerSize(object) != fold->ntypes)
		return false;
	old = MemoryContextSwitchTo(fold->cxt);
	if (fold->learnt)
	{
		pfree(fold->members.keys);
		pfree(fold->members.text);
	}
	se_members_learn(&fold->members, object);
	MemoryContextSwitchTo(old);
	fold->learnt = true;
	fold->unlike = false;
	deconstruct_array(fold->names, TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		text *name = DatumGetTextPP(names[i]);
		int len;
		const char *key = se_member_key(&fold->members, i, &len);

		if (len != VARSIZE_ANY_EXHDR(name) || memcmp(key, VARDATA_ANY(name), len) != 0)
			fold->unlike = true;
	}
	pfree(names);
	return !fold->unlike;
}

static bool
fields_known(Fold *fold, Jsonb *fields)
{
	JsonbContainer *object = &fields->root;
	uint32 offset;

	if (!JB_ROOT_IS_OBJECT(fields) || !members_known(fold, object))
		return false;
	offset = fold->members.text_len;
	for (int i = 0; i < fold->ntypes; i++)
	{
		JsonbValue v;

		se_member_next(&fold->members, object, i, &offset, &v);
		if (!se_letters_member(&fold->letters, fold->types[i], &v))
			return false;
	}
	return true;
}

static void
fold_binding(Fold *fold, text *record, text *remote)
{
	int id_len;

	resetStringInfo(&fold->letters);
	se_letters_text(&fold->letters, VARDATA_ANY(record), VARSIZE_ANY_EXHDR(record));
	id_len = fold->letters.len;
	se_letters_text(&fold->letters, VARDATA_ANY(remote), VARSIZE_ANY_EXHDR(remote));
	fold_in(fold, fold->bindings, id_len);
}

/*
 * sync._fold_mirrors(key, buckets, names, types, record_id, remote_id, deleted, fields): what a system says, and to
 * which records of ours. A mirror of something that is gone, and that is bound to nothing, says nothing.
 */
Datum
se_fold_mirror(PG_FUNCTION_ARGS)
{
	bool fresh;
	Fold *fold = state(fcinfo, true, &fresh);
	text *remote = PG_GETARG_TEXT_PP(MIRROR_REMOTE);
	bool bound = !PG_ARGISNULL(MIRROR_RECORD);
	bool deleted = PG_GETARG_BOOL(MIRROR_DELETED);
	text *id = bound ? PG_GETARG_TEXT_PP(MIRROR_RECORD) : remote;
	int id_len;

	if (fresh)
		learn_names(fold, fcinfo);
	if (bound)
		fold_binding(fold, id, remote);
	else if (deleted)
		PG_RETURN_POINTER(fold);
	resetStringInfo(&fold->letters);
	se_letters_text(&fold->letters, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));
	id_len = fold->letters.len;
	if (!bound || deleted || !fields_known(fold, PG_GETARG_JSONB_P(MIRROR_FIELDS)))
		spoil(fold, 's');
	fold_in(fold, fold->values, id_len);
	PG_RETURN_POINTER(fold);
}

/* sync._fold_bindings(key, buckets, record_id, remote_id): which records are bound to which. */
Datum
se_fold_binding(PG_FUNCTION_ARGS)
{
	bool fresh;
	Fold *fold = state(fcinfo, true, &fresh);

	fold_binding(fold, PG_GETARG_TEXT_PP(3), PG_GETARG_TEXT_PP(4));
	PG_RETURN_POINTER(fold);
}

/* ---- between workers ---- */

static void
add_buckets(uint64 *to, const uint64 *from, int n)
{
	for (int i = 0; i < n; i++)
		to[i] += from[i];
}

static void
add_groups(Fold *fold, groups_hash *others)
{
	groups_iterator it;
	GroupEntry *other;

	groups_start_iterate(others, &it);
	while ((other = groups_iterate(others, &it)) != NULL)
	{
		bool found;
		GroupEntry *entry = groups_insert(fold->groups, other->key, &found);

		if (!found)
		{
			entry->key.text = memcpy(palloc(other->key.len), other->key.text, other->key.len);
			memset(&entry->group, 0, sizeof(SeGroup));
		}
		entry->group.n += other->group.n;
		se_sum_merge(&entry->group.amount, &other->group.amount);
		se_sum_merge(&entry->group.told, &other->group.told);
	}
}

Datum
se_fold_combine(PG_FUNCTION_ARGS)
{
	MemoryContext cxt = aggregate_context(fcinfo);
	MemoryContext old;
	Fold *other;
	Fold *fold;

	if (PG_ARGISNULL(1))
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_POINTER(PG_GETARG_POINTER(0));
	}
	other = (Fold *) PG_GETARG_POINTER(1);
	fold = PG_ARGISNULL(0) ? make(cxt, &other->head) : (Fold *) PG_GETARG_POINTER(0);
	add_buckets(fold->values, other->values, fold->head.nbuckets);
	if (fold->bindings != NULL)
		add_buckets(fold->bindings, other->bindings, fold->head.nbuckets);
	old = MemoryContextSwitchTo(cxt);
	add_groups(fold, other->groups);
	MemoryContextSwitchTo(old);
	PG_RETURN_POINTER(fold);
}

/* The state as a bytea: for another process, and the aggregate's result. */
Datum
se_fold_write(PG_FUNCTION_ARGS)
{
	Fold *fold;
	StringInfoData out;
	groups_iterator it;
	GroupEntry *entry;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	fold = (Fold *) PG_GETARG_POINTER(0);
	fold->head.ngroups = fold->groups->members;
	initStringInfo(&out);
	enlargeStringInfo(&out, sizeof(uint64) * fold->head.nbuckets * 2 + 65536);
	appendStringInfoSpaces(&out, VARHDRSZ);
	appendBinaryStringInfo(&out, (const char *) &fold->head, sizeof(SeFoldHead));
	appendBinaryStringInfo(&out, (const char *) fold->values, sizeof(uint64) * fold->head.nbuckets);
	if (fold->bindings != NULL)
		appendBinaryStringInfo(&out, (const char *) fold->bindings,
							   sizeof(uint64) * fold->head.nbuckets);
	groups_start_iterate(fold->groups, &it);
	while ((entry = groups_iterate(fold->groups, &it)) != NULL)
	{
		int32 len = entry->key.len;

		appendBinaryStringInfo(&out, (const char *) &len, sizeof(len));
		appendBinaryStringInfo(&out, entry->key.text, len);
		appendBinaryStringInfo(&out, (const char *) &entry->group.n, sizeof(int64));
		se_sum_write(&entry->group.amount, &out);
		se_sum_write(&entry->group.told, &out);
	}
	SET_VARSIZE(out.data, out.len);
	PG_RETURN_BYTEA_P(out.data);
}

void
se_group_read(SeGroup *group, const char **data)
{
	memcpy(&group->n, *data, sizeof(int64));
	*data += sizeof(int64);
	se_sum_read(&group->amount, data);
	se_sum_read(&group->told, data);
}

Datum
se_fold_read(PG_FUNCTION_ARGS)
{
	bytea *in = PG_GETARG_BYTEA_PP(0);
	const char *data = VARDATA_ANY(in);
	SeFoldHead head;
	Fold *fold;
	size_t len;

	memcpy(&head, data, sizeof(head));
	data += sizeof(head);
	fold = make(CurrentMemoryContext, &head);
	len = sizeof(uint64) * head.nbuckets;
	memcpy(fold->values, data, len);
	data += len;
	if (head.binds)
	{
		memcpy(fold->bindings, data, len);
		data += len;
	}
	for (int64 i = 0; i < head.ngroups; i++)
	{
		GroupKey key;
		GroupEntry *entry;
		int32 key_len;
		bool found;

		memcpy(&key_len, data, sizeof(key_len));
		data += sizeof(key_len);
		key.len = key_len;
		key.text = data;
		key.hash = hash_bytes((const unsigned char *) key.text, key.len);
		data += key.len;
		entry = groups_insert(fold->groups, key, &found);
		se_group_read(&entry->group, &data);
	}
	PG_RETURN_POINTER(fold);
}
