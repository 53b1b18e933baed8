include!("../support.rs");

#[idempotent(scope = user)]
pub enum Payments {
    Create,
}

fn main() {
    let _ = Payments::Create;
}
