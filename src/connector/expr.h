/*
 * expr.h
 *		Expressions of the manifest language, and the compiled parts that
 *		connector.h keeps private.
 *
 * An expression is evaluated over a context document ($) with variables
 * ($doc, $param, …) and gives a JsonbValue, or NULL for 'missing'. Evaluation
 * stops at the first failure, which stays in the SeEval; callers look there
 * once, at the end.
 */
#ifndef SE_EXPR_H
#define SE_EXPR_H

#include "connector/connector.h"
#include "lib/stringinfo.h"
#include "utils/jsonpath.h"

typedef enum SeExprKind
{
	SE_X_CONST,
	SE_X_PATH,
	SE_X_INDEX, /* $index: position in the innermost $each or lines, from 1 */
	SE_X_TEXT,	/* literal with ${…} parts; missing when a part is */
	SE_X_OBJECT,
	SE_X_ARRAY,
	SE_X_EACH,
	SE_X_IF,	 /* items: then, else (may be NULL) */
	SE_X_CONCAT, /* missing parts count as empty text */
	SE_X_FIRST,	 /* first that is neither missing nor null */
	SE_X_MERGE,	 /* objects laid over each other, later ones win */
	SE_X_APPEND, /* arrays one behind the other */
	SE_X_SUM,	 /* exact, over all that the paths find; nothing: 0 */
	SE_X_MIN,	 /* nothing: missing */
	SE_X_MAX,
	SE_X_LATEST, /* of times, also inside arrays; nothing: missing */
	SE_X_VALUE	 /* options around another expression */
} SeExprKind;

typedef enum SeOmit
{
	SE_OMIT_DEFAULT,
	SE_OMIT_NULL,
	SE_OMIT_EMPTY,
	SE_OMIT_CREATE, /* left out of a create, null otherwise: there is nothing to clear yet */
	SE_OMIT_NEVER
} SeOmit;

typedef struct SeEnum
{
	const char *name;
	JsonbValue *push; /* object: ours → theirs */
	JsonbValue *pull; /* object: theirs as text → ours */
} SeEnum;

struct SeExpr;

typedef struct SeOptions
{
	int ncasts;
	int *casts; /* SeCast */
	struct SeExpr *currency;
	struct SeExpr *zone;
	struct SeExpr *default_value;
	const char *format;
	const SeEnum *map;
	const char *ref;
	const char *by;
	bool ref_fetch;
	bool unbound_null;	/* a reference that is not bound is missing, not waited for */
	JsonPath *ref_read; /* the value is this part of the referenced remote record, not its id */
	JsonPath *state_path;
	List *state_in; /* char * */
	const char *state_text;
	bool required;
	SeOmit omit;
} SeOptions;

typedef struct SeExpr
{
	SeExprKind kind;
	const char *at; /* JSON pointer in the manifest */
	JsonbValue *constant;
	JsonPath *path; /* PATH, EACH, IF */
	int nitems;
	struct SeExpr **items;
	const char **keys;	/* OBJECT */
	bool literal_empty; /* {} or [] as written, kept as it is */
	bool negated;		/* a number found by it counts the other way round */
	SeOptions *opt;		/* NULL: none */
} SeExpr;

typedef struct SeNamedExpr
{
	const char *name;
	SeExpr *expr;
} SeNamedExpr;

/* ---- compiled parts ---- */

typedef enum SeEncoding
{
	SE_ENC_JSON,
	SE_ENC_FORM
} SeEncoding;

typedef struct SeWay
{
	JsonPath *when;
	SeExpr *path;
} SeWay;

typedef struct SeRequestSpec
{
	const char *at;
	const char *method;
	List *ways;	   /* SeWay *: where the path depends on what is asked for */
	SeExpr *path;  /* of all else */
	SeExpr *query; /* object, or NULL */
	List *headers; /* SeNamedExpr * */
	SeExpr *body;
	SeEncoding encoding;
	JsonPath *when;
	JsonPath *unless;
} SeRequestSpec;

typedef struct SeCompare
{
	const char *name;
	SeExpr *remote;
	SeExpr *ours;
	char as; /* n numeric, t text, d date */
} SeCompare;

typedef struct SeRecordSpec
{
	SeExpr *id;
	SeExpr *number;
	SeExpr *version;
	SeExpr *version_at;
	SeExpr *our_id;
	SeExpr *merged_into;
	JsonPath *deleted;
	JsonPath *skip;
	List *fields;	 /* SeNamedExpr * */
	JsonPath *lines; /* NULL: no lines */
	JsonPath *line_skip;
	List *line_fields;
} SeRecordSpec;

typedef struct SeResponseSpec
{
	const char *at;
	JsonPath *items; /* lookup */
	SeExpr *remote_id;
	SeExpr *number;
	SeExpr *version;
	SeExpr *version_at;
	SeExpr *record;
	List *compare;				 /* SeCompare * */
	const SeRecordSpec *mapping; /* of the object's pull: fills what is not said here */
	const char *list_key;		 /* 'more': member of the record that holds the list … */
	const char *items_key;		 /* … and member of the list that holds its items */
} SeResponseSpec;

typedef struct SeRule
{
	int status_from; /* 0, 0: any */
	int status_to;
	List *headers; /* SeHeader *: names in lower case, values as demanded */
	JsonPath *when;
	SeOutcome outcome;
	SeExpr *retry_after;
	SeExpr *code;
	SeExpr *message;
	const char *then;
} SeRule;

typedef struct SeClassifySpec
{
	List *rules; /* SeRule * */
	SeExpr *code;
	SeExpr *message;
	SeExpr *request_id;
	const char *replayed_header;
	const char *replayed_value;
} SeClassifySpec;

typedef struct SeBatchSpec
{
	SeExpr *item; /* over the push context, with $request and $key; NULL: the request's body */
	SeExpr *ours; /* likewise */
	/* over the answer; NULL: it says nothing of single items, its own outcome is theirs */
	SeExpr *items;
	SeExpr *theirs; /* these over an item of it */
	SeExpr *status;
	SeExpr *answer;
	SeClassifySpec *classify;
} SeBatchSpec;

typedef struct SePageSpec
{
	JsonPath *items;
	JsonPath *record;  /* in the item; NULL: the item is the record */
	SeExpr *id;		   /* remote id, over the item; NULL: the record's own */
	SeExpr *time;	   /* over the item */
	JsonPath *when;	   /* items that count, over the item */
	JsonPath *deleted; /* over the item */
	JsonPath *more;	   /* over the answer */
	SeExpr *token;
	SeExpr *link;
	SeExpr *last_id; /* over the last item */
	bool offset;
	bool newest_first;
	bool by_time;		/* oldest first, and the request says since when: see advance() */
	bool mark_answered; /* mark is when the first page was answered, not what was seen */
	int page_size;
} SePageSpec;

/* One of the lists that a walk goes through, one after the other. */
typedef struct SeListPart
{
	SeOperation *op;
	SePageSpec *page;
	SeOperation
		*within; /* lists what this list is asked for once each; NULL: it is asked for once */
	SePageSpec *within_page;
} SeListPart;

typedef struct SeCountSpec
{
	JsonPath *items; /* groups that are added up; NULL: the answer is the only one */
	SeExpr *count;
	SeExpr *amount; /* NULL: not told, and so is currency */
	SeExpr *currency;
} SeCountSpec;

typedef struct SeAuthSpec
{
	List *headers;		  /* SeNamedExpr * */
	SeRequestSpec *login; /* NULL: no session */
	SeClassifySpec *login_rules;
	List *save;			/* SeNamedExpr *, over the login's answer */
	SeExpr *expires_in; /* seconds */
} SeAuthSpec;

/* ---- compiling ---- */

typedef struct SeCompiler
{
	SeManifest *m;
	JsonbValue *define;	 /* object or NULL */
	JsonbValue *methods; /* array: methods that honour the idempotency key */
	List *enums;		 /* SeEnum * */
	int depth;
	bool secrets_allowed;			  /* inside auth */
	const char *const *own_variables; /* of the part being compiled, NULL-terminated; or NULL */
} SeCompiler;

extern void se_bad_manifest(const char *at, const char *fmt, ...) pg_attribute_printf(2, 3)
	pg_attribute_noreturn();
extern char *se_pointer(const char *at, const char *key);
extern char *se_pointer_index(const char *at, int i);
extern JsonPath *se_compile_path(SeCompiler *c, const char *at, const char *source);
extern SeExpr *se_compile_expr(SeCompiler *c, const char *at, JsonbValue *node);
extern void se_compile_options(SeCompiler *c, SeExpr *x, const char *at, JsonbValue *node,
							   const char *head);
extern SeExpr *se_compile_text(SeCompiler *c, const char *at, const char *source);
extern List *se_compile_named(SeCompiler *c, const char *at, JsonbValue *object);
extern JsonPath *se_compile_path_of(SeCompiler *c, const char *at, JsonbValue *object,
									const char *key);
extern SeExpr *se_compile_expr_of(SeCompiler *c, const char *at, JsonbValue *object,
								  const char *key);
extern int se_cast_by_name(const char *name);
extern int64 se_parse_duration(const char *at, JsonbValue *v);
extern SeRequestSpec *se_compile_request(SeCompiler *c, const char *at, JsonbValue *node,
										 SeEncoding encoding);
extern SeClassifySpec *se_compile_rules(SeCompiler *c, const char *at, JsonbValue *rules);
extern void se_compile_objects(SeCompiler *c, JsonbValue *doc, SeEncoding encoding);
extern SeBatch *se_compile_batch(SeCompiler *c, const char *at, JsonbValue *node,
								 const SeOperation *op);
extern SePull *se_compile_pull(SeCompiler *c, const char *at, JsonbValue *node, const char *object,
							   SeEncoding encoding);
extern SeContract *se_compile_contract(const char *at, JsonbValue *schema);
extern SeOperation *se_compile_read(SeCompiler *c, const char *at, JsonbValue *node,
									const char *name, SeEncoding encoding);

/* ---- values ---- */

#define JV_IS_OBJECT(v)                                                                            \
	((v) != NULL && (v)->type == jbvBinary && JsonContainerIsObject((v)->val.binary.data))
#define JV_IS_ARRAY(v)                                                                             \
	((v) != NULL && (v)->type == jbvBinary && JsonContainerIsArray((v)->val.binary.data))

typedef struct JvIter /* walks one level of an object or array */
{
	JsonbIterator *it;
	bool object;
	int index;
	char *key;
	JsonbValue value;
} JvIter;

extern void jv_iter_init(JvIter *i, JsonbValue *container);
extern bool jv_iter_next(JvIter *i);
extern int jv_count(JsonbValue *container);
extern JsonbValue *jv_from_jsonb(Jsonb *jb);
extern Jsonb *jv_to_jsonb(JsonbValue *v); /* NULL becomes JSON null */
extern JsonbValue *jv_get(JsonbValue *object, const char *key);
extern JsonbValue *jv_string(const char *s);
extern JsonbValue *jv_bool(bool b);
extern JsonbValue *jv_int(int64 i);
extern JsonbValue *jv_null(void);
extern JsonbValue *jv_numeric(const char *text);
extern bool jv_is_null(JsonbValue *v);	/* missing or null */
extern bool jv_is_empty(JsonbValue *v); /* or an empty text or container */
extern char *jv_text(JsonbValue *v);	/* scalar as text; NULL for missing and null */
extern char *jv_json(JsonbValue *v);
extern char *jv_get_text(JsonbValue *object, const char *key);
extern void jv_push_key(JsonbParseState **state, const char *key);
extern void jv_push_value(JsonbParseState **state, bool member, JsonbValue *v);
extern void jv_push_member(JsonbParseState **state, const char *key, JsonbValue *v);

/* ---- evaluating ---- */

/*
 * What $doc, $param, $entity, $cursor, $status, $headers and $text stand for. Members of `base` count
 * where nothing else gives a value; any part may be NULL.
 */
typedef struct SeVars
{
	Jsonb *base;
	Jsonb *doc;
	Jsonb *cursor;
	const SeAnswer *answer;
	Jsonb *own;	  /* object: variables of the part of the manifest, see SeCompiler; or NULL */
	Jsonb *whole; /* private: all of them as one object, made when a path needs it */
} SeVars;

typedef struct SeEval
{
	const SeManifest *m;
	bool creating; /* the operation makes the remote record */
	bool inbound;  /* pull: enums and references are read backwards */
	bool ahead;	   /* a required value of an answer that is still to come is named */
	bool named;	   /* … and one was */
	const SeRefs *refs;
	Jsonb *root; /* $ */
	SeVars vars;
	int index;
	const char *at; /* expression being evaluated, for messages */
	SeRenderStatus status;
	char *code;
	char *message;
	char *wait_object;
	char *wait_key;
	char *wait_by;
	char *wait_state;
	bool wait_fetch;
	bool unsettled;	  /* what a reference gave may be another thing tomorrow */
	bool in_callback; /* a reference is being resolved: its errors are not ours */

	/*
	 * While a partial update's body is evaluated: fields of $.new that the system owns. A member
	 * that is made of one is left out, so that nothing is said of it.
	 */
	JsonbValue *owned;	  /* array of their names; NULL: none */
	JsonbValue *withheld; /* the same, while the body is evaluated */
	bool touched;		  /* what was evaluated last is made of one */
	bool emptied;		  /* … and is an object that lost all its members so */
	bool says_nothing;	  /* what is left is no request any more */
	int object_depth;

	/* the member of the root that a path went through last; most go on from the same one */
	Jsonb *member_root;
	const char *member_key;
	int32 member_key_len;
	JsonbValue member;
} SeEval;

extern void se_eval_init(SeEval *ev, const SeManifest *m, Jsonb *root, SeVars vars);
/* Variables for evaluation; any argument may be NULL. What they point to must outlive it. */
extern SeVars se_make_vars(Jsonb *base, Jsonb *doc, Jsonb *cursor, const SeAnswer *a);
/* A variable by its name; NULL or JSON null: not there. */
extern JsonbValue *se_var(SeVars *vars, const char *name, int len);
/* The first result of a path, NULL when there is none; it may point into what it was asked of. */
extern JsonbValue *se_eval_value(SeEval *ev, JsonPath *path);
extern Jsonb *se_eval_path(SeEval *ev, JsonPath *path);
extern JsonbValue *se_eval_path_array(SeEval *ev, JsonPath *path);
extern JsonbValue *se_eval_list(SeEval *ev, JsonPath *path);
extern bool se_eval_predicate(SeEval *ev, JsonPath *path);
extern JsonbValue *se_eval(SeEval *ev, const SeExpr *x);
extern char *se_eval_text(SeEval *ev, const SeExpr *x); /* NULL expr: NULL */
extern bool se_eval_time(SeEval *ev, const SeExpr *x, TimestampTz *at);
extern JsonbValue *se_apply_options(SeEval *ev, const SeExpr *x, JsonbValue *v);
/* Is a value missing only because an earlier step has not answered yet? Its name, for people. */
extern bool se_is_to_come(const SeEval *ev, const SeExpr *x);
extern JsonbValue *se_name_to_come(SeEval *ev, const SeExpr *x);
extern JsonbValue *se_apply_casts(SeEval *ev, const SeExpr *x, JsonbValue *v);
extern void se_eval_fail(SeEval *ev, const char *code, const char *fmt, ...)
	pg_attribute_printf(3, 4);
/* Turn a caught error into INVALID; rethrows what must not be swallowed. */
extern void se_eval_caught(SeEval *ev, MemoryContext cxt);
extern bool se_parse_time(const char *text, TimestampTz *at);
extern char *se_format_time(TimestampTz at);

/* ---- rendering, shared by all kinds of request ---- */

extern bool se_is_unbound(Jsonb *ctx); /* the system has no record yet that we know of */

extern void se_render_request(SeEval *ev, const SeRequestSpec *spec, bool takes_key,
							  SeRendered *out);
extern void se_append_percent(StringInfo buf, const char *text);
extern void se_append_form(StringInfo buf, JsonbValue *value);
extern const char *se_find_header(List *headers, const char *name);
extern void se_classify_with(const SeManifest *m, const SeClassifySpec *own, const SeAnswer *a,
							 SeVerdict *out);

#endif /* SE_EXPR_H */
