CREATE INDEX wills_of_session ON wills (session);
