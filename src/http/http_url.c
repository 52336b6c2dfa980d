/*
 * http_url.c
 *		Where a URL goes, as libcurl's own parser reads it.
 */
#include "http/http_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Take scheme, host and port of a URL apart with libcurl's own parser, so that
 * what is checked is what libcurl connects to ("127.1" comes out as
 * 127.0.0.1).  host: lower case, at most size bytes.
 */
static const char *
parse_url(CURLU *parser, const char *url, char *host, size_t size, int *port, bool *tls)
{
	char *part = NULL;
	const char *problem = NULL;
	CURLUcode code = curl_url_set(parser, CURLUPART_URL, url, CURLU_DISALLOW_USER);

	if (code == CURLUE_USER_NOT_ALLOWED)
		return "the URL contains a user name";
	if (code != CURLUE_OK)
		return "the URL is not valid";

	if (curl_url_get(parser, CURLUPART_SCHEME, &part, 0) != CURLUE_OK)
		return "the URL has no scheme";
	*tls = curl_strequal(part, "https");
	if (!*tls && !curl_strequal(part, "http"))
		problem = "the URL is neither http nor https";
	curl_free(part);
	if (problem != NULL)
		return problem;

	if (curl_url_get(parser, CURLUPART_HOST, &part, 0) != CURLUE_OK)
		return "the URL has no host";
	if (strlen(part) >= size)
		problem = "the host name is too long";
	else
	{
		for (size_t i = 0; i <= strlen(part); i++)
			host[i] = se_ascii_lower(part[i]);
	}
	curl_free(part);
	if (problem != NULL)
		return problem;

	if (curl_url_get(parser, CURLUPART_ZONEID, &part, 0) == CURLUE_OK)
	{
		curl_free(part);
		return "the URL has an address with a zone";
	}
	if (curl_url_get(parser, CURLUPART_PORT, &part, CURLU_DEFAULT_PORT) != CURLUE_OK)
		return "the URL has no port";
	*port = atoi(part);
	curl_free(part);
	return NULL;
}

/*
 * Length of "scheme://host:port/" where it and all that follows are of such plain characters that
 * nobody reads it in two ways; else 0.
 */
static size_t
plain_origin(const char *url)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:";
	size_t scheme = strspn(url, "https");
	size_t host;

	if (strncmp(url + scheme, "://", 3) != 0)
		return 0;
	host = strspn(url + scheme + 3, plain);
	if (host == 0 || url[scheme + 3 + host] != '/')
		return 0;
	for (const char *at = url + scheme + 3 + host; *at; at++)
	{
		if (*at <= ' ' || *at > '~' || *at == '\\')
			return 0;
	}
	return scheme + 3 + host + 1;
}

/*
 * A URL that is plain, and begins up to the slash after its host as the last one did, goes to the same
 * place: the parser is not asked again, which takes as long as a third of all else before sending.
 */
static bool
known_origin(const SeHttpLoop *loop, const char *url)
{
	return loop->origin_len > 0 && strncmp(url, loop->origin, loop->origin_len) == 0 &&
		   plain_origin(url) == loop->origin_len;
}

static void
remember_origin(SeHttpLoop *loop, const char *url, const char *host, int port, bool tls)
{
	size_t len = plain_origin(url);

	if (len >= sizeof(loop->origin))
		len = 0;
	memcpy(loop->origin, url, len);
	loop->origin_len = len;
	strcpy(loop->origin_host, host);
	loop->origin_port = port;
	loop->origin_tls = tls;
}

/* See parse_url(). */
const char *
se_http_read_url(SeHttpLoop *loop, const char *given, char *host, size_t size, int *port, bool *tls,
				 char **url)
{
	const char *problem;

	*url = NULL;
	if (known_origin(loop, given))
	{
		strcpy(host, loop->origin_host);
		*port = loop->origin_port;
		*tls = loop->origin_tls;
		return NULL;
	}
	problem = parse_url(loop->scratch, given, host, size, port, tls);
	if (problem != NULL)
		return problem;
	/* libcurl gets the URL as its parser wrote it, not as it was given. */
	if (curl_url_get(loop->scratch, CURLUPART_URL, url, 0) != CURLUE_OK)
		return "the URL is not valid";
	remember_origin(loop, given, host, *port, *tls);
	return NULL;
}

/* The proxy is checked by name only, and may carry a password. */
bool
se_http_check_proxy(SeHttpLoop *loop, const SeHttpRequest *request, char *error, size_t size)
{
	char host[256];
	char reason[300];
	int port;
	char *part = NULL;
	bool scheme_ok;

	if (curl_url_set(loop->scratch, CURLUPART_URL, request->proxy, 0) != CURLUE_OK ||
		curl_url_get(loop->scratch, CURLUPART_SCHEME, &part, 0) != CURLUE_OK)
	{
		snprintf(error, size, "the proxy is not a valid URL");
		return false;
	}
	scheme_ok = curl_strequal(part, "http") || curl_strequal(part, "https");
	curl_free(part);
	part = NULL;
	if (!scheme_ok || curl_url_get(loop->scratch, CURLUPART_HOST, &part, 0) != CURLUE_OK ||
		strlen(part) >= sizeof(host))
	{
		curl_free(part);
		snprintf(error, size, "the proxy is not an http or https URL");
		return false;
	}
	strcpy(host, part);
	curl_free(part);
	part = NULL;

	/* Without a port libcurl takes 1080 for a proxy: demand one. */
	if (curl_url_get(loop->scratch, CURLUPART_PORT, &part, 0) != CURLUE_OK)
	{
		snprintf(error, size, "the proxy URL has no port");
		return false;
	}
	port = atoi(part);
	curl_free(part);

	/* How we speak to the proxy says nothing about the request in it. */
	if (!se_egress_check_host(request->egress, host, port, false, reason, sizeof(reason)))
	{
		snprintf(error, size, "proxy: %s", reason);
		return false;
	}
	return true;
}
