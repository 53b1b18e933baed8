begin;

-- At every start but the first, each table is there already. That is no news.
set local client_min_messages = warning;

create table if not exists stock (
    item text primary key,
    price bigint not null check (price > 0),
    available bigint not null check (available >= 0),
    on_sale boolean not null default true
);

insert into stock (item, price, available) values ('lamp', 4000, 100) on conflict do nothing;

create table if not exists orders (
    id bigint generated always as identity primary key,
    caller text not null,
    item text not null references stock (item),
    quantity bigint not null check (quantity > 0),
    amount bigint not null,
    charge text not null
);

create index if not exists orders_of_caller on orders (caller, id);

commit;
