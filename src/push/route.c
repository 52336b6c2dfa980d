/*
 * route.c: routes, their scanners, their conditions.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "core/errors.h"
#include "core/json.h"
#include "core/role.h"
#include "core/rows.h"
#include "core/spi.h"
#include "push/internal.h"

List *se_routes = NIL;
List *se_scanners = NIL;
int se_hub_incarnation = 0;
char se_hub_id[37];
TimestampTz se_hub_suspect_before = 0;
uint64 se_hub_adopted_xid = 0;

typedef struct ObjectName
{
	int id;
	char *name;
} ObjectName;

static List *object_names = NIL;
static bool conditions_stale = true;

SeRoute *
se_route_by_id(int id)
{
	ListCell *cell;

	foreach (cell, se_routes)
	{
		SeRoute *route = lfirst(cell);

		if (route->id == id)
			return route;
	}
	return NULL;
}

const char *
se_object_name(int object_id)
{
	ListCell *cell;

	foreach (cell, object_names)
	{
		ObjectName *o = lfirst(cell);

		if (o->id == object_id)
			return o->name;
	}
	return "";
}

int
se_object_id(const char *name)
{
	ListCell *cell;

	foreach (cell, object_names)
	{
		ObjectName *o = lfirst(cell);

		if (strcmp(o->name, name) == 0)
			return o->id;
	}
	return 0;
}

static char *
keep(char *text)
{
	return text == NULL ? NULL : MemoryContextStrdup(TopMemoryContext, text);
}

static void
load_hub(void)
{
	bool isnull;
	Datum value;

	if (SPI_execute("SELECT hub_id::text, incarnation, suspect_before, adopted_xid::text::bigint "
					"FROM sync.hub",
					true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read sync.hub");
	if (SPI_processed == 0)
		return;
	strlcpy(se_hub_id, se_spi_text(0, 1), sizeof(se_hub_id));
	se_hub_incarnation = DatumGetInt32(se_spi_datum(0, 2, &isnull));
	value = se_spi_datum(0, 3, &isnull);
	se_hub_suspect_before = isnull ? 0 : DatumGetTimestampTz(value);
	se_hub_adopted_xid = (uint64) DatumGetInt64(se_spi_datum(0, 4, &isnull));
}

static void
load_objects(void)
{
	MemoryContext old;

	if (SPI_execute("SELECT id, name FROM sync.object", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read sync.object");
	old = MemoryContextSwitchTo(TopMemoryContext);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		ObjectName *o;
		bool isnull;
		int id = DatumGetInt32(se_spi_datum(i, 1, &isnull));

		if (se_object_name(id)[0] != '\0')
			continue;
		o = palloc(sizeof(ObjectName));
		o->id = id;
		o->name = pstrdup(se_spi_text(i, 2));
		object_names = lappend(object_names, o);
	}
	MemoryContextSwitchTo(old);
}

/* Identity of the hub and names of objects; in a transaction. */
void
se_registry_load(void)
{
	load_hub();
	load_objects();
}

typedef struct Checkpoint
{
	int incarnation;
	char *finished;
	int64 finished_seq;
	char *window_end; /* "": the window that was being read is over, or of an older incarnation */
	int64 window_end_seq;
	int64 position;
} Checkpoint;

static bool
stands_at(SeScanner *scanner, const Checkpoint *c)
{
	SeWindow *window = NULL;

	if (!dlist_is_empty(&scanner->windows))
		window = dlist_head_element(SeWindow, node, &scanner->windows);
	if (scanner->incarnation != c->incarnation || strcmp(scanner->finished, c->finished) != 0)
		return false;
	if (window == NULL || c->window_end[0] == '\0')
		return window == NULL && c->window_end[0] == '\0';
	/* One that has begun to read is not joined: its place on record is where it began. */
	return !dlist_has_next(&scanner->windows, &window->node) && !scanner->dirty &&
		   window->unfinished == 0 && window->position == c->position && window->end != NULL &&
		   strcmp(window->end, c->window_end) == 0;
}

/* A scanner of the same system that stands at the same place and has not moved, or a new one. */
static SeScanner *
scanner_at(SeSystem *system, const Checkpoint *c)
{
	ListCell *cell;
	SeScanner *scanner;
	MemoryContext old;

	foreach (cell, se_scanners)
	{
		scanner = lfirst(cell);
		if (scanner->system == system && stands_at(scanner, c))
			return scanner;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	scanner = palloc0(sizeof(SeScanner));
	scanner->system = system;
	scanner->incarnation = c->incarnation;
	scanner->finished = pstrdup(c->finished);
	scanner->finished_seq = c->finished_seq;
	scanner->look = true;
	scanner->recovering = true;
	dlist_init(&scanner->windows);
	se_scanners = lappend(se_scanners, scanner);
	MemoryContextSwitchTo(old);
	if (c->window_end[0] != '\0')
		se_cursor_restore(scanner, c->window_end, c->window_end_seq, c->position);
	return scanner;
}

#define PATIENCE_MS 10000 /* for conditions that fail, record by record */

#define ROUTE_SQL                                                                                     \
	"SELECT r.id, r.system_id, r.object_id, o.name, o.financial, r.operations, r.start_at, "          \
	"CASE WHEN r.condition IS NOT NULL THEN sync._condition_sql(r.object_id, r.condition, r.run_as) " \
	"END, (SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.rolname = r.run_as), "                     \
	"c.incarnation, c.finished::text, c.finished_seq, CASE WHEN c.incarnation = h.incarnation "       \
	"AND c.window_end::text <> c.finished::text THEN c.window_end::text ELSE '' END, "                \
	"c.window_end_seq, c.position "                                                                   \
	"FROM sync.hub h, sync.route r JOIN sync.object o ON o.id = r.object_id "                         \
	"JOIN LATERAL (SELECT * FROM sync.checkpoint k WHERE k.route_id = r.id "                          \
	"ORDER BY k.id DESC LIMIT 1) c ON true "                                                          \
	"WHERE r.state = 'active' ORDER BY r.id"

static void
make_route(uint64 row, SeSystem *system)
{
	SeRoute *route = MemoryContextAllocZero(TopMemoryContext, sizeof(SeRoute));
	MemoryContext old;
	bool isnull;
	Datum value;
	char *operations = se_spi_text(row, 6);
	Checkpoint at;

	route->id = DatumGetInt32(se_spi_datum(row, 1, &isnull));
	route->system = system;
	route->object_id = DatumGetInt32(se_spi_datum(row, 3, &isnull));
	route->object = keep(se_spi_text(row, 4));
	route->financial = DatumGetBool(se_spi_datum(row, 5, &isnull));
	route->wants[SE_CREATE] = strstr(operations, "insert") != NULL;
	route->wants[SE_UPDATE] = strstr(operations, "update") != NULL;
	route->wants[SE_DELETE] = strstr(operations, "delete") != NULL;
	value = se_spi_datum(row, 7, &isnull);
	route->start_at = isnull ? 0 : DatumGetTimestampTz(value);
	if (isnull)
		route->start_at = DT_NOBEGIN;
	route->condition = keep(se_spi_text(row, 8));
	value = se_spi_datum(row, 9, &isnull);
	route->run_as = isnull ? InvalidOid : DatumGetObjectId(value);
	at.incarnation = DatumGetInt32(se_spi_datum(row, 10, &isnull));
	at.finished = se_spi_text(row, 11);
	at.finished_seq = DatumGetInt64(se_spi_datum(row, 12, &isnull));
	at.window_end = se_spi_text(row, 13);
	at.window_end_seq = DatumGetInt64(se_spi_datum(row, 14, &isnull));
	at.position = DatumGetInt64(se_spi_datum(row, 15, &isnull));
	route->scanner = scanner_at(system, &at);
	old = MemoryContextSwitchTo(TopMemoryContext);
	route->scanner->routes = lappend(route->scanner->routes, route);
	se_routes = lappend(se_routes, route);
	MemoryContextSwitchTo(old);
}

/* A route that is gone: its deliveries in memory are, too. */
static void
drop_missing(const Bitmapset *present)
{
	ListCell *cell;

	foreach (cell, se_routes)
	{
		SeRoute *route = lfirst(cell);

		if (bms_is_member(route->id, present))
			continue;
		route->scanner->routes = list_delete_ptr(route->scanner->routes, route);
		se_routes = foreach_delete_current(se_routes, cell);
		/* Its deliveries still point at it; they end on their own. Freed with the process. */
	}
}

/* A table was altered, maybe one that a condition is about. */
static void
note_altered_table(Datum arg, Oid relid)
{
	conditions_stale = true;
}

/* Names of the fields of an object that a system owns, by their own rule or the object's. */
Jsonb *
se_owned_fields(int object_id, int system_id)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {INT4OID, INT4OID};
	Datum values[2] = {Int32GetDatum(object_id), Int32GetDatum(system_id)};
	Jsonb *owned = NULL;
	Datum value;
	bool isnull;

	if (se_rows_none("owner"))
		return NULL;
	se_spi_execute(
		&plan,
		"SELECT jsonb_agg(f.name ORDER BY f.name) FROM sync.object o"
		" CROSS JOIN LATERAL (SELECT a.attname::text AS name FROM pg_catalog.pg_attribute a"
		" WHERE a.attrelid = o.table_oid AND a.attnum > 0 AND NOT a.attisdropped"
		" UNION ALL SELECT 'lines' WHERE o.line_oid IS NOT NULL) f"
		" WHERE o.id = $1 AND $2 = (SELECT w.system_id FROM sync.owner w"
		" WHERE w.object_id = o.id AND w.field IN (f.name, '*') ORDER BY w.field = '*' LIMIT 1)",
		2, types, values, NULL, true, 0);
	value = se_spi_datum(0, 1, &isnull);
	if (!isnull)
		owned = se_obj_copy(DatumGetJsonbP(value));
	SPI_freetuptable(SPI_tuptable);
	return owned;
}

static void
load_owned(void)
{
	ListCell *cell;

	foreach (cell, se_routes)
	{
		SeRoute *route = lfirst(cell);
		Jsonb *owned = se_owned_fields(route->object_id, route->system->id);

		if (route->owned != NULL)
			pfree(route->owned);
		route->owned = owned
						   ? (Jsonb *) memcpy(MemoryContextAlloc(TopMemoryContext, VARSIZE(owned)),
											  owned, VARSIZE(owned))
						   : NULL;
	}
}

/* In a transaction. Known routes keep their place. */
void
se_routes_load(void)
{
	static bool watching = false;
	Bitmapset *present = NULL;

	if (!watching)
		CacheRegisterRelcacheCallback(note_altered_table, (Datum) 0);
	watching = true;
	se_registry_load();
	if (SPI_execute(ROUTE_SQL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read sync.route");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		int id = DatumGetInt32(se_spi_datum(i, 1, &isnull));
		SeSystem *system = se_system_by_id(DatumGetInt32(se_spi_datum(i, 2, &isnull)));
		SeRoute *route;

		if (system == NULL || !system->held)
			continue;
		present = bms_add_member(present, id);
		route = se_route_by_id(id);
		if (route == NULL)
			make_route(i, system);
		else /* its object may have been tracked anew */
			route->financial = DatumGetBool(se_spi_datum(i, 5, &isnull));
	}
	drop_missing(present);
	load_owned();
	se_gate_load();
}

void
se_routes_reset(void)
{
	ListCell *cell;

	foreach (cell, se_routes)
	{
		SeRoute *route = lfirst(cell);

		if (route->plan != NULL)
			SPI_freeplan(route->plan);
		pfree(route->object);
		if (route->condition != NULL)
			pfree(route->condition);
		pfree(route);
	}
	list_free(se_routes);
	se_routes = NIL;
	foreach (cell, se_scanners)
	{
		SeScanner *scanner = lfirst(cell);

		list_free(scanner->routes);
		pfree(scanner->finished);
		pfree(scanner);
	}
	list_free(se_scanners);
	se_scanners = NIL;
}

/* ---- conditions ---- */

/*
 * The query names the columns of the table and their types, which its owner may have altered. Not
 * the table's row type itself: what belongs to that owner would run with the route's rights.
 */
static void
refresh_conditions(void)
{
	conditions_stale = false;
	if (SPI_execute("SELECT r.id, sync._condition_sql(r.object_id, r.condition, r.run_as) "
					"FROM sync.route r WHERE r.state = 'active' AND r.condition IS NOT NULL",
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read sync.route");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		SeRoute *route = se_route_by_id(DatumGetInt32(se_spi_datum(i, 1, &isnull)));
		char *condition = se_spi_text(i, 2);

		if (route == NULL || condition == NULL || route->condition == NULL ||
			strcmp(condition, route->condition) == 0)
			continue;
		if (route->plan != NULL)
			SPI_freeplan(route->plan);
		route->plan = NULL;
		pfree(route->condition);
		route->condition = keep(condition);
	}
}

static Datum
json_array(SeEvent **events, int n, bool old)
{
	Datum *values = palloc(sizeof(Datum) * n);
	bool *nulls = palloc(sizeof(bool) * n);
	int lower = 1;

	for (int i = 0; i < n; i++)
	{
		Jsonb *value = old ? events[i]->old : events[i]->body;

		nulls[i] = value == NULL;
		values[i] = PointerGetDatum(value);
	}
	return PointerGetDatum(
		construct_md_array(values, nulls, 1, &n, &lower, JSONBOID, -1, false, TYPALIGN_INT));
}

static const char *
op_word(char op)
{
	return op == 'I' ? "insert" : op == 'D' ? "delete" : "update";
}

/* Evaluates with the rights of the role that declared the route; throws when it fails. */
static void
evaluate(SeRoute *route, SeEvent **events, int n, bool *wanted)
{
	Oid types[3] = {JSONBARRAYOID, TEXTARRAYOID, JSONBARRAYOID};
	Datum values[3];
	Datum *ops = palloc(sizeof(Datum) * n);
	SeRole role;

	for (int i = 0; i < n; i++)
		ops[i] = CStringGetTextDatum(op_word(events[i]->op));
	values[0] = json_array(events, n, false);
	values[1] = PointerGetDatum(construct_array(ops, n, TEXTOID, -1, false, TYPALIGN_INT));
	values[2] = json_array(events, n, true);
	if (!OidIsValid(route->run_as))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("the role that declared route %d does not exist", route->id)));
	se_role_become(route->run_as, &role);
	(void) se_spi_execute(&route->plan, route->condition, 3, types, values, NULL, true, 0);
	if (SPI_processed != (uint64) n)
		elog(ERROR, "condition of route %d answered %llu rows for %d events", route->id,
			 (unsigned long long) SPI_processed, n);
	for (int i = 0; i < n; i++)
	{
		bool isnull;

		wanted[i] = DatumGetBool(se_spi_datum(i, 1, &isnull)) && !isnull;
	}
	se_role_restore(&role);
}

/* As evaluate(), in a subtransaction; the error's message instead of an error. */
static char *
try_evaluate(SeRoute *route, SeEvent **events, int n, bool *wanted, volatile bool *later)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char *volatile message = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		evaluate(route, events, n, wanted);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		message = psprintf("condition of the route failed: %s", error->message);
		*later = se_error_is_transient(error->sqlerrcode);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return message;
}

bool
se_route_filter(SeRoute *route, SeEvent **events, int n, bool *wanted, char **errors)
{
	TimestampTz patience;
	volatile bool later = false;

	memset(errors, 0, sizeof(char *) * n);
	memset(wanted, true, sizeof(bool) * n);
	if (route->condition == NULL)
		return true;
	if (conditions_stale)
		refresh_conditions();
	if (try_evaluate(route, events, n, wanted, &later) == NULL)
		return true;
	if (later)
		return false;
	/* One bad record must not hold up the others: alone, only it fails. */
	patience = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PATIENCE_MS);
	for (int i = 0; i < n && !later; i++)
		errors[i] = GetCurrentTimestamp() < patience
						? try_evaluate(route, &events[i], 1, &wanted[i], &later)
						: "condition of the route failed: it took too long for the records before";
	return !later;
}
