/*
 * credentials.h: what is made of a system's secrets and session, kept for an instant.
 *
 * A request needs its headers, an answer needs to be freed of secrets: resolving references and
 * evaluating templates for each would cost more than the rest of both, so it is done once for what is
 * sent or answered together. A secret's file that changes is seen within CREDENTIALS_MS, as if the request had left that much earlier.
 */
#ifndef SE_CREDENTIALS_H
#define SE_CREDENTIALS_H

#include "worker/system.h"

/* As se_auth_headers(). The headers stay valid until se_credentials_forget(), or CREDENTIALS_MS. */
extern SeAuthStatus se_credentials_headers(SeSystem *system, TimestampTz now, List **headers,
										   char **error);

/* Takes the system's secrets out of texts; ereports out of memory. */
extern const struct SeRedactor *se_credentials_redactor(SeSystem *system);

/* The session, a secret or the manifest has changed: nothing made of them is valid any more. */
extern void se_credentials_forget(SeSystem *system);

#endif
