include!("../support.rs");

#[idempotent(scope = user)]
pub unsafe trait Payments {}

fn main() {
    fn _uses<T: Payments>() {}
}
