-- A row for each payment that was told of: two rows for one payment are one too many.
CREATE TABLE IF NOT EXISTS ledger (
    id integer PRIMARY KEY,
    invoice text NOT NULL,
    amount integer NOT NULL
);
