include!("../support.rs");

#[idempotent(scope = user)]
pub const PAYMENTS: u64 = 1;

fn main() {
    let _ = PAYMENTS;
}
