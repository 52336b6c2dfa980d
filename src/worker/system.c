/*
 * system.c: the systems that this process speaks for.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "core/guc.h"
#include "core/json.h"
#include "core/spi.h"
#include "http/secrets.h"
#include "worker/credentials.h"
#include "worker/system.h"
#include "worker/system_build.h"

/*
 * The speaker of a system holds the advisory lock (database, class, system). Its last field is not
 * one that SQL's advisory locks use: nobody can take it away with pg_advisory_lock().
 */
#define SYSTEM_LOCK_CLASS 0x53594e43
#define SYSTEM_LOCK_SPACE 0x5345

static List *systems = NIL; /* SeSystem *; TopMemoryContext */

List *
se_systems(void)
{
	return systems;
}

void
se_system_init_queues(SeSystem *system)
{
	for (int i = 0; i < SE_PRIORITIES; i++)
	{
		dlist_init(&system->waiting[i]);
		system->outstanding[i] = system->unsent[i] = 0;
	}
	system->pins = 0;
}

SeSystem *
se_system_by_id(int id)
{
	ListCell *cell;

	foreach (cell, systems)
	{
		SeSystem *system = lfirst(cell);

		if (system->id == id)
			return system;
	}
	return NULL;
}

#define SOURCE_SQL                                                                                 \
	"SELECT s.id, s.name, s.paused, f.oid, f.srvoptions, c.id, c.manifest FROM sync.system s "     \
	"LEFT JOIN (pg_catalog.pg_foreign_server f JOIN pg_catalog.pg_foreign_data_wrapper w "         \
	"ON w.oid = f.srvfdw AND w.fdwname = 'sync_ext') ON f.srvname = s.name "                       \
	"LEFT JOIN LATERAL pg_catalog.pg_options_to_table(f.srvoptions) o "                            \
	"ON o.option_name = 'connector' "                                                              \
	"LEFT JOIN sync.connector c ON c.name = o.option_value AND c.current "

/* Copies rows of SOURCE_SQL out of SPI's hands: building runs queries of its own. */
static List *
read_sources(void)
{
	List *result = NIL;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		SeSystemSource *source = palloc0(sizeof(SeSystemSource));
		bool isnull;
		Datum value;

		source->id = DatumGetInt32(se_spi_datum(i, 1, &isnull));
		source->name = se_spi_text(i, 2);
		source->paused = DatumGetBool(se_spi_datum(i, 3, &isnull));
		value = se_spi_datum(i, 4, &isnull);
		source->server = isnull ? InvalidOid : DatumGetObjectId(value);
		value = se_spi_datum(i, 5, &isnull);
		if (!isnull)
			source->options = untransformRelOptions(PointerGetDatum(PG_DETOAST_DATUM_COPY(value)));
		value = se_spi_datum(i, 6, &isnull);
		source->connector_id = isnull ? 0 : DatumGetInt32(value);
		value = se_spi_datum(i, 7, &isnull);
		source->manifest = isnull ? NULL : se_obj_copy(DatumGetJsonbP(value));
		result = lappend(result, source);
	}
	return result;
}

/*
 * One speaker per system in the whole database: a second hub process (or a second cluster member
 * that thinks it is primary) must not send beside us.
 */
static bool
hold(int system_id)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, SYSTEM_LOCK_CLASS, (uint32) system_id,
						 SYSTEM_LOCK_SPACE);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

void
se_systems_load(void)
{
	List *sources;
	ListCell *cell;

	se_txn_begin("loading systems");
	if (SPI_execute(SOURCE_SQL "ORDER BY s.id", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the registry of systems");
	sources = read_sources();
	foreach (cell, sources)
	{
		SeSystemSource *source = lfirst(cell);
		SeSystem *system = se_system_by_id(source->id);

		if (system == NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

			system = palloc0(sizeof(SeSystem));
			system->id = source->id;
			se_system_init_queues(system);
			systems = lappend(systems, system);
			MemoryContextSwitchTo(old);
		}
		se_system_refresh(system, source);
		if (!system->held)
			system->held = hold(system->id);
	}
	se_txn_commit();
}

SeSystem *
se_system_build(const char *name)
{
	Oid argtypes[1] = {TEXTOID};
	Datum args[1];
	List *sources;
	SeSystem *system;

	args[0] = CStringGetTextDatum(name);
	if (SPI_execute_with_args(SOURCE_SQL "WHERE s.name = $1", 1, argtypes, args, NULL, true, 1) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read the registry of systems");
	sources = read_sources();
	if (sources == NIL)
		return NULL;
	system = palloc0(sizeof(SeSystem));
	system->id = ((SeSystemSource *) linitial(sources))->id;
	se_system_init_queues(system);
	se_system_refresh(system, linitial(sources));
	return system;
}

int
se_systems_under_way(void)
{
	int n = 0;
	ListCell *cell;

	foreach (cell, systems)
	{
		const SeSystem *system = lfirst(cell);

		if (system->mode != SE_MODE_PAUSED)
			n += system->outstanding[SE_WRITING];
	}
	return n;
}

void
se_systems_reset(void)
{
	ListCell *cell;

	foreach (cell, systems)
	{
		SeSystem *system = lfirst(cell);
		LOCKTAG tag;

		system->in_flight = 0;
		se_system_init_queues(system);
		se_system_free_retired(system);
		if (system->held)
		{
			SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, SYSTEM_LOCK_CLASS, (uint32) system->id,
								 SYSTEM_LOCK_SPACE);
			LockRelease(&tag, ExclusiveLock, true);
		}
		se_egress_free(system->egress);
		se_credentials_forget(system);
		if (system->cxt != NULL)
			MemoryContextDelete(system->cxt);
		if (system->session.cxt != NULL)
			MemoryContextDelete(system->session.cxt);
		if (system->signature != NULL)
			pfree(system->signature);
		pfree(system);
	}
	list_free(systems);
	systems = NIL;
}

char *
se_system_redact(SeSystem *system, const char *text, size_t len, size_t limit)
{
	StringInfoData clean;
	int valid;

	initStringInfo(&clean);
	appendBinaryStringInfo(&clean, text, (int) Min(len, limit + 4096));
	se_redact_string(&clean, se_credentials_redactor(system));
	if ((size_t) clean.len > limit)
		clean.len = pg_encoding_mbcliplen(PG_UTF8, clean.data, clean.len, (int) limit);
	/* Vendors' bytes are untrusted: what is not valid text is cut off, not stored. */
	valid = pg_encoding_verifymbstr(PG_UTF8, clean.data, clean.len);
	clean.data[valid] = '\0';
	return pg_any_to_server(clean.data, valid, PG_UTF8);
}
