-- What commits changed in the ledger otherwise than by storing and delivering, by device:
-- for whoever counts by device (see tally), and removed when he has it. `commit_number` is
-- that of the commit.
CREATE TABLE tallies (
    commit_number INTEGER PRIMARY KEY,
    checksum      INTEGER NOT NULL,
    body          BLOB    NOT NULL
);

-- When each destination got its number: with which commit, after which position, and
-- whether it began with what was kept. Of those that are not here nobody knows it.
CREATE TABLE beginnings (
    destination   INTEGER PRIMARY KEY,
    commit_number INTEGER NOT NULL,
    position      INTEGER NOT NULL,
    kept          INTEGER NOT NULL
);
