/*
 * load.h
 *		State as it is given: whole objects in bulk, and single ones changed behind the API's back.
 */
#ifndef SANDBOX_LOAD_H
#define SANDBOX_LOAD_H

#include "http.h"

/* One object a line, or a JSON array. The body is taken apart. */
extern void load_objects(Buf *body, bool events, Reply *reply);
/* {object, id, set: {"a.b.0.c": value}, unset: [path], delete, purge, event} */
extern void load_tamper(const json_t *body, Reply *reply);

#endif
