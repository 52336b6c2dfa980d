/*
 * test_schema.c
 *		The schema validator, and the manifest schema against shipped connectors.
 */
#include "tap.h"

#include <stdlib.h>

#include "../../src/connector/schema.c"

static SeSchemaError error;

static bool
fits(const char *schema, const char *doc)
{
	return se_schema_check(schema, doc, &error);
}

static void
misfit(const char *schema, const char *doc, const char *pointer, const char *message)
{
	char name[600];

	snprintf(name, sizeof(name), "%s at \"%s\"", message, pointer);
	if (!ok(!fits(schema, doc), name))
		return;
	is_str(error.pointer, pointer, "  its pointer");
	is_str(error.message, message, "  its message");
}

static void
test_keywords(void)
{
	ok(fits("{\"type\":\"object\"}", "{}"), "type");
	misfit("{\"type\":\"object\"}", "[]", "", "must be of type object");
	misfit("{\"type\":[\"string\",\"null\"]}", "1", "", "has a type that is not allowed here");
	misfit("{\"properties\":{\"a\":{\"type\":\"integer\"}}}", "{\"a\":1.5}", "/a",
		   "must be of type integer");
	misfit("{\"required\":[\"a\"]}", "{}", "", "needs \"a\"");
	misfit("{\"additionalProperties\":false,\"properties\":{\"a\":{}}}", "{\"a\":1,\"b\":2}", "/b",
		   "is not known here");
	misfit("{\"additionalProperties\":{\"type\":\"string\"}}", "{\"b\":2}", "/b",
		   "must be of type string");
	misfit("{\"enum\":[\"x\",\"y\"]}", "\"z\"", "", "must be one of: x, y");
	misfit("{\"const\":1}", "2", "", "has a value that is not allowed here");
	misfit("{\"items\":{\"type\":\"string\"}}", "[\"a\",1]", "/1", "must be of type string");
	misfit("{\"minItems\":2}", "[1]", "", "needs at least 2 items");
	misfit("{\"uniqueItems\":true}", "[1,2,1]", "/2", "is there twice");
	misfit("{\"pattern\":\"^a+$\"}", "\"ab\"", "", "value \"ab\" does not match ^a+$");
	misfit("{\"propertyNames\":{\"pattern\":\"^[a-z]+$\"}}", "{\"A\":1}", "/A",
		   "name \"A\" does not match ^[a-z]+$");
	misfit("{\"minimum\":1}", "0", "", "must be at least 1");
	misfit("{\"maximum\":3}", "4", "", "must be at most 3");
	misfit("{\"minLength\":1}", "\"\"", "", "is too short");
	misfit("{\"maxLength\":1}", "\"ab\"", "", "is too long");
	misfit("{\"minProperties\":1}", "{}", "", "must not be empty");
	misfit("{\"not\":{\"type\":\"null\"}}", "null", "", "has a form that is not allowed here");
}

static void
test_combined(void)
{
	const char *any =
		"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"items\":{\"type\":\"string\"}}]}";
	const char *one = "{\"oneOf\":[{\"type\":\"number\"},{\"type\":\"integer\"}]}";

	ok(fits(any, "\"a\"") && fits(any, "[\"a\"]"), "anyOf takes either");
	misfit(any, "[\"a\",1]", "/1", "must be of type string");
	ok(fits(one, "1.5"), "oneOf takes exactly one");
	misfit(one, "1", "", "fits several alternatives, must fit one");
	misfit("{\"allOf\":[{\"minimum\":1},{\"maximum\":2}]}", "3", "", "must be at most 2");
}

static void
test_references(void)
{
	const char *tree = "{\"$ref\":\"#/definitions/n\",\"definitions\":{\"n\":{\"type\":\"object\","
					   "\"additionalProperties\":{\"$ref\":\"#/definitions/n\"}}}}";

	ok(fits(tree, "{\"a\":{\"b\":{}}}"), "a definition may contain itself");
	misfit(tree, "{\"a\":{\"b/c~d\":1}}", "/a/b~1c~0d", "must be of type object");
	misfit("{\"$ref\":\"#/definitions/x\"}", "1", "",
		   "the schema has a reference that leads nowhere");
	misfit("{\"$ref\":\"#/definitions/x\",\"definitions\":{\"x\":{\"$ref\":\"#/definitions/x\"}}}",
		   "1", "", "the schema has a reference that leads nowhere");
	misfit("{\"pattern\":\"(\"}", "\"a\"", "", "the schema has a bad pattern: (");
}

/* A document as deep as it likes must not take the stack. */
static void
test_depth(void)
{
	const char *tree =
		"{\"items\":{\"$ref\":\"#/definitions/n\"},\"definitions\":{\"n\":{\"items\":"
		"{\"$ref\":\"#/definitions/n\"}}}}";
	char deep[1001];

	memset(deep, '[', 500);
	memset(deep + 500, ']', 500);
	deep[1000] = '\0';
	ok(!fits(tree, deep), "too deep");
	is_str(error.message, "is nested too deeply", "and it says so");
}

static char *
slurp(const char *path)
{
	/* Run by hand from its own folder, by `make check` from the top of the tree. */
	FILE *file = fopen(path, "rb");
	char *text = calloc(1, 1 << 20);

	if (file == NULL)
		file = fopen(path + strlen("../../"), "rb");
	if (file == NULL || text == NULL)
		return text;
	if (fread(text, 1, (1 << 20) - 1, file) == 0)
		text[0] = '\0';
	fclose(file);
	return text;
}

static void
test_connectors(void)
{
	static const char *const names[] = {"stripe", "tryton"};
	char *schema = slurp("../../connectors/manifest.schema.json");

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		char path[100];
		char *doc;

		snprintf(path, sizeof(path), "../../connectors/%s.json", names[i]);
		doc = slurp(path);
		if (!ok(fits(schema, doc), path))
			fprintf(stderr, "# %s: %s\n", error.pointer, error.message);
		free(doc);
	}
	free(schema);
}

int
main(void)
{
	test_keywords();
	test_combined();
	test_references();
	test_depth();
	misfit("{", "1", "", "the schema cannot be read: string or '}' expected near end of file");
	test_connectors();
	return done_testing();
}
