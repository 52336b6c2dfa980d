/*
 * fault.h
 *		Rules that make the sandbox misbehave.
 */
#ifndef SANDBOX_FAULT_H
#define SANDBOX_FAULT_H

#include "http.h"

typedef enum FaultKind
{
	FAULT_NONE,
	/* these modify the request and let further rules apply */
	FAULT_LATENCY,
	FAULT_SAME_SECOND,
	FAULT_LATE_PAGE,
	FAULT_SLOW_EFFECT,
	/* these decide the answer */
	FAULT_STATUS,
	FAULT_RESET_BEFORE,
	FAULT_RESET_AFTER,
	FAULT_RESET_MID_BODY,
	FAULT_TIMEOUT_AFTER_EFFECT,
	FAULT_LATE_EFFECT,
	FAULT_GARBAGE,
	FAULT_HUGE,
	FAULT_INFINITE,
	FAULT_BAD_CHARSET,
	FAULT_NUL,
	FAULT_TRUNCATED,
	FAULT_REDIRECT,
} FaultKind;

/* What the rules that matched one request ask for. */
typedef struct FaultPlan
{
	FaultKind kind;	  /* at most one that decides the answer */
	const char *name; /* of the last rule that fired, for the journal */
	int64_t latency_ms;
	int64_t ms;
	int64_t hold_ms;
	int64_t bytes;
	int status;
	json_t *headers; /* the plan's own reference */
	char *body;		 /* the plan's own copy */
	char *location;
	char *field;
	bool effect; /* FAULT_STATUS: execute nevertheless */
	bool store;	 /* FAULT_STATUS: under the idempotency key */
} FaultPlan;

/* These want the state lock held. */
extern void fault_plan(Request *req, FaultPlan *plan);
extern json_t *fault_add(const json_t *spec, const char **error);
extern json_t *fault_report(void);
extern void faults_clear(void);

extern void fault_plan_free(FaultPlan *plan);
extern bool faults_present(void); /* needs no lock */

#endif
