/*
 * egress.c
 *		The allow list: parsing of entries and the two checks of egress.h.
 */
#include "http/egress.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SE_EGRESS_MAX_ENTRY 300 /* longest DNS name, scheme, port and slack */

typedef enum SeEntryKind
{
	SE_ENTRY_NAME,	 /* exact name */
	SE_ENTRY_SUFFIX, /* *.name: host ends in "." name */
	SE_ENTRY_NETWORK /* address with prefix length */
} SeEntryKind;

typedef struct SeAddress
{
	int bytes; /* 4 or 16 */
	uint8_t octet[16];
} SeAddress;

typedef struct SeEntry
{
	SeEntryKind kind;
	bool plain;		   /* plain http allowed */
	int port;		   /* 0: every port */
	char *name;		   /* NAME, SUFFIX: lower case, no trailing dot */
	SeAddress network; /* NETWORK */
	int bits;
} SeEntry;

struct SeEgress
{
	int references;
	int nentries;
	char **source; /* the entries as given, for se_egress_equal */
	SeEntry *entries;
};

static char parse_error[512];

__attribute__((format(gnu_printf, 2, 3))) static bool
fail(char **err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(parse_error, sizeof(parse_error), fmt, args);
	va_end(args);
	if (err)
		*err = parse_error;
	return false;
}

/* Address literal, brackets allowed around IPv6.  Zone ids are no literals. */
static bool
parse_address(const char *text, SeAddress *address)
{
	char buf[64];
	size_t len = strlen(text);

	if (len >= 2 && text[0] == '[' && text[len - 1] == ']')
	{
		text++;
		len -= 2;
	}
	if (len == 0 || len >= sizeof(buf))
		return false;
	memcpy(buf, text, len);
	buf[len] = '\0';

	memset(address, 0, sizeof(*address));
	if (inet_pton(AF_INET, buf, address->octet) == 1)
		address->bytes = 4;
	else if (inet_pton(AF_INET6, buf, address->octet) == 1)
		address->bytes = 16;
	return address->bytes != 0;
}

static bool
address_in(const SeAddress *address, const SeAddress *network, int bits)
{
	int bytes = bits / 8;
	int rest = bits % 8;

	if (address->bytes != network->bytes || memcmp(address->octet, network->octet, bytes) != 0)
		return false;
	return rest == 0 || ((address->octet[bytes] ^ network->octet[bytes]) >> (8 - rest)) == 0;
}

/* Lower case without one trailing dot.  Returns false if not a DNS name. */
static bool
normalize_name(const char *text, char *name, size_t size)
{
	size_t len = strlen(text);

	if (len > 1 && text[len - 1] == '.')
		len--;
	if (len == 0 || len > 253 || len >= size)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) text[i];
		bool at_edge = i == 0 || i + 1 == len || text[i - 1] == '.' || text[i + 1] == '.';
		bool label_char = c < 128 && (isalnum(c) || c == '_');

		/* A hyphen or dot must have a label character on each side. */
		if (!label_char && (at_edge || (c != '-' && c != '.')))
			return false;
		name[i] = se_ascii_lower(text[i]);
	}
	name[len] = '\0';
	return true;
}

static bool
parse_port(const char *text, int *port)
{
	long value;
	char *end;

	if (!isdigit((unsigned char) text[0]))
		return false;
	value = strtol(text, &end, 10);
	if (*end != '\0' || value < 1 || value > 65535)
		return false;
	*port = (int) value;
	return true;
}

/* Cut "host:port" or "[v6]:port" in place; a bare IPv6 has no port. */
static bool
split_port(char *text, int *port)
{
	char *colon = strrchr(text, ':');
	char *bracket = strchr(text, ']');

	if (colon == NULL || (bracket != NULL && colon < bracket))
		return true;
	if (bracket == NULL && strchr(text, ':') != colon)
		return true;
	*colon = '\0';
	return parse_port(colon + 1, port);
}

static bool
parse_network(char *text, SeEntry *entry)
{
	char *slash = strchr(text, '/');
	int bits = -1;

	if (slash != NULL)
	{
		char *end;

		*slash = '\0';
		if (!isdigit((unsigned char) slash[1]))
			return false;
		bits = (int) strtol(slash + 1, &end, 10);
		if (*end != '\0')
			return false;
	}
	if (!parse_address(text, &entry->network))
		return false;
	if (bits < 0)
		bits = entry->network.bytes * 8;
	if (bits > entry->network.bytes * 8)
		return false;
	entry->kind = SE_ENTRY_NETWORK;
	entry->bits = bits;
	return true;
}

static bool
parse_name(const char *source, const char *text, SeEntry *entry, char **err)
{
	char name[256];

	entry->kind = SE_ENTRY_NAME;
	if (strncmp(text, "*.", 2) == 0)
	{
		entry->kind = SE_ENTRY_SUFFIX;
		text += 2;
		if (strchr(text, '.') == NULL)
			return fail(err, "allowed host \"%s\": a wildcard needs a domain below the top level",
						source);
	}
	if (!normalize_name(text, name, sizeof(name)))
		return fail(
			err,
			"allowed host \"%s\" is neither a host name nor an address (write international names in punycode)",
			source);
	if (strcmp(name, "localhost") == 0 && entry->port == 0)
		return fail(err, "allowed host \"%s\" needs a port, for example localhost:8080", source);
	entry->name = strdup(name);
	return entry->name != NULL || fail(err, "out of memory");
}

static bool
parse_entry(const char *source, SeEntry *entry, char **err)
{
	char buf[SE_EGRESS_MAX_ENTRY];
	char *text = buf;
	int default_port = 0;
	size_t len = strlen(source);

	if (len == 0 || len >= sizeof(buf))
		return fail(err, "allowed host \"%.64s\" is empty or too long", source);
	memcpy(buf, source, len + 1);

	if (strncmp(text, "http://", 7) == 0)
	{
		text += 7;
		entry->plain = true;
		default_port = 80;
	}
	else if (strncmp(text, "https://", 8) == 0)
	{
		text += 8;
		default_port = 443;
	}
	if (default_port != 0)
	{
		len = strlen(text);
		if (len > 0 && text[len - 1] == '/')
			text[len - 1] = '\0';
		if (strchr(text, '/') != NULL)
			return fail(err, "allowed host \"%s\" must end after host and port", source);
	}
	if (strchr(text, '@') != NULL)
		return fail(err, "an allowed host must not contain a user name");
	if (!split_port(text, &entry->port))
		return fail(err, "allowed host \"%s\" has an invalid port", source);
	if (entry->port == 0)
		entry->port = default_port;

	if (parse_network(text, entry))
		return true;
	if (strchr(source + (text - buf), '/') != NULL && default_port == 0)
		return fail(err, "allowed host \"%s\" is not a valid network", source);
	return parse_name(source, text, entry, err);
}

SeEgress *
se_egress_parse(const char *const *entries, int n, char **err)
{
	SeEgress *egress = calloc(1, sizeof(SeEgress));

	if (err)
		*err = NULL;
	if (egress == NULL)
	{
		fail(err, "out of memory");
		return NULL;
	}
	egress->references = 1;
	egress->source = calloc(n > 0 ? n : 1, sizeof(char *));
	egress->entries = calloc(n > 0 ? n : 1, sizeof(SeEntry));
	if (egress->source == NULL || egress->entries == NULL)
	{
		fail(err, "out of memory");
		se_egress_free(egress);
		return NULL;
	}
	for (int i = 0; i < n; i++)
	{
		egress->nentries = i + 1; /* so that a half made entry is freed */
		if (!parse_entry(entries[i], &egress->entries[i], err) ||
			((egress->source[i] = strdup(entries[i])) == NULL && !fail(err, "out of memory")))
		{
			se_egress_free(egress);
			return NULL;
		}
	}
	return egress;
}

SeEgress *
se_egress_ref(const SeEgress *egress)
{
	SeEgress *counted = (SeEgress *) egress;

	__atomic_add_fetch(&counted->references, 1, __ATOMIC_RELAXED);
	return counted;
}

void
se_egress_free(SeEgress *egress)
{
	if (egress == NULL || __atomic_sub_fetch(&egress->references, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	for (int i = 0; i < egress->nentries; i++)
	{
		free(egress->source[i]);
		free(egress->entries[i].name);
	}
	free(egress->source);
	free(egress->entries);
	free(egress);
}

bool
se_egress_equal(const SeEgress *a, const SeEgress *b)
{
	if (a == b)
		return true;
	if (a->nentries != b->nentries)
		return false;
	for (int i = 0; i < a->nentries; i++)
	{
		if (strcmp(a->source[i], b->source[i]) != 0)
			return false;
	}
	return true;
}

static bool
name_matches(const SeEntry *entry, const char *name)
{
	size_t host_len;
	size_t suffix_len;

	if (entry->kind == SE_ENTRY_NAME)
		return strcmp(name, entry->name) == 0;
	if (entry->kind != SE_ENTRY_SUFFIX)
		return false;
	host_len = strlen(name);
	suffix_len = strlen(entry->name);
	return host_len > suffix_len + 1 && name[host_len - suffix_len - 1] == '.' &&
		   strcmp(name + host_len - suffix_len, entry->name) == 0;
}

bool
se_egress_check_host(const SeEgress *egress, const char *host, int port, bool plain, char *err,
					 size_t errlen)
{
	SeAddress address;
	bool literal = parse_address(host, &address);
	bool only_plain_missing = false;
	char name[256];

	if (!literal && !normalize_name(host, name, sizeof(name)))
	{
		snprintf(err, errlen, "the host of the URL is not a valid name");
		return false;
	}
	for (int i = 0; i < egress->nentries; i++)
	{
		const SeEntry *entry = &egress->entries[i];

		if (entry->port != 0 && entry->port != port)
			continue;
		if (literal ? entry->kind != SE_ENTRY_NETWORK ||
						  !address_in(&address, &entry->network, entry->bits)
					: !name_matches(entry, name))
			continue;
		if (!plain || entry->plain)
			return true;
		only_plain_missing = true;
	}
	if (only_plain_missing)
		snprintf(
			err, errlen,
			"plain http to \"%.100s\" port %d is not allowed (only an entry http://%.60s:%d would allow it)",
			host, port, host, port);
	else
		snprintf(err, errlen, "host \"%.100s\" port %d is not in the list of allowed hosts", host,
				 port);
	return false;
}

/* Does a network entry list this address? */
static bool
address_listed(const SeEgress *egress, const SeAddress *address, int port)
{
	for (int i = 0; i < egress->nentries; i++)
	{
		const SeEntry *entry = &egress->entries[i];

		if (entry->kind == SE_ENTRY_NETWORK && (entry->port == 0 || entry->port == port) &&
			address_in(address, &entry->network, entry->bits))
			return true;
	}
	return false;
}

/* The IPv4 address that an IPv4-mapped or NAT64 address stands for. */
static bool
embedded_address(const SeAddress *address, SeAddress *inner, bool *nat)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	static const uint8_t nat64[12] = {0x00, 0x64, 0xff, 0x9b};

	if (address->bytes != 16 ||
		(memcmp(address->octet, mapped, 12) != 0 && memcmp(address->octet, nat64, 12) != 0))
		return false;
	*nat = memcmp(address->octet, nat64, 12) == 0;
	memset(inner, 0, sizeof(*inner));
	inner->bytes = 4;
	memcpy(inner->octet, address->octet + 12, 4);
	return true;
}

/*
 * May this special address be used all the same?  An IPv4-mapped address is
 * judged as the IPv4 address it stands for.
 */
static bool
special_allowed(const SeEgress *egress, const char *class, const char *host, int port,
				const SeAddress *address)
{
	SeAddress inner;
	bool nat;
	char name[256];

	if (embedded_address(address, &inner, &nat))
	{
		struct sockaddr_in in4 = {.sin_family = AF_INET};
		bool inner_listed = address_listed(egress, &inner, port);

		/*
		 * Listing 64:ff9b::/96 means "our way to the Internet is NAT64", not
		 * "reach our private networks through it": what the address stands
		 * for must pass by itself.
		 */
		memcpy(&in4.sin_addr, inner.octet, 4);
		if (!nat)
			return inner_listed;
		return address_listed(egress, address, port) &&
			   (inner_listed || se_address_class((struct sockaddr *) &in4) == NULL);
	}
	if (address_listed(egress, address, port))
		return true;

	/* "localhost:8070" in the list is as explicit as 127.0.0.1:8070. */
	if (strcmp(class, "loopback") == 0 && normalize_name(host, name, sizeof(name)) &&
		strcmp(name, "localhost") == 0)
	{
		char ignored[8];

		return se_egress_check_host(egress, host, port, false, ignored, sizeof(ignored));
	}
	return false;
}

bool
se_egress_check_address(const SeEgress *egress, const char *host, int port,
						const struct sockaddr *addr, char *err, size_t errlen)
{
	const char *class = se_address_class(addr);
	SeAddress address = {0};
	char text[INET6_ADDRSTRLEN] = "?";

	if (class == NULL)
		return true;
	if (addr->sa_family == AF_INET)
	{
		address.bytes = 4;
		memcpy(address.octet, &((const struct sockaddr_in *) addr)->sin_addr, 4);
	}
	else if (addr->sa_family == AF_INET6)
	{
		address.bytes = 16;
		memcpy(address.octet, &((const struct sockaddr_in6 *) addr)->sin6_addr, 16);
	}
	if (address.bytes != 0)
	{
		if (special_allowed(egress, class, host, port, &address))
			return true;
		inet_ntop(addr->sa_family, address.octet, text, sizeof(text));
	}
	snprintf(
		err, errlen,
		"host \"%.100s\" resolved to %s, a %s address that is not in the list of allowed hosts",
		host, text, class);
	return false;
}
