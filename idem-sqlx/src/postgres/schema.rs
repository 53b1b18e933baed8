//! The schema of the tables, and statements that still lack it.

use std::fmt;

/// The name of the schema that has the store's tables.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Schema(String);

impl Schema {
    /// `None` if the name is not a Postgres identifier: empty, longer than 63 bytes, or with a NUL in it.
    pub(super) fn new(name: String) -> Option<Self> {
        let is_identifier = (1..=63).contains(&name.len()) && !name.contains('\0');
        is_identifier.then_some(Self(name))
    }

    /// As Postgres stores it.
    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// The text of a statement, with this schema in place of `{schema}`.
    pub(super) fn qualify(&self, text: &str) -> String {
        text.replace("{schema}", &self.to_string())
    }
}

/// In quotes, as a statement needs it.
impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A statement without its schema. It is not a string, so it cannot be sent as it is.
pub(super) struct Template(pub(super) &'static str);

/// Makes a table of statements of templates: each text with one schema in it.
macro_rules! statements {
    ($(#[$doc:meta])* $table:ident: $($name:ident: $text:expr,)*) => {
        $(#[$doc])*
        pub(super) struct $table {
            $(pub(super) $name: String,)*
        }

        impl $table {
            pub(super) fn new(schema: &$crate::postgres::schema::Schema) -> Self {
                Self { $($name: schema.qualify($text.0),)* }
            }

            pub(super) fn all(&self) -> Vec<(&'static str, &str)> {
                vec![$((stringify!($name), self.$name.as_str()),)*]
            }
        }

        impl std::fmt::Debug for $table {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($table)).finish_non_exhaustive()
            }
        }
    };
}
pub(super) use statements;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r13a_a_schema_is_an_identifier() {
        let schema = |name: &str| Schema::new(name.to_owned());
        assert_eq!(schema("a\"b").unwrap().to_string(), "\"a\"\"b\"");
        assert!(schema(&"ä".repeat(31)).is_some());
        for name in ["", "a\0", &"ä".repeat(32)] {
            assert!(schema(name).is_none(), "{name:?}");
        }
    }
}
