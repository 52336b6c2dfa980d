/*
 * letters.h: a value in letters that are the same for a column and for a member of JSON exactly where the two agree.
 */
#ifndef SE_RECONCILE_LETTERS_H
#define SE_RECONCILE_LETTERS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"

/*
 * Append the letters of a value; domains are to be looked through before. False: it cannot be told what agrees with it,
 * and it takes a closer look.
 */
extern bool se_letters_column(StringInfo out, Oid type, Datum value, bool isnull);
extern bool se_letters_member(StringInfo out, Oid type, const JsonbValue *v);

/* As se_parse_time(), faster where it is written as the server does. */
extern bool se_read_instant(const char *s, int len, TimestampTz *at);

extern void se_letters_text(StringInfo out, const char *text, int len);
/* As text: the id of a record by its key column; false: of another type. */
extern bool se_letters_key(StringInfo out, Oid type, Datum value);

#endif
