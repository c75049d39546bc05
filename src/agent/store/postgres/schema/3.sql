-- Nodes tell one another what their tokens have ready, and hand over what they cannot do themselves. A release of schema 2 goes
-- on beside it: its nodes tell nothing, which is NULL, and ignore what is new here.

-- Hashes of the key agreement keys that the tokens of a node have ready, and of the DIDs that have one of them. `ready_version`
-- is another number after each change.
ALTER TABLE nodes ADD COLUMN ready INT8[];
ALTER TABLE nodes ADD COLUMN ready_version INT8 NOT NULL DEFAULT 0;

-- Hashes of our keys that can open the envelope. NULL: it is not known.
ALTER TABLE envelopes ADD COLUMN keys INT8[];
