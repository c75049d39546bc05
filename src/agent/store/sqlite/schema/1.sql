-- About the database itself. `readable_from` is the oldest schema whose release may use this database: a migration that only
-- adds does not change it.
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta (name, value) VALUES ('readable_from', 1);

-- Envelopes as received. AUTOINCREMENT never uses an id again.
CREATE TABLE envelopes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE,
    recipient TEXT NOT NULL,
    received INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    next_try INTEGER NOT NULL DEFAULT 0,
    problem TEXT,
    packed BLOB NOT NULL
) STRICT;
-- Finds the envelopes that are due without reading an envelope.
CREATE INDEX envelopes_due ON envelopes (id, next_try);
CREATE INDEX envelopes_received ON envelopes (received);

-- How much is pending, in total and for each recipient. The limits are compared with these sums, without counting.
CREATE TABLE load (recipient TEXT PRIMARY KEY, envelopes INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE total_load (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    envelopes INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO total_load (id, envelopes, bytes) VALUES (1, 0, 0);
CREATE TRIGGER envelope_came AFTER INSERT ON envelopes BEGIN
    INSERT INTO load (recipient, envelopes) VALUES (new.recipient, 1)
        ON CONFLICT (recipient) DO UPDATE SET envelopes = envelopes + 1;
    UPDATE total_load SET envelopes = envelopes + 1, bytes = bytes + length(new.packed);
END;
CREATE TRIGGER envelope_went AFTER DELETE ON envelopes BEGIN
    UPDATE load SET envelopes = envelopes - 1 WHERE recipient = old.recipient;
    DELETE FROM load WHERE recipient = old.recipient AND envelopes <= 0;
    UPDATE total_load SET envelopes = envelopes - 1, bytes = bytes - length(old.packed);
END;

-- The digests of processed envelopes.
CREATE TABLE concluded (digest BLOB PRIMARY KEY, time INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX concluded_time ON concluded (time);

-- Handled messages in the order of handling, by a hash of sender, recipient and id, since DIDs are long.
CREATE TABLE handled (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    mark BLOB NOT NULL UNIQUE,
    until INTEGER NOT NULL
) STRICT;
CREATE INDEX handled_until ON handled (until);

CREATE TABLE deliveries (
    cursor INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    message TEXT NOT NULL,
    thread TEXT NOT NULL,
    kind TEXT NOT NULL,
    sender TEXT NOT NULL,
    recipient TEXT NOT NULL,
    received INTEGER NOT NULL,
    acknowledged INTEGER,
    sealed BLOB
) STRICT;
CREATE INDEX deliveries_waiting ON deliveries (cursor) WHERE acknowledged IS NULL;
CREATE INDEX deliveries_received ON deliveries (received) WHERE acknowledged IS NULL;
CREATE INDEX deliveries_acknowledged ON deliveries (acknowledged) WHERE acknowledged IS NOT NULL;
CREATE INDEX deliveries_thread ON deliveries (thread, received, cursor);

-- state: 0 waiting, 1 sent, 2 failed, 3 expired.
CREATE TABLE outgoing (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    message TEXT NOT NULL,
    thread TEXT NOT NULL,
    kind TEXT NOT NULL,
    sender TEXT NOT NULL,
    peer TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    state INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    time INTEGER NOT NULL,
    problem TEXT,
    sealed BLOB
) STRICT;
CREATE INDEX outgoing_waiting ON outgoing (peer, sequence) WHERE state = 0;
CREATE INDEX outgoing_created ON outgoing (created) WHERE state = 0;
CREATE INDEX outgoing_done ON outgoing (time) WHERE state <> 0;
CREATE INDEX outgoing_thread ON outgoing (thread, created, sequence);

CREATE TABLE records (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    revision INTEGER NOT NULL,
    expires INTEGER,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX records_expires ON records (expires) WHERE expires IS NOT NULL;
