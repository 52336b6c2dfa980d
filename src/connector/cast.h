/*
 * cast.h
 *		What the files of the casts share.
 */
#ifndef SE_CAST_H
#define SE_CAST_H

#include "connector/expr.h"

typedef enum SeCast
{
	CAST_STRING,
	CAST_NUMBER,
	CAST_INTEGER,
	CAST_BOOLEAN,
	CAST_MINOR,
	CAST_MINOR_DECIMAL,
	CAST_MAJOR,
	CAST_EPOCH,
	CAST_EPOCH_MS,
	CAST_FROM_EPOCH,
	CAST_FROM_EPOCH_MS,
	CAST_TIMESTAMP,
	CAST_FORMAT,
	CAST_HTTP_DATE,
	CAST_FROM_HTTP_DATE,
	CAST_DATE,
	CAST_DATE_IN_ZONE,
	CAST_LAST_DATE_IN_ZONE,
	CAST_DAY_START,
	CAST_DAY_END,
	CAST_YEAR,
	CAST_MONTH,
	CAST_DAY,
	CAST_DATE_PARTS,
	CAST_TIMESTAMP_PARTS,
	CAST_FROM_PARTS,
	CAST_UPPER,
	CAST_LOWER,
	CAST_TRIM,
	CAST_BASE64,
	CAST_JSON,
	CAST_FROM_JSON,
	CAST_ESCAPE_QUOTES,
	CAST_FIRST_LINE,
	CAST_OTHER_LINES
} SeCast;

extern JsonbValue *se_cast_fault(SeEval *ev, const char *code, const char *text,
								 const char *reason);
extern char *se_cast_decimal(SeEval *ev, JsonbValue *v);
extern JsonbValue *se_cast_time(SeEval *ev, const SeExpr *x, SeCast cast, JsonbValue *v);

#endif /* SE_CAST_H */
