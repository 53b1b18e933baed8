begin;

-- At every start but the first, each table is there already. That is no news.
set local client_min_messages = warning;

create table if not exists payments (
    id bigint generated always as identity primary key,
    caller text not null,
    customer_id text not null,
    amount bigint not null check (amount > 0),
    currency text not null,
    status text not null
);

create index if not exists payments_of_caller on payments (caller, id);

-- Double entry: for each payment one debit and one credit.
create table if not exists ledger (
    payment_id bigint not null references payments (id),
    account text not null,
    entry text not null check (entry in ('debit', 'credit')),
    amount bigint not null,
    primary key (payment_id, entry)
);

commit;
