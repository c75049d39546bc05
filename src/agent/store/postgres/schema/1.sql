-- The store of an agent in PostgreSQL 15 or newer. Times are in milliseconds since 1970.
--
-- Texts that peers choose are escaped (text.rs) and compared byte by byte. A DID can have 20 KiB, and an entry of a B-tree at
-- most 2,700 bytes: so an index on a DID has its first 600 characters, or is a hash index.

-- About the database itself. `readable_from` is the oldest schema whose release may use this database. `owner` grows each time
-- that an agent takes the database. `batch` is the number of the last transaction that was committed. `dropped` is the latest `created_time` of a mark that was dropped for lack of room; 1 if
-- only marks without such a time were dropped.
CREATE TABLE claviger (name TEXT COLLATE "C" PRIMARY KEY, value INT8 NOT NULL);
INSERT INTO claviger (name, value) VALUES ('readable_from', 1), ('owner', 0), ('batch', 0), ('dropped', 0);

-- Envelopes as received. They come and go, so dead rows are removed early. An identity never gives an id again.
CREATE TABLE envelopes (
    id INT8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest BYTEA NOT NULL UNIQUE,
    recipient TEXT COLLATE "C" NOT NULL,
    received INT8 NOT NULL,
    tries INT8 NOT NULL DEFAULT 0,
    attempts INT8 NOT NULL DEFAULT 0,
    next_try INT8 NOT NULL DEFAULT 0,
    problem TEXT COLLATE "C",
    charged BOOL NOT NULL,
    unresolved BOOL NOT NULL,
    unresolved_since INT8,
    named_peer TEXT COLLATE "C",
    packed BYTEA NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
-- Ciphertext cannot be compressed.
ALTER TABLE envelopes ALTER COLUMN packed SET STORAGE EXTERNAL;
CREATE INDEX envelopes_received ON envelopes (received);

-- The digests of processed envelopes.
CREATE TABLE concluded (digest BYTEA PRIMARY KEY, time INT8 NOT NULL);
CREATE INDEX concluded_time ON concluded (time);

-- Handled messages in the order of handling, by a hash of sender, recipient and id.
CREATE TABLE handled (
    seq INT8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mark BYTEA NOT NULL UNIQUE,
    until INT8 NOT NULL,
    stranger BOOL NOT NULL,
    created INT8
);
CREATE INDEX handled_until ON handled (until);
CREATE INDEX handled_of_strangers ON handled (seq, created) WHERE stranger;
CREATE INDEX handled_created ON handled (created) WHERE stranger;

CREATE TABLE deliveries (
    cursor INT8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    message TEXT COLLATE "C" NOT NULL,
    thread TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    sender TEXT COLLATE "C" NOT NULL,
    recipient TEXT COLLATE "C" NOT NULL,
    received INT8 NOT NULL,
    acknowledged INT8,
    stranger BOOL NOT NULL,
    sealed BYTEA
);
ALTER TABLE deliveries ALTER COLUMN sealed SET STORAGE EXTERNAL;
CREATE INDEX deliveries_waiting ON deliveries (cursor) WHERE acknowledged IS NULL;
CREATE INDEX deliveries_received ON deliveries (received) WHERE acknowledged IS NULL;
CREATE INDEX deliveries_acknowledged ON deliveries (acknowledged) WHERE acknowledged IS NOT NULL;
CREATE INDEX deliveries_thread ON deliveries (left(thread, 600), received, cursor);
CREATE INDEX deliveries_sender ON deliveries USING hash (sender) WHERE acknowledged IS NULL;
CREATE INDEX deliveries_read_of_strangers ON deliveries (acknowledged) WHERE stranger AND acknowledged IS NOT NULL;

-- state: 0 waiting, 1 sent, 2 failed, 3 expired, 4 cancelled.
CREATE TABLE outgoing (
    sequence INT8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    message TEXT COLLATE "C" NOT NULL,
    thread TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    sender TEXT COLLATE "C" NOT NULL,
    peer TEXT COLLATE "C" NOT NULL,
    created INT8 NOT NULL,
    expires INT8 NOT NULL,
    state INT8 NOT NULL,
    tries INT8 NOT NULL,
    time INT8 NOT NULL,
    problem TEXT COLLATE "C",
    to_stranger BOOL NOT NULL,
    by_application BOOL NOT NULL,
    sealed BYTEA
);
ALTER TABLE outgoing ALTER COLUMN sealed SET STORAGE EXTERNAL;
CREATE INDEX outgoing_waiting ON outgoing (left(peer, 600), sequence) WHERE state = 0;
CREATE INDEX outgoing_created ON outgoing (created, sequence) WHERE state = 0;
CREATE INDEX outgoing_expires ON outgoing (expires) WHERE state = 0;
CREATE INDEX outgoing_done ON outgoing (time) WHERE state <> 0;
CREATE INDEX outgoing_given_up ON outgoing (created, sequence) WHERE state > 1;
CREATE INDEX outgoing_thread ON outgoing (left(thread, 600), created, sequence);
CREATE INDEX outgoing_peer ON outgoing USING hash (peer) WHERE state = 0;

-- Gives each write of a record its revision. No two writes have the same one, whether the record is deleted meanwhile or not.
CREATE SEQUENCE record_revisions;

-- `digest` is a hash of kind and key. `peer` is the stranger whom a record is about, and `seen` orders strangers by their last
-- sign of life; NULL in both: the record is kept.
CREATE TABLE records (
    digest BYTEA PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    revision INT8 NOT NULL,
    expires INT8,
    peer TEXT COLLATE "C",
    seen INT8,
    value BYTEA NOT NULL
);
ALTER TABLE records ALTER COLUMN value SET STORAGE EXTERNAL;
CREATE INDEX records_key ON records (kind, left(key, 600));
CREATE INDEX records_expires ON records (expires) WHERE expires IS NOT NULL;
CREATE INDEX records_peer ON records USING hash (peer) WHERE peer IS NOT NULL;
CREATE INDEX records_seen ON records (seen) WHERE seen IS NOT NULL;
CREATE INDEX records_known ON records (left(key, 600)) WHERE kind = 'connection' AND peer IS NULL;
-- The key of these records is our DID, a space, and the peer's DID.
CREATE INDEX connections_by_peer ON records (left(substr(key, strpos(key, ' ') + 1), 600)) WHERE kind = 'connection';
CREATE INDEX rotations_by_peer ON records (left(substr(key, strpos(key, ' ') + 1), 600)) WHERE kind = 'moved';

-- What has happened that an application may wait for. `data` is JSON: names and reasons, never content.
CREATE TABLE events (
    cursor INT8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time INT8 NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    data TEXT COLLATE "C" NOT NULL,
    stranger BOOL NOT NULL
);
CREATE INDEX events_kind ON events (kind, cursor);
CREATE INDEX events_of_strangers ON events (cursor) WHERE stranger;

-- The ranges of cursors that the store has given out; `last` is NULL in the current one.
CREATE TABLE cursor_ranges (
    sequence TEXT COLLATE "C" NOT NULL,
    first INT8 NOT NULL,
    last INT8,
    PRIMARY KEY (sequence, first)
);
