-- `migrate` or your own migrations may run this file, or both, in any order. It changes nothing the second time, and
-- records its name in `idem_migrations`.
create table if not exists idem_migrations (name text primary key);
insert into idem_migrations (name) values ('20261122000001_create_idem_records') on conflict (name) do nothing;

-- One row for each request that has run, for each leased run, and for each key that is poisoned.
create table if not exists idem_records (
    scope text collate "C" not null,
    operation text collate "C" not null,
    key_hash bytea not null,
    fingerprint bytea not null,
    state smallint not null,
    claim bytea not null,
    attempt integer not null,
    -- How many attempts of a leased run were released after they had run. They are spaced, and the others are counted.
    released integer not null default 0,
    lease_until timestamptz,
    format smallint not null,
    status smallint,
    headers bytea,
    body bytea,
    created_at timestamptz not null,
    completed_at timestamptz,
    -- When the `ttl` is over.
    expires_at timestamptz not null,
    -- Until when a finished record refuses retries after its `ttl`. After the `ttl` the sweep removes the reply, sets the
    -- state to 0, and moves this time to `expires_at`.
    kept_until timestamptz,
    -- Why an operator has given a leased run up. Its state is -1 then.
    reason text,
    primary key (scope, operation, key_hash),
    -- A process with an index key (`Keyring::index`) names the same request otherwise, so it would run it again. Its
    -- fingerprints begin with another byte. Its `migrate` replaces this check, as long as no record is in force, by one
    -- that only processes with the same index key pass.
    constraint idem_index_none check (substr(fingerprint, 1, 1) < '\x80'::bytea)
)
-- The completion updates the row that the claim inserted. The free space lets the new version stay in the same page,
-- also with a reply of a thousand bytes. A larger reply is compressed, or is kept beside the table.
with (fillfactor = 80);

-- For the sweep.
create index if not exists idem_records_expires_at on idem_records (expires_at);

-- One random value for this database. The numbers of the advisory locks are made with it, so that a role that cannot
-- read this table does not know which locks a request is about to take.
create table if not exists idem_secret (one boolean primary key default true check (one), secret bytea not null);
insert into idem_secret (secret) values (uuid_send(gen_random_uuid())) on conflict (one) do nothing;

-- One random value, which is another one after records were removed by hand or a backup was restored. What hints in
-- front of this database know belongs to one value.
create table if not exists idem_epoch (one boolean primary key default true check (one), epoch bytea not null);
insert into idem_epoch (epoch) values (uuid_send(gen_random_uuid())) on conflict (one) do nothing;
