/*
 * billing.h
 *		The engine that bills subscriptions when a test tells it to.
 */
#ifndef SANDBOX_BILLING_H
#define SANDBOX_BILLING_H

#include <jansson.h>

/* With the state lock held. Options: at, advance, subscription. */
extern json_t *billing_run(const json_t *options);

/* By currency: finalised invoices, their sums, and what is paid or open. */
extern json_t *billing_totals(void);

#endif
