-- The audit chain of this database: `seq` and `hash` are those of its last entry, `stored_seq` and `stored_hash` those of
-- the last one the bus keeps. `lost` counts what no entry tells because too many waited, since `lost_since`.
CREATE TABLE audit_chain (
    only_one    INTEGER PRIMARY KEY CHECK (only_one = 1),
    chain       TEXT NOT NULL,
    seq         INTEGER NOT NULL,
    hash        TEXT NOT NULL,
    stored_seq  INTEGER NOT NULL,
    stored_hash TEXT NOT NULL,
    lost        INTEGER NOT NULL DEFAULT 0,
    lost_since  INTEGER
) STRICT;
INSERT INTO audit_chain (only_one, chain, seq, hash, stored_seq, stored_hash)
VALUES (1, lower(hex(randomblob(16))), 0,
        '0000000000000000000000000000000000000000000000000000000000000000', 0,
        '0000000000000000000000000000000000000000000000000000000000000000');

-- Entries the bus does not keep yet. `entry` is the payload, byte for byte what its hash is of.
CREATE TABLE audit_outbox (
    seq     INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,
    hash    TEXT NOT NULL,
    entry   TEXT NOT NULL
) STRICT;
