/*
 * rest.h
 *		A plain JSON vendor under /rest/<collection>, unlike Stripe in style.
 */
#ifndef SANDBOX_REST_H
#define SANDBOX_REST_H

#include "http.h"

/* With the state lock held. */
extern void rest_handle(Request *req, Reply *reply);
extern void rest_reset(void);

#endif
