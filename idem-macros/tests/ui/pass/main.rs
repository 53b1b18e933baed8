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
#[forbid(unused_variables, unused_mut)]
mod which_self;

// Where the user forbids a lint, an `#[allow]` of ours would be an error.
mod attributes;
#[forbid(unused_variables, unused_mut)]
mod cfg_attr;
#[forbid(unused_variables, unused_mut)]
mod cfg_on_parameters;
#[forbid(unused_variables, unused_mut)]
mod context_alone;
#[forbid(unused_variables, unused_mut)]
mod context_between;
#[forbid(unused_variables, unused_mut)]
mod context_first;
#[forbid(unused_variables, unused_mut)]
mod context_last;
#[forbid(unused_variables, unused_mut)]
mod debug_handler;
#[forbid(unused_variables, unused_mut)]
mod early_exits;
#[forbid(unused_variables, unused_mut)]
mod generic;
#[forbid(unused_variables, unused_mut)]
mod impl_into_response;
#[forbid(unused_variables, unused_mut)]
mod inside_a_function_and_an_impl;
#[forbid(unused_variables, unused_mut)]
mod key_expression;
#[forbid(unused_variables, unused_mut)]
mod key_header;
#[forbid(unused_variables, unused_mut)]
mod last_extractors;
#[forbid(unused_variables, unused_mut)]
mod macro_rules;
#[forbid(unused_variables, unused_mut)]
mod named_as_axums;
#[forbid(unused_variables, unused_mut)]
mod names_of_ours;
mod neutral;
#[forbid(unused_variables, unused_mut)]
mod no_prelude;
#[forbid(unused_variables, unused_mut)]
mod path_query_state;
#[forbid(unused_variables, unused_mut)]
mod patterns;
mod plain_attributes;
#[forbid(unused_variables, unused_mut)]
mod plain_functions;
#[forbid(unused_variables, unused_mut)]
mod raw_identifiers;
#[forbid(unused_variables, unused_mut)]
mod reexported_crate;
#[forbid(unused_variables, unused_mut)]
mod renamed_crate;
#[forbid(unused_variables, unused_mut)]
mod scope_expressions;
mod shadowed_names;
#[forbid(unused_variables, unused_mut)]
mod sixteen_extractors;
#[forbid(unused_variables, unused_mut)]
mod steps;
#[forbid(unused_variables, unused_mut)]
mod tracing_instrument;
