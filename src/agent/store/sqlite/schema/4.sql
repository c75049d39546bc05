-- A release of schema 1 to 3 may still use the database, so `readable_from` stays: all that its statements name is still there.

-- The table `records` as before, but with rowids: each index refers to a record by a number instead of by its primary key, which
-- has two DIDs. With DIDs of 300 characters, each index wrote three pages for a record.
-- The old indexes go first, so that the new table takes their space. The trigger goes because SQLite renames no table while a
-- trigger of another table names one that is missing.
DROP INDEX records_expires;
DROP INDEX records_peer;
DROP INDEX records_known;
DROP INDEX records_seen;
DROP TRIGGER stranger_delivery_read;
CREATE TABLE records_with_rowids (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    revision INTEGER NOT NULL,
    expires INTEGER,
    value BLOB NOT NULL,
    peer TEXT,
    seen INTEGER,
    PRIMARY KEY (kind, key)
) STRICT;
INSERT INTO records_with_rowids SELECT kind, key, revision, expires, value, peer, seen FROM records;
DROP TABLE records;
ALTER TABLE records_with_rowids RENAME TO records;
-- The indexes and triggers of before.
CREATE INDEX records_expires ON records (expires) WHERE expires IS NOT NULL;
CREATE INDEX records_peer ON records (peer) WHERE peer IS NOT NULL;
CREATE INDEX records_known ON records (key) WHERE kind = 'connection' AND peer IS NULL;
CREATE INDEX records_seen ON records (seen) WHERE seen IS NOT NULL;
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
CREATE TRIGGER stranger_delivery_read AFTER UPDATE OF acknowledged ON deliveries
WHEN old.stranger = 1 AND old.acknowledged IS NULL AND new.acknowledged IS NOT NULL BEGIN
    UPDATE total_unread SET of_strangers = of_strangers - ifnull(length(old.sealed), 0),
        messages_of_strangers = messages_of_strangers - 1;
    UPDATE records SET seen = max(seen, new.acknowledged) WHERE peer = old.sender;
END;

-- Finds the connections with a peer, and its rotations, whichever of our DIDs they are of. The key of these records is our DID, a
-- space, and the peer's DID. A connection with a stranger is found by `records_peer`, unless the stranger has written from another
-- DID than that in the key.
CREATE INDEX connections_by_peer ON records (substr(key, instr(key, ' ') + 1))
    WHERE kind = 'connection' AND (peer IS NULL OR peer <> substr(key, instr(key, ' ') + 1));
CREATE INDEX rotations_by_peer ON records (substr(key, instr(key, ' ') + 1)) WHERE kind = 'moved';

-- The unread messages of strangers in their order. By sender, each message changed two more pages, since a new DID comes at a random
-- place of an index. The messages of one stranger are sought when it becomes known, which is rare.
DROP INDEX deliveries_of_strangers;
CREATE INDEX deliveries_of_strangers ON deliveries (cursor) WHERE stranger = 1 AND acknowledged IS NULL;

-- An automatic reply to a stranger leaves no history for the application.
CREATE TRIGGER stranger_reply_ended AFTER UPDATE OF state ON outgoing WHEN new.to_stranger = 1 AND new.state <> 0 BEGIN
    DELETE FROM outgoing WHERE sequence = new.sequence;
END;

-- The digests are counted when the oldest are deleted: counting each cost a tenth of the writer's time.
-- A release of schema 3 forgets them by their age alone.
DROP TRIGGER digest_came;
DROP TRIGGER digest_went;
UPDATE of_strangers SET digests = 0;
