//! The words of the format.

pub(super) const SOME: &str = "~some";
pub(super) const UNIT: &str = "~unit";
pub(super) const F32: &str = "~f32";
pub(super) const F64: &str = "~f64";
pub(super) const BYTES: &str = "~bytes";
pub(super) const MAP: &str = "~map";

/// What `serde_json` calls the struct as which it writes and the newtype as which it reads raw JSON.
pub(super) const RAW_JSON: &str = "$serde_json::private::RawValue";
