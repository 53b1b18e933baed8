//! The names of the tags.

pub(super) const SOME: &str = "~some";
pub(super) const UNIT: &str = "~unit";
pub(super) const F32: &str = "~f32";
pub(super) const F64: &str = "~f64";
pub(super) const BYTES: &str = "~bytes";
pub(super) const MAP: &str = "~map";

/// `serde_json`'s name for the struct as which it writes raw JSON, and for the newtype as which it reads it.
pub(super) const RAW_JSON: &str = "$serde_json::private::RawValue";
