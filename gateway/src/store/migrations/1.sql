-- Events, by position. `frame` is checksum, key and body; see store/frame.rs.
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    routes   INTEGER NOT NULL,
    received INTEGER NOT NULL,
    frame    BLOB    NOT NULL
);

-- The keys to remember of each commit that stored any, as one blob.
CREATE TABLE commits (
    sequence INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    first    INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    keys     BLOB    NOT NULL
);

-- One row: where the journal stands, written with every commit; see store/state.rs.
CREATE TABLE state (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    body BLOB NOT NULL
);

-- Names of the bits in a route mask.
CREATE TABLE destinations (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- Records that failed by themselves and wait for another attempt: own copies.
CREATE TABLE retry (
    destination INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    not_before  INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    routes      INTEGER NOT NULL,
    received    INTEGER NOT NULL,
    frame       BLOB    NOT NULL,
    UNIQUE (destination, position)
);

-- Records that were given up: own copies. `damaged` ones are kept as they were found.
CREATE TABLE dead_letters (
    id          INTEGER PRIMARY KEY,
    destination INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    damaged     INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    routes      INTEGER NOT NULL,
    received    INTEGER NOT NULL,
    frame       BLOB    NOT NULL
);

-- Messages that could not be decoded, as they came.
CREATE TABLE quarantine (
    id         INTEGER PRIMARY KEY,
    received   INTEGER NOT NULL,
    client_id  TEXT    NOT NULL,
    topic      TEXT    NOT NULL,
    class      TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    payload    BLOB    NOT NULL,
    properties BLOB,
    checksum   INTEGER NOT NULL
);
