/*
 * page.c: applies the items of one page, in the caller's transaction.
 *
 *	 1. map all records; references are resolved set-wise			refs.c
 *	 2. read what is known of them: mirror, external id, inbox		state.c
 *	 3. decide what becomes of each									decide.c
 *	 4. in a subtransaction: identify, merge with what the rows
 *		say now, write, bind; on an error the items are halved
 *		until the one that fails is alone, and that goes to the
 *		inbox														identity.c, merge.c, write.c
 *	 5. records that waited for one of this page: again from 1
 *	 6. mirror, inbox, and what waited elsewhere					state.c
 *	 7. conflicts, corrections, what a person wants to know			findings.c
 *
 * Rows, external ids, mirror and (in the caller) cursor thus commit together. The mirror's
 * applied_seq is drawn after the rows were written: every event of ours with a lower number was
 * captured before.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "capture/events.h"
#include "core/crash.h"
#include "pull/identity.h"
#include "pull/internal.h"
#include "push/push.h"

#define MAX_ROUNDS 16

/*
 * How long a page waits for a row that an app has locked, and, once it has done so in vain, each
 * part of it. Locked rows go to the inbox; when there are many, the whole page is tried again.
 */
#define LOCK_WAIT_MS	   500
#define LOCK_WAIT_AGAIN_MS 20
#define MAX_LOCKED		   10

static int nlocked; /* rows of this page that were */

/* ---- duplicates ---- */

typedef struct SePlace
{
	SeItem *item;
	int place;
} SePlace;

static int
by_remote_id(const void *a, const void *b)
{
	const SePlace *left = a;
	const SePlace *right = b;
	int c = strcmp(left->item->remote_id, right->item->remote_id);

	return c != 0 ? c : left->place - right->place;
}

/* Of two items of one record, the newer one stands for both: by version, else by place. */
static void
drop_duplicates(SeItem **items, int n)
{
	SePlace *places = palloc(sizeof(SePlace) * Max(n, 1));

	for (int i = 0; i < n; i++)
		places[i] = (SePlace){items[i], i};
	qsort(places, n, sizeof(SePlace), by_remote_id);
	for (int i = 0; i + 1 < n; i++)
	{
		SeItem *first = places[i].item;
		SeItem *second = places[i + 1].item;

		if (strcmp(first->remote_id, second->remote_id) != 0)
			continue;
		if (first->map.has_version_at && second->map.has_version_at &&
			first->map.version_at > second->map.version_at)
		{
			places[i + 1] = places[i];
			second->dropped = true;
			first->refetch |= second->refetch;
		}
		else
		{
			first->dropped = true;
			second->refetch |= first->refetch;
		}
	}
}

/* ---- applying, with bisection ---- */

/* Errors that say nothing about the item: the page is tried again later, whole. */
static bool
is_passing(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return true;
		default:
			return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE && nlocked >= MAX_LOCKED;
	}
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* Whether the cross-reference says another number or version than the item does. */
static bool
is_renamed(const SeItem *item)
{
	return (item->map.remote_number != NULL &&
			!same_text(item->map.remote_number, item->bound_number)) ||
		   !same_text(item->map.version, item->bound_version);
}

static void
apply_once(const SeTarget *target, SeTable *table, SeItem **items, int n)
{
	SeItem **fresh = palloc(sizeof(SeItem *) * n);
	SeItem **renamed = palloc(sizeof(SeItem *) * n);
	int nfresh = 0;
	int nrenamed = 0;

	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];

		/* an earlier try in a larger set may have got this far */
		item->fate = item->deleted ? SE_FATE_DELETE : SE_FATE_APPLY;
		item->record_id = item->bound;
		item->binds = item->applied = item->several = item->decided_new = false;
		if (item->bound == NULL)
			item->is_new = false;
	}
	se_identify(target, table, items, n);
	se_merge(target, table, items, n);
	se_causes_find(target, items, n);
	se_write(target, table, items, n);
	for (int i = 0; i < n; i++)
	{
		if (items[i]->fate != SE_FATE_APPLY)
			continue;
		if (items[i]->bound == NULL)
			fresh[nfresh++] = items[i];
		else if (is_renamed(items[i]))
			renamed[nrenamed++] = items[i];
	}
	se_state_bind_new(target, fresh, nfresh);
	se_state_bind(target, renamed, nrenamed);
}

static ErrorData *
try_apply(const SeTarget *target, SeTable *table, SeItem **items, int n)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		apply_once(target, table, items, n);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(cxt);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(cxt);
		CurrentResourceOwner = owner;
	}
	PG_END_TRY();
	return error;
}

static void
apply_or_halve(const SeTarget *target, SeTable *table, SeItem **items, int n)
{
	ErrorData *error;

	if (n == 0)
		return;
	CHECK_FOR_INTERRUPTS();
	error = try_apply(target, table, items, n);
	if (error == NULL)
		return;
	if (is_passing(error->sqlerrcode))
		ReThrowError(error);
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
	{
		se_write_lock_wait(LOCK_WAIT_AGAIN_MS);
		nlocked += n == 1;
	}
	if (n > 1)
	{
		FreeErrorData(error);
		apply_or_halve(target, table, items, n / 2);
		apply_or_halve(target, table, items + n / 2, n - n / 2);
		return;
	}
	items[0]->fate = SE_FATE_INBOX;
	items[0]->applied = false;
	items[0]->binds = false;
	items[0]->sqlstate = pstrdup(unpack_sql_state(error->sqlerrcode));
	items[0]->reason = error->detail != NULL ? psprintf("%s (%s)", error->message, error->detail)
											 : pstrdup(error->message);
}

/* ---- a round: map, decide, apply ---- */

static char *
clipped(char *text)
{
	if (text != NULL && strlen(text) > SE_MAX_REMOTE_ID)
		text[pg_mbcliplen(text, strlen(text), SE_MAX_REMOTE_ID)] = '\0';
	return text;
}

/*
 * A record without an id, or with one that no index holds, must neither vanish nor hold up the
 * others: it goes to the inbox under a name that its contents give it.
 */
static void
name_item(SeItem *item)
{
	const char *what = item->remote_id == NULL ? "without an id" : "with too long an id";

	if (item->remote_id != NULL && strlen(item->remote_id) <= SE_MAX_REMOTE_ID)
		return;
	item->deleted = false;
	item->map.status = SE_MAP_INVALID;
	item->map.fields = item->map.lines = NULL;
	if (item->map.reason == NULL)
		item->map.reason = psprintf("a record %s", what);
	item->remote_id = psprintf("(%s: %016llx)", what,
							   (unsigned long long) DatumGetUInt64(
								   hash_any_extended((unsigned char *) VARDATA(item->record),
													 VARSIZE(item->record) - VARHDRSZ, 0)));
}

static void
map_items(const SeTarget *target, SeItem **items, int n)
{
	se_map_all(target, se_ref_cache(target->system_id), items, n);
	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];

		if (item->record == NULL)
			continue;
		if (item->remote_id == NULL)
			item->remote_id = item->map.remote_id;
		item->deleted |= item->map.deleted;
		if (item->map.our_id == NULL)
			item->map.our_id = item->restore_id;
		clipped(item->map.remote_number);
		if (!item->map.has_version_at && item->has_at)
		{
			item->map.has_version_at = true;
			item->map.version_at = item->at;
		}
	}
}

static bool
push_may_act(const SeTarget *target, const SeItem *item)
{
	const char *record_id = item->bound != NULL ? item->bound : item->map.our_id;

	return record_id != NULL && se_push_in_flight(target->system_id, target->object_id, record_id);
}

/* Decides and applies; returns how many records became bound. */
static int
apply_round(const SeTarget *target, SeTable *table, SeItem **items, int n)
{
	SeItem **work = palloc(sizeof(SeItem *) * Max(n, 1));
	int nwork = 0;
	int bound = 0;

	for (int i = 0; i < n; i++)
		se_decide(target, table, items[i], push_may_act(target, items[i]));
	se_deletes_guard(target, items, n);
	for (int i = 0; i < n; i++)
	{
		if (items[i]->fate == SE_FATE_APPLY || items[i]->fate == SE_FATE_DELETE)
			work[nwork++] = items[i];
	}
	apply_or_halve(target, table, work, nwork);
	for (int i = 0; i < nwork; i++)
		bound += work[i]->binds && work[i]->applied;
	return bound;
}

/* Items that wait for a record of the same object, which this page may have bound. */
static int
waiting_here(const SeTarget *target, SeItem **items, int n, SeItem **waiting)
{
	int nwaiting = 0;

	for (int i = 0; i < n; i++)
	{
		if (items[i]->fate == SE_FATE_INBOX && items[i]->wait_object_id == target->object_id &&
			items[i]->map.status == SE_MAP_WAIT)
			waiting[nwaiting++] = items[i];
	}
	return nwaiting;
}

/* ---- what is written about a page ---- */

/* Lets go what waits for records that became bound, and asks for what is worth fetching. */
static void
wake_others(const SeTarget *target, SeItem **items, int n, SePageResult *result)
{
	char **ids = palloc(sizeof(char *) * Max(n, 1));
	int nids = 0;
	int64 woken;

	for (int i = 0; i < n; i++)
	{
		if (items[i]->binds && items[i]->applied)
			ids[nids++] = items[i]->remote_id;
	}
	result->bound = nids;
	woken = se_state_release(target->system_id, target->object_id, ids, nids);
	for (int i = 0; i < n; i++)
	{
		if (items[i]->fate == SE_FATE_INBOX && items[i]->wait_object_id != 0 &&
			items[i]->map.wait_fetch && items[i]->wait_remote_id != NULL)
			woken += se_state_want(target->system_id, items[i]->wait_object_id,
								   &items[i]->wait_remote_id, 1,
								   "another record refers to it; it is read by id");
	}
	if (woken > 0)
		se_inbox_wake();
}

/*
 * A read by id that was asked for is not made needless by an entry of a journal: it is a state of the
 * past, maybe of before that was asked. It is applied as the best that is known; the read comes after.
 */
static bool
is_still_to_be_read(const SeItem *item)
{
	return item->to_be_read && item->journal && !item->fetched && !item->stored && !item->deleted;
}

/*
 * An old state, or one that only looks like what we know, does not settle what the inbox holds of
 * the record: a newer state, or a doubt that was to be settled by reading.
 */
static bool
leaves_inbox_open(const SeItem *item)
{
	return is_still_to_be_read(item) || (item->fate == SE_FATE_NOTHING && !item->stored &&
										 !item->fetched && (item->to_be_read || item->outdated));
}

static void
record_page(const SeTarget *target, SeItem **items, int n, bool full, SePageResult *result)
{
	SeItem **mirrored = palloc(sizeof(SeItem *) * Max(n, 1));
	SeItem **rebound = palloc(sizeof(SeItem *) * Max(n, 1));
	SeItem **seen = palloc(sizeof(SeItem *) * Max(n, 1));
	SeItem **cleared = palloc(sizeof(SeItem *) * Max(n, 1));
	SeItem **kept = palloc(sizeof(SeItem *) * Max(n, 1));
	int nmirrored = 0;
	int nrebound = 0;
	int nseen = 0;
	int ncleared = 0;
	int nkept = 0;

	for (int i = 0; i < n; i++)
	{
		SeItem *item = items[i];

		switch (item->fate)
		{
			case SE_FATE_APPLY:
			case SE_FATE_DELETE:
				mirrored[nmirrored++] = item;
				result->applied++;
				break;
			case SE_FATE_MIRROR:
				mirrored[nmirrored++] = item;
				if (item->alias == NULL && is_renamed(item))
					rebound[nrebound++] = item;
				result->mirrored++;
				break;
			case SE_FATE_NOTHING:
				result->unchanged++;
				break;
			case SE_FATE_INBOX:
				if (!is_still_to_be_read(item))
					kept[nkept++] = item;
				result->to_inbox++;
				break;
			case SE_FATE_READ_AGAIN:
				kept[nkept++] = item;
				result->read_again++;
				break;
			case SE_FATE_HOLD:
				/* From a page: the next poll lists it again. Out of the inbox: it stays there. */
				if (item->in_inbox)
					kept[nkept++] = item;
				else
					result->held = true;
				break;
		}
		if (item->in_mirror && ((full && target->pull->scan_deletes) || item->fetched) &&
			!item->deleted && item->fate != SE_FATE_APPLY && item->fate != SE_FATE_MIRROR)
			seen[nseen++] = item;
		if (item->in_inbox && item->fate <= SE_FATE_DELETE && !leaves_inbox_open(item))
			cleared[ncleared++] = item;
	}
	if (nmirrored > 0)
	{
		se_state_bind(target, rebound, nrebound);
		se_state_mirror(target, mirrored, nmirrored,
						result->applied > 0 ? se_outbox_next_seq() : 0);
	}
	se_state_seen(target, seen, nseen);
	se_state_inbox_clear(target, cleared, ncleared);
	se_match_settled(target, cleared, ncleared);
	se_state_inbox_put(target, kept, nkept);
	se_drift_note(target, kept, nkept);
	se_match_note(target, kept, nkept);
	se_findings_write(target, items, n);
	if (result->read_again > 0)
		se_inbox_wake();
	if (nlocked > 0)
		se_inbox_look_at(GetCurrentTimestamp() + USECS_PER_SEC);
}

/* Which mapping this is. Whatever could make something else of a record counts. */
static int64
mapping_of(const SeTarget *target)
{
	uint64 hash = DatumGetUInt64(
		hash_any_extended((const unsigned char *) SYNC_EXT_VERSION, strlen(SYNC_EXT_VERSION), 0));

	hash = hash_combine64(hash, target->manifest->hash);
	if (target->vars != NULL)
		hash = DatumGetUInt64(hash_any_extended((unsigned char *) VARDATA(target->vars),
												VARSIZE(target->vars) - VARHDRSZ, hash));
	return hash != 0 ? (int64) hash : 1;
}

static bool
has_id(const SeItem *item)
{
	return item->remote_id != NULL && strlen(item->remote_id) <= SE_MAX_REMOTE_ID;
}

/*
 * Reads what is known and maps what is not unchanged. Lists tell the id beside the record as a rule;
 * where the mapping has to find it, the record is looked up afterwards.
 */
static void
read_and_map(const SeTarget *target, SeItem *all, int n)
{
	SeItem **some = palloc(sizeof(SeItem *) * n);
	int nsome = 0;

	for (int i = 0; i < n; i++)
	{
		if (has_id(&all[i]))
			some[nsome++] = &all[i];
	}
	se_state_read(target, some, nsome);
	nsome = 0;
	for (int i = 0; i < n; i++)
	{
		if (!all[i].unchanged)
			some[nsome++] = &all[i];
	}
	map_items(target, some, nsome);
	nsome = 0;
	for (int i = 0; i < n; i++)
	{
		if (all[i].record != NULL)
			name_item(&all[i]);
		if (!all[i].known && has_id(&all[i]))
			some[nsome++] = &all[i];
	}
	se_state_read(target, some, nsome);
}

/* Identifies, decides and writes, again for those that waited for one of this page. */
static void
apply_rounds(const SeTarget *target, SeItem **items, int n)
{
	SeItem **open = palloc(sizeof(SeItem *) * Max(n, 1));
	SeTable *table;
	int nopen = 0;

	for (int i = 0; i < n; i++)
	{
		if (!items[i]->unchanged)
			open[nopen++] = items[i];
	}
	if (nopen == 0)
		return;
	table = se_table_open(target->object_id);
	for (int round = 0; round < MAX_ROUNDS && nopen > 0; round++)
	{
		if (round > 0)
			map_items(target, open, nopen);
		if (apply_round(target, table, open, nopen) == 0)
			break;
		nopen = waiting_here(target, items, n, open);
	}
}

void
se_page_read(SeTarget *target, SeItem *all, int n)
{
	SeItem **items = palloc(sizeof(SeItem *) * Max(n, 1));
	int nitems = 0;

	target->mapping = mapping_of(target);
	read_and_map(target, all, n);
	for (int i = 0; i < n; i++)
	{
		if (has_id(&all[i]))
			items[nitems++] = &all[i];
	}
	drop_duplicates(items, nitems);
}

void
se_page_apply(SeTarget *target, SeItem *all, int n, bool full, SePageResult *result)
{
	SeItem **items = palloc(sizeof(SeItem *) * Max(n, 1));
	int nlive = 0;

	memset(result, 0, sizeof(*result));
	if (n == 0)
		return;
	nlocked = 0;
	se_rules_forget();
	se_write_lock_wait(LOCK_WAIT_MS);
	target->financial = se_is_financial(target->object_id);
	se_deletes_policy(target);
	se_page_read(target, all, n);
	for (int i = 0; i < n; i++)
	{
		if (has_id(&all[i]) && !all[i].dropped)
			items[nlive++] = &all[i];
	}
	se_merge_overridden(target, items, nlive);
	apply_rounds(target, items, nlive);
	se_follow_merges(target, items, nlive);
	SE_CRASH_POINT("pull_applied");
	record_page(target, items, nlive, full, result);
	se_deletes_alive(target, items, nlive);
	wake_others(target, items, nlive, result);
}
