/*
 * document.h: headers and lines that make one event per transaction.
 */
#ifndef SE_CAPTURE_DOCUMENT_H
#define SE_CAPTURE_DOCUMENT_H

#include "postgres.h"

#include "capture/table.h"

/*
 * Remembers a change: I, U and D of the header row, L of a line. `value` is the old row of a D and
 * the old values of the changed columns of a U; partial: they were too large, so that it is not all
 * of them. Everything is copied.
 */
extern void se_document_note(SeTable *table, char op, const char *record_id, char **key_texts,
							 Jsonb *value, bool partial);

extern bool se_documents_pending(void);

/* Before commit: reads the documents and adds their events. */
extern void se_documents_flush(void);

extern void se_documents_commit_sub(SubTransactionId subid, SubTransactionId parent);
extern void se_documents_abort_sub(SubTransactionId subid);
extern void se_documents_forget(void);

#endif
