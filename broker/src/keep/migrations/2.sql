ALTER TABLE wills RENAME TO wills_of_1;
CREATE TABLE wills (
    session INTEGER PRIMARY KEY,
    client TEXT NOT NULL,
    user TEXT,
    delay_secs INTEGER NOT NULL,
    due_ms INTEGER,
    checksum INTEGER NOT NULL,
    frame BLOB NOT NULL
) STRICT;
INSERT INTO wills
    SELECT w.session, s.client, s.user, w.delay_secs, w.due_ms, w.checksum, w.frame
    FROM wills_of_1 w JOIN sessions s ON s.id = w.session;
DROP TABLE wills_of_1;
