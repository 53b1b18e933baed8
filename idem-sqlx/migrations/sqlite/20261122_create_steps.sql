-- One row for each step that a leased run, while it is not over, has finished, or has made a call of.
create table idem_steps (
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
    primary key (scope, operation, key_hash, position),
    -- Steps go with their record: when it is completed, replaced or swept.
    foreign key (scope, operation, key_hash) references idem_records (scope, operation, key_hash) on delete cascade
)
without rowid;
