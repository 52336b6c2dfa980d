/*
 * internal.h: what the files of src/pull share.
 *
 *	 stream.c	which stream is due, its walk over pages
 *	 page.c		one page in one transaction: map, compare, decide, apply, record
 *	 decide.c	pure part of that: what becomes of an item
 *	 refs.c		remote ids → our records, for a whole page at once
 *	 table.c	the canonical table behind an object, from the catalog
 *	 write.c	statements on that table, run as its owner; write_sql.c makes their text
 *	 identity.c	which canonical record an unknown remote record is; identity_rules.c by declared rules
 *	 deletes.c	what a delete means, and when deletes are too many
 *	 known.c	what is known of items before a page
 *	 state.c	external ids, mirror and inbox, set-wise
 *	 history.c	changes of mirrors, kept
 *	 cause.c	what of ours a system's changes follow from
 *	 rows.c		their rows, past the executor
 *	 inbox.c	items that wait: applied again, or read again by id
 *	 scan.c		deletes found by a walk over everything
 *	 drift.c	records that do not fit their manifest any more
 *	 pushed.c	what pushes tell of remote records
 */
#ifndef SE_PULL_INTERNAL_H
#define SE_PULL_INTERNAL_H

#include "postgres.h"

#include "access/attnum.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"

#include "connector/connector.h"
#include "core/rows.h"
#include "core/lookup.h"
#include "govern/merge.h"
#include "worker/system.h"

/* ---- table.c ---- */

typedef struct SeColumn
{
	char *name;
	char *quoted;
	char *type; /* as SQL text, schema-qualified */
	AttrNumber attnum;
	Oid typid;
	int32 typmod;
	bool generated; /* computed by the server: never written */
	bool identity_always;
	bool indexed; /* the first column of an index over all rows */
} SeColumn;

typedef struct SeTable
{
	Oid relid;
	Oid owner;
	char *quoted; /* schema.table */
	int ncolumns;
	SeColumn *columns;
	int nkeys;
	SeColumn **keys; /* of a line table: columns that tell lines of a document apart */
	int nparents;
	SeColumn **parents;	   /* of a line table: columns that hold the document's key */
	struct SeTable *lines; /* NULL: no document */
} SeTable;

/* The tables of an object as they are now; locks them for the rest of the transaction. */
extern SeTable *se_table_open(int object_id);
extern SeColumn *se_table_column(const SeTable *table, const char *name, int len);
/* A scalar as the column's type writes it; NULL when it is none of that type. */
extern char *se_column_text(const SeColumn *column, const JsonbValue *v);
/* Whether two scalars that differ as JSON are the same value of this column's type. */
extern bool se_column_same(const SeColumn *column, const JsonbValue *a, const JsonbValue *b);

/* ---- page.c ---- */

/* Longer ids would not fit into an index beside the rest of its key. */
#define SE_MAX_REMOTE_ID 1000

/* What pages are applied to: an object of a system, and how its records are read. */
typedef struct SeTarget
{
	int system_id;
	int object_id;
	const char *object;
	const SeManifest *manifest;
	const SePull *pull;
	Jsonb *vars;
	bool financial;
	int64
		mapping; /* names manifest, parameters and version of ours: se_page_apply() fills these two in */
} SeTarget;

typedef enum SeFate
{
	SE_FATE_NOTHING, /* an echo, older than what we know, or none of ours */
	SE_FATE_MIRROR,	 /* same fields, but the remote record is another version of itself */
	SE_FATE_APPLY,
	SE_FATE_DELETE,
	SE_FATE_INBOX,
	SE_FATE_READ_AGAIN, /* may be older than our last push: read by id */
	SE_FATE_HOLD		/* likewise, but only the next poll can read it */
} SeFate;

typedef struct SeItem
{
	/* given */
	Jsonb *record;	 /* NULL: deleted, and nothing else is known */
	char *remote_id; /* NULL: it has none that could be read; see se_page_apply() */
	bool deleted;
	bool refetch;
	bool stored;  /* out of the inbox */
	bool journal; /* from a journal: the record as it was at `at`, not as it is */
	bool has_at;
	TimestampTz at;		  /* when it changed, as the list or journal says */
	bool fetched;		  /* read by id: order against other reads does not matter */
	bool decided;		  /* by a person: its delete takes effect, whoever owns the record */
	char *restore_id;	  /* our id under which a lost record is to come back; NULL: none */
	TimestampTz began_at; /* when its request began */
	uint64 entry;		  /* what tells it from other entries of its journal; 0: nothing does */

	/* mapped */
	SeMapped map;

	/* known before */
	bool known;		/* has been looked for */
	bool unchanged; /* letter for letter what the mirror holds; it is not even mapped */
	bool in_mirror;
	bool in_inbox;
	bool to_be_read; /* and what is there asks for a read by id */
	bool mirror_deleted;
	bool same_raw;
	char *bound; /* record id in external_id */
	char *bound_number;
	char *bound_version;
	char *
		alias; /* the record that its own was merged into, while another remote record is bound to that */
	Jsonb *mirror_fields;
	char *mirror_record; /* our record that the mirror says it is; NULL: none */
	char *mirror_cause;	 /* event of ours that was pushed to it last, or that it followed from */
	char *mirror_correlation;
	Jsonb *mirror_agreed;	 /* what was agreed, of fields where that is not what they say; NULL */
	Jsonb *mirror_corrected; /* when fields were corrected of late; NULL */
	int64 mirror_mapping;	 /* 0: unknown */
	char *mirror_version;
	TimestampTz mirror_version_at; /* 0: unknown */
	TimestampTz pushed_at;		   /* 0: never */

	/* decided */
	SeFate fate;
	bool outdated; /* the mirror holds a newer state */
	bool dropped;  /* a newer item of the same page stands for it */
	char *record_id;
	List *candidates; /* scratch of identity.c */
	bool several;	  /* more than one of ours could be it */
	bool decided_new; /* a person said that it is none of ours */
	bool is_new;
	bool binds;
	bool rebinds; /* may leave the remote record that it is bound to for this one */
	bool applied;
	Jsonb *base;		   /* fields as they were known; NULL: none were */
	List *overridden;	   /* char *: what an app has changed and they are to set again */
	Jsonb *changed;		   /* fields that differ from base */
	List *changed_columns; /* SeColumn *, in the order of changed */
	bool changed_lines;
	List *line_columns; /* SeColumn *, of all its lines */

	/* merged */
	Jsonb *ours;	   /* the row now, those columns that are looked at; NULL: it is gone */
	Jsonb *ours_lines; /* an array */
	bool merged;	   /* and what was agreed may be something else now: */
	Jsonb *agreed;
	Jsonb *corrected;
	bool stays;		/* a delete that has no effect here */
	List *findings; /* SeFinding * */
	Jsonb *set;		/* fields to write */
	bool set_lines;
	List *set_columns; /* SeColumn *, in the order of set */

	/* what of ours it follows from */
	List *refs; /* SeRef *, of its mapping */
	char *cause;
	char *correlation_id; /* NULL: that of the event itself */

	/* inbox */
	char *sqlstate;
	char *reason;
	int wait_object_id;
	char *wait_remote_id;
} SeItem;

typedef struct SePageResult
{
	int applied;  /* records written */
	int mirrored; /* only the mirror changed */
	int unchanged;
	int bound;
	int to_inbox;
	int read_again;
	bool held; /* the cursor must not pass this page */
} SePageResult;

/*
 * Applies items in the caller's transaction; see page.c. 'full': the walk lists everything, so
 * each item is marked as seen.
 */
extern void se_page_apply(SeTarget *target, SeItem *items, int n, bool full, SePageResult *result);

/*
 * Reads what is known of items and maps them, and writes nothing. What the page holds twice is marked
 * as dropped.
 */
extern void se_page_read(SeTarget *target, SeItem *items, int n);

/* ---- decide.c ---- */
#define SE_REASON_READ_AGAIN "may be older than our last push; it is read again by id"
extern void se_decide(const SeTarget *target, SeTable *table, SeItem *item, bool in_flight);
/* Also equal: a number and its text, two ways to write one instant. */
extern bool se_json_same(const JsonbValue *a, const JsonbValue *b);
extern Jsonb *se_fields_with_lines(Jsonb *fields, Jsonb *lines);

/* How far a journal's times are from ours at most, in microseconds. */
extern int64 se_journal_margin(const SePull *pull);

/* ---- drift.c ---- */
/* Notes what of the items that go to the inbox does not fit the contract or the mapping. */
extern void se_drift_note(const SeTarget *target, SeItem **items, int n);

/* ---- same.c ---- */
/* Whether two values of a column are the same to the other side, which may tell less precise ones. */
extern bool se_same_value(const SeTarget *target, const SeColumn *column, Jsonb *fields,
						  const JsonbValue *a, const JsonbValue *b);
/* Members that only lines of b have do not count. */
extern bool se_same_lines(const SeTarget *target, const SeTable *lines, Jsonb *fields,
						  JsonbContainer *a, JsonbContainer *b);

/* ---- rules.c: who owns what ---- */

typedef struct SeOwnerRule
{
	const char *field; /* '*': the object */
	SeOwnedBy owner;
	const char *owner_name;
	SeViolation on_violation;
} SeOwnerRule;

/* Of the target's object, read once a page; se_rules_forget() begins a new one. */
extern void se_rules_forget(void);
extern const SeOwnerRule *se_rule_of(const SeTarget *target, const char *field);
extern SeConflictPolicy se_rules_policy(const SeTarget *target);
extern bool se_rules_can_push(const SeTarget *target, bool create);

/* ---- ours.c: rows as they are now ---- */

/*
 * Reads and locks the rows of items: those columns and, if wanted, the lines, all columns of them. An
 * item whose row is gone has ours == NULL afterwards.
 */
extern void se_ours_read(SeTable *table, SeItem **items, int n, List *columns, bool lines);

/* When a field was last changed here, and by whom; see se_ours_times(). */
typedef struct SeChangeTime
{
	const char *record_id;
	const char *field;
	TimestampTz at; /* 0: not since */
	int origin;
} SeChangeTime;

/* Looks only at changes from `since` on that this system did not make. */
extern void se_ours_times(const SeTarget *target, TimestampTz since, SeChangeTime *times, int n);

/* ---- merge.c ---- */

/* Something that was decided about a field and is worth a row somewhere. */
typedef struct SeFinding
{
	SeMerge what;
	const char *kind;  /* of a conflict */
	const char *field; /* NULL: the record */
	Jsonb *ours;	   /* NULL: there is none */
	Jsonb *theirs;
	TimestampTz hub_at; /* 0: unknown */
	int hub_origin;		/* -1: unknown */
	const char *policy;
	const char *message;
} SeFinding;

extern void se_merge(const SeTarget *target, SeTable *table, SeItem **items, int n);
/* Fields of records just read by id that an app has changed, and their owner is to set again. */
extern void se_merge_overridden(const SeTarget *target, SeItem **items, int n);

/* ---- findings.c ---- */
extern void se_findings_write(const SeTarget *target, SeItem **items, int n);

typedef struct SeConflict
{
	int64 id;
	const char *record_id;
	const char *field; /* NULL: the record */
} SeConflict;

/* Open conflicts of this system about records. */
extern SeConflict *se_conflicts_open(const SeTarget *target, SeItem **items, int n, int *count);

/* ---- refs.c ---- */
/* A reference that records of a page hold. */
typedef struct SeRef
{
	char *object;
	char *by; /* NULL: remote id */
	char *key;
	char *record_id; /* NULL: nothing bound */
	bool looked_up;
	int object_id; /* of references by remote id */
	bool cause_looked_up;
	TimestampTz pushed_at; /* when its record was pushed last; 0: never */
	char *cause;
	char *correlation_id;
	struct SeRef *next; /* of the same hash */
} SeRef;

typedef struct SeRefCache SeRefCache;
extern SeRefCache *se_ref_cache(int system_id);
extern void se_map_all(const SeTarget *target, SeRefCache *cache, SeItem **items, int n);
extern int se_pull_object_id(const char *object); /* 0: none of that name */

/* ---- identity.c ---- */
extern void se_identify(const SeTarget *target, SeTable *table, SeItem **items, int n);

/* ---- deletes.c ---- */
/* The object's policy in place of the manifest's on_delete. */
extern void se_deletes_policy(SeTarget *target);
/* Deletes that are too many at once become SE_FATE_NOTHING and wait for approval. */
extern void se_deletes_guard(const SeTarget *target, SeItem **items, int n);
extern void se_deletes_alive(const SeTarget *target, SeItem **items, int n);
extern bool se_deletes_hold(const SeTarget *target, SeItem **items, int n);

/* ---- write_sql.c, write.c ---- */

typedef enum SeWriteKind
{
	SE_WRITE_INSERT,
	SE_WRITE_UPDATE,
	SE_WRITE_LINES, /* the header stays as it is */
	SE_WRITE_DELETE
} SeWriteKind;

typedef struct SeGroup
{
	SeWriteKind kind;
	bool keyed; /* INSERT: the key is known, not drawn by the table's default */
	bool lines;
	List *columns;
	List *line_columns;
	List *items; /* SeItem * */
} SeGroup;

extern char *se_group_sql(const SeTable *table, const SeGroup *group);
/* Text expression of a row's record id. */
extern void se_append_record_id(StringInfo sql, const SeTable *table, const char *alias);
extern void se_append_key_defs(StringInfo sql, const SeTable *table);
/* Pushes __n and __k1 …: the keys of a record id as members of the object that is open. */
extern void se_push_item_key(JsonbParseState **state, const SeTable *table, int n,
							 const char *record_id);
extern void se_push_members(JsonbParseState **state, Jsonb *object);
extern void se_write(const SeTarget *target, SeTable *table, SeItem **items, int n);
/* How long the statements that follow wait for locks. */
extern void se_write_lock_wait(int ms);
/*
 * by_index: the statement finds its rows by columns that are indexed, so it is planned as one probe
 * for each. Statistics from when the table was empty, or none, would have whole tables joined.
 */
extern uint64 se_execute_as_owner(SeTable *table, const char *sql, int nargs, Jsonb **args,
								  bool by_index);

/* ---- known.c ---- */
extern void se_state_read(const SeTarget *target, SeItem **items, int n);
/* Less: whether it stands in the mirror (of a financial record, as what), and what it is bound to. */
extern bool se_is_financial(int object_id);
extern void se_state_read_bound(const SeTarget *target, SeItem **items, int n);

/* What was agreed, again, where something was noted: a person may have decided meanwhile. */
extern void se_state_read_agreed(const SeTarget *target, SeItem **items, int n);

/* ---- cause.c ---- */
extern void se_causes_find(const SeTarget *target, SeItem **items, int n);

/* ---- history.c ---- */
extern void se_history_page(const SeTarget *target, SeItem **items, int n);
extern void se_history_pushed_new(const SeTarget *target, SeItem **items, int n);
extern void se_history_pushed(const SeTarget *target, SeItem **items, int n); /* rows of SPI */
extern void se_history_gone(const SeTarget *target, const SeItem *item);	  /* likewise */

/* ---- state.c ---- */
extern void se_state_bind(const SeTarget *target, SeItem **items, int n);
/* As that, for records that were not bound when se_state_read() looked. */
extern void se_state_bind_new(const SeTarget *target, SeItem **items, int n);
extern void se_state_mirror(const SeTarget *target, SeItem **items, int n, int64 applied_seq);
extern void se_state_seen(const SeTarget *target, SeItem **items, int n);
extern void se_state_inbox_clear(const SeTarget *target, SeItem **items, int n);
extern void se_state_inbox_put(const SeTarget *target, SeItem **items, int n);
/* Rows of items that went under another id than the one they were kept by. */
extern void se_state_inbox_forget(int64 *ids, int n);
/* Lets go what waited for these; returns how many. */
extern int64 se_state_release(int system_id, int object_id, char **remote_ids, int n);
/* After pushes of records that are not in the mirror. */
extern void se_state_pushed_new(const SeTarget *target, SeItem **items, int n, TimestampTz now);
/* After pushes: `whole` says that map.fields is all there is, else it is laid over what is known. */
extern void se_state_pushed(const SeTarget *target, SeItem **items, int n, TimestampTz now,
							bool whole);
/* Has records read by id that others refer to, if a stream pulls their object. */
extern int64 se_state_want(int system_id, int object_id, char **remote_ids, int n,
						   const char *reason);

/* ---- exchange.c: requests of a pull ---- */

/*
 * Records on their way to being applied: of a page, or one that was read by id. Lives in a context
 * of its own from the first request to the last callback.
 */
typedef struct SeJob
{
	MemoryContext cxt;
	SeExchange exchange;
	SeSystem *pinned; /* keeps the manifest of its last request */
	struct SeStream *stream;
	bool dropped;  /* the stream has gone meanwhile */
	bool is_ready; /* page: all is here, it can be applied */
	bool waits;	   /* for a request behind it to leave */
	Jsonb *cursor; /* page: what was asked with */
	SePage page;
	int64 inbox_id;	  /* read by id: the row that asks for it */
	char *restore_id; /* with it */
	char *remote_id;
	TimestampTz began_at;
	int nitems;
	SeItem *items;
	int filling;	   /* item whose lines are being completed */
	SeOutcome outcome; /* of the last answer: what a failure was about */
	void (*answered)(SeExchange *exchange, SeReply *reply);
	void (*ready)(struct SeJob *job);
	void (*failed)(struct SeJob *job, const char *message, int64 retry_after_ms);
} SeJob;

extern SeJob *se_job_make(struct SeStream *stream);
extern void se_job_free(SeJob *job);
/* Copies the request into the job and hands it in. */
extern void se_job_send(SeJob *job, SeSystem *system, const SeOperation *op, SeRequestOut *request,
						void (*done)(SeExchange *exchange, SeReply *reply));
/* False: the answer is no good, job->failed() was called. */
extern bool se_job_answered(SeJob *job, SeReply *reply);
/* Completes the lines of each item by further requests, then calls job->ready(). */
extern void se_job_fill(SeJob *job);
extern bool se_job_target(const SeJob *job, SeTarget *target);

/* ---- stream.c, walk.c, inbox.c, scan.c: the engine ---- */

typedef struct SeStream
{
	int id;
	int system_id;
	int object_id;
	char *object;
	int64 every_us;	   /* 0: only on request */
	TimestampTz since; /* 0: everything */
	Jsonb *cursor;	   /* of the walk */
	Jsonb *stored;	   /* as the table has it; behind the walk after a page that was held */
	TimestampTz requested_at;
	TimestampTz started_at; /* of the walk, or of the last one */
	TimestampTz failed_at;
	TimestampTz next_at;   /* after a failure: not before; 0: none */
	TimestampTz next_scan; /* of everything, for deletes; 0: unknown yet */
	int failures;
	bool walking;  /* between the first page and the last */
	bool held;	   /* a page of this walk must be read again by the next one */
	SeJob *job;	   /* its page is being asked for, or applied */
	SeJob *ahead;  /* the page behind it */
	bool listed;   /* scratch of se_pull_load() */
	bool guest;	   /* none of the registry: somebody else walks, behind all other traffic */
	HTAB *entries; /* of a journal, dealt with before; see listed.c */
	TimestampTz swept_at;
} SeStream;

extern List *se_streams; /* SeStream * */
extern MemoryContext se_pull_cxt;
extern bool se_stream_target(const SeStream *stream, SeTarget *target);
extern SeStream *se_stream_of(int system_id, int object_id);
extern double se_jitter(void);
/* Counts what was read and what changed a row outside of a walk; in the transaction that applies it. */
extern void se_stream_count(const SeStream *stream, int records, int applied);
/* Text of the error that was caught, after which no transaction is open. */
extern char *se_caught(MemoryContext cxt);

extern bool se_listed_before(const SeStream *stream, SeItem *item); /* sets its entry */
extern void se_listed_note(SeStream *stream, const SeItem *items, int n);
extern void se_listed_sweep(SeStream *stream, int64 lookback_ms);
extern void se_listed_forget(SeStream *stream);

/* Asks for the page of a cursor; job->ready() or job->failed() is called with what comes. */
extern void se_page_ask(SeJob *job, Jsonb *cursor, const SeTarget *target);
extern void se_walk_next(SeStream *stream, TimestampTz now);
/* Applies the page that has come; true when it did something. */
extern bool se_walk_apply(SeStream *stream);
/* Forgets the pages that have been asked for. */
extern void se_walk_drop(SeStream *stream);

extern bool se_inbox_step(TimestampTz now);
extern TimestampTz se_inbox_next_due(TimestampTz now);
extern void se_inbox_wake(void);			  /* something became due */
extern void se_inbox_look_at(TimestampTz at); /* something becomes due then */
extern void se_inbox_reset(void);

/* The walk over everything that began at stream->started_at has ended; in a transaction. */
extern void se_scan_finish(SeStream *stream, SeTarget *target);

#endif
