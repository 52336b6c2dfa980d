/*
 * key_text.h: the text of a key's column, as record ids have it, in SQL.
 */
#ifndef SE_KEY_TEXT_H
#define SE_KEY_TEXT_H

#include "postgres.h"

#include "lib/stringinfo.h"

/* The column's part of a record id: the type's text, but days and times as events have them, ISO 8601 in UTC. */
extern char *se_key_text(Oid type, Datum value);

/*
 * Appends an expression of type text over `operand`, SQL for a column of that type, whose value is the
 * column's part of a record id: the type's text, but days and times as events have them (emit.c), in ISO 8601
 * and UTC, whatever DateStyle and TimeZone say. It takes a search_path that begins with pg_catalog.
 */
extern void se_append_key_text(StringInfo sql, const char *operand, Oid type);

/* Likewise the whole record id, of n columns: one text, or the JSON array of several. */
extern void se_append_key_texts(StringInfo sql, const char *const *operands, const Oid *types,
								int n);

#endif
