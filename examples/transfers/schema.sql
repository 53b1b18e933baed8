CREATE TABLE IF NOT EXISTS accounts (
    id integer PRIMARY KEY,
    owner text NOT NULL,
    name text NOT NULL,
    -- The last guard: no statement of any program can take it below zero.
    balance integer NOT NULL CHECK (balance >= 0)
);

CREATE TABLE IF NOT EXISTS orders (
    id integer PRIMARY KEY,
    user_id text NOT NULL,
    order_reference text NOT NULL,
    amount integer NOT NULL,
    status text NOT NULL,
    -- The caller's own name for the order is its key.
    UNIQUE (user_id, order_reference)
);
