-- What makes a will the same one when it is published again. Of one that had its time the
-- identity that the journal may know stays.
ALTER TABLE wills ADD COLUMN token BLOB NOT NULL DEFAULT x'';
UPDATE wills SET token = iif(due_ms IS NULL, randomblob(16),
    unhex(printf('%016x%016x', id, due_ms)));
