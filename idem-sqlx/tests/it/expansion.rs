//! The programs that `cargo bench -p expansion` measures compile: nobody runs it every day.
#![cfg(feature = "postgres")]
#![allow(dead_code, unused_imports, non_snake_case)]

macro_rules! program {
    ($name:ident, $file:literal, $state:ty) => {
        mod $name {
            include!("../../../benches/expansion/shared.rs");
            include!($file);

            fn routes() -> Router<$state> {
                Router::new().route("/NAME", post(NAME))
            }
        }
    };
}

program!(bare, "../../../benches/expansion/bare.rs", sqlx::PgPool);
program!(by_hand, "../../../benches/expansion/by_hand.rs", PgStore);
program!(attribute, "../../../benches/expansion/attribute.rs", PgStore);
