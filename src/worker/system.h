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
	SE_MODE_DRY_RUN,			/* render, validate, record, send nothing */
	SE_MODE_PAUSED
} SeMode;

typedef struct SeSystem
{
	int			id;				/* sync.system.id */
	char	   *name;
	MemoryContext cxt;			/* everything below; replaced as a whole when configuration changes */
	SeMode		mode;
	bool		usable;			/* false: see problem */
	char	   *problem;		/* why it cannot be spoken to: no connector, bad option, bad secret */
	bool		held;			/* this process holds the system's advisory lock */
	int			connector_id;	/* sync.connector.id of manifest */
	SeManifest *manifest;
	char	   *base_url;
	Jsonb	   *param;			/* connector parameters: server options over declared defaults */
	Jsonb	   *entity;			/* legal entity of the server option legal_entity; empty object without */
	Jsonb	   *vars;			/* {"param": …, "entity": …}, what the pull functions take */
	List	   *secret_refs;	/* SeHeader *: declared name, reference */
	SeSecrets	secrets;
	SeSession	session;
	SeEgress   *egress;
	char	   *proxy;
	char	   *ca_file;
	bool		http2;
	int			timeout_ms;
	int			connect_timeout_ms;
	int			max_in_flight;
	int			max_attempts;
	int64		settle_ms;		/* server option, else the manifest's */
	SeLimit		limit;
	SeBreaker	breaker;
	TimestampTz blocked_until;	/* Retry-After of a throttled answer, or pause after failed logins */
	int			in_flight;
	bool		logging_in;
	int			auth_failures;	/* in a row */
	dlist_head	waiting;		/* SeExchange, not yet sent */
} SeSystem;

typedef struct SeReply
{
	SeHttpPhase phase;			/* ANSWERED: answer and verdict are set */
	SeAnswer	answer;
	SeVerdict	verdict;		/* NOT_SENT: throttled; MAYBE_SENT: ambiguous */
	int64		latency_us;
	TimestampTz began_at;		/* when the request was handed to libcurl */
} SeReply;

typedef struct SeExchange SeExchange;
struct SeExchange
{
	dlist_node	node;			/* private */
	SeSystem   *system;
	const SeOperation *op;
	SeRequestOut request;		/* must stay valid until done is called */
	const char *idempotency_key;	/* NULL: none */
	TimestampTz began_at;
	bool		relogged;		/* private: sent again after a login */
	/*
	 * Called once, from the hub's loop, in a memory context that is reset afterwards; no
	 * transaction is open, and it may open one. Must not throw for what the answer holds.
	 */
	void		(*done) (SeExchange *exchange, SeReply *reply);
	void	   *arg;
};

/* (Re)reads systems in use from the registry; inside a transaction. Keeps sessions and limits. */
extern void se_systems_load(void);
extern SeSystem *se_system_by_id(int id);
extern List *se_systems(void);			/* SeSystem * */

/*
 * How many requests may be handed in now and be sent at once: limits, breaker, mode and login
 * considered. 0 for a paused, unusable, blocked or dry_run system.
 */
extern int	se_system_capacity(SeSystem *system, TimestampTz now);

/* True when the system may be pulled from and called (live, usable, not blocked). */
extern bool se_system_speaks(SeSystem *system, TimestampTz now);

/* Hand in an exchange; it is sent as soon as the limits allow. */
extern void se_exchange_submit(SeExchange *exchange);

/* Sends what may be sent, takes what has finished, calls back. False when nothing happened. */
extern bool se_exchange_drive(TimestampTz now);

/* When the next waiting exchange or blocked system wants a look; DT_NOEND: never. */
extern TimestampTz se_exchange_next_due(TimestampTz now);

#endif
