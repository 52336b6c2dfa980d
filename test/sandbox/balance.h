/*
 * balance.h
 *		The balance that a processor holds, and what it does by itself: payouts and disputes.
 */
#ifndef SANDBOX_BALANCE_H
#define SANDBOX_BALANCE_H

#include "stripe.h"

typedef struct Movement
{
	const char *type;	  /* "charge" */
	const char *category; /* of reports; NULL: as the type */
	const char *source;	  /* the object that moved it */
	const char *currency;
	int64_t amount; /* negative: out */
	int64_t fee;
} Movement;

extern int64_t balance_fee(int64_t amount);
extern Obj *balance_move(Call *call, const Movement *m);

/* With the state lock held. */
extern json_t *balance_pay_out(const json_t *options);
/* {charge, amount, reason} opens one, {dispute, status: won | lost} decides it. NULL: no such thing. */
extern json_t *dispute_act(const json_t *options);

#endif
