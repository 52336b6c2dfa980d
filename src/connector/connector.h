/*
 * connector.h
 *		How one kind of system speaks: compiled manifests, rendering of requests,
 *		classification of answers, mapping of remote records, paging, auth.
 *
 * Nothing here opens a connection, touches a table or keeps a transaction
 * open; what needs the database (references, secrets) comes in by callback.
 * Every function allocates its results in CurrentMemoryContext unless it says
 * otherwise. Only se_manifest_compile() raises errors about its input; all
 * others report bad data in their result and let nothing through but query
 * cancel, shutdown and out of memory.
 */
#ifndef SE_CONNECTOR_H
#define SE_CONNECTOR_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

struct SeRequestSpec; /* private: compiled templates, see expr.h */
struct SeResponseSpec;
struct SeRecordSpec;
struct SeAuthSpec;
struct SeClassifySpec;
struct SePageSpec;
struct SeCountSpec;
struct SeBatchSpec;

typedef struct SeContract SeContract; /* private, see contract.c */

/* ---- the compiled manifest: read-only, lives in the context given ---- */

typedef enum SeChange
{
	SE_CREATE,
	SE_UPDATE,
	SE_DELETE
} SeChange;

typedef enum SeOperationKind
{
	SE_OP_CREATE, /* makes the remote record; its answer carries the remote id */
	SE_OP_UPSERT, /* makes or changes it, found by our id: a repeat does no harm */
	SE_OP_UPDATE,
	SE_OP_DELETE,
	SE_OP_LOOKUP, /* searches by our id or by value: 0, 1 or several matches */
	SE_OP_VERIFY, /* reads back and compares with ours */
	SE_OP_ACTION, /* anything else that changes the remote record (post, cancel) */
	SE_OP_READ	  /* list, events, fetch, lines: changes nothing */
} SeOperationKind;

typedef struct SeOperation
{
	const char *name;
	SeOperationKind kind;
	bool takes_key;		/* honours the idempotency key: a repeat under it is safe */
	bool partial;		/* update: members that its body leaves out stay as they are */
	bool found_updates; /* lookup: a match is bound and then updated, else only bound */
	int64 settle_ms;	/* lookup: how long an effect may stay invisible to it */
	struct SeRequestSpec *request;
	struct SeResponseSpec *response;
	struct SeClassifySpec *classify; /* rules of this operation, tried before the manifest's */
	struct SeBatch *batch; /* the endpoint that takes several records at once; NULL: none */
} SeOperation;

/* Records of one operation in one request. Each keeps a claim and an outcome of its own. */
typedef struct SeBatch
{
	SeOperation whole; /* the request that carries them, and how its answer is judged */
	int max_items;
	int64 max_bytes; /* of the request's body */
	bool takes_keys; /* a key inside an item is honoured like the header of a single request */
	struct SeBatchSpec *spec;
} SeBatch;

typedef enum SeOnMissing
{
	SE_MISSING_INSERT,
	SE_MISSING_IGNORE,
	SE_MISSING_INBOX
} SeOnMissing;

typedef enum SeOnDelete
{
	SE_DELETE_IGNORE,
	SE_DELETE_SET, /* write delete_fields */
	SE_DELETE_ROW
} SeOnDelete;

typedef struct SePull
{
	const char *object;
	SeOperation *list; /* lists records, the first of parts; NULL when only events exist */
	struct SeListPart *parts;
	int nparts;
	SeOperation *events; /* journal of changes; NULL when list finds changes */
	SeOperation *fetch;	 /* reads one record by remote id; NULL when impossible */
	SeOperation *count;	 /* how many records there are; NULL when nobody tells */
	SeOperation *more;	 /* reads the rest of a record's lines; NULL when none */
	int64 lookback_ms;	 /* how far behind its mark each walk starts again */
	int64 resolution_ms; /* precision of the vendor's change times */
	bool refetch_on_tie; /* equal version times say nothing of order: read again by id */
	bool newest_first;	 /* pages run backwards: an item may be older than one seen before */
	bool scan_deletes;	 /* no feed of deletes: compare a full walk with the mirror */
	int64 scan_every_ms;
	List *compared; /* names (char *) of fields that are known and compared, never written */
	List *match;	/* alternatives; each a List of canonical column names (char *) */
	SeOnMissing on_missing;
	SeOnDelete on_delete;
	Jsonb *delete_fields;
	bool has_lines;
	struct SePageSpec *list_page;
	struct SePageSpec *events_page;
	struct SeCountSpec *count_spec;
	struct SeRecordSpec *record;
	const char *contract_version; /* of the vendor's records; NULL: no contract */
	SeContract *contract;		  /* NULL: none, or one without a schema */
} SePull;

typedef struct SeManifestObject
{
	const char *name;
	bool financial;
	bool can_push;
	List *operations;	 /* SeOperation * */
	List *plan[3];		 /* by SeChange: SeOperation * in order; NIL: not supported */
	bool plan_empty[3];	 /* by SeChange: the manifest says [], such changes need no call */
	SeOperation *lookup; /* answers 'did it happen?'; NULL when nothing can */
	SePull *pull;		 /* NULL: cannot be pulled */
} SeManifestObject;

typedef struct SeDeclared /* one declared parameter or secret */
{
	const char *name;
	const char *default_value; /* NULL: none */
	bool required;
	const char *description;
} SeDeclared;

typedef struct SeIdempotency
{
	const char *header; /* NULL: the vendor knows no keys */
	int64 lifetime_ms;
	int max_length;
	bool tells; /* answers say whether they are stored ones */
} SeIdempotency;

typedef struct SeLimits /* 0: not limited by the manifest */
{
	int rate;		   /* requests … */
	int64 rate_per_ms; /* … per so many milliseconds */
	int in_flight;
	int64 timeout_ms;
	int64 max_response; /* bytes */
} SeLimits;

typedef struct SeManifest
{
	const char *name;
	const char *version;
	const char *title;
	const char *base_url; /* default; NULL when the server option is required */
	List *hosts;		  /* char *: exact names, or *.suffix */
	List *parameters;	  /* SeDeclared * */
	List *secrets;		  /* SeDeclared * */
	List *objects;		  /* SeManifestObject * */
	SeIdempotency idempotency;
	SeLimits limits;
	int64 settle_ms;
	uint64 hash; /* of the whole manifest */
	MemoryContext cxt;
	struct SeAuthSpec *auth;
	struct SeClassifySpec *classify;
	Jsonb *minor_units;			  /* the vendor's deviations from ISO 4217, or NULL */
	struct SeRequestSpec *common; /* headers that every request carries */
} SeManifest;

/*
 * Validate against the schema, then compile every path and template once.
 * ereport(ERROR, ERRCODE_INVALID_PARAMETER_VALUE) whose message begins with the
 * JSON pointer of the fault.
 */
extern SeManifest *se_manifest_compile(Jsonb *doc, MemoryContext cxt);
extern const SeManifestObject *se_manifest_object(const SeManifest *m, const char *object);
extern const SeOperation *se_object_operation(const SeManifestObject *o, const char *operation);
/* Default of a declared parameter, NULL when undeclared or without default. */
extern const SeDeclared *se_manifest_parameter(const SeManifest *m, const char *name);
extern const SeDeclared *se_manifest_secret(const SeManifest *m, const char *name);

/* ---- requests ---- */

typedef struct SeHeader
{
	char *name;
	char *value;
} SeHeader;

typedef struct SeRequestOut
{
	char *method;
	char *target;		/* path?query, beginning with '/', to be put behind base_url */
	char *content_type; /* NULL without body */
	List *headers;		/* SeHeader *, no secrets, no Content-Type, no idempotency key */
	char *body;			/* UTF-8; NULL: none */
	size_t body_len;
	struct JsonbValue *json; /* what a JSON body was made of; NULL: not at hand */
	bool takes_key;			 /* add manifest->idempotency.header */
} SeRequestOut;

typedef enum SeRenderStatus
{
	SE_RENDER_OK,
	SE_RENDER_SKIP,	  /* the operation's conditions say that there is nothing to do */
	SE_RENDER_WAIT,	  /* a reference is not bound yet, or not in the state demanded */
	SE_RENDER_INVALID /* the data cannot be said in the vendor's terms */
} SeRenderStatus;

typedef struct SeRendered
{
	SeRenderStatus status;
	SeRequestOut request;
	bool ahead;		   /* OK, but parts only name what earlier steps will answer */
	char *wait_object; /* WAIT: object … */
	char *wait_key;	   /* … and record id, or value of the column wait_by */
	char *wait_by;	   /* NULL: wait_key is the record id */
	char *wait_state;  /* NULL: bound is enough; else the states demanded, for people */
	char *code;		   /* INVALID: stable word, e.g. not_representable */
	char *message;	   /* INVALID: JSON pointer in the manifest, value, reason */
} SeRendered;

/* How references are resolved. Callbacks run inside the caller's transaction. */
typedef struct SeRefs
{
	/*
	 * Our record → remote id. key is the record id, or the value of column
	 * 'by'. False when not bound. want_raw: also *raw, the remote record as
	 * last seen, NULL when unknown.
	 */
	bool (*to_remote)(void *arg, const char *object, const char *by, const char *key, bool want_raw,
					  char **remote_id, Jsonb **raw);
	/*
	 * Remote id → our record id; with 'by', remote_id is a value of that
	 * canonical column instead. False when nothing is bound (or found).
	 */
	bool (*to_ours)(void *arg, const char *object, const char *by, const char *remote_id,
					char **record_id);
	void *arg;
} SeRefs;

/*
 * Render one operation over the push context (doc/connector-guide.md): object,
 * id, op, event, new, old, changed, remote, mirror, response, param, entity.
 */
extern void se_render(const SeManifest *m, const SeOperation *op, Jsonb *ctx, const SeRefs *refs,
					  SeRendered *out);

/*
 * The same for a person to read, before earlier steps were sent: a required value that they would
 * answer is named in <>. Not to be sent when out->ahead.
 */
extern void se_render_ahead(const SeManifest *m, const SeOperation *op, Jsonb *ctx,
							const SeRefs *refs, SeRendered *out);

/* One record's part of a batch. */
typedef struct SeBatchItem
{
	char *body; /* UTF-8 */
	size_t body_len;
	char
		*match; /* what its answer is known by; NULL: the answers stand in the order of the items */
} SeBatchItem;

/*
 * The part of a request that was rendered alone; key is its idempotency key, or NULL. False: it can
 * only be sent alone.
 */
extern bool se_batch_item(const SeManifest *m, const SeOperation *op, Jsonb *ctx,
						  const SeRequestOut *alone, const char *key, const SeRefs *refs,
						  SeBatchItem *out);
/* vars: {"param": …, "entity": …}. Matches of the items must differ. Without items: what is around them. */
extern void se_batch_render(const SeManifest *m, const SeBatch *batch, Jsonb *vars,
							const SeBatchItem *items, int n, SeRendered *out);

/* ---- answers ---- */

typedef struct SeAnswer
{
	long status;
	List *headers; /* SeHeader * */
	const char *body;
	size_t body_len;
	Jsonb *json; /* NULL when the body is not JSON */
} SeAnswer;

/*
 * Body → jsonb. NULL and *error for anything but JSON in UTF-8 of bounded
 * depth without NUL escapes; NULL without error for an empty body.
 */
extern Jsonb *se_parse_json(const char *body, size_t len, char **error);

typedef enum SeOutcome
{
	SE_DONE,
	SE_REJECTED,
	SE_THROTTLED,
	SE_AMBIGUOUS,
	SE_AUTH
} SeOutcome;

typedef struct SeVerdict
{
	SeOutcome outcome;
	char *code;	   /* the vendor's, bounded; NULL: none given */
	char *message; /* likewise */
	char *request_id;
	int64 retry_after_ms; /* -1: not said */
	bool replayed;		  /* a stored answer: what it says happened at the first try */
	char *then;			  /* what the operation's own rule says to run next: an operation of
								 * the object, or the word 'missing' (the remote record is gone) */
} SeVerdict;

/* The first rule that matches decides: the operation's, the manifest's, the built-in ones. */
extern void se_classify(const SeManifest *m, const SeOperation *op, const SeAnswer *a,
						SeVerdict *out);
extern const char *se_outcome_name(SeOutcome outcome);

typedef struct SeDifference /* one line of a financial comparison */
{
	char *name;
	char *remote; /* text, NULL when missing */
	char *ours;
} SeDifference;

typedef struct SeExtract
{
	char *error;	 /* what the answer lacks or holds wrongly; then treat as ambiguous */
	int matches;	 /* lookup: records found; otherwise -1 */
	char *remote_id; /* lookup: of the only match; NULL when not in the answer */
	char *remote_number;
	char *version;
	bool has_version_at;
	TimestampTz version_at;
	Jsonb *record;	   /* whole remote record for the mirror, or NULL */
	List *differences; /* verify: SeDifference *; NIL: equal */
} SeExtract;

/* Read a done answer; ctx is the push context that was rendered (for 'compare'), or NULL. */
extern void se_extract(const SeManifest *m, const SeOperation *op, const SeAnswer *a, Jsonb *ctx,
					   SeExtract *out);

/*
 * What a done answer to a batch says of each item, in the order of `matches`, as answers to the
 * operation alone; status 0: nothing. NULL, or why it says nothing of any.
 */
extern char *se_batch_split(const SeManifest *m, const SeBatch *batch, const SeAnswer *a,
							char *const *matches, int n, SeAnswer *parts);
extern void se_batch_classify(const SeManifest *m, const SeOperation *op, const SeAnswer *part,
							  SeVerdict *out);

/* ---- pull ---- */

typedef enum SeMapStatus
{
	SE_MAP_OK,
	SE_MAP_SKIP, /* the manifest says that this record is none of ours */
	SE_MAP_WAIT, /* refers to a remote record that is not bound yet */
	SE_MAP_INVALID
} SeMapStatus;

/* Where a record does not fit what its manifest says of it. */
typedef struct SeDrift
{
	char *path; /* JSON pointer into the record, * for any item; of the manifest for a mapping */
	const char *kind; /* missing, type, value; mapping: the expression at path could not use it */
	char *expected;	  /* NULL for a mapping */
	char *got;
} SeDrift;

/* Whether a record fits; else drift says where it first does not. */
extern bool se_contract_check(const SeContract *contract, Jsonb *record, SeDrift *drift);

typedef struct SeMapped
{
	SeMapStatus status;
	char *remote_id; /* set whenever it could be read, also for WAIT and INVALID */
	char *remote_number;
	char *version;
	bool has_version_at;
	TimestampTz version_at;
	bool deleted;	   /* then fields and lines are NULL */
	char *our_id;	   /* our record id inside the remote record, or NULL */
	char *merged_into; /* remote id of the record that it was merged into there, or NULL */
	Jsonb *fields;	   /* canonical column → value; JSON null clears */
	Jsonb *lines;	   /* array of such objects, or NULL when the object has no lines */
	bool settled;	   /* the same record will always be mapped to the same */
	char *wait_object;
	char *wait_remote_id;
	char *wait_by;	 /* NULL: wait_remote_id is a remote id; else a value of that column */
	bool wait_fetch; /* worth fetching that record now instead of waiting for its stream */
	char *code;
	char *reason;  /* WAIT and INVALID, for people */
	SeDrift drift; /* INVALID: path is NULL when it is not the record's fault */
} SeMapped;

/* vars: {"param": {...}, "entity": {...}}; other members are visible to paths too. */
extern void se_map_record(const SeManifest *m, const SePull *pull, Jsonb *record, Jsonb *vars,
						  const SeRefs *refs, SeMapped *out);
/* {"status", "remote_id", "fields", …}: what sync.test_map() shows */
extern Jsonb *se_mapped_json(const SeMapped *mapped);

/*
 * Paging. A cursor is a small object that the caller stores with the page it
 * belongs to and never reads, except for:
 *	 time	text, the mark: every change up to it has been listed
 *	 page	present in the middle of a walk
 *	 deep	of a journal: when a walk last went back its whole lookback
 *	 full	true asks for a walk over everything (delete scans); removed when it ends
 * '{}' reads everything the first time. {"time": "…"} starts from an instant.
 */
extern void se_list_request(const SeManifest *m, const SePull *pull, Jsonb *cursor, Jsonb *vars,
							SeRendered *out, const SeOperation **op);

typedef struct SePageItem
{
	Jsonb *record;	 /* as the vendor sent it; NULL: only remote_id is known */
	char *remote_id; /* NULL: it has none, which is the caller's to tell */
	bool has_at;
	TimestampTz at; /* when it changed, as far as the list or journal says */
	bool deleted;	/* the journal says so; record may be a last state */
	bool refetch;	/* order against another item of this page unknown */
} SePageItem;

typedef struct SePage
{
	char *error; /* the answer is no page: treat as ambiguous, keep the cursor */
	List *items; /* SePageItem *, oldest first when the order is known */
	Jsonb *next; /* cursor to store with the page */
	bool last;	 /* the walk has ended; 'next' starts the next poll */
	bool full;	 /* the walk that this page belongs to lists everything */
} SePage;

extern void se_list_page(const SeManifest *m, const SePull *pull, const SeAnswer *a, Jsonb *cursor,
						 Jsonb *vars, SePage *out);

typedef struct SeCount
{
	char *error; /* the answer tells no number */
	int64 count;
	Jsonb *amounts; /* {"EUR": 12.30}: what they add up to by currency; NULL: not told */
} SeCount;

/* Ask how many records there are: pull->count must not be NULL. */
extern void se_count_request(const SeManifest *m, const SePull *pull, Jsonb *vars, SeRendered *out);
extern void se_count_read(const SeManifest *m, const SePull *pull, const SeAnswer *a, Jsonb *vars,
						  SeCount *out);

/* Read one record by remote id: pull->fetch must not be NULL. */
extern void se_fetch_request(const SeManifest *m, const SePull *pull, const char *remote_id,
							 Jsonb *vars, SeRendered *out);
extern void se_fetch_record(const SeManifest *m, const SePull *pull, const SeAnswer *a, Jsonb *vars,
							SePageItem *out, char **error);

/*
 * Rest of a record's lines: SKIP when the record has them all; after each
 * answer the merged record is asked again.
 */
extern void se_more_request(const SeManifest *m, const SePull *pull, Jsonb *record, Jsonb *vars,
							SeRendered *out);
extern Jsonb *se_more_merge(const SeManifest *m, const SePull *pull, Jsonb *record,
							const SeAnswer *a, char **error);

/* ---- auth ---- */

/* Reads a secret by its declared name; NULL and *error when it cannot be had. */
typedef struct SeSecrets
{
	const char *(*get)(void *arg, const char *name, char **error);
	void *arg;
} SeSecrets;

/* What a login gave; process memory only. One per system; zero it to begin. */
typedef struct SeSession
{
	MemoryContext cxt; /* made by se_login_answer, child of TopMemoryContext */
	Jsonb *values;
	TimestampTz expires_at; /* 0: until an answer says 'auth' */
} SeSession;

typedef enum SeAuthStatus
{
	SE_AUTH_OK,
	SE_AUTH_NEED_LOGIN, /* send se_login_request() first */
	SE_AUTH_FAILED		/* *error says why: a secret is missing or unreadable */
} SeAuthStatus;

/* Headers that carry credentials, made at send time; never store them. param: server options. */
extern SeAuthStatus se_auth_headers(const SeManifest *m, SeSession *session,
									const SeSecrets *secrets, Jsonb *param, List **headers,
									char **error);
/* False: this manifest needs no login, or *error. The request holds secrets. */
extern bool se_login_request(const SeManifest *m, const SeSecrets *secrets, Jsonb *param,
							 SeRequestOut *out, char **error);
/* Classify the login's answer and keep what it gave. False and *error: not logged in. */
extern bool se_login_answer(const SeManifest *m, const SeAnswer *a, SeSession *session,
							SeVerdict *verdict, char **error);
/* Forget the session, after an answer that was classified SE_AUTH. */
extern void se_session_expire(SeSession *session);
/* Texts to blank out of anything stored: secrets, session values, rendered credentials. */
extern List *se_secret_values(const SeManifest *m, SeSession *session, const SeSecrets *secrets,
							  Jsonb *param);

#endif /* SE_CONNECTOR_H */
