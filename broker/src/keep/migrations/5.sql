CREATE TABLE shown_wills (
    will INTEGER PRIMARY KEY,
    shown_ms INTEGER NOT NULL
) STRICT;
