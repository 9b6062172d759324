ALTER TABLE wills RENAME TO wills_of_1;
CREATE TABLE wills (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    client TEXT NOT NULL,
    user TEXT,
    delay_secs INTEGER NOT NULL,
    due_ms INTEGER,
    checksum INTEGER NOT NULL,
    frame BLOB NOT NULL
) STRICT;
INSERT INTO wills (session, client, user, delay_secs, due_ms, checksum, frame)
    SELECT w.session, s.client, s.user, w.delay_secs, w.due_ms, w.checksum, w.frame
    FROM wills_of_1 w JOIN sessions s ON s.id = w.session;
DROP TABLE wills_of_1;
