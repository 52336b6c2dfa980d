/*
 * notice.h: what the hub wants a person to know; rows of sync.notice, shown by sync.health().
 */
#ifndef SE_NOTICE_H
#define SE_NOTICE_H

/*
 * Remembers a condition (severity info, warning, error). The first occurrence of a key is logged;
 * the row is written by se_notice_flush(), so this may be called in or out of a transaction.
 */
extern void se_notice_put(const char *key, const char *severity, const char *message,
						  const char *hint);

/* The condition is over. Free when the key is not known. */
extern void se_notice_clear(const char *key);
/* The same for key "kind:name"; costs nothing while there is no notice at all. */
extern void se_notice_clear_of(const char *kind, const char *name);

/* Writes what changed; opens its own transaction, none when nothing changed. */
extern void se_notice_flush(void);

#endif
