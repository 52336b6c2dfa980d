/*
 * system.h: the external systems that this process speaks for, and exchanges with them.
 *
 * All traffic of a system, both directions, leaves through here: one place for its mode, limits,
 * breaker, login session and secrets. Push, pull and one-off calls hand in exchanges; an exchange
 * is sent when the system's limits allow it, and its callback runs from the hub's loop with no
 * transaction open.
 */
#ifndef SE_SYSTEM_H
#define SE_SYSTEM_H

#include "postgres.h"

#include "lib/ilist.h"

#include "connector/connector.h"
#include "govern/breaker.h"
#include "govern/limit.h"
#include "http/http.h"

typedef enum SeMode
{
	SE_MODE_LIVE,
	SE_MODE_DRY_RUN, /* render, validate, record, send nothing */
	SE_MODE_PAUSED
} SeMode;

/*
 * Deliveries and calls on one side, reading on the other. Each is sure of half of the system's
 * requests in flight, and may use what the other leaves: neither a long walk through pages nor a
 * backlog of deliveries starves the other. What nobody waits for (a listing of everything, a backfill)
 * comes behind both, and gets one turn in sixteen while they leave it none.
 */
typedef enum SePriority
{
	SE_WRITING,
	SE_READING,
	SE_BACKGROUND
} SePriority;

#define SE_PRIORITIES 3

typedef struct SeSystem
{
	int id; /* sync.system.id */
	char *name;
	MemoryContext cxt; /* everything below; replaced as a whole when configuration changes */
	SeMode mode;
	bool usable;	  /* false: see problem */
	char *problem;	  /* why it cannot be spoken to: no connector, bad option, bad secret */
	bool held;		  /* this process holds the system's advisory lock */
	int connector_id; /* sync.connector.id of manifest */
	SeManifest *manifest;
	char *base_url;
	Jsonb *param;	   /* connector parameters: server options over declared defaults */
	Jsonb *entity;	   /* legal entity of the server option legal_entity; empty object without */
	Jsonb *vars;	   /* {"param": …, "entity": …}, what the pull functions take */
	List *secret_refs; /* SeHeader *: declared name, reference */
	SeSecrets secrets;
	SeSession session;
	struct SeCredentials *credentials; /* what was made of these, see credentials.h */
	SeEgress *egress;
	char *proxy;
	char *ca_file;
	bool http2;
	int timeout_ms;
	int connect_timeout_ms;
	int max_in_flight;
	int max_attempts;
	int64 settle_ms;   /* server option, else the manifest's */
	bool settle_given; /* it is the option */
	SeLimit limit;
	SeBreaker breaker;
	TimestampTz blocked_until; /* Retry-After of a throttled answer, or pause after failed logins */
	int in_flight;
	double answer_rate; /* a second, lately */
	int answers;		/* since counted_at */
	TimestampTz counted_at;
	bool logged_in; /* credentials were had the last time we looked */
	bool logging_in;
	int auth_failures;				   /* in a row */
	int outstanding[SE_PRIORITIES];	   /* by SePriority: handed in and not yet called back */
	dlist_head waiting[SE_PRIORITIES]; /* by SePriority: SeExchange, not yet sent */
	int unsent[SE_PRIORITIES];		   /* how many these are */
	SePriority last_sent;			   /* of the first two, which take turns */
	int since_background;			   /* requests sent since one of those behind both was */
	int pins;		 /* answers in hand that still need what made their requests */
	List *retired;	 /* MemoryContext: configurations that requests and answers still use */
	char *signature; /* what the configuration was built from; changes when it must be built anew */
} SeSystem;

typedef struct SeReply
{
	SeHttpPhase phase; /* ANSWERED: answer and verdict are set */
	SeAnswer answer;
	SeVerdict verdict; /* NOT_SENT: throttled; MAYBE_SENT: ambiguous */
	int64 latency_us;
	TimestampTz began_at; /* when the request was handed to libcurl */
} SeReply;

typedef struct SeExchange SeExchange;
struct SeExchange
{
	dlist_node node; /* private */
	SeSystem *system;
	const SeManifest *manifest; /* the one that op belongs to; set by se_exchange_submit() */
	const SeOperation *op;
	SeRequestOut request;		 /* must stay valid until done is called */
	const char *idempotency_key; /* NULL: none */
	TimestampTz began_at;		 /* set when it is sent */
	bool background;			 /* nobody waits for it */
	SePriority priority;		 /* private: follows from op and background */
	bool submitted;				 /* private: counted in the system's outstanding */
	bool relogged;				 /* private: sent again after a login */
	/*
	 * Called once, from the hub's loop, in a memory context that is reset afterwards; no
	 * transaction is open, and it may open one. Must not throw for what the answer holds.
	 */
	void (*done)(SeExchange *exchange, SeReply *reply);
	void *arg;
};

/*
 * (Re)reads systems in use from the registry; opens its own transaction. What is in flight goes on
 * with the configuration that it began with.
 */
extern void se_systems_load(void);

/* Builds one system for a backend that makes a single request (sync.fetch); inside a transaction. */
extern SeSystem *se_system_build(const char *name);

/* Requests that write, handed in and unanswered, of systems that are not paused. */
extern int se_systems_under_way(void);

/* Gives up every lock and forgets every system; requests must have been cancelled. */
extern void se_systems_reset(void);

/* Blanks out secrets in a text that will be stored; palloc'd, at most `limit` bytes, valid in the server's encoding. */
extern char *se_system_redact(SeSystem *system, const char *text, size_t len, size_t limit);
extern SeSystem *se_system_by_id(int id);
extern List *se_systems(void); /* SeSystem * */

/*
 * How many of `wanted` writing requests may be handed in now: limits, breaker, mode and login
 * considered. 0 for a paused, unusable, blocked or dry_run system, and while so few could go that it
 * is better to wait for more room: each batch of claims costs a flush of the WAL.
 *
 * Where requests carry idempotency keys, some more than can be sent at once are allowed: about what
 * the system answers in AHEAD_MS, so that it never waits for our disk. After a crash they are repeated
 * under their keys, whether they had left or not; without keys each would have to be looked up.
 */
extern int se_system_capacity(SeSystem *system, int wanted, TimestampTz now);

/* It asked for a pause: so long, or a second where it did not say (-1). */
extern void se_system_throttle(SeSystem *system, int64 retry_after_ms, TimestampTz now);

/* True when the system may be pulled from and called (live, usable, not blocked). */
extern bool se_system_speaks(SeSystem *system, TimestampTz now);

/* Makes the HTTP loop of this process (once), and gives its descriptor to wait on. */
extern void se_exchange_init(void);
extern int se_exchange_fd(void);

/* Requests of this process that are unanswered. */
extern int se_exchange_in_flight(void);

/* Drops everything that is waiting or in flight; no callback runs. */
extern void se_exchange_reset(void);

/* Hand in an exchange; it is sent as soon as the limits allow. */
extern void se_exchange_submit(SeExchange *exchange);

/* Sends what may be sent, takes what has finished, calls back. False when nothing happened. */
extern bool se_exchange_drive(TimestampTz now);

/* When the next waiting exchange or blocked system wants a look; DT_NOEND: never. */
extern TimestampTz se_exchange_next_due(TimestampTz now);

#endif
