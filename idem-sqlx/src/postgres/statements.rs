//! The statements with the schema written into them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::schema::Schema;
use super::{leases, records, sweeps};

macro_rules! statements {
    ($($name:ident: $text:expr,)*) => {
        /// All statements, for the tables of one schema.
        pub(super) struct Statements {
            pub(super) schema: Schema,
            $(pub(super) $name: String,)*
        }

        impl Statements {
            fn new(schema: Schema) -> Self {
                Self { $($name: schema.qualify($text.0),)* schema }
            }

            #[cfg(test)]
            fn all(&self) -> Vec<&str> {
                vec![$(&self.$name,)*]
            }
        }
    };
}

statements! {
    insert: records::INSERT,
    replace: records::REPLACE,
    find: records::FIND,
    find_or_holder: records::FIND_OR_HOLDER,
    complete: records::COMPLETE,
    probe: records::PROBE,
    locked: records::LOCKED,

    lease: leases::LEASE,
    replace_leased: leases::REPLACE_LEASED,
    forget_entries: leases::FORGET_ENTRIES,
    record_input: leases::RECORD_INPUT,
    abandoned: leases::ABANDONED,
    take_over: leases::TAKE_OVER,
    entries: leases::ENTRIES,
    renew: leases::RENEW,
    lease_held: leases::HELD,
    record_entry: leases::RECORD_ENTRY,
    complete_leased: leases::COMPLETE_LEASED,
    release: leases::RELEASE,
    poison: leases::POISON,
    reset_attempts: leases::RESET_ATTEMPTS,

    sweep: sweeps::SWEEP,
    expired: sweeps::EXPIRED,
    sweep_scope: sweeps::SWEEP_SCOPE,
}

impl Statements {
    /// The statements for a schema. They are made once for each schema and kept until the process ends. So a statement
    /// is a reference that is copied, and has the same text in every connection's cache.
    pub(super) fn of(schema: &Schema) -> &'static Self {
        static MADE: LazyLock<Mutex<HashMap<Schema, &'static Statements>>> = LazyLock::new(Mutex::default);
        // An entry is complete or absent, so a panic under the lock has broken nothing.
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(schema.clone()).or_insert_with(|| Box::leak(Box::new(Self::new(schema.clone()))))
    }
}

impl fmt::Debug for Statements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statements").field("schema", &self.schema).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r13a_every_statement_names_its_tables_with_their_schema() {
        let schema = Schema::new("My \"schema\"".to_owned()).unwrap();
        let statements = Statements::of(&schema);
        for text in statements.all() {
            let tables = text.matches("idem_").count();
            let named = text.matches("\"My \"\"schema\"\"\".idem_").count();
            assert!(tables > 0 && tables == named, "{text}");
            assert!(!text.contains(['{', '}']), "{text}");
        }
        assert!(std::ptr::eq(statements, Statements::of(&schema)), "made once");
    }
}
