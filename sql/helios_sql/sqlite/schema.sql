-- Times are microseconds since the Unix epoch, latencies integer microseconds.

-- One row for each delta that was applied: a window is the sum of its rows.
CREATE TABLE windows (
    start_us           INTEGER NOT NULL,
    duration_ms        INTEGER NOT NULL,
    service            TEXT    NOT NULL,
    host               TEXT    NOT NULL,
    signal             INTEGER NOT NULL,
    events             INTEGER NOT NULL,
    errors             INTEGER NOT NULL,
    warnings           INTEGER NOT NULL,
    levels             TEXT    NOT NULL,  -- JSON array of counts by level number
    unparsed           INTEGER NOT NULL,
    bytes_in           INTEGER NOT NULL,
    latency_count      INTEGER NOT NULL,
    latency_sum_us     INTEGER NOT NULL,
    latency            BLOB,              -- helios.v1.LatencyHistogram
    endpoints          BLOB,              -- helios.v1.DistinctCount
    templates_overflow INTEGER NOT NULL
);
CREATE INDEX windows_service_start ON windows (service, start_us);
CREATE INDEX windows_start ON windows (start_us);

-- Windows added up over their hosts and over a minute, five minutes and an hour: exact, as windows are.
CREATE TABLE rollups (
    step_s             INTEGER NOT NULL,  -- 60, 300 or 3600
    start_us           INTEGER NOT NULL,
    service            TEXT    NOT NULL,
    signal             INTEGER NOT NULL,
    events             INTEGER NOT NULL,
    errors             INTEGER NOT NULL,
    warnings           INTEGER NOT NULL,
    levels             TEXT    NOT NULL,
    unparsed           INTEGER NOT NULL,
    bytes_in           INTEGER NOT NULL,
    latency_count      INTEGER NOT NULL,
    latency_sum_us     INTEGER NOT NULL,
    latency            BLOB,
    endpoints          BLOB,
    templates_overflow INTEGER NOT NULL,
    PRIMARY KEY (service, step_s, start_us, signal)
) WITHOUT ROWID;
CREATE INDEX rollups_step_start ON rollups (step_s, start_us);

-- The minutes of services whose rollups are older than their windows.
CREATE TABLE rollup_pending (
    service  TEXT    NOT NULL,
    start_us INTEGER NOT NULL,
    PRIMARY KEY (service, start_us)
) WITHOUT ROWID;

-- Windows that begin before are not kept: late ones are added to the rollups at once. One row.
CREATE TABLE rollup_state (
    raw_from_us INTEGER NOT NULL
);

-- Template ids are the contract's unsigned 64-bit numbers, stored as signed ones of the same bits.
CREATE TABLE window_templates (
    service     TEXT    NOT NULL,
    template_id INTEGER NOT NULL,
    start_us    INTEGER NOT NULL,
    count       INTEGER NOT NULL
);
CREATE INDEX window_templates_service_start ON window_templates (service, start_us);
CREATE INDEX window_templates_start ON window_templates (start_us);

CREATE TABLE templates (
    service       TEXT    NOT NULL,
    template_id   INTEGER NOT NULL,
    level         INTEGER NOT NULL,
    text          TEXT    NOT NULL,
    first_seen_us INTEGER NOT NULL,
    last_seen_us  INTEGER NOT NULL,
    PRIMARY KEY (service, template_id)
) WITHOUT ROWID;

CREATE TABLE events (
    time_us      INTEGER NOT NULL,
    service      TEXT    NOT NULL,
    level        INTEGER NOT NULL,
    message      TEXT    NOT NULL,
    latency_us   INTEGER,
    endpoint     TEXT    NOT NULL,
    trace_id     TEXT    NOT NULL,
    span_id      TEXT    NOT NULL,
    host         TEXT    NOT NULL,
    signal       INTEGER NOT NULL,
    attributes   TEXT    NOT NULL,
    template_id  INTEGER NOT NULL,
    counted      INTEGER NOT NULL,
    idem_key     BLOB    NOT NULL,
    content_hash BLOB    NOT NULL,
    UNIQUE (time_us, idem_key)
);
CREATE INDEX events_service_time ON events (service, time_us);
CREATE INDEX events_trace ON events (trace_id) WHERE trace_id <> '';

CREATE TABLE metrics (
    time_us INTEGER NOT NULL,
    name    TEXT    NOT NULL,
    service TEXT    NOT NULL,
    host    TEXT    NOT NULL,
    value   REAL    NOT NULL,
    labels  TEXT    NOT NULL  -- JSON object
);
CREATE INDEX metrics_name_time ON metrics (name, service, time_us);
CREATE INDEX metrics_time ON metrics (time_us);

-- What was applied of each agent's incarnation: see helios_core.store.ledger.
CREATE TABLE ledger (
    agent_id    BLOB    NOT NULL,
    incarnation BLOB    NOT NULL,
    partition   INTEGER NOT NULL,
    state       BLOB    NOT NULL,
    PRIMARY KEY (agent_id, incarnation, partition)
) WITHOUT ROWID;

-- How far the records of raw events were applied.
CREATE TABLE positions (
    topic       TEXT    NOT NULL,
    partition   INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;

CREATE TABLE anomalies (
    id           TEXT    NOT NULL PRIMARY KEY,
    service      TEXT    NOT NULL,
    state        TEXT    NOT NULL,  -- fired, raised, resolved
    severity     TEXT    NOT NULL,
    decided_us   INTEGER NOT NULL,  -- end of the horizon that decided it
    document     TEXT    NOT NULL   -- helios_core.alerts.Alert as JSON
) WITHOUT ROWID;
CREATE INDEX anomalies_service_time ON anomalies (service, decided_us);
CREATE INDEX anomalies_time ON anomalies (decided_us);

CREATE TABLE incidents (
    id          TEXT    NOT NULL PRIMARY KEY,
    state       TEXT    NOT NULL,  -- triggered, acknowledged, resolved
    severity    TEXT    NOT NULL,
    opened_us   INTEGER NOT NULL,
    updated_us  INTEGER NOT NULL,
    resolved_us INTEGER,
    document    TEXT    NOT NULL   -- helios_reporter.incidents.Incident as JSON
) WITHOUT ROWID;
CREATE INDEX incidents_opened ON incidents (opened_us);

CREATE TABLE reports (
    incident_id TEXT    NOT NULL,
    revision    INTEGER NOT NULL,
    created_us  INTEGER NOT NULL,
    generator   TEXT    NOT NULL,  -- rules, llm
    document    TEXT    NOT NULL,  -- the report as JSON
    markdown    TEXT    NOT NULL,
    PRIMARY KEY (incident_id, revision)
) WITHOUT ROWID;
