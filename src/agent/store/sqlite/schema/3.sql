-- This migration only adds: a release of schema 1 or 2 may still use the database, so `readable_from` stays. A release that
-- does not know a column writes its default, and one that does not know a table leaves it as it is: each default below means
-- "not known", and whoever reads it treats it so. A statement that an older release must not meet raises `readable_from`
-- here (UPDATE meta SET value = 3 WHERE name = 'readable_from'); that release then refuses the database with a clear error.

-- Finds the waiting messages whose time to send is over, without reading the others.
CREATE INDEX outgoing_expires ON outgoing (expires) WHERE state = 0;
