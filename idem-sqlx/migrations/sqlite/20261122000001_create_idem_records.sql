-- `migrate` or your own migrations may run this file, or both, in any order. It changes nothing the second time, and
-- records its name in `idem_migrations`.
create table if not exists main.idem_migrations (name text primary key);
insert into main.idem_migrations (name) values ('20261122000001_create_idem_records') on conflict (name) do nothing;

-- One row for each request that has run, for each leased run, and for each key that is poisoned. Times are microseconds
-- since 1970.
create table if not exists main.idem_records (
    scope text not null,
    operation text not null,
    key_hash blob not null,
    fingerprint blob not null,
    state integer not null,
    claim blob not null,
    attempt integer not null,
    -- How many attempts of a leased run were released after they had run. They are spaced, and the others are counted.
    released integer not null default 0,
    lease_until integer,
    format integer not null,
    status integer,
    headers blob,
    body blob,
    created_at integer not null,
    completed_at integer,
    -- When the `ttl` is over.
    expires_at integer not null,
    -- Until when a finished record refuses retries after its `ttl`. After the `ttl` the sweep removes the reply, sets the
    -- state to 0, and moves this time to `expires_at`.
    kept_until integer,
    -- Why an operator has given a leased run up. Its state is -1 then.
    reason text,
    primary key (scope, operation, key_hash)
)
-- Rows are stored in the tree of the primary key, so one look-up finds a row.
without rowid;

-- For the sweep.
create index if not exists main.idem_records_expires_at on idem_records (expires_at);

-- The mark of the index key (`Keyring::index`) under which records are named; null without one. A process with another
-- index key, or with none, names the same request otherwise, so it would run it again: its claims are refused. A
-- fingerprint begins with the mark; without an index key its first byte is low. The refusal is the check of the column
-- `one`, because `raise` has one code for all triggers.
create table if not exists main.idem_index (one integer primary key default 1 check (one = 1), mark blob);
insert into main.idem_index (one, mark) values (1, null) on conflict (one) do nothing;
create trigger if not exists main.idem_index_of_insert before insert on idem_records
when (
    select case when mark is null then substr(new.fingerprint, 1, 1) < x'80' else substr(new.fingerprint, 1, 5) = mark end
    from idem_index where one = 1
) is not 1
begin
    insert into idem_index (one) values (0);
end;
create trigger if not exists main.idem_index_of_update before update of fingerprint on idem_records
when (
    select case when mark is null then substr(new.fingerprint, 1, 1) < x'80' else substr(new.fingerprint, 1, 5) = mark end
    from idem_index where one = 1
) is not 1
begin
    insert into idem_index (one) values (0);
end;

-- One random value, which is another one after records were removed by hand or a backup was restored. What hints in
-- front of this database know belongs to one value.
create table if not exists main.idem_epoch (one integer primary key check (one = 1), epoch blob not null);
insert into main.idem_epoch (one, epoch) values (1, randomblob(16)) on conflict (one) do nothing;
