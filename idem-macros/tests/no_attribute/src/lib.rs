//! An attribute that does nothing. A function under it is compiled as it is written.

use proc_macro::TokenStream;

/// The function, unchanged.
#[proc_macro_attribute]
pub fn idempotent(_: TokenStream, function: TokenStream) -> TokenStream {
    function
}
