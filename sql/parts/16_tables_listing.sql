-- Full listings of systems: what they said, beside the mirror, until it has been compared.

CREATE TABLE sync.listed_record (
    job_id          bigint NOT NULL REFERENCES sync.job ON DELETE CASCADE,
    remote_id       text COLLATE "C" NOT NULL,
    remote_number   text,
    our_id          text,
    fields          jsonb,
    version         text,
    version_at      timestamptz,
    as_of           timestamptz NOT NULL,
    deleted         boolean NOT NULL DEFAULT false,
    expected        boolean NOT NULL DEFAULT true,
    problem         text,
    to_read         boolean NOT NULL DEFAULT false,
    tries           integer NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, remote_id)
);
CREATE INDEX listed_record_read_idx ON sync.listed_record (job_id, tries, remote_id) WHERE to_read;
COMMENT ON TABLE sync.listed_record IS 'What a running full reconciliation was told of remote records; the mirror stays as it is, or the differences would be gone before they are found';
COMMENT ON COLUMN sync.listed_record.our_id IS 'Id of ours that the remote record carries';
COMMENT ON COLUMN sync.listed_record.fields IS 'As in sync.mirror; NULL: it is gone, or cannot be mapped';
COMMENT ON COLUMN sync.listed_record.as_of IS 'When the request began that told of it';
COMMENT ON COLUMN sync.listed_record.deleted IS 'Whether the system says that it is gone';
COMMENT ON COLUMN sync.listed_record.expected IS 'Whether it should be here; not where the connector leaves such records out';
COMMENT ON COLUMN sync.listed_record.problem IS 'Why it cannot be compared';
COMMENT ON COLUMN sync.listed_record.to_read IS 'Whether it is to be read again by id';
COMMENT ON COLUMN sync.listed_record.tries IS 'How often that was refused';

CREATE TABLE sync.listed_suspect (
    job_id          bigint NOT NULL REFERENCES sync.job ON DELETE CASCADE,
    remote_id       text COLLATE "C" NOT NULL DEFAULT '',
    record_id       text COLLATE "C" NOT NULL DEFAULT '',
    rounds          integer NOT NULL DEFAULT 0,
    judged          boolean NOT NULL DEFAULT false,
    PRIMARY KEY (job_id, remote_id, record_id)
);
CREATE INDEX listed_suspect_open_idx ON sync.listed_suspect (job_id, remote_id, record_id) WHERE NOT judged;
COMMENT ON TABLE sync.listed_suspect IS 'Records that a running full reconciliation found different at the first look; each is read again before it is a break';
COMMENT ON COLUMN sync.listed_suspect.remote_id IS 'The remote record; empty: the record has none';
COMMENT ON COLUMN sync.listed_suspect.record_id IS 'The record, where it is bound to no remote one; else empty';
COMMENT ON COLUMN sync.listed_suspect.rounds IS 'How often it was judged, and put off because something was on its way';
COMMENT ON COLUMN sync.listed_suspect.judged IS 'Whether it has been settled what it is';

-- Whoever asks may insert a row and does not say whose rights the filter has: run_as is the column's default.
CREATE TABLE sync.job_filter (
    job_id          bigint PRIMARY KEY REFERENCES sync.job ON DELETE CASCADE,
    filter          text NOT NULL,
    run_as          name NOT NULL DEFAULT current_user
);
COMMENT ON TABLE sync.job_filter IS 'Which records a job is about: a condition as a route has one';
COMMENT ON COLUMN sync.job_filter.run_as IS 'Role whose rights it is evaluated with: the one that asked for the job';
