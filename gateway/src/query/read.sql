-- One row: where the projections stand, written with every change of them.
CREATE TABLE state (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    position INTEGER NOT NULL,
    series   INTEGER NOT NULL,
    refused  INTEGER NOT NULL,
    unread   INTEGER NOT NULL,
    evicted  INTEGER NOT NULL,
    -- What last values and the names of series take, about, in bytes.
    last_bytes INTEGER NOT NULL,
    -- What quarantine and dead letters take, about.
    kept_bytes INTEGER NOT NULL,
    -- What left quarantine and dead letters here for want of room.
    kept_evicted INTEGER NOT NULL
);

-- Which destination a number of a route mask means, for positions from `since` on;
-- NULL where that is not known.
CREATE TABLE names (
    number INTEGER NOT NULL,
    since  INTEGER NOT NULL,
    name   TEXT,
    PRIMARY KEY (number, since)
) WITHOUT ROWID;

-- Positions that were never seen here, first to last.
CREATE TABLE missing (
    first INTEGER PRIMARY KEY,
    last  INTEGER NOT NULL
);

-- Events, for showing what was found.
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    -- The eventkey, which a correction shares with what it corrects.
    key      BLOB    NOT NULL,
    received INTEGER NOT NULL,
    routes   INTEGER NOT NULL,
    -- 1 once a correction stands for it in history.
    replaced INTEGER NOT NULL,
    body     BLOB    NOT NULL
);
CREATE INDEX events_by_key ON events (key);
-- Those from before the gateway knew the time (before 2015).
CREATE INDEX events_unset ON events (position) WHERE received < 1420070400000000000;

-- What each device has here: how many series, and bytes of history, about.
CREATE TABLE devices (
    device TEXT PRIMARY KEY,
    series INTEGER NOT NULL,
    bytes  INTEGER NOT NULL
) WITHOUT ROWID;

-- A measurement of a device.
CREATE TABLE series (
    id     INTEGER PRIMARY KEY,
    device TEXT NOT NULL,
    name   TEXT NOT NULL,
    UNIQUE (device, name)
);

-- The value with the latest time of each series; of equal times the later position.
CREATE TABLE last (
    series   INTEGER PRIMARY KEY,
    time     INTEGER NOT NULL,
    position INTEGER NOT NULL,
    value    TEXT    NOT NULL,
    unit     TEXT,
    quality  TEXT
);

-- Every number of a series.
CREATE TABLE points (
    series   INTEGER NOT NULL,
    time     INTEGER NOT NULL,
    position INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    value    REAL    NOT NULL,
    PRIMARY KEY (series, time, position, number)
) WITHOUT ROWID;

-- Numbers of a series by the minute and by the hour; `at` is where it begins, in seconds.
CREATE TABLE steps (
    series INTEGER NOT NULL,
    step   INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    min    REAL    NOT NULL,
    max    REAL    NOT NULL,
    sum    REAL    NOT NULL,
    -- The least position with a number in it: those before were not taken, or left.
    since  INTEGER NOT NULL,
    PRIMARY KEY (series, step, at)
) WITHOUT ROWID;

-- Messages in quarantine, as they are listed.
CREATE TABLE quarantine (
    id        INTEGER PRIMARY KEY,
    received  INTEGER NOT NULL,
    client_id TEXT NOT NULL,
    topic     TEXT NOT NULL,
    class     TEXT NOT NULL,
    reason    TEXT NOT NULL,
    bytes     INTEGER NOT NULL
);
CREATE INDEX quarantine_unset ON quarantine (id) WHERE received < 1420070400000000000;

-- Dead letters; those that are no more are kept as long as the event.
CREATE TABLE dead_letters (
    id          INTEGER PRIMARY KEY,
    destination TEXT    NOT NULL,
    position    INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    gone        INTEGER NOT NULL,
    bytes       INTEGER NOT NULL
);
CREATE INDEX dead_letters_by_position ON dead_letters (position);

-- The words of each; a row has the number of what it is about.
CREATE VIRTUAL TABLE quarantine_text USING fts5(
    device, topic, type, text, content = '', contentless_delete = 1);
CREATE VIRTUAL TABLE dead_letter_text USING fts5(
    device, topic, type, text, content = '', contentless_delete = 1);
