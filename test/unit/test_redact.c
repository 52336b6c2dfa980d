/*
 * test_redact.c
 *		Secrets leave a text in every spelling.
 */
#include <stdbool.h>

#include "http/redact.c"

#include "http_tap.h"

static char *
redact(const char *text, size_t len, const char *const *secrets, int n, size_t *new_len)
{
	SeRedactor *redactor = se_redactor_make(secrets, n);
	char *result = se_redact(redactor, text, len, new_len);

	se_redactor_free(redactor);
	return result;
}

static void
becomes(const char *secret, const char *text, const char *expected)
{
	size_t len;
	char *result = redact(text, strlen(text), &secret, 1, &len);

	ok(result != NULL && strcmp(result, expected) == 0 && len == strlen(expected),
	   "%s becomes %s, expected %s", text, result, expected);
	free(result);
}

static void
encode_base64(const char *data, size_t len, char *to, bool url)
{
	char *start = to;

	for (size_t i = 0; i < len; i += 3)
	{
		unsigned three = (unsigned) (unsigned char) data[i] << 16;

		if (i + 1 < len)
			three |= (unsigned) (unsigned char) data[i + 1] << 8;
		if (i + 2 < len)
			three |= (unsigned char) data[i + 2];
		*to++ = base64_alphabet[three >> 18];
		*to++ = base64_alphabet[(three >> 12) & 63];
		*to++ = i + 1 < len ? base64_alphabet[(three >> 6) & 63] : '=';
		*to++ = i + 2 < len ? base64_alphabet[three & 63] : '=';
	}
	*to = '\0';
	if (!url)
		return;
	for (to = start; *to != '\0'; to++)
		*to = *to == '+' ? '-' : *to == '/' ? '_' : *to;
}

/* Every alignment and every tail, in both alphabets. */
static void
test_base64(void)
{
	const char *secret = "p\xff\xfe?>w0rd";
	int wrong = 0;
	int tried = 0;

	for (int before = 0; before < 6; before++)
		for (int after = 0; after < 4; after++)
			for (int url = 0; url < 2; url++)
			{
				char plain[100];
				char encoded[200];
				char text[300];
				char *result;
				size_t len;

				snprintf(plain, sizeof(plain), "%.*s%s%.*s", before, "user:x", secret, after,
						 "tail");
				encode_base64(plain, strlen(plain), encoded, url);
				snprintf(text, sizeof(text), "got Basic %s.", encoded);
				result = redact(text, strlen(text), &secret, 1, &len);
				tried++;
				if (strcmp(result, "got Basic [redacted].") != 0)
				{
					wrong++;
					printf("# %s -> %s\n", text, result);
				}
				free(result);
			}
	ok(wrong == 0, "base64 in %d positions, alphabets and tails", tried);
}

static void
test_many(void)
{
	const char *secrets[] = {"alpha-secret", NULL, "beta-secret", "abc"};
	const char text[] = "a alpha-secret b\0beta-secret abc";
	size_t len;
	char *result = redact(text, sizeof(text) - 1, secrets, 4, &len);

	ok(len == 29 && memcmp(result, "a [redacted] b\0[redacted] abc", 30) == 0,
	   "several secrets, beyond a zero byte; one too short is left");
	free(result);
	result = redact("", 0, secrets, 4, &len);
	ok(len == 0 && result[0] == '\0', "empty text");
	free(result);
	result = redact("none", 4, NULL, 0, &len);
	ok(len == 4 && strcmp(result, "none") == 0, "no secrets");
	free(result);
}

int
main(void)
{
	becomes("s3cr3t", "nothing here", "nothing here");
	becomes("s3cr3t", "s3cr3t", "[redacted]");
	becomes("s3cr3t", "key=s3cr3t&x=1", "key=[redacted]&x=1");
	becomes("s3cr3t", "s3cr3ts3cr3t", "[redacted]");
	becomes("s3cr3t", "s3cr3", "s3cr3");
	becomes("aaaa", "aaaaaaa", "[redacted]");
	becomes("p/w d+1", "x=p%2Fw%20d%2B1;", "x=[redacted];");
	becomes("p/w d+1", "x=p%2fw+d%2b1;", "x=[redacted];");
	becomes("p/w d+1", "%70%2F%77%20%64%2B%31", "[redacted]");
	becomes("100%25!", "100%25!", "[redacted]");
	becomes("100%25!", "100%2525%21", "[redacted]");
	becomes("a\"b\\c/d", "{\"k\":\"a\\\"b\\\\c\\/d\"}", "{\"k\":\"[redacted]\"}");
	becomes("tab\there", "tab\\there tab\\u0009here", "[redacted] [redacted]");
	becomes("caf\xc3\xa9-key", "caf\\u00e9-key caf%C3%A9-key", "[redacted] [redacted]");
	becomes("s3cr3t", "%", "%");
	becomes("s3cr3t", "tail \\u00", "tail \\u00");
	becomes("abc", "abc", "abc");
	becomes("", "abc", "abc");
	test_base64();
	test_many();
	return tap_done();
}
