-- This migration only adds: a release of schema 1 to 4 may still use the database, so `readable_from` stays.

-- The outbox: a message that the application has cancelled has the state 2 (failed), so that older releases can read it.
ALTER TABLE outgoing ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0;
-- Lists the messages that were given up. A message that is sent costs nothing here.
CREATE INDEX outgoing_given_up ON outgoing (created) WHERE state > 1;

-- What has happened that an application may wait for. `data` is JSON: names and reasons, never content. A
-- stranger is one as in `deliveries`.
CREATE TABLE events (
    cursor INTEGER PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    stranger INTEGER NOT NULL
) STRICT;
-- Finds the next events of a kind without reading those of the others.
CREATE INDEX events_kind ON events (kind);
-- Counts what strangers have caused.
CREATE INDEX events_of_strangers ON events (cursor) WHERE stranger = 1;
-- The ranges of the cursors of events, like `cursor_ranges`.
CREATE TABLE event_ranges (first INTEGER PRIMARY KEY, last INTEGER) STRICT;
-- Whether the application, or a person with a command, wants to hear what becomes of the message. The default stands for the
-- automatic messages, and for those of older releases.
ALTER TABLE outgoing ADD COLUMN by_application INTEGER NOT NULL DEFAULT 0;

-- The revision of a new record is above that of each deleted one, so no record has a revision twice.
INSERT INTO meta (name, value) VALUES ('deleted_revision', 0);
CREATE TRIGGER record_went AFTER DELETE ON records BEGIN
    UPDATE meta SET value = old.revision WHERE name = 'deleted_revision' AND value < old.revision;
END;
