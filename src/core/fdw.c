/*
 * fdw.c: validator of the foreign-data wrapper sync_ext, and the check of a secret's reference.
 *
 * A system is a foreign server. Its options are checked when they are declared, so that a typing
 * error is an error of CREATE SERVER and not of a worker at night. What only the connector knows
 * (its parameters) is checked against the registered manifest; a connector that is not registered
 * is a WARNING, because a restore makes the servers before it loads the registry.
 */
#include "postgres.h"

#include <ctype.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "core/compat.h"
#include "core/errors.h"
#include "http/egress.h"
#include "http/secrets.h"

PG_FUNCTION_INFO_V1(se_fdw_validator);
PG_FUNCTION_INFO_V1(se_secret_ok);

typedef enum OptionKind
{
	OPT_TEXT, /* any text that is not empty */
	OPT_URL,
	OPT_MODE,
	OPT_RATE,
	OPT_COUNT,
	OPT_INTERVAL,
	OPT_HOSTS,
	OPT_PATH,
	OPT_BOOL
} OptionKind;

typedef struct Option
{
	const char *name;
	OptionKind kind;
	bool superuser; /* opens what the administrator of the server has closed */
} Option;

static const Option server_options[] = {
	{"allowed_hosts", OPT_HOSTS, true},
	{"base_url", OPT_URL, false},
	{"ca_file", OPT_PATH, true},
	{"connect_timeout", OPT_INTERVAL, false},
	{"connector", OPT_TEXT, false},
	{"http2", OPT_BOOL, false},
	{"legal_entity", OPT_TEXT, false},
	{"max_attempts", OPT_COUNT, false},
	{"max_in_flight", OPT_COUNT, false},
	{"mode", OPT_MODE, false},
	{"proxy", OPT_URL, true},
	{"rate_limit", OPT_RATE, false},
	{"settle_time", OPT_INTERVAL, false},
	{"timeout", OPT_INTERVAL, false},
};

static const Option *
find_option(const char *name)
{
	for (int i = 0; i < lengthof(server_options); i++)
	{
		if (strcmp(server_options[i].name, name) == 0)
			return &server_options[i];
	}
	return NULL;
}

/* [a-z][a-z0-9_]*: what parameters and secrets may be called. */
static bool
plain_name(const char *name)
{
	if (*name < 'a' || *name > 'z')
		return false;
	return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(name);
}

static void
bad_value(const char *name, const char *detail, const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					errmsg("invalid value for option \"%s\"", name), errdetail("%s", detail),
					errhint("%s", hint)));
}

/* ---- values ---- */

static void
check_url(const char *name, const char *value)
{
	const char *hint = "Write it as https://host[:port][/path].";
	const char *host;
	size_t length;

	for (const char *c = value; *c; c++)
	{
		if ((unsigned char) *c <= ' ' || *c == 0x7f)
			bad_value(name, "A URL holds no spaces and no control characters.", hint);
	}
	if (strncmp(value, "https://", 8) == 0)
		host = value + 8;
	else if (strncmp(value, "http://", 7) == 0)
		host = value + 7;
	else
	{
		bad_value(name, "The URL must begin with https:// or http://.", hint);
		return;
	}
	length = strcspn(host, "/?#");
	if (length == 0 || host[0] == ':')
		bad_value(name, "The URL names no host.", hint);

	/* The value is not repeated: what stands before the @ may be a password. */
	if (memchr(host, '@', length) != NULL)
		ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE), errhidestmt(true),
						errmsg("invalid value for option \"%s\"", name),
						errdetail("The URL holds a user name or password."),
						errhint("Put credentials into the user mapping, by reference.")));
	if (strpbrk(host + length, "?#") != NULL)
		bad_value(name, "The URL holds a query or a fragment.", hint);
}

static void
check_rate(const char *name, const char *value)
{
	const char *c = value;

	while (isdigit((unsigned char) *c))
		c++;
	if (c == value || c - value > 7 || atoi(value) == 0 ||
		(strcmp(c, "/s") != 0 && strcmp(c, "/min") != 0 && strcmp(c, "/h") != 0))
		bad_value(name, "A rate is a number of requests and a unit of time.",
				  "Write it as N/s, N/min or N/h, for example 10/s.");
}

static void
check_count(const char *name, const char *value)
{
	if (strspn(value, "0123456789") != strlen(value) || strlen(value) == 0 || strlen(value) > 6 ||
		atoi(value) == 0)
		bad_value(name, "The value is not a number from 1 to 999999.", "Write a whole number.");
}

static void
check_interval(const char *name, const char *value)
{
	char buffer[MAXDATELEN + 1];
	char *field[MAXDATEFIELDS];
	int ftype[MAXDATEFIELDS];
	int nf;
	int dtype;
	struct pg_itm_in parts;
	int rc;
	int64 usec;

	rc = ParseDateTime(value, buffer, sizeof(buffer), field, ftype, MAXDATEFIELDS, &nf);
	if (rc == 0)
		rc = DecodeInterval(field, ftype, nf, INTERVAL_FULL_RANGE, &dtype, &parts);
	if (rc != 0 || dtype != DTK_DELTA || parts.tm_year != 0 || parts.tm_mon != 0)
		bad_value(name, "The value is not an interval of hours, minutes or seconds.",
				  "Write it as 30s, 5 min or 00:00:30.");
	usec = parts.tm_usec + (int64) parts.tm_mday * USECS_PER_DAY;
	if (usec < 1000 || usec > 7 * USECS_PER_DAY)
		bad_value(name, "The interval is not between a millisecond and seven days.",
				  "Write it as 30s, 5 min or 00:00:30.");
}

static void
check_hosts(const char *name, const char *value)
{
	char *copy = pstrdup(value);
	const char *entries[100];
	int n = 0;
	char *error = NULL;
	SeEgress *egress;
	char *save = NULL;

	for (char *entry = strtok_r(copy, ", ", &save); entry != NULL;
		 entry = strtok_r(NULL, ", ", &save))
	{
		if (n == lengthof(entries))
			bad_value(name, "The list has more than 100 entries.",
					  "List a network (10.0.0.0/8) or a domain (*.example.com) instead.");
		entries[n++] = entry;
	}
	egress = se_egress_parse(entries, n, &error);
	if (egress == NULL)
		bad_value(name, error != NULL ? error : "The list cannot be read.",
				  "Separate entries by commas: host, *.domain, host:port, http://host:port, "
				  "address or network.");
	se_egress_free(egress);
}

static void
check_value(const Option *option, const char *value)
{
	bool ignored;

	switch (option->kind)
	{
		case OPT_TEXT:
			if (value[strspn(value, " \t\r\n")] == '\0')
				bad_value(option->name, "The value is empty.", "Give a value, or DROP the option.");
			break;
		case OPT_URL:
			check_url(option->name, value);
			break;
		case OPT_MODE:
			if (strcmp(value, "live") != 0 && strcmp(value, "dry_run") != 0 &&
				strcmp(value, "paused") != 0)
				bad_value(
					option->name, "The mode is not known.",
					"Modes are live, dry_run (renders and records, sends nothing) and paused.");
			break;
		case OPT_RATE:
			check_rate(option->name, value);
			break;
		case OPT_COUNT:
			check_count(option->name, value);
			break;
		case OPT_INTERVAL:
			check_interval(option->name, value);
			break;
		case OPT_HOSTS:
			check_hosts(option->name, value);
			break;
		case OPT_PATH:
			if (!is_absolute_path(value))
				bad_value(option->name, "The path is not absolute.",
						  "Begin the path with a slash.");
			break;
		case OPT_BOOL:
			if (!parse_bool(value, &ignored))
				bad_value(option->name, "The value is not a boolean.", "Write on or off.");
			break;
	}
}

/* ---- superuser's options ---- */

/*
 * Whether a server that the current user may alter has this very value already. The validator sees
 * the whole list of options and not which ones changed: without this, the owner of a server could
 * not even pause it once a superuser had set one of these options.
 */
static bool
value_is_granted(const char *name, const char *value)
{
	Relation rel = table_open(ForeignServerRelationId, AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	HeapTuple tuple;
	bool found = false;

	while (!found && (tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_foreign_server server = (Form_pg_foreign_server) GETSTRUCT(tuple);
		bool isnull;
		Datum options =
			heap_getattr(tuple, Anum_pg_foreign_server_srvoptions, RelationGetDescr(rel), &isnull);
		ListCell *cell;

		if (isnull || !SE_OWNS_SERVER(server->oid, GetUserId()))
			continue;
		foreach (cell, untransformRelOptions(options))
		{
			DefElem *def = (DefElem *) lfirst(cell);

			if (strcmp(def->defname, name) == 0 && strcmp(defGetString(def), value) == 0)
				found = true;
		}
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return found;
}

static void
check_superuser(const Option *option, const char *value)
{
	if (!option->superuser || superuser() || value_is_granted(option->name, value))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to set option \"%s\"", option->name),
			 errdetail("The option decides which hosts this server speaks to, or whom it trusts."),
			 errhint("Have a superuser set it.")));
}

/* ---- the connector's parameters ---- */

/*
 * The manifest of a registered connector, or NULL. Read with our own rights: who declares a server
 * need not be able to read the registry.
 */
static Jsonb *
find_manifest(const char *connector)
{
	Oid namespace = get_namespace_oid("sync", true);
	Oid relid = OidIsValid(namespace) ? get_relname_relid("connector", namespace) : InvalidOid;
	AttrNumber name_no;
	AttrNumber manifest_no;
	AttrNumber current_no;
	Relation rel;
	Snapshot snapshot;
	TableScanDesc scan;
	HeapTuple tuple;
	Jsonb *manifest = NULL;

	if (!OidIsValid(relid))
		return NULL;
	name_no = get_attnum(relid, "name");
	manifest_no = get_attnum(relid, "manifest");
	current_no = get_attnum(relid, "current");
	if (name_no <= 0 || manifest_no <= 0 || current_no <= 0)
		return NULL;

	rel = table_open(relid, AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = table_beginscan(rel, snapshot, 0, NULL);
	while (manifest == NULL && (tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		TupleDesc desc = RelationGetDescr(rel);
		bool isnull;
		Datum name = heap_getattr(tuple, name_no, desc, &isnull);
		Datum current = heap_getattr(tuple, current_no, desc, &isnull);

		if (DatumGetBool(current) && strcmp(TextDatumGetCString(name), connector) == 0)
			manifest = DatumGetJsonbPCopy(heap_getattr(tuple, manifest_no, desc, &isnull));
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return manifest;
}

/* A top-level member of the manifest that is an object, or NULL. */
static JsonbValue *
manifest_member(Jsonb *manifest, const char *name)
{
	JsonbValue *member = getKeyJsonValueFromContainer(&manifest->root, name, strlen(name), NULL);

	return member != NULL && member->type == jbvBinary ? member : NULL;
}

static bool
declares(JsonbValue *section, const char *name)
{
	return section != NULL &&
		   getKeyJsonValueFromContainer(section->val.binary.data, name, strlen(name), NULL) != NULL;
}

/* Names of all options that a server with this manifest may have, for a hint. */
static char *
valid_options(JsonbValue *parameters)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < lengthof(server_options); i++)
		appendStringInfo(&list, "%s%s", i > 0 ? ", " : "", server_options[i].name);
	if (parameters != NULL)
	{
		JsonbIterator *it = JsonbIteratorInit(parameters->val.binary.data);
		JsonbValue value;
		JsonbIteratorToken token;

		while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
		{
			if (token == WJB_KEY)
				appendStringInfo(&list, ", %.*s", value.val.string.len, value.val.string.val);
		}
	}
	return list.data;
}

static void
check_server(List *options)
{
	const char *connector = NULL;
	Jsonb *manifest;
	JsonbValue *parameters = NULL;
	ListCell *cell;

	foreach (cell, options)
	{
		DefElem *def = (DefElem *) lfirst(cell);

		if (strcmp(def->defname, "connector") == 0)
			connector = defGetString(def);
	}
	if (connector == NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND), errmsg("option \"connector\" is required"),
			 errdetail("A system speaks through a connector."),
			 errhint("Add OPTIONS (connector 'name'); sync.connector lists the registered ones.")));

	manifest = find_manifest(connector);
	if (manifest != NULL)
		parameters = manifest_member(manifest, "parameters");
	else
		ereport(WARNING,
				(errcode(SE_ERRCODE_UNKNOWN_CONNECTOR),
				 errmsg("connector \"%s\" is not registered", connector),
				 errdetail("Its parameters could not be checked."),
				 errhint("Register it with sync.register_connector() before the system is used.")));

	foreach (cell, options)
	{
		DefElem *def = (DefElem *) lfirst(cell);
		const Option *option = find_option(def->defname);

		if (option != NULL)
		{
			check_value(option, defGetString(def));
			check_superuser(option, defGetString(def));
		}
		else if (manifest != NULL ? !declares(parameters, def->defname) : !plain_name(def->defname))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME), errhidestmt(true),
					 errmsg("invalid option \"%s\"", def->defname),
					 errdetail("Connector \"%s\" declares no parameter of that name.", connector),
					 errhint("Valid options are: %s. Credentials belong into a user mapping.",
							 valid_options(parameters))));
	}
}

/*
 * Values of a user mapping are references. One that is not may be a secret: neither the message nor
 * the log's copy of the statement repeats it.
 */
static void
check_user_mapping(List *options)
{
	ListCell *cell;

	foreach (cell, options)
	{
		DefElem *def = (DefElem *) lfirst(cell);

		if (!plain_name(def->defname))
			ereport(
				ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME), errhidestmt(true),
				 errmsg("invalid option name in a user mapping"),
				 errdetail("Names consist of lower-case letters, digits and underscores."),
				 errhint(
					 "Use the names that the connector's manifest declares under \"secrets\".")));
		if (strcmp(def->defname, "user") == 0)
			continue;
		if (!se_secret_valid_reference(defGetString(def)))
			ereport(
				ERROR,
				(errcode(SE_ERRCODE_BAD_SECRET), errhidestmt(true),
				 errmsg("option \"%s\" does not refer to a secret", def->defname),
				 errdetail("Secrets are never kept in the database, not even in the catalogs."),
				 errhint(
					 "Write file:NAME for the file secrets_dir/SYSTEM/NAME, or env:SYNC_EXT_NAME for a "
					 "variable of the server's environment. Change a secret that was typed here.")));
	}
}

/* sync.fdw_validator(options text[], catalog oid) */
PGDLLEXPORT Datum
se_fdw_validator(PG_FUNCTION_ARGS)
{
	List *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid catalog = PG_GETARG_OID(1);

	if (catalog == ForeignServerRelationId)
		check_server(options);
	else if (catalog == UserMappingRelationId)
		check_user_mapping(options);
	else if (catalog == ForeignTableRelationId)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("sync_ext has no foreign tables"),
				 errhint("Pull the object into a table of its own with sync.create_stream().")));
	else if (options != NIL)
		ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
						errmsg("invalid option \"%s\"", ((DefElem *) linitial(options))->defname),
						errhint("Options belong to the server or to its user mapping.")));
	PG_RETURN_VOID();
}

/*
 * sync._secret_ok(system text, ref text): NULL when the reference resolves, else why it does not.
 * The value itself stays in this process's memory and is forgotten at once.
 */
PGDLLEXPORT Datum
se_secret_ok(PG_FUNCTION_ARGS)
{
	char *error = NULL;
	const char *value = se_secret_get(text_to_cstring(PG_GETARG_TEXT_PP(0)),
									  text_to_cstring(PG_GETARG_TEXT_PP(1)), &error);
	text *reason = NULL;

	if (value == NULL)
		reason = cstring_to_text(error != NULL ? error : "the reference cannot be resolved");
	se_secret_forget();
	if (reason == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(reason);
}
