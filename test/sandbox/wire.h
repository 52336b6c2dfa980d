/*
 * wire.h
 *		How a reply goes onto the socket, intact or broken on purpose.
 */
#ifndef SANDBOX_WIRE_H
#define SANDBOX_WIRE_H

#include "http.h"

typedef enum WireMode
{
	WIRE_INTACT,
	WIRE_RESET,		/* RST instead of an answer */
	WIRE_HALF,		/* half of the body, then the connection closes */
	WIRE_TRUNCATED, /* Content-Length promises more than there is */
	WIRE_HUGE,		/* valid JSON of a given size */
	WIRE_INFINITE,	/* a JSON array that never ends */
} WireMode;

/* Sends and empties the reply; the result is for libmicrohttpd. */
extern enum MHD_Result wire_send(struct MHD_Connection *conn, Reply *reply, WireMode mode,
								 int64_t huge_bytes);

#endif
