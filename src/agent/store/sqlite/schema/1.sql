-- What came and waits to be opened.
CREATE TABLE envelopes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE,
    packed BLOB NOT NULL,
    recipient TEXT NOT NULL,
    received INTEGER NOT NULL,
    next_try INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    problem TEXT
) STRICT;
CREATE INDEX envelopes_due ON envelopes (next_try);

-- The digests of envelopes that are done with.
CREATE TABLE concluded (
    digest BLOB PRIMARY KEY,
    time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX concluded_by_time ON concluded (time);

-- The messages that were handed to their protocol, in the order of that.
CREATE TABLE handled (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    sender TEXT NOT NULL,
    recipient TEXT NOT NULL,
    message TEXT NOT NULL,
    until INTEGER NOT NULL,
    UNIQUE (sender, recipient, message)
) STRICT;
CREATE INDEX handled_until ON handled (until);

-- The application's messages; `sealed` goes when they are acknowledged.
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
CREATE INDEX deliveries_of_thread ON deliveries (thread);
CREATE INDEX deliveries_waiting ON deliveries (cursor) WHERE acknowledged IS NULL;
CREATE INDEX deliveries_acknowledged ON deliveries (acknowledged) WHERE acknowledged IS NOT NULL;

-- The messages that are to be sent; `sealed` goes when they are done with. state: 0 waiting, 1 sent, 2 failed, 3 expired.
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
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
CREATE INDEX outbox_of_thread ON outbox (thread);
CREATE INDEX outbox_waiting ON outbox (peer, seq) WHERE state = 0;
CREATE INDEX outbox_done ON outbox (time) WHERE state <> 0;

-- What is remembered by name.
CREATE TABLE records (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    revision INTEGER NOT NULL,
    value BLOB NOT NULL,
    expires INTEGER,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX records_expire ON records (expires) WHERE expires IS NOT NULL;

-- About the store itself.
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How much waits for each DID of ours, kept by the triggers below: counting it anew would read every envelope.
CREATE TABLE queues (
    recipient TEXT PRIMARY KEY,
    messages INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER envelope_comes AFTER INSERT ON envelopes BEGIN
    INSERT INTO queues VALUES (new.recipient, 1, length(new.packed))
    ON CONFLICT (recipient) DO UPDATE SET messages = messages + 1, bytes = bytes + length(new.packed);
END;

CREATE TRIGGER envelope_goes AFTER DELETE ON envelopes BEGIN
    UPDATE queues SET messages = messages - 1, bytes = bytes - length(old.packed) WHERE recipient = old.recipient;
END;
