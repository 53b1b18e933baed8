-- Only for a store that was built with a `Distance` other than `Near`. `migrate` or your own migrations may run this
-- file, or both, in any order. It changes nothing the second time, and records its name in `idem_migrations`.
create table if not exists idem_migrations (name text primary key);
insert into idem_migrations (name) values ('20261129000001_create_idem_functions') on conflict (name) do nothing;

-- The claim, so that it can be sent in the message that begins the transaction. It fails if the request is not claimed:
-- the client cannot see a row of that message. `first_time` and `last_time` are the times, in microseconds since 1970,
-- between which the request may begin. A later release that needs other parameters adds a function `…_v2`.
create or replace function idem_claim_v1(
    asked bigint,
    identity bigint,
    running bigint,
    scope bytea,
    operation bytea,
    key_hash bytea,
    fingerprint bytea,
    claim bytea,
    ttl double precision,
    first_time bigint,
    last_time bigint
) returns void language plpgsql set search_path from current as $$
begin
    insert into idem_records
        (scope, operation, key_hash, fingerprint, state, claim, attempt, format, created_at, expires_at)
    select convert_from($4, 'UTF8'), convert_from($5, 'UTF8'), $6, $7, 1, $8, 1, 0,
        now(), now() + $9 * interval '1 second'
    where case
        when not pg_try_advisory_xact_lock($1) then false
        when not pg_try_advisory_xact_lock($2) then false
        else pg_try_advisory_xact_lock($3) is not null
    end
        and (extract(epoch from now()) * 1000000)::bigint between $10 and $11
    on conflict on constraint idem_records_pkey do nothing;
    if not found then
        raise exception 'the request is not claimed' using errcode = 'IDM01';
    end if;
end
$$;

-- The completion, so that it can be sent in one message with the COMMIT. It fails if the transaction is not the one that
-- has claimed.
create or replace function idem_complete_v1(
    scope bytea,
    operation bytea,
    key_hash bytea,
    claim bytea,
    state integer,
    format integer,
    status integer,
    headers bytea,
    body bytea,
    elapsed double precision,
    ttl double precision,
    kept double precision
) returns void language plpgsql set search_path from current as $$
begin
    update idem_records as record
    set state = $5::smallint,
        format = $6::smallint,
        status = $7::smallint,
        headers = $8,
        body = $9,
        completed_at = now() + $10 * interval '1 second',
        expires_at = now() + $11 * interval '1 second',
        kept_until = now() + $12 * interval '1 second'
    where record.scope = convert_from($1, 'UTF8')
        and record.operation = convert_from($2, 'UTF8')
        and record.key_hash = $3
        and record.claim = $4
        and record.completed_at is null
        and record.created_at = now();
    if not found then
        raise exception 'the transaction is not the one that has claimed' using errcode = 'IDM02';
    end if;
end
$$;

-- The functions work on the tables beside them, whoever calls them: `current` above is the whole `search_path`, in which a
-- temporary table or a schema of the caller would come first.
do $$
begin
    execute format('alter function %1$I.idem_claim_v1 set search_path to %1$I, pg_temp', current_schema());
    execute format('alter function %1$I.idem_complete_v1 set search_path to %1$I, pg_temp', current_schema());
end
$$;
