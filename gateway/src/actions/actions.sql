-- What may be sealed is (docs/decisions/0180-sealed-values.md), with these keys.
CREATE TABLE keys (
    key INTEGER PRIMARY KEY,
    proof BLOB NOT NULL
) STRICT;

-- Everything up to `position` of the journal was acted on.
CREATE TABLE state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    position INTEGER NOT NULL,
    -- Milliseconds for which there was somebody to listen to devices.
    listened INTEGER NOT NULL,
    -- Counts since the file was begun.
    messages INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    failures_evicted INTEGER NOT NULL,
    -- Of the failures that are kept.
    failed INTEGER NOT NULL,
    failed_bytes INTEGER NOT NULL,
    -- Rows of `windows`.
    windows INTEGER NOT NULL,
    -- The last of the outbox that the journal has.
    handed INTEGER NOT NULL DEFAULT 0,
    -- Events and failures that were lost with damaged files.
    lost INTEGER NOT NULL DEFAULT 0,
    -- Windows that made room for others.
    windows_evicted INTEGER NOT NULL DEFAULT 0,
    -- Rows of `throttles`.
    throttles INTEGER NOT NULL DEFAULT 0,
    -- How often a throttle held something back.
    held_back INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What a rule could not do for an event.
CREATE TABLE failed (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    rule TEXT NOT NULL,
    position INTEGER NOT NULL,
    device TEXT NOT NULL,
    at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    body BLOB NOT NULL,
    -- What of it: 0 all, 1 the alarm, 2 the message, 3 the command, 4 the command, which
    -- waits for a clock.
    part INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Events that rules made, on their way into the journal, as CBOR.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    body BLOB NOT NULL,
    -- Its destinations get it too.
    rule TEXT
) STRICT;

-- What the events of a device that a rule takes come to, as CBOR, and when to look at it
-- although none comes: by the wall clock (nanoseconds), or by `listened`.
CREATE TABLE windows (
    rule TEXT NOT NULL,
    device TEXT NOT NULL,
    window BLOB NOT NULL,
    due INTEGER,
    due_listened INTEGER,
    PRIMARY KEY (rule, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX windows_due ON windows (due) WHERE due IS NOT NULL;
CREATE INDEX windows_due_listened ON windows (due_listened) WHERE due_listened IS NOT NULL;

-- How often a rule did something for a device since a time, which lasts until another.
CREATE TABLE throttles (
    rule TEXT NOT NULL,
    device TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    done INTEGER NOT NULL,
    PRIMARY KEY (rule, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX throttles_until ON throttles (until);

-- The same by rule: its devices, how often it was held back, devices that made room.
CREATE TABLE throttled (
    rule TEXT NOT NULL PRIMARY KEY,
    devices INTEGER NOT NULL,
    held_back INTEGER NOT NULL,
    evicted INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One for each rule and device. Times are nanoseconds since 1970.
CREATE TABLE alarms (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    rule TEXT NOT NULL,
    device TEXT NOT NULL,
    site TEXT,
    -- 0 raised, 1 acknowledged, 2 cleared.
    state INTEGER NOT NULL,
    severity TEXT NOT NULL,
    text TEXT NOT NULL,
    -- How often it was raised after it had been cleared, and by how many events this time.
    raised INTEGER NOT NULL,
    events INTEGER NOT NULL,
    raised_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    UNIQUE (rule, device)
) STRICT;
CREATE INDEX alarms_cleared ON alarms (changed_at) WHERE state = 2;

CREATE TABLE alarm_changes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    alarm INTEGER NOT NULL,
    state INTEGER NOT NULL,
    at INTEGER NOT NULL,
    -- Who, where it was a person; the event by which it came, where it was an event.
    actor TEXT,
    note TEXT,
    event BLOB
) STRICT;
CREATE INDEX alarm_changes_of ON alarm_changes (alarm);
