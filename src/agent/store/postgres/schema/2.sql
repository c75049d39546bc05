-- Several agents may share the database: nodes. A release of schema 1 uses the database alone, and ignores what is new here.

-- Who works on a pending envelope, and who sends a waiting message: a node, or 0 for an agent that had the database for itself.
-- All waiting messages for a peer have one node.
ALTER TABLE envelopes ADD COLUMN node INT8 NOT NULL DEFAULT 0;
ALTER TABLE outgoing ADD COLUMN node INT8 NOT NULL DEFAULT 0;

-- The agents that have used the database. Each start of an agent is another node. An agent that has the database for itself has
-- no name. `lease` is when the others take over what the node has, unless it shows a sign of life before; `ended` is when that
-- has happened, or the node left. `batch` is the number of its last transaction, and `heard` the last entry of the log that it
-- has read.
CREATE TABLE nodes (
    number INT8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    release TEXT COLLATE "C" NOT NULL,
    since TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    lease TIMESTAMPTZ NOT NULL,
    ended TIMESTAMPTZ,
    batch INT8 NOT NULL DEFAULT 0,
    heard INT8 NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- What the transactions of nodes have changed, for the other nodes. `entry` is JSON.
CREATE TABLE node_log (
    number INT8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node INT8 NOT NULL,
    entry TEXT COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
