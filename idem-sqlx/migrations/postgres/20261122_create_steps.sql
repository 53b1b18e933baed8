-- One row for each finished step of a leased run that is not over.
create table idem_steps (
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
    primary key (scope, operation, key_hash, position),
    -- Steps go with their record: when it is completed, replaced or swept.
    foreign key (scope, operation, key_hash) references idem_records on delete cascade
);
