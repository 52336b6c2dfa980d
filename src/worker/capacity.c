/*
 * capacity.c: how many requests a system can take now: what may be on the wire, and what may stand
 * claimed and handed over beyond that so that nobody waits for the database.
 */
#include "postgres.h"

#include "core/guc.h"
#include "worker/capacity.h"

#define AHEAD_MS	   60
#define HAND_OVER_MS   30
#define MAX_AHEAD	   1000
#define RATE_WINDOW_MS 50

bool
se_system_speaks(SeSystem *system, TimestampTz now)
{
	return system->usable && system->held && system->mode == SE_MODE_LIVE &&
		   system->blocked_until <= now;
}

/*
 * Requests that may be claimed before there is room to send them. Before anything is known of the
 * system: as many again as may be in flight.
 */
static int
claim_ahead(SeSystem *system)
{
	if (system->manifest->idempotency.header == NULL)
		return 0;
	return Min(Max((int) (system->answer_rate * AHEAD_MS / 1000), system->max_in_flight),
			   MAX_AHEAD);
}

/*
 * Requests that the HTTP thread gets beyond those that may be on the wire, so that it goes on while
 * this one is busy with the database. They leave even when an answer before them says 'too many': no
 * more than what the system answers in a few milliseconds.
 */
int
se_capacity_hand_over(SeSystem *system)
{
	return Min((int) (system->answer_rate * HAND_OVER_MS / 1000), MAX_AHEAD);
}

/*
 * Writing requests that the rate limit lets in. Where readers wait for every token, one of ours stands
 * in line with them, and then they take turns: else it would never find one.
 */
static int
within_limit(SeSystem *system, TimestampTz now)
{
	int unsent = system->unsent[SE_WRITING];
	int room = se_limit_available(&system->limit, now) - unsent;

	if (room <= 0 && unsent == 0 && system->unsent[SE_READING] + system->unsent[SE_BACKGROUND] > 0)
		return 1;
	return room;
}


int
se_capacity_room(SeSystem *system, int wanted, TimestampTz now)
{
	int outstanding = system->outstanding[SE_WRITING] + system->outstanding[SE_READING] +
					  system->outstanding[SE_BACKGROUND];
	int ahead;
	int room;

	if (!se_system_speaks(system, now))
		return 0;
	ahead = claim_ahead(system);
	room = Max(system->max_in_flight + ahead - outstanding,
			   Max(system->max_in_flight / 2, 1) - system->outstanding[SE_WRITING]);
	/* As long as enough stands claimed, what can be sent is never waited for. */
	if (room < wanted && room < ahead / 2)
		return 0;
	room = Min(room, se_max_in_flight + ahead - se_exchange_in_flight());
	if (system->limit.rate > 0)
		room = Min(room, within_limit(system, now));
	if (room <= 0)
		return 0;
	return Min(room, se_breaker_allows(&system->breaker, now));
}

void
se_capacity_answered(SeSystem *system, TimestampTz now)
{
	int64 us = now - system->counted_at;

	system->answers++;
	if (us < RATE_WINDOW_MS * 1000)
		return;
	/* After a pause the window says nothing. */
	system->answer_rate =
		us > RATE_WINDOW_MS * 10000
			? 0
			: (system->answer_rate + system->answers * (double) USECS_PER_SEC / us) / 2;
	system->answers = 0;
	system->counted_at = now;
}
