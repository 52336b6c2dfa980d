/*
 * change.h: what a system has changed of a record, field by field, and what is known of each.
 */
#ifndef SE_PULL_CHANGE_H
#define SE_PULL_CHANGE_H

#include "postgres.h"

#include "pull/internal.h"

typedef struct SeFieldChange /* of one field */
{
	SeItem *item;
	const char *field;
	SeColumn *column; /* NULL: the lines */
	JsonbValue theirs;
	JsonbValue ours;
	JsonbValue agreed;
	bool has_agreed;
	const SeOwnerRule *rule;
	SeFieldState state;
	SeChangeTime *time; /* NULL: it does not matter */
	SeMerge what;
} SeFieldChange;

typedef struct SeFieldChanges
{
	SeFieldChange *list;
	int n;
	int size;
} SeFieldChanges;

extern bool se_change_member(Jsonb *object, const char *key, JsonbValue *value);
extern void se_change_set(Jsonb *json, JsonbValue *value);
extern bool se_change_is_overridden(const SeItem *item, const char *field);
extern bool se_change_same(const SeTarget *target, const SeTable *table, const SeFieldChange *c,
						   const JsonbValue *a, const JsonbValue *b);
/* The value on which both last agreed; false: nobody knows, as when a record is met first. */
extern bool se_change_agreed_on(const SeItem *item, const char *field, JsonbValue *value);

/* Adds each field of the item that differs from its base; the item's row has been read. */
extern void se_changes_take(const SeTarget *target, SeTable *table, SeFieldChanges *changes,
							SeItem *item, const SeConflict *conflicts, int nconflicts);
/* When the hub changed them, where that decides, or where a person will read it. */
extern void se_changes_find_times(const SeTarget *target, SeFieldChanges *changes);

#endif
