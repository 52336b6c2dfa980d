/*
 * control.h
 *		The tests' own interface, /_sandbox/…
 */
#ifndef SANDBOX_CONTROL_H
#define SANDBOX_CONTROL_H

#include "http.h"

/* With the state lock held. */
extern void control_handle(const Request *req, Reply *reply);

#endif
