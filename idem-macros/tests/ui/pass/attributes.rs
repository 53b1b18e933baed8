#![deny(warnings, missing_docs)]
//! Documented.
include!("../support.rs");

/// A documented module.
pub mod api {
    use super::*;

    /// Creates a payment.
    ///
    /// It charges.
    #[cfg(not(any()))]
    #[idempotent(scope = user)]
    #[expect(unused_variables)]
    #[cfg_attr(not(any()), allow(clippy::unused_async))]
    #[inline]
    pub async fn create_payment(user: CurrentUser, tx: &mut PgTx) -> Json<Payment> {
        #![allow(unused_mut)]
        let mut unused = 1;
        Json(Payment { id: 1 })
    }
}

fn main() {
    let _: Router<PgStore> = Router::new().route("/", post(api::create_payment));
}
