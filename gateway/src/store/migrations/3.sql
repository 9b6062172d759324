-- When a record failed for the first time; nobody knows of those from before.
-- From here on the row of `state` also says how each destination is run.
ALTER TABLE retry ADD COLUMN first INTEGER;
ALTER TABLE dead_letters ADD COLUMN first INTEGER;
