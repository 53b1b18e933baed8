create table if not exists stock (
    item text primary key,
    price integer not null check (price > 0),
    available integer not null check (available >= 0),
    on_sale integer not null default true
);

insert into stock (item, price, available) values ('lamp', 4000, 100) on conflict do nothing;

create table if not exists orders (
    id integer primary key,
    caller text not null,
    item text not null references stock (item),
    quantity integer not null check (quantity > 0),
    amount integer not null,
    charge text not null
);

create index if not exists orders_of_caller on orders (caller, id);
