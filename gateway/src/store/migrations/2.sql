-- Events may have marks, say that they are corrected, and have the message behind them
-- that they were made of (see event/cbor.rs). Versions that cannot read those do not know
-- this table, and refuse the journal for that; before, they would have made a dead letter
-- of each such event. Nothing is kept in it.
CREATE TABLE events_may_have_marks (
    id INTEGER PRIMARY KEY
);
