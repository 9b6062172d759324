-- Errands of the gateway that are in queues, so that none is queued twice. The gateway
-- says when it knows that itself.
CREATE TABLE errands (
    token BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;
