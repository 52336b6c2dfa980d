/*
 * redact.c
 *		Takes known secrets out of a text before anybody can see it.
 *
 * Vendors echo what they got: a token in an error message, a password in a
 * quoted URL, a Basic header in a debug page.  So each secret is looked for in
 * all the spellings that a client or server may give it.
 */
#include "http/secrets.h"

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SE_REDACTED		 "[redacted]"
#define SE_REDACT_MIN	 4 /* shorter ones would only shred the text */
#define SE_REDACT_SHIFTS 3

static const char base64_alphabet[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* One secret and what base64 makes of it at each of three alignments. */
typedef struct SeNeedle
{
	char *secret;
	size_t len;
	char *base64[SE_REDACT_SHIFTS];
	size_t base64_len[SE_REDACT_SHIFTS];
	bool begins[256]; /* bytes that a spelling of it can begin with */
} SeNeedle;

struct SeRedactor
{
	bool begins[256]; /* bytes that a spelling of any can begin with */
	int nneedles;
	SeNeedle needles[];
};

/*
 * The characters of base64 that depend on the secret alone, when shift
 * (modulo 3) unknown bytes stand before it.
 */
static char *
base64_core(const char *secret, size_t len, int shift, size_t *core_len)
{
	static const int unknown[SE_REDACT_SHIFTS] = {0, 2, 3};
	size_t first = (size_t) unknown[shift];
	size_t end = (len + (size_t) shift) * 8 / 6;
	char *core = malloc(end - first + 1);

	if (core == NULL)
		return NULL;
	for (size_t i = first; i < end; i++)
	{
		size_t bit = i * 6 - (size_t) shift * 8;
		size_t byte = bit / 8;
		unsigned pair = (unsigned) (unsigned char) secret[byte] << 8;

		if (byte + 1 < len)
			pair |= (unsigned char) secret[byte + 1];
		core[i - first] = base64_alphabet[(pair >> (10 - bit % 8)) & 63];
	}
	*core_len = end - first;
	core[*core_len] = '\0';
	return core;
}

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static int
hex_number(const char *text, int digits)
{
	int value = 0;

	for (int i = 0; i < digits; i++)
	{
		int digit = hex_value(text[i]);

		if (digit < 0)
			return -1;
		value = value * 16 + digit;
	}
	return value;
}

/* UTF-8 of a code point of the basic plane; returns its length. */
static size_t
utf8(int code, char *to)
{
	if (code < 0x80)
	{
		to[0] = (char) code;
		return 1;
	}
	if (code < 0x800)
	{
		to[0] = (char) (0xC0 | code >> 6);
		to[1] = (char) (0x80 | (code & 63));
		return 2;
	}
	to[0] = (char) (0xE0 | code >> 12);
	to[1] = (char) (0x80 | ((code >> 6) & 63));
	to[2] = (char) (0x80 | (code & 63));
	return 3;
}

/*
 * Decode one unit of text that may be %XX, + or a JSON escape.  Returns how
 * many bytes of text it took, and in piece, piece_len what it stands for.
 */
static size_t
decode_unit(const char *text, size_t left, char *piece, size_t *piece_len)
{
	static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
	int code;

	*piece_len = 1;
	if (text[0] == '%' && left >= 3 && (code = hex_number(text + 1, 2)) >= 0)
	{
		piece[0] = (char) code;
		return 3;
	}
	if (text[0] == '\\' && left >= 6 && text[1] == 'u' && (code = hex_number(text + 2, 4)) >= 0)
	{
		*piece_len = utf8(code, piece);
		return 6;
	}
	if (text[0] == '\\' && left >= 2)
	{
		for (size_t i = 0; i + 1 < sizeof(escapes); i += 2)
		{
			if (escapes[i] == text[1])
			{
				piece[0] = escapes[i + 1];
				return 2;
			}
		}
	}
	piece[0] = text[0];
	return 1;
}

/* Bytes of text that spell the secret from here on, 0 if they do not. */
static size_t
match_spelling(const char *text, size_t left, const SeNeedle *needle)
{
	size_t at = 0;
	size_t done = 0;

	if (left >= needle->len && memcmp(text, needle->secret, needle->len) == 0)
		return needle->len;

	while (done < needle->len)
	{
		char piece[4];
		size_t piece_len;
		size_t used;

		if (at >= left)
			return 0;
		used = decode_unit(text + at, left - at, piece, &piece_len);
		if (text[at] == '+' && needle->secret[done] == ' ')
			piece[0] = ' ';
		if (piece_len > needle->len - done || memcmp(needle->secret + done, piece, piece_len) != 0)
			return 0;
		at += used;
		done += piece_len;
	}
	return at;
}

/* Both alphabets of base64 as one. */
static char
plain_base64(char c)
{
	return c == '-' ? '+' : c == '_' ? '/' : c;
}

static bool
is_base64(char c)
{
	return isalnum((unsigned char) c) || (c != '\0' && strchr("+/-_=", c) != NULL);
}

static bool
match_base64(const char *text, size_t left, const char *core, size_t len)
{
	if (left < len)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (plain_base64(text[i]) != core[i])
			return false;
	}
	return true;
}

/* Mark all bytes of text that belong to a spelling of the secret that begins at i. */
static bool
mark_at(const char *text, size_t len, size_t i, const SeNeedle *needle, char *marks)
{
	size_t matched = match_spelling(text + i, len - i, needle);

	if (matched > 0)
		memset(marks + i, 1, matched);
	for (int shift = 0; shift < SE_REDACT_SHIFTS; shift++)
	{
		size_t from = i;
		size_t to = i + needle->base64_len[shift];

		if (!match_base64(text + i, len - i, needle->base64[shift], needle->base64_len[shift]))
			continue;
		/* The rest of the word holds the user name, or bits of the secret. */
		while (from > 0 && is_base64(text[from - 1]))
			from--;
		while (to < len && is_base64(text[to]))
			to++;
		memset(marks + from, 1, to - from);
		matched = to - from;
	}
	return matched > 0;
}

/* Whether there was anything to mark. */
static bool
mark(const SeRedactor *redactor, const char *text, size_t len, char *marks)
{
	bool any = false;

	for (size_t i = 0; i < len; i++)
	{
		/* Most places cannot even begin one. */
		if (!redactor->begins[(unsigned char) text[i]])
			continue;
		for (int k = 0; k < redactor->nneedles; k++)
		{
			const SeNeedle *needle = &redactor->needles[k];

			if (needle->begins[(unsigned char) text[i]])
				any |= mark_at(text, len, i, needle, marks);
		}
	}
	return any;
}

static char *
copy(const char *text, size_t len, size_t *new_len)
{
	char *result = malloc(len + 1);

	if (result == NULL)
		return NULL;
	memcpy(result, text, len);
	result[len] = '\0';
	*new_len = len;
	return result;
}

static char *
rewrite(const char *text, size_t len, const char *marks, size_t *new_len)
{
	const size_t word = strlen(SE_REDACTED);
	size_t size = 0;
	char *result;
	char *to;

	for (size_t i = 0; i < len; i++)
		size += !marks[i] ? 1 : i == 0 || !marks[i - 1] ? word : 0;
	result = to = malloc(size + 1);
	if (result == NULL)
		return NULL;
	for (size_t i = 0; i < len; i++)
	{
		if (!marks[i])
			*to++ = text[i];
		else if (i == 0 || !marks[i - 1])
		{
			memcpy(to, SE_REDACTED, word);
			to += word;
		}
	}
	*to = '\0';
	*new_len = size;
	return result;
}

static void
free_needle(SeNeedle *needle)
{
	for (int shift = 0; shift < SE_REDACT_SHIFTS; shift++)
	{
		if (needle->base64[shift] != NULL)
			explicit_bzero(needle->base64[shift], needle->base64_len[shift]);
		free(needle->base64[shift]);
	}
	if (needle->secret != NULL)
		explicit_bzero(needle->secret, needle->len);
	free(needle->secret);
}

static void
may_begin(SeNeedle *needle, char c)
{
	needle->begins[(unsigned char) c] = true;
	if (c == '+')
		needle->begins['-'] = true;
	if (c == '/')
		needle->begins['_'] = true;
}

static bool
make_needle(const char *secret, SeNeedle *needle)
{
	memset(needle, 0, sizeof(*needle));
	needle->len = strlen(secret);
	needle->secret = strdup(secret);
	if (needle->secret == NULL)
		return false;
	may_begin(needle, secret[0]);
	may_begin(needle, '%');
	may_begin(needle, '\\');
	may_begin(needle, '+');
	for (int shift = 0; shift < SE_REDACT_SHIFTS; shift++)
	{
		needle->base64[shift] = base64_core(secret, needle->len, shift, &needle->base64_len[shift]);
		if (needle->base64[shift] == NULL)
			return false;
		may_begin(needle, needle->base64[shift][0]);
	}
	return true;
}

SeRedactor *
se_redactor_make(const char *const *secrets, int nsecrets)
{
	SeRedactor *redactor = malloc(sizeof(SeRedactor) + nsecrets * sizeof(SeNeedle));

	if (redactor == NULL)
		return NULL;
	memset(redactor->begins, 0, sizeof(redactor->begins));
	redactor->nneedles = 0;
	for (int i = 0; i < nsecrets; i++)
	{
		SeNeedle *needle = &redactor->needles[redactor->nneedles];

		if (secrets[i] == NULL || strlen(secrets[i]) < SE_REDACT_MIN)
			continue;
		redactor->nneedles++;
		if (!make_needle(secrets[i], needle))
		{
			se_redactor_free(redactor);
			return NULL;
		}
		for (size_t k = 0; k < sizeof(redactor->begins); k++)
			redactor->begins[k] |= needle->begins[k];
	}
	return redactor;
}

void
se_redactor_free(SeRedactor *redactor)
{
	if (redactor == NULL)
		return;
	for (int i = 0; i < redactor->nneedles; i++)
		free_needle(&redactor->needles[i]);
	free(redactor);
}

char *
se_redact(const SeRedactor *redactor, const char *text, size_t len, size_t *new_len)
{
	char *marks = calloc(len + 1, 1);
	char *result = NULL;

	if (marks == NULL)
		return NULL;
	result = mark(redactor, text, len, marks) ? rewrite(text, len, marks, new_len)
											  : copy(text, len, new_len);
	free(marks);
	return result;
}
