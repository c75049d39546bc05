-- This migration only adds: a release of schema 1 maintains the sums by the same triggers.

-- Whether the quota of the sender was checked on arrival. Envelopes of older releases count as checked.
ALTER TABLE envelopes ADD COLUMN charged INTEGER NOT NULL DEFAULT 1;

-- The bytes for each recipient, beside the number of envelopes.
ALTER TABLE load ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE load SET bytes = (SELECT sum(length(packed)) FROM envelopes WHERE envelopes.recipient = load.recipient);
DROP TRIGGER envelope_came;
DROP TRIGGER envelope_went;
CREATE TRIGGER envelope_came AFTER INSERT ON envelopes BEGIN
    INSERT INTO load (recipient, envelopes, bytes) VALUES (new.recipient, 1, length(new.packed))
        ON CONFLICT (recipient) DO UPDATE SET envelopes = envelopes + 1, bytes = bytes + excluded.bytes;
    UPDATE total_load SET envelopes = envelopes + 1, bytes = bytes + length(new.packed);
END;
CREATE TRIGGER envelope_went AFTER DELETE ON envelopes BEGIN
    UPDATE load SET envelopes = envelopes - 1, bytes = bytes - length(old.packed) WHERE recipient = old.recipient;
    DELETE FROM load WHERE recipient = old.recipient AND envelopes <= 0;
    UPDATE total_load SET envelopes = envelopes - 1, bytes = bytes - length(old.packed);
END;

-- How much each peer has left here: unacknowledged deliveries (the sender '' stands for all that are not authenticated), and
-- messages that wait to be sent to the peer. As with `load`, the limits are compared with sums.
CREATE TABLE left_by (
    peer TEXT PRIMARY KEY,
    unread INTEGER NOT NULL DEFAULT 0,
    unread_bytes INTEGER NOT NULL DEFAULT 0,
    unsent INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE total_unread (id INTEGER PRIMARY KEY CHECK (id = 1), bytes INTEGER NOT NULL) STRICT;

INSERT INTO left_by (peer, unread, unread_bytes)
    SELECT sender, count(*), sum(ifnull(length(sealed), 0)) FROM deliveries WHERE acknowledged IS NULL GROUP BY sender;
INSERT INTO left_by (peer, unsent)
    SELECT peer, count(*) FROM outgoing WHERE state = 0 GROUP BY peer
    ON CONFLICT (peer) DO UPDATE SET unsent = excluded.unsent;
INSERT INTO total_unread (id, bytes)
    SELECT 1, ifnull(sum(length(sealed)), 0) FROM deliveries WHERE acknowledged IS NULL;

CREATE TRIGGER delivery_came AFTER INSERT ON deliveries WHEN new.acknowledged IS NULL BEGIN
    INSERT INTO left_by (peer, unread, unread_bytes) VALUES (new.sender, 1, ifnull(length(new.sealed), 0))
        ON CONFLICT (peer) DO UPDATE SET unread = unread + 1, unread_bytes = unread_bytes + excluded.unread_bytes;
    UPDATE total_unread SET bytes = bytes + ifnull(length(new.sealed), 0);
END;
CREATE TRIGGER delivery_read AFTER UPDATE OF acknowledged ON deliveries
WHEN old.acknowledged IS NULL AND new.acknowledged IS NOT NULL BEGIN
    UPDATE left_by SET unread = unread - 1, unread_bytes = unread_bytes - ifnull(length(old.sealed), 0) WHERE peer = old.sender;
    DELETE FROM left_by WHERE peer = old.sender AND unread <= 0 AND unsent <= 0;
    UPDATE total_unread SET bytes = bytes - ifnull(length(old.sealed), 0);
END;
CREATE TRIGGER delivery_went AFTER DELETE ON deliveries WHEN old.acknowledged IS NULL BEGIN
    UPDATE left_by SET unread = unread - 1, unread_bytes = unread_bytes - ifnull(length(old.sealed), 0) WHERE peer = old.sender;
    DELETE FROM left_by WHERE peer = old.sender AND unread <= 0 AND unsent <= 0;
    UPDATE total_unread SET bytes = bytes - ifnull(length(old.sealed), 0);
END;
CREATE TRIGGER sending_came AFTER INSERT ON outgoing WHEN new.state = 0 BEGIN
    INSERT INTO left_by (peer, unsent) VALUES (new.peer, 1) ON CONFLICT (peer) DO UPDATE SET unsent = unsent + 1;
END;
CREATE TRIGGER sending_done AFTER UPDATE OF state ON outgoing WHEN old.state = 0 AND new.state <> 0 BEGIN
    UPDATE left_by SET unsent = unsent - 1 WHERE peer = old.peer;
    DELETE FROM left_by WHERE peer = old.peer AND unread <= 0 AND unsent <= 0;
END;
CREATE TRIGGER sending_went AFTER DELETE ON outgoing WHEN old.state = 0 BEGIN
    UPDATE left_by SET unsent = unsent - 1 WHERE peer = old.peer;
    DELETE FROM left_by WHERE peer = old.peer AND unread <= 0 AND unsent <= 0;
END;
