/*
 * check.h: sums over the lines of a document, checked once; see check.c.
 */
#ifndef SE_CHECK_H
#define SE_CHECK_H

/* Registers the transaction callbacks; from _PG_init. */
extern void se_check_init(void);

#endif
