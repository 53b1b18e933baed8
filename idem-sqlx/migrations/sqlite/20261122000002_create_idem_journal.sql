-- `migrate` or your own migrations may run this file, or both, in any order. It changes nothing the second time, and
-- records its name in `idem_migrations`.
create table if not exists main.idem_migrations (name text primary key);
insert into main.idem_migrations (name) values ('20261122000002_create_idem_journal') on conflict (name) do nothing;

-- The journal of a leased run that is not over. `kind`: 1 a finished transaction, 2 a finished call, 3 a rejection, 4 a
-- finished undo, 5 the input (at position -1), 6 a started call. `format` to `body` are a step's result, or the reply
-- of the rejection, as in `idem_records`. `undoes` are the steps that a rejection has to undo, as a JSON array, in
-- their order.
create table if not exists main.idem_journal (
    scope text not null,
    operation text not null,
    key_hash blob not null,
    position integer not null,
    kind integer not null,
    name text not null,
    format integer,
    status integer,
    headers blob,
    body blob,
    undoes text,
    claim blob not null,
    attempt integer not null,
    created_at integer not null,
    -- No foreign key: SQLite enforces it only on a connection with `foreign_keys` on. The statements that complete,
    -- replace or sweep a record remove its journal.
    primary key (scope, operation, key_hash, position)
)
without rowid;
