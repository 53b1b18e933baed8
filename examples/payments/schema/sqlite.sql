create table if not exists payments (
    id integer primary key,
    caller text not null,
    customer_id text not null,
    amount integer not null check (amount > 0),
    currency text not null,
    status text not null
);

create index if not exists payments_of_caller on payments (caller, id);

-- Double entry: for each payment one debit and one credit.
create table if not exists ledger (
    payment_id integer not null references payments (id),
    account text not null,
    entry text not null check (entry in ('debit', 'credit')),
    amount integer not null,
    primary key (payment_id, entry)
);
