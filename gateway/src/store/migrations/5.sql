-- Events may be copies that are sent again, and say so (event/cbor.rs). Versions that cannot
-- read those do not know these tables, and refuse the journal for that.
--
-- How far each replay has come: see archive/rows.rs. A body is JSON, with its CRC-32.
CREATE TABLE replays (
    number   INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE,
    checksum INTEGER NOT NULL,
    body     BLOB    NOT NULL
);
-- Copies in the journal, with the bytes that they take: they leave as soon as their
-- destination has settled them, also where other events are kept.
CREATE TABLE copies (
    destination INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    PRIMARY KEY (destination, position)
) WITHOUT ROWID;
