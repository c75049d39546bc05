-- This migration only adds: a release of schema 1 to 3 may still use the database, so `readable_from` stays.

-- Finds the connections with a peer, and its rotations, whichever of our DIDs they are of. The key of these records is our DID, a
-- space, and the peer's DID.
CREATE INDEX connections_by_peer ON records (substr(key, instr(key, ' ') + 1)) WHERE kind = 'connection';
CREATE INDEX rotations_by_peer ON records (substr(key, instr(key, ' ') + 1)) WHERE kind = 'moved';

-- An automatic reply to a stranger leaves no history for the application.
CREATE TRIGGER stranger_reply_ended AFTER UPDATE OF state ON outgoing WHEN new.to_stranger = 1 AND new.state <> 0 BEGIN
    DELETE FROM outgoing WHERE sequence = new.sequence;
END;

-- The digests are counted when the oldest are deleted: counting each cost a tenth of the writer's time.
-- A release of schema 3 forgets them by their age alone.
DROP TRIGGER digest_came;
DROP TRIGGER digest_went;
UPDATE of_strangers SET digests = 0;
