/*
 * capture.h: what the rest of the library calls of the capture.
 */
#ifndef SE_CAPTURE_CAPTURE_H
#define SE_CAPTURE_CAPTURE_H

/* From _PG_init: registers the transaction callbacks. */
extern void se_capture_init(void);

/* Incarnation that what this cluster writes belongs to; 0 before the first adoption. */
extern int se_incarnation(void);

#endif
