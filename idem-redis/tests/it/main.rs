//! The store on real servers: one, and a cluster of six.

mod contract;
mod support;
