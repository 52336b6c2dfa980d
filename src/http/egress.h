/*
 * egress.h
 *		Which hosts and addresses this server may send requests to.
 *
 * Two locks, both closed by default.  The first is the name: a URL is sent
 * only if an entry of the allow list covers its host, port and scheme.  The
 * second is the address the name resolved to: loopback, private, link-local
 * and other special ranges are refused unless an entry lists that address.
 * The second lock is what stops a public name that somebody points at
 * 169.254.169.254, so it is applied to the address of the socket that is
 * about to be opened, never to an earlier answer of the resolver.
 *
 * Entries (a port after any of them narrows it to that port; without one
 * every port is meant):
 *
 *		api.example.com			that name, https only
 *		*.example.com			every name below it, not example.com itself
 *		https://api.example.com	that name on port 443
 *		http://erp.lan:8069		that name and port, plain http too
 *		10.0.0.0/8				addresses: open the second lock, and allow
 *		[2001:db8::1]:8443		URLs whose host is such an address
 *		127.0.0.1:8070
 *		localhost:8070			also opens loopback for that name; needs a port
 *
 * No server calls here: unit tests include egress.c as it is.
 */
#ifndef SE_HTTP_EGRESS_H
#define SE_HTTP_EGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* As host names have it; tolower() would ask the locale what an I is. */
static inline char
se_ascii_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char) (c - 'A' + 'a') : c;
}

/* Immutable and counted by reference; any thread. */
typedef struct SeEgress SeEgress;

/*
 * Build a policy from n entries; n = 0 gives the policy that refuses all.
 * Returns a policy with one reference, or NULL with *err pointing at a static
 * message that names the entry (valid until the next call; do not free).
 */
extern SeEgress *se_egress_parse(const char *const *entries, int n, char **err);

/* Take one more reference; returns its argument. */
extern SeEgress *se_egress_ref(const SeEgress *egress);

/* Give a reference back; frees with the last one.  NULL is allowed. */
extern void se_egress_free(SeEgress *egress);

/* Do both policies hold the same entries in the same order? */
extern bool se_egress_equal(const SeEgress *a, const SeEgress *b);

/*
 * The first lock.  host: ASCII name, IPv4 or IPv6 literal with or without
 * brackets; plain: the scheme is http.  On refusal fills err (errlen bytes)
 * with a reason that names host and port.
 */
extern bool se_egress_check_host(const SeEgress *egress, const char *host, int port, bool plain,
								 char *err, size_t errlen);

/*
 * The second lock.  host is what the URL said, addr what it resolved to.  On
 * refusal the reason names the class of the address.
 */
extern bool se_egress_check_address(const SeEgress *egress, const char *host, int port,
									const struct sockaddr *addr, char *err, size_t errlen);

/*
 * Class of a special address ("loopback", "private", …), or NULL for one of
 * the public Internet.  Unknown families and ranges are never public.
 */
extern const char *se_address_class(const struct sockaddr *addr);

#endif /* SE_HTTP_EGRESS_H */
