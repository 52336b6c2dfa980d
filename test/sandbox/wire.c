/*
 * wire.c
 *		How a reply goes onto the socket, intact or broken on purpose.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "wire.h"

/* What a generated body consists of: head, filler as needed, tail. */
typedef struct Stream
{
	char *text;		  /* WIRE_HALF, WIRE_TRUNCATED */
	size_t available; /* then the connection closes */
	uint64_t total;	  /* WIRE_HUGE */
	WireMode mode;
} Stream;

static const char huge_head[] = "{\"padding\":\"";
static const char huge_tail[] = "\"}";
static const char endless_unit[] = "{\"id\":\"endless\"},";

/*
 * Connecting to no address makes Linux abort the connection with an RST at
 * once. SO_LINGER would not do: libmicrohttpd shuts the socket down before it
 * closes it, and the client would see an orderly end.
 */
static void
send_rst(struct MHD_Connection *conn)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct sockaddr nowhere = {.sa_family = AF_UNSPEC};

	if (info != NULL)
		(void) connect(info->connect_fd, &nowhere, sizeof(nowhere));
}

static ssize_t
read_prepared(Stream *s, uint64_t pos, char *out, size_t max)
{
	size_t n;

	if (pos >= s->available)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	n = s->available - (size_t) pos;
	if (n > max)
		n = max;
	memcpy(out, s->text + pos, n);
	return (ssize_t) n;
}

static char
huge_byte(const Stream *s, uint64_t pos)
{
	uint64_t tail_at = s->total - (sizeof(huge_tail) - 1);

	if (pos < sizeof(huge_head) - 1)
		return huge_head[pos];
	return pos < tail_at ? 'x' : huge_tail[pos - tail_at];
}

static ssize_t
read_stream(void *cls, uint64_t pos, char *out, size_t max)
{
	Stream *s = cls;

	if (s->mode == WIRE_HALF || s->mode == WIRE_TRUNCATED)
		return read_prepared(s, pos, out, max);
	for (size_t i = 0; i < max; i++, pos++)
	{
		if (s->mode == WIRE_HUGE && pos >= s->total)
			return i > 0 ? (ssize_t) i : MHD_CONTENT_READER_END_OF_STREAM;
		if (s->mode == WIRE_HUGE)
			out[i] = huge_byte(s, pos);
		else
			out[i] = pos == 0 ? '[' : endless_unit[(pos - 1) % (sizeof(endless_unit) - 1)];
	}
	return (ssize_t) max;
}

static void
free_stream(void *cls)
{
	Stream *s = cls;

	free(s->text);
	free(s);
}

static struct MHD_Response *
broken_response(Reply *reply, WireMode mode, int64_t huge_bytes)
{
	Stream *s = xcalloc(1, sizeof(*s));
	uint64_t declared = MHD_SIZE_UNKNOWN;
	uint64_t smallest = sizeof(huge_head) + sizeof(huge_tail);

	s->mode = mode;
	s->text = reply->body.data;
	s->available = reply->body.len;
	memset(&reply->body, 0, sizeof(reply->body));
	if (mode == WIRE_HALF)
	{
		declared = s->available;
		s->available /= 2;
	}
	else if (mode == WIRE_TRUNCATED)
		declared = s->available + 1000;
	else if (mode == WIRE_HUGE)
	{
		s->total = (uint64_t) huge_bytes > smallest ? (uint64_t) huge_bytes : smallest;
		declared = s->total;
	}
	return MHD_create_response_from_callback(declared, 16384, read_stream, s, free_stream);
}

static struct MHD_Response *
intact_response(Reply *reply)
{
	struct MHD_Response *response;

	response = MHD_create_response_from_buffer(reply->body.len, reply->body.data,
											   reply->body.data ? MHD_RESPMEM_MUST_FREE
																: MHD_RESPMEM_PERSISTENT);
	memset(&reply->body, 0, sizeof(reply->body));
	return response;
}

enum MHD_Result
wire_send(struct MHD_Connection *conn, Reply *reply, WireMode mode, int64_t huge_bytes)
{
	struct MHD_Response *response;
	enum MHD_Result result;
	const char *name;
	json_t *value;

	if (mode == WIRE_RESET)
	{
		send_rst(conn);
		reply_clear(reply);
		return MHD_NO;
	}
	if (mode == WIRE_INTACT)
		response = intact_response(reply);
	else
		response = broken_response(reply, mode, huge_bytes);
	MHD_add_response_header(response, "Content-Type",
							reply->content_type ? reply->content_type : "application/json");
	json_object_foreach (reply->headers, name, value)
		MHD_add_response_header(response, name, json_string_value(value));
	result = MHD_queue_response(conn, (unsigned) reply->status, response);
	MHD_destroy_response(response);
	reply_clear(reply);
	return result;
}
