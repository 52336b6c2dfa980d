/*
 * keys.h
 *		Idempotency keys: what was executed under each, and the stored answer.
 */
#ifndef SANDBOX_KEYS_H
#define SANDBOX_KEYS_H

#include "http.h"

typedef enum KeyState
{
	KEY_NEW,	  /* the caller now holds it: finish or abandon it */
	KEY_REPLAYED, /* the reply has been filled with the stored answer */
	KEY_RUNNING,  /* another request under this key is in progress */
	KEY_OTHER_PARAMETERS,
	KEY_OTHER_ENDPOINT,
} KeyState;

/* All of these want the state lock held. */
extern KeyState key_begin(const Request *req, const char *key, Reply *reply);
extern void key_finish(const char *key, const Reply *reply);
extern void key_abandon(const char *key);
extern const char *key_endpoint(const char *key);
extern int64_t key_since(const char *key); /* when its life began; 0: nobody honours it */

/* Makes this answer the stored one, as if an execution had ended with it. */
extern void key_store(const Request *req, const char *key, const Reply *reply);

/* Counts an effect, under keys that nobody honours too. */
extern void key_count_effect(const char *key, const char *object_id);

extern json_t *keys_report(const char *only);
/* The stored answer is over before its time: the next request under the key is executed. */
extern void key_forget(const char *name);
extern void keys_reset(void);

#endif
