/*
 * pipeline.h
 *		The way of a request: journal, faults, execution, answer. And the
 *		state that all parts share.
 */
#ifndef SANDBOX_PIPELINE_H
#define SANDBOX_PIPELINE_H

#include "http.h"

typedef struct Config
{
	char api_key[128];
	int64_t search_lag_ms;	  /* how long a search misses a write */
	double rate_limit;		  /* requests a second, 0: none */
	int64_t retry_after;	  /* Retry-After of a 429 in seconds, -1: none */
	int64_t idempotency_ttl;  /* seconds */
	bool replay_header;		  /* Idempotent-Replayed */
	bool should_retry_header; /* Stripe-Should-Retry */
	double tax_percent;		  /* on every invoice line */
	double fee_percent;		  /* of the processor, on what is charged */
	int64_t dispute_fee;	  /* minor units */
	bool rest_honours_keys;
	bool rest_unique_external; /* POST of a known external id is 409 */
	bool rest_require_if_match;
	char rest_token[128];	  /* "": no credentials wanted */
	char rest_refuse[128];	  /* records whose name holds this are refused; "": none */
	char rest_forget[128];	  /* the answer to a batch leaves these out; "": none */
	bool rest_all_or_nothing; /* a batch with one refused record is refused */
} Config;

extern Config config;

extern void config_defaults(void);
extern void state_lock(void);
extern void state_unlock(void);
extern void state_reset(void);
extern void state_seed(uint64_t seed);

/* True when this request is one too many; wants the state lock. */
extern bool rate_limit_exceeded(Reply *reply);

extern int64_t sink_count(void);

/* Called by the HTTP server, without the lock. */
extern enum MHD_Result pipeline_serve(struct MHD_Connection *conn, Request *req);

#endif
