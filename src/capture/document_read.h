/*
 * document_read.h: documents as they are at the end of the transaction.
 */
#ifndef SE_CAPTURE_DOCUMENT_READ_H
#define SE_CAPTURE_DOCUMENT_READ_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#include "capture/table.h"

/* One record with everything that the transaction did to it. */
typedef struct SeDocument
{
	Oid header_relid;
	const char *object;
	int object_id;
	const char *record_id;
	char **key_texts;
	int origin;
	bool known; /* first change of the header seen: existed_before is right */
	bool existed_before;
	bool exists;		 /* header is there, as far as we know */
	bool header_written; /* so that its row lock is ours already */
	bool lines_changed;
	bool partial;	/* some old row was too large to be kept: a key-only event */
	List *olds;		/* Jsonb, earliest first */
	Jsonb *deleted; /* last row seen deleted */
} SeDocument;

/* Reads documents of one object and adds their events; `lock`: header rows are not ours yet. */
extern void se_documents_read(SeDocument **documents, int count, bool lock);

/* Whether a header with this key is there, for this transaction; `table` is that of the lines. */
extern bool se_document_exists(SeTable *table, char **key_texts);

#endif
