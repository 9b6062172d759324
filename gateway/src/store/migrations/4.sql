-- What the gateway knows of devices beside their events: see fleet/rows.rs. A body is
-- JSON, with its CRC-32. `user` and `client` say which client a device is; `online` is 1
-- where it was told that it is.
CREATE TABLE devices (
    number   INTEGER PRIMARY KEY,
    id       TEXT    NOT NULL UNIQUE,
    user     TEXT,
    client   TEXT,
    online   INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    body     BLOB    NOT NULL
);
CREATE INDEX devices_by_user ON devices (user);
CREATE INDEX devices_by_client ON devices (client);
CREATE INDEX devices_online ON devices (online);

-- Commands to devices. `phase` is 0 for queued, 1 for sent, 2 for over, 3 for queued as
-- far as a damaged file tells (salvage/others.rs); `due` is the deadline, or when it was over, in milliseconds since 1970.
CREATE TABLE commands (
    number   INTEGER PRIMARY KEY,
    id       TEXT    NOT NULL UNIQUE,
    device   TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    phase    INTEGER NOT NULL,
    due      INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    body     BLOB    NOT NULL,
    UNIQUE (device, key)
);
CREATE INDEX commands_by_due ON commands (phase, due);
CREATE INDEX commands_by_device ON commands (device, phase, number);

-- What a device should be, and what it says that it is; `told` is 1 where the device was
-- told all of it.
CREATE TABLE shadows (
    number   INTEGER PRIMARY KEY,
    device   TEXT    NOT NULL UNIQUE,
    told     INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    body     BLOB    NOT NULL
);
CREATE INDEX shadows_by_told ON shadows (told);

-- Answers to changes that came with an Idempotency-Key; `at` in milliseconds since 1970.
CREATE TABLE requests (
    number   INTEGER PRIMARY KEY,
    device   TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    at       INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    body     BLOB    NOT NULL,
    UNIQUE (device, key)
);
CREATE INDEX requests_by_age ON requests (at);
