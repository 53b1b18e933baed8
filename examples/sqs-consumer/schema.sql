CREATE TABLE IF NOT EXISTS events (
    name text PRIMARY KEY,
    -- The last guard: no statement of any program can take it below zero.
    seats_left integer NOT NULL CHECK (seats_left >= 0)
);

-- A row for each time that seats were taken: two rows for one booking are one too many.
CREATE TABLE IF NOT EXISTS bookings (
    id integer PRIMARY KEY,
    booking text NOT NULL,
    event text NOT NULL,
    seats integer NOT NULL
);
