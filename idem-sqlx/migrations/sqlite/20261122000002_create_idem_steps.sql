-- This file may be run by `migrate`, by your own migrations, or by both, in any order. It changes nothing the second time, and
-- records its name in `idem_migrations`.
create table if not exists main.idem_migrations (name text primary key);
insert into main.idem_migrations (name) values ('20261122000002_create_idem_steps') on conflict (name) do nothing;

-- One row for each step that a leased run, while it is not over, has finished, or has made a call of.
create table if not exists main.idem_steps (
    scope text not null,
    operation text not null,
    key_hash blob not null,
    position integer not null,
    name text not null,
    form integer not null,
    format integer not null,
    tag blob not null,
    body blob not null,
    claim blob not null,
    attempt integer not null,
    created_at integer not null,
    -- No foreign key: it counts only where a connection's `foreign_keys` says so. Steps are removed by what completes,
    -- replaces or sweeps their record.
    primary key (scope, operation, key_hash, position)
)
without rowid;
