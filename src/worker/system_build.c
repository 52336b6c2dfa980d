/*
 * system_build.c: builds the configuration of a system from its foreign server, user mapping,
 * current manifest and legal entity.
 *
 * It is one memory context, replaced as a whole when any of these changed; the old one is kept until
 * the last request that began with it has ended.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "core/errors.h"
#include "core/guc.h"
#include "core/json.h"
#include "core/role.h"
#include "core/spi.h"
#include "http/secrets.h"
#include "worker/credentials.h"
#include "worker/notice.h"
#include "worker/system_build.h"

#define DEFAULT_TIMEOUT_MS 30000
#define DEFAULT_CONNECT_MS 10000
#define DEFAULT_IN_FLIGHT  32
#define DEFAULT_SETTLE_MS  60000

/* ---- options ---- */

static const char *
option(List *options, const char *name)
{
	ListCell *cell;

	foreach (cell, options)
	{
		DefElem *def = lfirst(cell);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

static int64
option_ms(List *options, const char *name, int64 fallback)
{
	const char *text = option(options, name);
	Interval *interval;

	if (text == NULL)
		return fallback;
	interval =
		DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
											  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	return interval->time / 1000 + (int64) interval->day * 86400000;
}

static int
option_int(List *options, const char *name, int fallback)
{
	const char *text = option(options, name);

	return text == NULL ? fallback : pg_strtoint32(text);
}

/*
 * Options of the system's user mapping for PUBLIC. Read from the table and not from the cache: a session
 * that commits wakes us before it has sent its invalidation messages. (To forget the caches instead
 * would have all of the catalog read and all plans made again: 9 ms for which a system that was just
 * resumed would wait.)
 */
static List *
mapping_options(Oid server)
{
	Relation rel = table_open(UserMappingRelationId, AccessShareLock);
	List *result = NIL;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&keys[0], Anum_pg_user_mapping_umuser, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(InvalidOid));
	ScanKeyInit(&keys[1], Anum_pg_user_mapping_umserver, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(server));
	scan = systable_beginscan(rel, UserMappingUserServerIndexId, true, NULL, 2, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;
		Datum options =
			heap_getattr(tuple, Anum_pg_user_mapping_umoptions, RelationGetDescr(rel), &isnull);

		/* They point into a copy of the array, not into the page. */
		if (!isnull)
			result = untransformRelOptions(PointerGetDatum(PG_DETOAST_DATUM_COPY(options)));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

static const char *
get_secret(void *arg, const char *name, char **error)
{
	SeSystem *system = arg;
	ListCell *cell;

	foreach (cell, system->secret_refs)
	{
		SeHeader *ref = lfirst(cell);

		if (strcmp(ref->name, name) != 0)
			continue;
		/* The user name is no secret and stands in the mapping itself. */
		if (strcmp(name, "user") == 0 && !se_secret_valid_reference(ref->value))
			return ref->value;
		return se_secret_get(system->name, ref->value, error);
	}
	*error = psprintf("the user mapping of system \"%s\" has no option \"%s\"", system->name, name);
	return NULL;
}

static SeEgress *
build_egress(const SeManifest *manifest, const char *extra, char **error)
{
	List *entries = list_copy(manifest->hosts);
	const char *lists[2] = {extra, se_allowed_hosts};
	const char **array;
	SeEgress *egress;
	int n = 0;
	ListCell *cell;

	for (int i = 0; i < 2; i++)
	{
		char *copy = pstrdup(lists[i] != NULL ? lists[i] : "");
		char *rest = copy;
		char *entry;

		while ((entry = strsep(&rest, ",")) != NULL)
		{
			while (*entry == ' ')
				entry++;
			for (int len = (int) strlen(entry); len > 0 && entry[len - 1] == ' '; len--)
				entry[len - 1] = '\0';
			if (*entry != '\0')
				entries = lappend(entries, entry);
		}
	}
	array = palloc(sizeof(char *) * (list_length(entries) + 1));
	foreach (cell, entries)
		array[n++] = lfirst(cell);
	egress = se_egress_parse(array, n, error);
	return egress;
}

/* ---- parameters and legal entity ---- */

/* Declared parameters with the server's values over their defaults. */
static Jsonb *
build_param(const SeManifest *manifest, List *options, const char *name)
{
	SeObjBuilder b;
	ListCell *cell;

	se_obj_begin(&b);
	foreach (cell, manifest->parameters)
	{
		SeDeclared *declared = lfirst(cell);
		const char *value = option(options, declared->name);

		if (value == NULL)
			value = declared->default_value;
		if (value != NULL)
			se_obj_text(&b, declared->name, value);
	}
	se_obj_text(&b, "system", name);
	return se_obj_end(&b);
}

/*
 * The legal entity as an object, read as the owner of its table: the worker's own role has no
 * rights on business tables.
 */
static Jsonb *
build_entity(const char *code)
{
	Oid argtypes[1] = {TEXTOID};
	Datum args[1];
	Oid relation;
	SeRole role;
	Jsonb *entity = NULL;
	StringInfoData sql;
	MemoryContext caller = CurrentMemoryContext;

	if (code == NULL)
		return se_obj_empty();
	/* By catalog and not by a cast to regclass, which asks for a right on the schema. */
	if (SPI_execute("SELECT c.oid FROM pg_catalog.pg_class c "
					"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
					"LEFT JOIN sync.object o ON o.name = 'legal_entity' "
					"WHERE n.nspname = coalesce(o.schema_name, 'canonical') "
					"AND c.relname = coalesce(o.table_name, 'legal_entity')",
					true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for the table of legal entities");
	if (SPI_processed != 1)
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg(
				 "there is no table of legal entities, which the server option legal_entity needs"),
			 errhint(
				 "Create the canonical model, or track your own table as object legal_entity.")));
	relation = DatumGetObjectId(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &(bool){false}));
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT pg_catalog.to_jsonb(e) FROM %s e WHERE e.code = $1",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
												get_rel_name(relation)));
	args[0] = CStringGetTextDatum(code);
	se_role_become(se_relation_owner(relation), &role);
	if (SPI_execute_with_args(sql.data, 1, argtypes, args, NULL, true, 1) == SPI_OK_SELECT &&
		SPI_processed == 1)
	{
		bool isnull;
		Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

		/* SPI leaves us in a context of its own. */
		MemoryContextSwitchTo(caller);
		entity = se_obj_copy(DatumGetJsonbP(value));
	}
	MemoryContextSwitchTo(caller);
	se_role_restore(&role);
	if (entity == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND), errmsg("legal entity \"%s\" does not exist", code),
				 errhint("Insert it into canonical.legal_entity, or correct the server option "
						 "legal_entity.")));
	return entity;
}

/* ---- building ---- */


static void
set_modes(SeSystem *system, const SeSystemSource *source, List *options)
{
	const char *mode = option(options, "mode");

	system->mode = SE_MODE_LIVE;
	if (mode != NULL && strcmp(mode, "dry_run") == 0)
		system->mode = SE_MODE_DRY_RUN;
	if (source->paused || (mode != NULL && strcmp(mode, "paused") == 0))
		system->mode = SE_MODE_PAUSED;
}

static void
set_limits(SeSystem *system, List *options)
{
	const SeLimits *limits = &system->manifest->limits;
	const char *rate = option(options, "rate_limit");
	int requests = limits->rate;
	int64 per_us = limits->rate_per_ms * 1000;
	int64_t parsed_us;

	if (rate != NULL && se_limit_parse(rate, &requests, &parsed_us))
		per_us = parsed_us;
	se_limit_set(&system->limit, requests, per_us, GetCurrentTimestamp());
	system->max_in_flight =
		option_int(options, "max_in_flight",
				   limits->in_flight > 0 ? limits->in_flight : DEFAULT_IN_FLIGHT);
	system->timeout_ms =
		(int) option_ms(options, "timeout",
						limits->timeout_ms > 0 ? limits->timeout_ms : DEFAULT_TIMEOUT_MS);
	system->connect_timeout_ms = (int) option_ms(options, "connect_timeout", DEFAULT_CONNECT_MS);
	system->max_attempts = option_int(options, "max_attempts", se_max_attempts);
	system->settle_given = option(options, "settle_time") != NULL;
	system->settle_ms = option_ms(options, "settle_time",
								  system->manifest->settle_ms > 0 ? system->manifest->settle_ms
																  : DEFAULT_SETTLE_MS);
}

static void
set_secrets(SeSystem *system, List *mapping)
{
	ListCell *cell;

	system->secret_refs = NIL;
	foreach (cell, mapping)
	{
		DefElem *def = lfirst(cell);
		SeHeader *ref = palloc(sizeof(SeHeader));

		ref->name = pstrdup(def->defname);
		ref->value = pstrdup(defGetString(def));
		system->secret_refs = lappend(system->secret_refs, ref);
	}
	system->secrets.get = get_secret;
	system->secrets.arg = system;
}

/* Throws with the reason when the system cannot be spoken to. */
static void
build(SeSystem *system, const SeSystemSource *source, List *options, List *mapping)
{
	const char *base_url;
	char *error = NULL;
	SeObjBuilder b;

	if (source->connector_id == 0)
		ereport(ERROR, (errcode(SE_ERRCODE_UNKNOWN_CONNECTOR),
						errmsg("connector \"%s\" is not registered",
							   option(options, "connector") ? option(options, "connector") : "")));
	system->connector_id = source->connector_id;
	system->manifest = se_manifest_compile(source->manifest, system->cxt);
	base_url = option(options, "base_url");
	if (base_url == NULL)
		base_url = system->manifest->base_url;
	if (base_url == NULL)
		ereport(ERROR, (errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
						errmsg("server option base_url is missing")));
	system->base_url = pstrdup(base_url);
	if (strlen(base_url) > 0 && base_url[strlen(base_url) - 1] == '/')
		system->base_url[strlen(base_url) - 1] = '\0';
	set_limits(system, options);
	set_secrets(system, mapping);
	system->proxy = option(options, "proxy") ? pstrdup(option(options, "proxy")) : NULL;
	system->ca_file = option(options, "ca_file") ? pstrdup(option(options, "ca_file")) : NULL;
	if (system->ca_file == NULL && se_ca_file != NULL && se_ca_file[0] != '\0')
		system->ca_file = pstrdup(se_ca_file);
	system->http2 = option(options, "http2") && strcmp(option(options, "http2"), "on") == 0;
	system->egress = build_egress(system->manifest, option(options, "allowed_hosts"), &error);
	if (system->egress == NULL)
		ereport(ERROR, (errcode(SE_ERRCODE_EGRESS_REFUSED), errmsg("%s", error)));
	system->param = build_param(system->manifest, options, source->name);
	system->entity = build_entity(option(options, "legal_entity"));
	se_obj_begin(&b);
	se_obj_value(&b, "param", system->param);
	se_obj_value(&b, "entity", system->entity);
	system->vars = se_obj_end(&b);
}

/* Text that is equal exactly when the configuration need not be built again. */
static char *
make_signature(const SeSystemSource *source, List *options, List *mapping)
{
	StringInfoData text;
	List *lists[2] = {options, mapping};
	ListCell *cell;

	initStringInfo(&text);
	appendStringInfo(&text, "%d %u %s %s ", source->connector_id, source->server, se_allowed_hosts,
					 se_ca_file);
	for (int i = 0; i < 2; i++)
	{
		foreach (cell, lists[i])
		{
			DefElem *def = lfirst(cell);

			if (strcmp(def->defname, "mode") != 0)
				appendStringInfo(&text, "%s=%s;", def->defname, defGetString(def));
		}
	}
	return text.data;
}

void
se_system_free_retired(SeSystem *system)
{
	ListCell *cell;

	if (system->in_flight > 0 || system->pins > 0 || system->outstanding[SE_WRITING] > 0 ||
		system->outstanding[SE_READING] > 0 || system->outstanding[SE_BACKGROUND] > 0)
		return;
	foreach (cell, system->retired)
		MemoryContextDelete(lfirst(cell));
	list_free(system->retired);
	system->retired = NIL;
}

/* Builds a configuration in a fresh context; a failure makes the system unusable and says why. */
static void
rebuild(SeSystem *system, const SeSystemSource *source, List *options, List *mapping)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext old;

	if (system->cxt != NULL)
	{
		old = MemoryContextSwitchTo(TopMemoryContext);
		system->retired = lappend(system->retired, system->cxt);
		MemoryContextSwitchTo(old);
		se_egress_free(system->egress);
		system->egress = NULL;
	}
	system->cxt =
		AllocSetContextCreate(TopMemoryContext, "sync_ext system", ALLOCSET_DEFAULT_SIZES);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(system->cxt);
	PG_TRY();
	{
		system->problem = NULL;
		system->name = pstrdup(source->name);
		build(system, source, options, mapping);
		system->usable = true;
		ReleaseCurrentSubTransaction();
		se_notice_clear(psprintf("config:%s", source->name));
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(system->cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		system->name = MemoryContextStrdup(system->cxt, source->name);
		system->problem = MemoryContextStrdup(system->cxt, error->message);
		system->usable = false;
		se_notice_put(psprintf("config:%s", source->name), "error",
					  psprintf("system \"%s\" cannot be used: %s", source->name, error->message),
					  error->hint);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	system->logged_in = false;
	se_credentials_forget(system);
	if (system->session.cxt != NULL)
		se_session_expire(&system->session);
	se_system_free_retired(system);
}

void
se_system_refresh(SeSystem *system, const SeSystemSource *source)
{
	List *options = NIL;
	List *mapping = NIL;
	char *signature;

	if (OidIsValid(source->server))
	{
		options = source->options;
		mapping = mapping_options(source->server);
	}
	signature = make_signature(source, options, mapping);
	if (system->signature == NULL || strcmp(signature, system->signature) != 0 || !system->usable)
	{
		if (system->signature != NULL)
			pfree(system->signature);
		system->signature = MemoryContextStrdup(TopMemoryContext, signature);
		rebuild(system, source, options, mapping);
	}
	set_modes(system, source, options);
}
