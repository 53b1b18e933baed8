//! The store on real servers: one, and a cluster of six.

mod callee;
mod contract;
mod guards;
mod hint;
mod kills;
mod operate;
mod records;
mod support;
