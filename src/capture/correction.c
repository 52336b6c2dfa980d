/*
 * correction.c: events that tell one system again what the hub holds.
 *
 * Nothing has changed here, so no trigger makes them, and no other system is to hear of them. They
 * are events like others otherwise: in the outbox in their order, delivered, tried again, looked up.
 */
#include "postgres.h"

#include "capture/correction.h"
#include "capture/events.h"
#include "capture/origin.h"

void
se_correction_add(int object_id, char op, const char *record_id, Jsonb *body, Jsonb *old,
				  int system_id)
{
	int origin = se_origin_system;

	if (body == NULL)
		return; /* deleted meanwhile: there is nothing to tell */
	se_origin_system = SE_ORIGIN_FOR(system_id);
	PG_TRY();
	{
		se_event_add(object_id, op, record_id, body, old);
	}
	PG_FINALLY();
	{
		se_origin_system = origin;
	}
	PG_END_TRY();
}
