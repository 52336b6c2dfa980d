/*
 * exchange.c: the requests of a pull, from the first to the last that a page or record needs.
 *
 * A record whose lines come in several parts is completed before anything is applied. No
 * transaction is open between a request and its answer.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"

#include "pull/internal.h"

#define MAX_MESSAGE 2000

SeJob *
se_job_make(SeStream *stream)
{
	MemoryContext cxt = AllocSetContextCreate(se_pull_cxt, "sync_ext pull", ALLOCSET_DEFAULT_SIZES);
	SeJob *job = MemoryContextAllocZero(cxt, sizeof(SeJob));

	job->cxt = cxt;
	job->stream = stream;
	return job;
}

void
se_job_free(SeJob *job)
{
	if (job->pinned != NULL)
		job->pinned->pins--;
	MemoryContextDelete(job->cxt);
}

static char *
copy(const char *text)
{
	return text != NULL ? pstrdup(text) : NULL;
}

/* A callback may end the job, and with it contexts that were current; give back the caller's. */
static void
answered(SeExchange *exchange, SeReply *reply)
{
	SeJob *job = exchange->arg;
	MemoryContext caller = CurrentMemoryContext;

	job->answered(exchange, reply);
	MemoryContextSwitchTo(caller);
}

void
se_job_send(SeJob *job, SeSystem *system, const SeOperation *op, SeRequestOut *request,
			void (*done)(SeExchange *exchange, SeReply *reply))
{
	MemoryContext old = MemoryContextSwitchTo(job->cxt);
	SeExchange *exchange = &job->exchange;
	ListCell *lc;

	memset(exchange, 0, sizeof(*exchange));
	exchange->system = system;
	exchange->op = op;
	exchange->request.method = copy(request->method);
	exchange->request.target = copy(request->target);
	exchange->request.content_type = copy(request->content_type);
	if (request->body != NULL)
	{
		exchange->request.body = palloc(request->body_len + 1);
		memcpy(exchange->request.body, request->body, request->body_len);
		exchange->request.body[request->body_len] = '\0';
		exchange->request.body_len = request->body_len;
	}
	foreach (lc, request->headers)
	{
		SeHeader *header = lfirst(lc);
		SeHeader *kept = palloc(sizeof(SeHeader));

		kept->name = copy(header->name);
		kept->value = copy(header->value);
		exchange->request.headers = lappend(exchange->request.headers, kept);
	}
	exchange->background = job->stream->guest;
	exchange->done = answered;
	job->answered = done;
	exchange->arg = job;
	MemoryContextSwitchTo(old);
	/* What it brings is read by its own manifest, also when it has to wait for that. */
	if (job->pinned == NULL)
		system->pins++;
	job->pinned = system;
	se_exchange_submit(exchange);
}

/*
 * How the records are read. The manifest is the one that rendered the request: a newer one may
 * have been registered while it was out.
 */
bool
se_job_target(const SeJob *job, SeTarget *target)
{
	const SeManifest *manifest = job->exchange.manifest;
	const SeManifestObject *object;

	if (job->dropped ||
		(!job->stream->guest &&
		 se_stream_of(job->stream->system_id, job->stream->object_id) != job->stream) ||
		!se_stream_target(job->stream, target))
		return false;
	if (manifest == NULL || manifest == target->manifest)
		return true;
	object = se_manifest_object(manifest, job->stream->object);
	if (object == NULL || object->pull == NULL)
		return false;
	target->manifest = manifest;
	target->pull = object->pull;
	return true;
}

bool
se_job_answered(SeJob *job, SeReply *reply)
{
	const SeVerdict *verdict = &reply->verdict;
	SeSystem *system = job->exchange.system;
	char *message;

	job->outcome = verdict->outcome;
	if (reply->phase == SE_HTTP_ANSWERED && verdict->outcome == SE_DONE)
		return true;
	message =
		psprintf("%s%s%s%s%s",
				 reply->phase == SE_HTTP_ANSWERED ? psprintf("HTTP %ld, %s", reply->answer.status,
															 se_outcome_name(verdict->outcome))
												  : "no answer",
				 verdict->code != NULL ? ": " : "", verdict->code != NULL ? verdict->code : "",
				 verdict->message != NULL ? ": " : "",
				 verdict->message != NULL ? verdict->message : "");
	/* a vendor may tell our own credentials back to us */
	if (system->manifest != NULL)
		message = se_system_redact(system, message, strlen(message), MAX_MESSAGE);
	job->failed(job, message, verdict->retry_after_ms);
	return false;
}

static void
take_more(SeExchange *exchange, SeReply *reply)
{
	SeJob *job = exchange->arg;
	SeItem *item = &job->items[job->filling];
	MemoryContext old;
	SeTarget target;
	char *error = NULL;
	Jsonb *merged;

	if (!se_job_answered(job, reply))
		return;
	if (!se_job_target(job, &target))
	{
		job->failed(job, "the stream has changed meanwhile", -1);
		return;
	}
	merged = se_more_merge(target.manifest, target.pull, item->record, &reply->answer, &error);
	if (merged == NULL)
	{
		job->failed(job, error != NULL ? error : "the rest of a record's lines cannot be read", -1);
		return;
	}
	old = MemoryContextSwitchTo(job->cxt);
	item->record = (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(merged));
	MemoryContextSwitchTo(old);
	se_job_fill(job);
}

void
se_job_fill(SeJob *job)
{
	SeSystem *system = se_system_by_id(job->stream->system_id);
	SeTarget target;

	if (system == NULL || !se_job_target(job, &target))
	{
		job->failed(job, "the stream has changed meanwhile", -1);
		return;
	}
	for (; target.pull->more != NULL && job->filling < job->nitems; job->filling++)
	{
		SeItem *item = &job->items[job->filling];
		SeRendered rendered;

		if (item->record == NULL || item->deleted)
			continue;
		memset(&rendered, 0, sizeof(rendered));
		se_more_request(target.manifest, target.pull, item->record, target.vars, &rendered);
		if (rendered.status == SE_RENDER_OK)
		{
			se_job_send(job, system, target.pull->more, &rendered.request, take_more);
			return;
		}
		if (rendered.status != SE_RENDER_SKIP)
		{
			job->failed(job, rendered.message != NULL ? rendered.message : "cannot ask for lines",
						-1);
			return;
		}
	}
	job->ready(job);
}
