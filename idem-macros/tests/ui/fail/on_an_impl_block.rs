include!("../support.rs");

struct Payments;

#[idempotent(scope = user)]
impl Payments {
    fn list() {}
}

fn main() {
    Payments::list();
}
