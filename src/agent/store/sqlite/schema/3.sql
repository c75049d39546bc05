-- This migration only adds: a release of schema 1 or 2 may still use the database, so `readable_from` stays. A release that
-- does not know a column writes its default, and one that does not know a table leaves it as it is: each default below means
-- "not known", and whoever reads it treats it so. A statement that an older release must not meet raises `readable_from`
-- here (UPDATE meta SET value = 3 WHERE name = 'readable_from'); that release then refuses the database with a clear error.

-- Finds the waiting messages whose time to send is over, without reading the others.
CREATE INDEX outgoing_expires ON outgoing (expires) WHERE state = 0;

-- What strangers have left. A stranger is a peer with whom neither the application nor the operator has begun or accepted
-- anything. `peer` is the stranger whom a record is about, and `seen` orders strangers by their last sign of life; NULL in
-- both: the record is kept. Records of older releases are kept.
ALTER TABLE records ADD COLUMN peer TEXT;
ALTER TABLE records ADD COLUMN seen INTEGER;
CREATE INDEX records_peer ON records (peer) WHERE peer IS NOT NULL;
CREATE INDEX records_known ON records (key) WHERE kind = 'connection' AND peer IS NULL;
CREATE INDEX records_seen ON records (seen) WHERE seen IS NOT NULL;
-- Whether the mark is of a stranger's message. Finds the oldest of these marks.
ALTER TABLE handled ADD COLUMN stranger INTEGER NOT NULL DEFAULT 0;
ALTER TABLE handled ADD COLUMN created INTEGER;
CREATE INDEX handled_of_strangers ON handled (seq, created) WHERE stranger = 1;
CREATE INDEX handled_created ON handled (created) WHERE stranger = 1;
ALTER TABLE deliveries ADD COLUMN stranger INTEGER NOT NULL DEFAULT 0;
CREATE INDEX deliveries_of_strangers ON deliveries (sender) WHERE stranger = 1 AND acknowledged IS NULL;

-- The sums that the limits for strangers are compared with. `dropped` is the latest `created_time` of a mark that was dropped
-- for lack of room: a stranger's message that is not newer may be a repetition, and is too old. 1 if only marks without such
-- a time were dropped.
CREATE TABLE of_strangers (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    record_bytes INTEGER NOT NULL DEFAULT 0,
    marks INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO of_strangers (id) VALUES (1);
ALTER TABLE total_unread ADD COLUMN of_strangers INTEGER NOT NULL DEFAULT 0;
ALTER TABLE total_unread ADD COLUMN messages_of_strangers INTEGER NOT NULL DEFAULT 0;

-- A record counts with 200 bytes for its place in the tables.
CREATE TRIGGER stranger_record_came AFTER INSERT ON records WHEN new.peer IS NOT NULL BEGIN
    UPDATE of_strangers SET record_bytes = record_bytes + length(new.key) + length(new.value) + length(new.peer) + 200;
END;
CREATE TRIGGER stranger_record_changed AFTER UPDATE OF peer, value ON records
WHEN old.peer IS NOT NULL OR new.peer IS NOT NULL BEGIN
    UPDATE of_strangers SET record_bytes = record_bytes
        + iif(new.peer IS NULL, 0, length(new.key) + length(new.value) + length(new.peer) + 200)
        - iif(old.peer IS NULL, 0, length(old.key) + length(old.value) + length(old.peer) + 200);
END;
CREATE TRIGGER stranger_record_went AFTER DELETE ON records WHEN old.peer IS NOT NULL BEGIN
    UPDATE of_strangers SET record_bytes = record_bytes - length(old.key) - length(old.value) - length(old.peer) - 200;
END;
CREATE TRIGGER stranger_mark_came AFTER INSERT ON handled WHEN new.stranger = 1 BEGIN
    UPDATE of_strangers SET marks = marks + 1;
END;
CREATE TRIGGER stranger_mark_went AFTER DELETE ON handled WHEN old.stranger = 1 BEGIN
    UPDATE of_strangers SET marks = marks - 1;
END;
CREATE TRIGGER stranger_delivery_came AFTER INSERT ON deliveries WHEN new.stranger = 1 AND new.acknowledged IS NULL BEGIN
    UPDATE total_unread SET of_strangers = of_strangers + ifnull(length(new.sealed), 0),
        messages_of_strangers = messages_of_strangers + 1;
END;
-- The application may answer a stranger for a while after it has acknowledged the message.
CREATE TRIGGER stranger_delivery_read AFTER UPDATE OF acknowledged ON deliveries
WHEN old.stranger = 1 AND old.acknowledged IS NULL AND new.acknowledged IS NOT NULL BEGIN
    UPDATE total_unread SET of_strangers = of_strangers - ifnull(length(old.sealed), 0),
        messages_of_strangers = messages_of_strangers - 1;
    UPDATE records SET seen = max(seen, new.acknowledged) WHERE peer = old.sender;
END;
CREATE TRIGGER stranger_delivery_went AFTER DELETE ON deliveries WHEN old.stranger = 1 AND old.acknowledged IS NULL BEGIN
    UPDATE total_unread SET of_strangers = of_strangers - ifnull(length(old.sealed), 0),
        messages_of_strangers = messages_of_strangers - 1;
END;
-- The stranger is not one any more.
CREATE TRIGGER stranger_delivery_kept AFTER UPDATE OF stranger ON deliveries
WHEN old.stranger = 1 AND new.stranger = 0 AND old.acknowledged IS NULL BEGIN
    UPDATE total_unread SET of_strangers = of_strangers - ifnull(length(old.sealed), 0),
        messages_of_strangers = messages_of_strangers - 1;
END;

-- How often a token has spent work on an envelope in vain, or a worker has panicked; when the document of its sender was first
-- found to be unavailable; and whether its sender could not be resolved on arrival and had no connection.
ALTER TABLE envelopes ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE envelopes ADD COLUMN unresolved_since INTEGER;
ALTER TABLE envelopes ADD COLUMN unresolved INTEGER NOT NULL DEFAULT 0;

-- The envelopes whose sender could not be resolved, for each recipient; the recipient '' stands for all.
CREATE TABLE unresolved_load (
    recipient TEXT PRIMARY KEY,
    envelopes INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TRIGGER unresolved_envelope_came AFTER INSERT ON envelopes WHEN new.unresolved = 1 BEGIN
    INSERT INTO unresolved_load (recipient, envelopes, bytes)
        VALUES (new.recipient, 1, length(new.packed)), ('', 1, length(new.packed))
        ON CONFLICT (recipient) DO UPDATE SET envelopes = envelopes + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER unresolved_envelope_went AFTER DELETE ON envelopes WHEN old.unresolved = 1 BEGIN
    UPDATE unresolved_load SET envelopes = envelopes - 1, bytes = bytes - length(old.packed)
        WHERE recipient IN (old.recipient, '');
    DELETE FROM unresolved_load WHERE recipient IN (old.recipient, '') AND envelopes <= 0;
END;

-- The ranges of cursors that the store has given out; `last` is NULL in the current one. A new store and a restored one begin
-- a range above all cursors that an earlier state of the store can have given out. The cursors of older releases are the
-- first range.
CREATE TABLE cursor_ranges (first INTEGER PRIMARY KEY, last INTEGER) STRICT;
INSERT INTO cursor_ranges (first, last) VALUES (1, NULL);

-- The automatic replies to strangers that wait to be sent.
ALTER TABLE outgoing ADD COLUMN to_stranger INTEGER NOT NULL DEFAULT 0;
ALTER TABLE of_strangers ADD COLUMN replies INTEGER NOT NULL DEFAULT 0;
CREATE TRIGGER stranger_reply_came AFTER INSERT ON outgoing WHEN new.to_stranger = 1 AND new.state = 0 BEGIN
    UPDATE of_strangers SET replies = replies + 1;
END;
CREATE TRIGGER stranger_reply_done AFTER UPDATE OF state ON outgoing
WHEN old.to_stranger = 1 AND old.state = 0 AND new.state <> 0 BEGIN
    UPDATE of_strangers SET replies = replies - 1;
END;
CREATE TRIGGER stranger_reply_went AFTER DELETE ON outgoing WHEN old.to_stranger = 1 AND old.state = 0 BEGIN
    UPDATE of_strangers SET replies = replies - 1;
END;
-- Finds what is left of those that were sent or given up.
CREATE INDEX outgoing_replies_done ON outgoing (time) WHERE to_stranger = 1 AND state <> 0;

-- Finds the oldest of the strangers' messages that the application has acknowledged.
CREATE INDEX deliveries_read_of_strangers ON deliveries (acknowledged) WHERE stranger = 1 AND acknowledged IS NOT NULL;

-- How many digests of processed envelopes are remembered. Most can be of envelopes that strangers have forged.
ALTER TABLE of_strangers ADD COLUMN digests INTEGER NOT NULL DEFAULT 0;
UPDATE of_strangers SET digests = (SELECT count(*) FROM concluded);
CREATE TRIGGER digest_came AFTER INSERT ON concluded BEGIN
    UPDATE of_strangers SET digests = digests + 1;
END;
CREATE TRIGGER digest_went AFTER DELETE ON concluded BEGIN
    UPDATE of_strangers SET digests = digests - 1;
END;

-- The connection with the known peer that an envelope names as its sender, if the envelope came when the share of strangers was
-- used up; and how much such envelopes each of these peers has.
ALTER TABLE envelopes ADD COLUMN named_peer TEXT;
CREATE TABLE named_load (
    peer TEXT PRIMARY KEY,
    envelopes INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER named_envelope_came AFTER INSERT ON envelopes WHEN new.named_peer IS NOT NULL BEGIN
    INSERT INTO named_load (peer, envelopes, bytes) VALUES (new.named_peer, 1, length(new.packed))
        ON CONFLICT (peer) DO UPDATE SET envelopes = envelopes + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER named_envelope_went AFTER DELETE ON envelopes WHEN old.named_peer IS NOT NULL BEGIN
    UPDATE named_load SET envelopes = envelopes - 1, bytes = bytes - length(old.packed) WHERE peer = old.named_peer;
    DELETE FROM named_load WHERE peer = old.named_peer AND envelopes <= 0;
END;
