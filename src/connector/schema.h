/*
 * schema.h
 *		Validator for the part of JSON Schema that manifests need.
 *
 * Texts in and out: jansson's names collide with those of the server's own
 * headers, so no file may see both.
 */
#ifndef SE_SCHEMA_H
#define SE_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>

typedef struct SeSchemaError
{
	char pointer[512]; /* JSON pointer into the document, "" for its root */
	char message[512];
} SeSchemaError;

/*
 * True when doc satisfies schema, both JSON texts. Understood: type, enum, const, properties,
 * required, additionalProperties (false or a schema), propertyNames.pattern,
 * minProperties, items, minItems, uniqueItems, pattern, minLength, maxLength,
 * minimum, maximum, oneOf, anyOf, allOf, not, $ref to "#/definitions/x". Other keywords are
 * ignored. Patterns are POSIX extended regular expressions.
 */
extern bool se_schema_check(const char *schema, const char *doc, SeSchemaError *error);

#endif /* SE_SCHEMA_H */
