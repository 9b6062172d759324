-- One row: where the ledger by device stands. It is taken over into a file that is built
-- anew, so it may be ahead of `state`.
CREATE TABLE ledger_state (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    -- Events up to here are counted, and what commits up to this one say of them.
    position      INTEGER NOT NULL,
    commit_number INTEGER NOT NULL,
    devices       INTEGER NOT NULL,
    -- What the journal counted and nobody can tell the device of.
    unattributed  INTEGER NOT NULL
);

-- The destinations that are counted, by number, with the sums of their rows in `ledger`;
-- 63 is what goes nowhere, 64 what was stored.
CREATE TABLE ledger_destinations (
    number  INTEGER PRIMARY KEY,
    name    TEXT    NOT NULL,
    -- The commit with which it got its number, where that is known, and the position
    -- after which its bit means this one.
    born    INTEGER,
    since   INTEGER NOT NULL,
    routed  INTEGER NOT NULL,
    expired INTEGER NOT NULL,
    evicted INTEGER NOT NULL,
    damaged INTEGER NOT NULL,
    dead    INTEGER NOT NULL
);

-- The ledger by device and destination. `kind` is 0 of a device, 1 of all that there is no
-- room for, 2 of what nobody can tell the device of.
CREATE TABLE ledger (
    kind    INTEGER NOT NULL,
    device  TEXT    NOT NULL,
    number  INTEGER NOT NULL,
    routed  INTEGER NOT NULL,
    expired INTEGER NOT NULL,
    evicted INTEGER NOT NULL,
    damaged INTEGER NOT NULL,
    dead    INTEGER NOT NULL,
    PRIMARY KEY (kind, device, number)
) WITHOUT ROWID;

-- Events that destinations of now were given after they were stored, one bit each.
CREATE TABLE given (
    position INTEGER PRIMARY KEY,
    mask     INTEGER NOT NULL
);
