/*
 * record_body.h: a record as it stands now, as an event would show it.
 */
#ifndef SE_RECORD_BODY_H
#define SE_RECORD_BODY_H

#include "postgres.h"

#include "utils/jsonb.h"

/*
 * The current row of a record (a document with its lines under "lines"), read as the table's owner;
 * NULL when it does not exist. In a transaction with SPI connected; sees the transaction's own
 * changes.
 */
extern Jsonb *se_record_body(int object_id, const char *record_id);

/* Record id of the row whose column has this value; NULL when there is none or several. */
extern char *se_record_by_column(int object_id, const char *column, const char *value);


#endif
