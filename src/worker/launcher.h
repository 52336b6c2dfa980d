/*
 * launcher.h: the one process per cluster that starts hubs.
 */
#ifndef SE_LAUNCHER_H
#define SE_LAUNCHER_H

/* Registers the launcher with the postmaster; from _PG_init while preloading. */
extern void se_launcher_register(void);

#endif
