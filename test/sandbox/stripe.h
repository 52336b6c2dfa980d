/*
 * stripe.h
 *		The Stripe-like API: what its parts share.
 */
#ifndef SANDBOX_STRIPE_H
#define SANDBOX_STRIPE_H

#include "http.h"
#include "store.h"

#define STRIPE_VERSION "2026-07-29.dahlia"
#define LINES_SHOWN	   10 /* of a document, in the document itself */

/* One API call. The billing engine acts without a request: req is NULL then. */
typedef struct Call
{
	const Request *req;
	Reply *reply;
	json_t *params;
	const char *key;	 /* Idempotency-Key, if given */
	const char *version; /* Stripe-Version, or our own */
	bool executed;		 /* past the checks that Stripe does not store */
} Call;

typedef enum ParamType
{
	P_ANY,
	P_TEXT,
	P_EMAIL,
	P_INT,
	P_AMOUNT, /* a non-negative integer of minor units */
	P_DECIMAL,
	P_BOOL,
	P_CURRENCY,
	P_TIME,
	P_ENUM,
	P_METADATA,
	P_HASH,
	P_LIST,
} ParamType;

#define PF_REQUIRED 1 /* on creation */
#define PF_STORE	2 /* goes into the object under the same name */
#define PF_CREATE	4 /* only on creation */
#define PF_UPDATE	8 /* only on update */

typedef struct Param
{
	const char *name; /* NULL ends the list */
	ParamType type;
	unsigned flags;
	const char *choices; /* P_ENUM: values; P_HASH, P_LIST: members. "a,b,c" */
} Param;

typedef struct Action
{
	const char *verb; /* NULL ends the list */
	const Param *params;
	bool (*run)(Call *call, Obj *obj);
} Action;

typedef struct Resource
{
	const char *object; /* "customer" */
	const char *path;	/* "customers" */
	const char *prefix; /* "cus_" */
	int digits;
	const char *event;	 /* "customer" of "customer.created"; NULL: silent */
	const Param *params; /* NULL: cannot be created or updated by a call */
	const char *filters; /* of lists, "a,b,c" */
	bool searchable;
	bool own_ids;		  /* the client may choose the id */
	bool silent_creation; /* there is no "<event>.created" */
	/* completes a new object; false: an error has been answered */
	bool (*create)(Call *call, json_t *json);
	/* what follows from a creation, after its event */
	bool (*created)(Call *call, Obj *obj);
	/* completes an update whose plain parameters are already stored */
	bool (*update)(Call *call, Obj *obj);
	/* deletes or cancels, with its own events */
	bool (*remove)(Call *call, Obj *obj);
	const Action *actions;
	Collection coll;
} Resource;

/* stripe.c */
extern void stripe_handle(const Request *req, Reply *reply);
extern void stripe_reset(void);
extern json_t *stripe_counts(void);
extern bool stripe_error(Call *call, int status, const char *type, const char *code,
						 const char *param, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
extern bool stripe_missing(Call *call, const char *object, const char *param, const char *id);
extern void stripe_effect(Call *call, const char *object, const Obj *obj);
extern Obj *stripe_find(Call *call, Resource *res, const char *param, const char *id);
extern Obj *stripe_create(Call *call, Resource *res);
extern Obj *stripe_insert(Call *call, Resource *res, json_t *json);
extern json_t *stripe_new_json(const Resource *res);
extern Resource *stripe_resource(const char *object);
extern json_t *stripe_any(const char *id);

/* stripe_params.c */
extern bool params_check(Call *call, const Param *spec, bool creating);
extern void params_store(Call *call, const Param *spec, json_t *json);
extern bool param_given(const Call *call, const char *name);
extern const char *param_string(const Call *call, const char *name);
extern int64_t param_int(const Call *call, const char *name, int64_t absent);
extern bool param_bool(const Call *call, const char *name);
extern json_t *param_list(const Call *call, const char *name);
extern bool in_list(const char *choices, const char *name);
extern int currency_decimals(const char *currency);
extern int64_t multiply_decimal(const char *decimal, int64_t quantity);

/* stripe_list.c */
extern void stripe_render(const Obj *obj, Buf *out);
extern void stripe_list(Call *call, Resource *res);
extern void stripe_list_lines(Call *call, const Obj *invoice);
extern void stripe_list_events(Call *call);
extern void stripe_search(Call *call, Resource *res);

/* stripe_event.c */
extern json_t *change_begin(Obj *obj);
extern void change_end(Call *call, Resource *res, Obj *obj, json_t *before, const char *verb);
extern void change_remove(Call *call, Resource *res, Obj *obj);
extern void change_undo(Obj *obj, json_t *before);
extern void stripe_emit(Call *call, const char *type, const Obj *obj, json_t *previous);
extern Collection *stripe_events(void);

/*
 * Whoever wants to hear of events as they happen (a sender of webhooks) sets
 * this. It is called with the state lock held and must not block.
 */
extern void (*stripe_event_listener)(const char *type, const char *json, size_t len);

/* the resources */
extern Resource customers, products, prices;	   /* stripe_catalog.c */
extern Resource subscriptions;					   /* stripe_subscription.c */
extern Resource invoices, invoice_payments;		   /* stripe_invoice.c */
extern Resource invoiceitems;					   /* stripe_invoiceitem.c */
extern Resource payment_intents, charges, refunds; /* stripe_payment.c */
extern Resource balance_transactions, payouts;	   /* stripe_balance.c */
extern Resource disputes;						   /* stripe_dispute.c */
extern Resource credit_notes;					   /* stripe_credit_note.c */

/* stripe_subscription.c */
extern int64_t subscription_next(const json_t *subscription, int64_t from);
extern bool subscription_end(Call *call, Obj *obj);

/* stripe_invoice.c */
extern json_t *invoice_line(const json_t *price, int64_t quantity, int64_t start, int64_t end);
extern void invoice_add_line(json_t *invoice, json_t *line);
extern void invoice_total(json_t *invoice);
extern json_t *invoice_new(const char *customer, const char *currency, const char *collection);
extern bool invoice_finalize(Call *call, Obj *invoice);
extern bool invoice_collect_payment(Call *call, Obj *invoice);

/* stripe_invoiceitem.c */
extern size_t invoice_collect_items(Call *call, Obj *invoice);

/* stripe_payment.c */
extern Obj *payment_attempt(Call *call, const json_t *invoice);
/* Gives back a part of what an invoice was paid with. NULL: an error has been answered. */
extern Obj *refund_invoice(Call *call, const char *invoice, int64_t amount);

/* stripe_expand.c */
extern void stripe_expand(Call *call);

/* small readings of JSON */
extern const char *get_string(const json_t *json, const char *name);
extern int64_t get_int(const json_t *json, const char *name);
extern void set_int(json_t *json, const char *name, int64_t value);
extern void set_string(json_t *json, const char *name, const char *value);
extern void set_null(json_t *json, const char *name);
extern void add_missing(json_t *json, json_t *defaults);

#endif
