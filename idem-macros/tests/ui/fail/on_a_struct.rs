include!("../support.rs");

#[idempotent(scope = user)]
pub struct Payments {
    pub user: CurrentUser,
}

fn main() {
    let _ = |payments: Payments| payments.user;
}
