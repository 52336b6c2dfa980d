/*
 * json.h: building and reading small jsonb objects. Everything is palloc'd in the current context.
 */
#ifndef SE_JSON_H
#define SE_JSON_H

#include "postgres.h"

#include "utils/jsonb.h"

typedef struct SeObjBuilder /* one object being built */
{
	JsonbPair *pairs;
	int n;
	int size;
} SeObjBuilder;

extern void se_obj_begin(SeObjBuilder *b);
/* Each name once. A NULL value leaves the member out. All is copied by se_obj_end(), not before. */
extern void se_obj_text(SeObjBuilder *b, const char *key, const char *value);
extern void se_obj_int(SeObjBuilder *b, const char *key, int64 value);
extern void se_obj_bool(SeObjBuilder *b, const char *key, bool value);
extern void se_obj_value(SeObjBuilder *b, const char *key, Jsonb *value);
extern Jsonb *se_obj_end(SeObjBuilder *b);

extern Jsonb *se_obj_empty(void);
extern Jsonb *se_obj_copy(const Jsonb *value);

/* Member of an object; NULL when missing (or not an object). A member may be a JSON null. */
extern Jsonb *se_obj_get(const Jsonb *object, const char *key);
/* Member as text: strings unquoted, others as JSON; NULL when missing or null. */
extern char *se_obj_get_text(const Jsonb *object, const char *key);
extern int64 se_obj_get_int(const Jsonb *object, const char *key, int64 fallback);

/* As JSON: 1.0 equals 1.00, the order of members does not matter. NULL equals NULL only. */
extern bool se_json_equal(const JsonbValue *a, const JsonbValue *b);

/* Array of the member names of an object, as an array of texts. */
extern Jsonb *se_obj_keys(const Jsonb *object);

#endif
