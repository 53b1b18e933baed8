//! The programs that `cargo xtask expansion` measures compile: nobody runs it every day.
#![cfg(feature = "postgres")]
#![allow(dead_code, unused_imports, non_snake_case)]

macro_rules! program {
    ($name:ident, $file:literal, $state:ty) => {
        mod $name {
            include!("../../../xtask/expansion/shared.rs");
            include!($file);

            fn routes() -> Router<$state> {
                Router::new().route("/NAME", post(NAME))
            }
        }
    };
}

program!(bare, "../../../xtask/expansion/bare.rs", sqlx::PgPool);
program!(by_hand, "../../../xtask/expansion/by_hand.rs", PgStore);
program!(attribute, "../../../xtask/expansion/attribute.rs", PgStore);
