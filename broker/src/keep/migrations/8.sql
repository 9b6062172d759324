-- Frames may be sealed (docs/decisions/0180-sealed-values.md), with these keys: each has a
-- proof, so that a key that is missing or wrong is told from damage.
CREATE TABLE keys (
    key INTEGER PRIMARY KEY,
    proof BLOB NOT NULL
) STRICT;
