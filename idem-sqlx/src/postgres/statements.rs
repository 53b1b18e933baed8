//! The statements with the schema written into them.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::epoch::EpochSql;
use super::leases::LeaseSql;
use super::operate::OperateSql;
use super::records::RecordSql;
use super::schema::Schema;
use super::sweeps::SweepSql;

/// All statements, for the tables of one schema.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) schema: Schema,
    pub(super) records: RecordSql,
    pub(super) leases: LeaseSql,
    pub(super) sweeps: SweepSql,
    pub(super) operate: OperateSql,
    pub(super) epoch: EpochSql,
}

impl Statements {
    /// The statements for a schema. They are made once for each schema and kept until the process ends. So a statement
    /// is a reference that is copied, and has the same text in every connection's cache.
    pub(super) fn of(schema: &Schema) -> &'static Self {
        static MADE: LazyLock<Mutex<HashMap<Schema, &'static Statements>>> = LazyLock::new(Mutex::default);
        // An entry is complete or absent, so a panic under the lock has broken nothing.
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(schema.clone()).or_insert_with(|| Box::leak(Box::new(Self::new(schema))))
    }
}

impl Statements {
    fn new(schema: &Schema) -> Self {
        Self {
            schema: schema.clone(),
            records: RecordSql::new(schema),
            leases: LeaseSql::new(schema),
            sweeps: SweepSql::new(schema),
            operate: OperateSql::new(schema),
            epoch: EpochSql::new(schema),
        }
    }

    /// Every text with its name.
    pub(super) fn all(&self) -> Vec<(&'static str, &str)> {
        [self.records.all(), self.leases.all(), self.sweeps.all(), self.operate.all(), self.epoch.all()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r13a_every_statement_names_its_tables_with_their_schema() {
        let schema = Schema::new("My \"schema\"".to_owned()).unwrap();
        let statements = Statements::of(&schema);
        let mut all = 0;
        for (name, text) in statements.all() {
            let tables = text.matches("idem_").count();
            let named = text.matches("\"My \"\"schema\"\"\".idem_").count();
            assert!(tables == named, "{name}: {text}");
            assert!(!text.contains(['{', '}']), "{name}: {text}");
            all += tables;
        }
        assert!(all > 20, "{all}");
        assert!(std::ptr::eq(statements, Statements::of(&schema)), "made once");
    }
}
