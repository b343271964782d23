-- What the person configured. `spawn` is the SpawnRequest as JSON.
CREATE TABLE agents (
    agent_id   TEXT PRIMARY KEY,
    spawn      TEXT NOT NULL,
    desired    TEXT NOT NULL CHECK (desired IN ('running', 'stopped')),
    created_at INTEGER NOT NULL
) STRICT;

-- One incarnation of an agent's host. `status` is its last StatusMessage as JSON; `recorded` is the output number
-- below which nothing is missing.
CREATE TABLE runs (
    run_id     TEXT PRIMARY KEY,
    agent_id   TEXT NOT NULL REFERENCES agents (agent_id) ON DELETE CASCADE,
    status     TEXT NOT NULL,
    recorded   INTEGER NOT NULL DEFAULT 0,
    host_losses INTEGER NOT NULL DEFAULT 0,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER
) STRICT;
CREATE INDEX runs_by_agent ON runs (agent_id, started_at);

-- What agents printed. `message` is the OutputMessage as JSON; times are microseconds since 1970.
CREATE TABLE output (
    position  INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_id  TEXT NOT NULL REFERENCES agents (agent_id) ON DELETE CASCADE,
    run_id    TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    message   TEXT NOT NULL,
    UNIQUE (run_id, seq)
) STRICT;
CREATE INDEX output_by_agent ON output (agent_id, position);

-- What happened, numbered without a gap, written before it is announced. `record` is the EventRecord as JSON.
CREATE TABLE events (
    seq       INTEGER PRIMARY KEY,
    agent_id  TEXT,
    timestamp INTEGER NOT NULL,
    record    TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_agent ON events (agent_id, seq);

-- Single values: `announced` is the number of the last event that was published.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
