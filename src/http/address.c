/*
 * address.c
 *		Class of an IP address: public, or one that needs an explicit entry.
 *
 * IPv4 lists what is special and takes the rest as public.  IPv6 does it the
 * other way round: only 2000::/3 is handed out to the Internet, so everything
 * outside is refused, and within it the ranges that carry another address or
 * nobody's are named.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

#include "http/egress.h"

typedef struct SeRange4
{
	uint32_t base;
	int bits;
	const char *class;
} SeRange4;

static const SeRange4 special4[] = {
	{0x00000000, 8, "unspecified"},		   {0x0A000000, 8, "private"},
	{0x64400000, 10, "carrier-grade NAT"}, {0x7F000000, 8, "loopback"},
	{0xA9FE0000, 16, "link-local"},		   {0xAC100000, 12, "private"},
	{0xC0000000, 24, "reserved"},		   {0xC0000200, 24, "documentation"},
	{0xC0586300, 24, "reserved"},		   {0xC0A80000, 16, "private"},
	{0xC6120000, 15, "benchmarking"},	   {0xC6336400, 24, "documentation"},
	{0xCB007100, 24, "documentation"},	   {0xE0000000, 4, "multicast"},
	{0xF0000000, 4, "reserved"},
};

typedef struct SeRange6
{
	uint8_t base[16];
	int bits;
	const char *class;
} SeRange6;

/* First match counts, so narrower ranges stand before wider ones. */
static const SeRange6 special6[] = {
	{{0}, 128, "unspecified"},
	{{[15] = 1}, 128, "loopback"},
	{{[10] = 0xff, [11] = 0xff}, 96, "IPv4-mapped"},
	{{0}, 96, "IPv4-compatible"},
	{{0x00, 0x64, 0xff, 0x9b}, 96, "NAT64"},
	{{0x00, 0x64, 0xff, 0x9b, 0x00, 0x01}, 48, "NAT64"},
	{{0xfc}, 7, "private"},
	{{0xfe, 0x80}, 10, "link-local"},
	{{0xfe, 0xc0}, 10, "private"},
	{{0xff}, 8, "multicast"},
	{{0x20, 0x01, 0x0d, 0xb8}, 32, "documentation"},
	{{0x3f, 0xff}, 20, "documentation"},
	{{0x20, 0x01}, 23, "reserved"}, /* protocol assignments, Teredo, ORCHID */
	{{0x20, 0x02}, 16, "6to4"},
};

static bool
prefix_equal(const uint8_t *a, const uint8_t *b, int bits)
{
	int bytes = bits / 8;
	int rest = bits % 8;

	if (memcmp(a, b, bytes) != 0)
		return false;
	if (rest == 0)
		return true;
	return ((a[bytes] ^ b[bytes]) >> (8 - rest)) == 0;
}

static const char *
class4(uint32_t address)
{
	for (size_t i = 0; i < sizeof(special4) / sizeof(special4[0]); i++)
	{
		uint32_t mask = ~(uint32_t) 0 << (32 - special4[i].bits);

		if ((address & mask) == special4[i].base)
			return special4[i].class;
	}
	return NULL;
}

static const char *
class6(const uint8_t *address)
{
	for (size_t i = 0; i < sizeof(special6) / sizeof(special6[0]); i++)
	{
		if (prefix_equal(address, special6[i].base, special6[i].bits))
			return special6[i].class;
	}
	if ((address[0] & 0xe0) != 0x20)
		return "reserved";
	return NULL;
}

const char *
se_address_class(const struct sockaddr *addr)
{
	if (addr->sa_family == AF_INET)
	{
		struct sockaddr_in in4;

		memcpy(&in4, addr, sizeof(in4));
		return class4(ntohl(in4.sin_addr.s_addr));
	}
	if (addr->sa_family == AF_INET6)
	{
		struct sockaddr_in6 in6;

		memcpy(&in6, addr, sizeof(in6));
		return class6(in6.sin6_addr.s6_addr);
	}
	return "unknown";
}
