//! What must compile without a word, in whatever surroundings, and behave as if it stood alone.
//!
//! It is compiled twice, as edition 2024 and, by the package `edition-2021`, as edition 2021.
#![deny(warnings, future_incompatible, rust_2018_idioms, rust_2024_compatibility, unused, clippy::pedantic)]
#![deny(
    unused_lifetimes,
    unused_qualifications,
    trivial_casts,
    trivial_numeric_casts,
    let_underscore_drop,
    unsafe_code
)]
// What these two say in edition 2021 is said of the fixtures' own tokens.
#![allow(edition_2024_expr_fragment_specifier, impl_trait_overcaptures)]
// What a fixture shares with the others is `pub`, and a test is no library.
#![allow(unreachable_pub)]

include!("../support.rs");
mod twice;
mod which_self;

mod attributes;
mod cfg_attr;
mod cfg_on_parameters;
mod context_alone;
mod context_between;
mod context_first;
mod context_last;
mod debug_handler;
mod early_exits;
mod generic;
mod impl_into_response;
mod inside_a_function_and_an_impl;
mod key_expression;
mod key_header;
mod last_extractors;
mod macro_rules;
mod named_as_axums;
mod names_of_ours;
mod no_prelude;
mod path_query_state;
mod patterns;
mod plain_attributes;
mod plain_functions;
mod raw_identifiers;
mod reexported_crate;
mod renamed_crate;
mod scope_expressions;
mod shadowed_names;
mod sixteen_extractors;
mod steps;
mod tracing_instrument;
