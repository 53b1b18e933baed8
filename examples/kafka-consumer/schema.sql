CREATE TABLE IF NOT EXISTS stock (
    warehouse TEXT NOT NULL,
    item TEXT NOT NULL,
    on_hand INTEGER NOT NULL CHECK (on_hand >= 0),
    PRIMARY KEY (warehouse, item)
);
CREATE TABLE IF NOT EXISTS reservations (
    warehouse TEXT NOT NULL,
    order_id TEXT NOT NULL,
    item TEXT NOT NULL,
    quantity INTEGER NOT NULL
);
