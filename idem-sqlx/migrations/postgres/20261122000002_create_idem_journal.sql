-- `migrate` or your own migrations may run this file, or both, in any order. It changes nothing the second time, and
-- records its name in `idem_migrations`.
create table if not exists idem_migrations (name text primary key);
insert into idem_migrations (name) values ('20261122000002_create_idem_journal') on conflict (name) do nothing;

-- The journal of a leased run that is not over. `kind`: 1 a finished transaction, 2 a finished call, 3 a rejection, 4 a
-- finished undo, 5 the input (at position -1), 6 a started call. `format` to `body` are a step's result, or the reply
-- of the rejection, as in `idem_records`. `undoes` are the steps that a rejection has to undo, as a JSON array, in
-- their order.
create table if not exists idem_journal (
    scope text collate "C" not null,
    operation text collate "C" not null,
    key_hash bytea not null,
    position integer not null,
    kind smallint not null,
    name text not null,
    format smallint,
    status smallint,
    headers bytea,
    body bytea,
    undoes text,
    claim bytea not null,
    attempt integer not null,
    created_at timestamptz not null,
    -- No foreign key: its trigger would take half of the sweep's time, and most records have no journal. The statements
    -- that complete, replace or sweep a record remove its journal.
    primary key (scope, operation, key_hash, position)
);
