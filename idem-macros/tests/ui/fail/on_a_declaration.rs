include!("../support.rs");

pub trait Payments {
    #[idempotent(scope = user)]
    fn create(&self, user: CurrentUser, tx: &mut PgTx);
}

fn main() {}
