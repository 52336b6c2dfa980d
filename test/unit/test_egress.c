/*
 * test_egress.c
 *		The allow list: entries, names, addresses.
 */
#include "http/address.c"
#include "http/egress.c"

#include "http_tap.h"

static SeEgress *
policy(const char *entry)
{
	char *err;

	return se_egress_parse(&entry, entry ? 1 : 0, &err);
}

static void
entry_ok(const char *entry)
{
	char *err;
	SeEgress *egress = se_egress_parse(&entry, 1, &err);

	ok(egress != NULL, "entry %s is taken (%s)", entry, egress ? "" : err);
	se_egress_free(egress);
}

static void
entry_bad(const char *entry, const char *reason)
{
	char *err;
	SeEgress *egress = se_egress_parse(&entry, 1, &err);

	ok(egress == NULL && strstr(err, reason), "entry \"%.40s\" is refused: %s", entry,
	   egress ? "(taken)" : err);
	se_egress_free(egress);
}

static void
host_is(bool expected, const char *entry, const char *host, int port, bool plain)
{
	char err[300] = "";
	SeEgress *egress = policy(entry);
	bool got = egress && se_egress_check_host(egress, host, port, plain, err, sizeof(err));

	ok(egress && got == expected && got == (err[0] == '\0'), "[%s] %s %s://%s:%d %s",
	   entry ? entry : "", expected ? "allows" : "refuses", plain ? "http" : "https", host, port,
	   err);
	se_egress_free(egress);
}

static void
address_is(bool expected, const char *entry, const char *host, const char *ip, int port)
{
	char err[300] = "";
	SeEgress *egress = policy(entry);
	struct sockaddr_in in4 = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	struct sockaddr *addr = (struct sockaddr *) &in4;
	bool got;

	if (inet_pton(AF_INET, ip, &in4.sin_addr) != 1)
	{
		inet_pton(AF_INET6, ip, &in6.sin6_addr);
		addr = (struct sockaddr *) &in6;
	}
	got = egress && se_egress_check_address(egress, host, port, addr, err, sizeof(err));
	ok(egress && got == expected, "[%s] %s -> %s:%d %s: %s", entry ? entry : "", host, ip, port,
	   expected ? "passes" : "is refused", err);
	se_egress_free(egress);
}

static void
test_entries(void)
{
	entry_ok("api.example.com");
	entry_ok("API.Example.com.");
	entry_ok("*.example.com");
	entry_ok("api.example.com:8443");
	entry_ok("http://erp.lan");
	entry_ok("https://erp.lan:8443/");
	entry_ok("10.0.0.0/8");
	entry_ok("127.0.0.1:8070");
	entry_ok("[::1]:8080");
	entry_ok("::1");
	entry_ok("fd00::/8");
	entry_ok("localhost:1");
	entry_bad("", "empty");
	entry_bad("*", "neither");
	entry_bad("*.com", "wildcard");
	entry_bad("a.*.com", "neither");
	entry_bad("localhost", "needs a port");
	entry_bad("host:0", "port");
	entry_bad("host:65536", "port");
	entry_bad("host:", "port");
	entry_bad("host:80x", "port");
	entry_bad("10.0.0.0/33", "network");
	entry_bad("10.0.0.0/", "network");
	entry_bad("example.com/path", "network");
	entry_bad("http://example.com/path", "must end");
	entry_bad("http://u:p@example.com", "user name");
	entry_bad("b\xc3\xbc"
			  "cher.example",
			  "punycode");
	entry_bad("-a.example", "neither");
	entry_bad("a..b", "neither");
	entry_bad("fe80::1%eth0", "neither");
	entry_bad("a b", "neither");
}

static void
test_hosts(void)
{
	host_is(false, NULL, "api.example.com", 443, false);
	host_is(true, "api.example.com", "api.example.com", 443, false);
	host_is(true, "api.example.com", "API.EXAMPLE.COM.", 8443, false);
	host_is(false, "api.example.com", "api.example.com", 80, true);
	host_is(false, "api.example.com", "xapi.example.com", 443, false);
	host_is(false, "api.example.com", "api.example.com.evil.net", 443, false);
	host_is(true, "api.example.com:8443", "api.example.com", 8443, false);
	host_is(false, "api.example.com:8443", "api.example.com", 443, false);
	host_is(true, "*.example.com", "a.example.com", 443, false);
	host_is(true, "*.example.com", "a.b.example.com", 443, false);
	host_is(false, "*.example.com", "example.com", 443, false);
	host_is(false, "*.example.com", "badexample.com", 443, false);
	host_is(true, "http://erp.lan:8069", "erp.lan", 8069, true);
	host_is(true, "http://erp.lan", "erp.lan", 80, true);
	host_is(false, "http://erp.lan", "erp.lan", 8069, true);
	host_is(true, "10.0.0.0/8", "10.1.2.3", 443, false);
	host_is(false, "10.0.0.0/8", "11.1.2.3", 443, false);
	host_is(false, "10.0.0.0/8", "10.1.2.3", 80, true);
	host_is(false, "10.0.0.0/8", "erp.lan", 443, false);
	host_is(true, "[::1]:8080", "[::1]", 8080, false);
	host_is(true, "[::1]:8080", "[0:0:0:0:0:0:0:1]", 8080, false);
	host_is(false, "*.0.0.1", "127.0.0.1", 443, false);
	host_is(true, "http://127.0.0.1:8070", "127.0.0.1", 8070, true);
	host_is(false, "127.0.0.1:8070", "127.0.0.1", 8070, true);
	host_is(false, "api.example.com", "", 443, false);
	host_is(false, "api.example.com", "fe80::1%eth0", 443, false);
}

static void
test_addresses(void)
{
	static const char *const refused[] = {
		"0.0.0.0",
		"0.1.2.3",
		"10.0.0.1",
		"100.64.0.1",
		"100.127.255.255",
		"127.0.0.1",
		"127.255.255.254",
		"169.254.169.254",
		"172.16.0.1",
		"172.31.255.255",
		"192.0.0.8",
		"192.0.2.1",
		"192.88.99.1",
		"192.168.1.1",
		"198.18.0.1",
		"198.19.255.255",
		"198.51.100.7",
		"203.0.113.9",
		"224.0.0.1",
		"239.1.1.1",
		"240.0.0.1",
		"255.255.255.255",
		"::",
		"::1",
		"::8.8.8.8",
		"::ffff:127.0.0.1",
		"::ffff:8.8.8.8",
		"64:ff9b::8.8.8.8",
		"64:ff9b:1::1",
		"fc00::1",
		"fd12::1",
		"fe80::1",
		"febf::1",
		"fec0::1",
		"ff02::1",
		"2001:db8::1",
		"2001::1",
		"2002:7f00:1::",
		"3fff::1",
		"100::1",
		"4000::1",
	};
	static const char *const public[] = {
		"1.1.1.1",		   "8.8.8.8",		  "9.255.255.255",	"11.0.0.0",
		"100.63.255.255",  "100.128.0.0",	  "172.15.255.255", "172.32.0.0",
		"192.167.255.255", "192.169.0.0",	  "198.17.255.255", "198.20.0.0",
		"223.255.255.255", "2606:4700::1111", "2a00:1450::1",	"2001:4860::8888",
	};

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		address_is(false, "api.example.com", "api.example.com", refused[i], 443);
	for (size_t i = 0; i < sizeof(public) / sizeof(public[0]); i++)
		address_is(true, "api.example.com", "api.example.com", public[i], 443);

	address_is(true, "10.0.0.0/8", "erp.lan", "10.9.8.7", 443);
	address_is(false, "10.0.0.0/8", "erp.lan", "192.168.0.1", 443);
	address_is(true, "127.0.0.1:8070", "127.0.0.1", "127.0.0.1", 8070);
	address_is(false, "127.0.0.1:8070", "127.0.0.1", "127.0.0.1", 8071);
	address_is(true, "localhost:8070", "localhost", "127.0.0.1", 8070);
	address_is(true, "localhost:8070", "LOCALHOST.", "::1", 8070);
	address_is(false, "localhost:8070", "localhost", "127.0.0.1", 8071);
	address_is(false, "localhost:8070", "localhost", "10.0.0.1", 8070);
	address_is(false, "localhost:8070", "evil.example.com", "127.0.0.1", 8070);
	address_is(true, "10.0.0.0/8", "x.lan", "::ffff:10.0.0.1", 443);
	address_is(false, "10.0.0.0/8", "x.lan", "::ffff:127.0.0.1", 443);
	address_is(true, "64:ff9b::/96", "x.example", "64:ff9b::8.8.8.8", 443);
	address_is(false, "64:ff9b::/96", "x.example", "64:ff9b::10.0.0.1", 443);
	address_is(false, "64:ff9b::/96", "x.example", "64:ff9b::169.254.169.254", 443);
	address_is(true, "fd00::/8", "x.lan", "fd00::1", 443);
	address_is(false, "10.0.0.0/9", "x.lan", "10.128.0.1", 443);
	address_is(true, "10.0.0.0/9", "x.lan", "10.127.0.1", 443);
}

static void
test_equality(void)
{
	SeEgress *a = policy("a.example");
	SeEgress *b = policy("a.example");
	SeEgress *c = policy("b.example");
	SeEgress *none = policy(NULL);

	ok(se_egress_equal(a, b) && se_egress_equal(a, a), "the same entries make equal policies");
	ok(!se_egress_equal(a, c) && !se_egress_equal(a, none), "others do not");
	se_egress_free(se_egress_ref(a));
	ok(se_egress_equal(a, b), "a policy lives as long as it is referred to");
	se_egress_free(a);
	se_egress_free(b);
	se_egress_free(c);
	se_egress_free(none);
}

int
main(void)
{
	test_entries();
	test_hosts();
	test_addresses();
	test_equality();
	return tap_done();
}
