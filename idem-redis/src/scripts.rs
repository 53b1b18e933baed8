//! The scripts: each is one operation on one record.

use std::sync::LazyLock;

/// A script, and the digest by which a server knows it once it has been sent.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) text: &'static str,
    pub(crate) digest: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, digest: redis::Script::new(text).get_hash().to_owned() }
    }
}

macro_rules! scripts {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(
            pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
                Script::new(concat!(
                    include_str!("scripts/common.lua"),
                    include_str!("scripts/seen.lua"),
                    include_str!($file),
                ))
            });
        )*
    };
}

scripts! {
    CLAIM = "scripts/claim.lua",
    LOOK = "scripts/look.lua",
    RENEW = "scripts/renew.lua",
    RECORD = "scripts/record.lua",
    COMPLETE = "scripts/complete.lua",
    RELEASE = "scripts/release.lua",
    CHANGE = "scripts/change.lua",
    FORGET = "scripts/forget.lua",
}
