/*
 * secrets.c
 *		Binds secrets and redaction to the server: its settings, its memory.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"

#include "core/guc.h"
#include "http/secrets.h"

const char *
se_secret_get(const char *system, const char *ref, char **err)
{
	return se_secret_read(se_secrets_dir, DataDir, system, ref, err);
}

void
se_redact_string(struct StringInfoData *text, const SeRedactor *redactor)
{
	size_t len;
	char *redacted = se_redact(redactor, text->data, text->len, &len);

	if (redacted == NULL)
	{
		resetStringInfo(text);
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"),
						errdetail("A text could not be freed of secrets.")));
	}

	/* Make room without losing the malloc'ed text to an ERROR. */
	if (len > (size_t) text->maxlen - 1)
	{
		PG_TRY();
		{
			enlargeStringInfo(text, (int) (len - text->len));
		}
		PG_CATCH();
		{
			free(redacted);
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	memcpy(text->data, redacted, len + 1);
	text->len = (int) len;
	free(redacted);
}
