/*
 * key_text.h: the text of a key's columns, as record ids have it.
 */
#ifndef SE_KEY_TEXT_H
#define SE_KEY_TEXT_H

#include "postgres.h"

#include "lib/stringinfo.h"

/*
 * A column's part of a record id, in the current context: what events have, whatever the session's settings are;
 * not to be freed or written to. An error for a value that is no scalar, as capture has it.
 */
extern char *se_key_text(Oid type, Datum value);

/*
 * Appends an expression whose value is the record id of the row that `operands`, SQL for its n key columns, are
 * of: their texts as above, whatever DateStyle, TimeZone and bytea_output say (but IntervalStyle, lc_monetary and
 * an extra_float_digits below 1 do); of several, the JSON array. It takes a search_path that begins with pg_catalog.
 */
extern void se_append_key_texts(StringInfo sql, const char *const *operands, const Oid *types,
								int n);

#endif
