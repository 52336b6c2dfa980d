/*
 * journal.h
 *		What came in and what took effect, for tests to look at.
 */
#ifndef SANDBOX_JOURNAL_H
#define SANDBOX_JOURNAL_H

#include "http.h"

typedef struct Stats
{
	int64_t requests;
	int64_t effects;
	int64_t replays;
	int64_t key_conflicts;
	int64_t key_mismatches;
	int64_t unauthorized;
	int64_t rate_limited;
	int64_t faults;
	int64_t late_effects_pending;
	int64_t events;
} Stats;

extern Stats stats;

/* All of these want the state lock held. */
extern int64_t journal_request(const Request *req);
extern void journal_answer(int64_t number, int status, const char *fault);
extern json_t *journal_requests(size_t limit, const char *path_prefix);

extern void journal_effect(const char *method, const char *path, const char *key,
						   const char *request_id, const json_t *effect);
extern json_t *journal_effects(const char *object, const char *id);

extern void journal_reset(void);
extern void journal_keep(size_t requests);

#endif
