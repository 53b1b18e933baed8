//! The attribute adds no lint to a function, and takes none away.
//!
//! The same functions are compiled with the attribute, and with one that does nothing. What must say nothing does so
//! under `forbid(unused)`. What must say something is under `#[expect]`, which is an error where nothing is said. Clippy
//! reads these files, too.

/// Here, since serde's derive has an `#[allow]` of its own.
#[derive(serde::Serialize, serde::Deserialize)]
struct Failed;

impl From<idem_core::Error> for Failed {
    fn from(_: idem_core::Error) -> Self {
        Self
    }
}

/// What the attribute expands.
mod with {
    pub(super) use idem_core::idempotent;

    #[forbid(unused)]
    pub(super) mod silent {
        include!("neutral/silent.rs");
    }
    pub(super) mod noisy {
        include!("neutral/noisy.rs");
    }
    #[forbid(unused)]
    pub(super) mod named {
        include!("neutral/named.rs");
    }
}

/// What was written.
mod without {
    pub(super) use no_attribute::idempotent;

    #[forbid(unused)]
    pub(super) mod silent {
        include!("neutral/silent.rs");
    }
    pub(super) mod noisy {
        include!("neutral/noisy.rs");
    }
}

#[test]
fn the_functions_say_the_same_with_the_attribute_and_without_it() {
    with::silent::all();
    with::noisy::all();
    with::named::all();
    without::silent::all();
    without::noisy::all();
}
