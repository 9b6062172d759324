CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    client TEXT NOT NULL UNIQUE,
    user TEXT,
    expiry_secs INTEGER NOT NULL,
    ended_ms INTEGER,
    given INTEGER NOT NULL,
    dropped INTEGER NOT NULL
) STRICT;
CREATE TABLE subscriptions (
    session INTEGER NOT NULL,
    filter TEXT NOT NULL,
    options INTEGER NOT NULL,
    identifier INTEGER,
    PRIMARY KEY (session, filter)
) STRICT, WITHOUT ROWID;
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    holders INTEGER NOT NULL,
    kept_ms INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    frame BLOB NOT NULL
) STRICT;
CREATE TABLE queue (
    session INTEGER NOT NULL,
    position INTEGER NOT NULL,
    message INTEGER,
    bytes INTEGER NOT NULL,
    options INTEGER NOT NULL,
    identifiers BLOB,
    share TEXT,
    PRIMARY KEY (session, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE exchanges (
    session INTEGER NOT NULL,
    packet INTEGER NOT NULL,
    token BLOB NOT NULL,
    received INTEGER NOT NULL,
    PRIMARY KEY (session, packet)
) STRICT, WITHOUT ROWID;
CREATE TABLE retained (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL UNIQUE,
    kept_ms INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    frame BLOB NOT NULL
) STRICT;
CREATE TABLE wills (
    session INTEGER PRIMARY KEY,
    delay_secs INTEGER NOT NULL,
    due_ms INTEGER,
    checksum INTEGER NOT NULL,
    frame BLOB NOT NULL
) STRICT;
