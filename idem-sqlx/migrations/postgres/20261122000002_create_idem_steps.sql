-- This file may be run by `migrate`, by your own migrations, or by both, in any order. It changes nothing the second time, and
-- records its name in `idem_migrations`.
create table if not exists idem_migrations (name text primary key);
insert into idem_migrations (name) values ('20261122000002_create_idem_steps') on conflict (name) do nothing;

-- One row for each step that a leased run, while it is not over, has finished, or has made a call of.
create table if not exists idem_steps (
    scope text collate "C" not null,
    operation text collate "C" not null,
    key_hash bytea not null,
    position integer not null,
    name text not null,
    form smallint not null,
    format smallint not null,
    tag bytea not null,
    body bytea not null,
    claim bytea not null,
    attempt integer not null,
    created_at timestamptz not null,
    -- No foreign key: its trigger would take half of the sweep's time, which most records need for nothing. Steps are removed
    -- by what completes, replaces or sweeps their record.
    primary key (scope, operation, key_hash, position)
);
