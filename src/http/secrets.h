/*
 * secrets.h
 *		Secrets by reference, and keeping them out of texts.
 *
 * A reference is "file:NAME", the file <secrets_dir>/<system>/NAME, or
 * "env:NAME", an environment variable of the server whose name begins with
 * SYNC_EXT_.  NAME and system are plain: 1 to 64 of A-Z a-z 0-9 . _ - and no
 * dot in front.  Values never appear in an error.
 *
 * No server calls in secret_file.c and redact.c; secrets.c binds them to the
 * settings of the server.
 */
#ifndef SE_HTTP_SECRETS_H
#define SE_HTTP_SECRETS_H

#include <stdbool.h>
#include <stddef.h>

/* Is this a well-formed reference?  (Whether it resolves is another matter.) */
extern bool se_secret_valid_reference(const char *ref);

/*
 * The value of a reference for a system, or NULL with *err pointing at a
 * static reason (valid until the next call; do not free).  The value is
 * re-read when its file changes; it is valid until the next call that
 * resolves the same reference and must be neither changed nor freed.
 */
extern const char *se_secret_get(const char *system, const char *ref, char **err);

/* Wipe all values read so far. */
extern void se_secret_forget(void);

/* se_secret_get() with both directories given.  data_dir may be NULL. */
extern const char *se_secret_read(const char *secrets_dir, const char *data_dir, const char *system,
								  const char *ref, char **err);

/*
 * What takes the secrets out of texts. Secrets shorter than 4 bytes are not looked for; NULLs are
 * skipped. It keeps copies of them, which se_redactor_free() wipes. NULL when out of memory.
 */
typedef struct SeRedactor SeRedactor;
extern SeRedactor *se_redactor_make(const char *const *secrets, int nsecrets);
extern void se_redactor_free(SeRedactor *redactor);

/*
 * Replace the secrets in a text by "[redacted]": as they are, with any of
 * their characters percent-encoded or escaped as in JSON, and in base64
 * wherever they stand in what was encoded (then the whole base64 word goes).
 *
 * len: bytes of text.  Returns a new zero-terminated text of *new_len bytes
 * that the caller frees with free(), also when nothing was replaced; NULL when
 * out of memory, in which case the text must not be shown.
 */
extern char *se_redact(const SeRedactor *redactor, const char *text, size_t len, size_t *new_len);

/* The same in place, for callers inside the server; ereports out of memory. */
struct StringInfoData;
extern void se_redact_string(struct StringInfoData *text, const SeRedactor *redactor);

#endif /* SE_HTTP_SECRETS_H */
