include!("../support.rs");

#[idempotent(scope = user)]
pub mod payments {
    pub fn list() {}
}

fn main() {
    payments::list();
}
