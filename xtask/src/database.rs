//! A PostgreSQL to run on: the one that the environment names, or one of our own.

use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, Durability};
use crate::{Failure, find, install};

/// The tests of the stores read the URL of a superuser from here. Nothing else points them, or us, at a server: they create
/// databases there and drop them again.
pub(crate) const URL_VARIABLE: &str = "IDEM_TEST_POSTGRES";

/// Whoever uses sqlx exports this for a database of their own, so we never read it, and no test is to get it. The examples
/// read it when they are run by hand.
pub(crate) const COMMON_VARIABLE: &str = "DATABASE_URL";

pub(crate) enum Database {
    Given { url: String },
    Started { cluster: Cluster, url: String },
}

impl Database {
    pub(crate) fn get(durability: Durability) -> Result<Database, Failure> {
        if let Some(url) = given(std::env::var(URL_VARIABLE).ok())? {
            eprintln!("PostgreSQL: the one that {URL_VARIABLE} names");
            return Ok(Database::Given { url });
        }
        let programs = find_or_install()?;
        let cluster = Cluster::start(&programs, durability)?;
        eprintln!("PostgreSQL: {} on port {}", programs.display(), cluster.port());
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", cluster.port());
        Ok(Database::Started { cluster, url })
    }

    pub(crate) fn url(&self) -> &str {
        match self {
            Database::Given { url } | Database::Started { url, .. } => url,
        }
    }

    /// Both names of the URL, whatever they were before, and for our own server what libpq's programs read.
    pub(crate) fn client_environment(&self) -> Vec<(&'static str, String)> {
        let url = self.url().to_owned();
        let mut environment = vec![(URL_VARIABLE, url.clone()), (COMMON_VARIABLE, url)];
        if let Database::Started { cluster, .. } = self {
            environment.extend([
                ("PGHOST", "127.0.0.1".to_owned()),
                ("PGPORT", cluster.port().to_string()),
                ("PGUSER", "postgres".to_owned()),
                ("PGDATABASE", "postgres".to_owned()),
            ]);
        }
        environment
    }
}

fn given(url: Option<String>) -> Result<Option<String>, Failure> {
    match url.filter(|url| !url.is_empty()) {
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => Ok(Some(url)),
        Some(_) => Err(format!("{URL_VARIABLE} has to begin with postgres://")),
        None => Ok(None),
    }
}

fn find_or_install() -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = || find::programs(&path, Path::new("/usr/lib/postgresql"));
    if let Some(programs) = find() {
        return Ok(programs);
    }
    if install::is_possible()
        && let Err(failure) = install::postgres()
    {
        eprintln!("xtask: {failure}");
    }
    find().ok_or_else(|| {
        format!(
            "no PostgreSQL found: install version {} or newer, or set {URL_VARIABLE} to the URL of a superuser",
            find::OLDEST_VERSION,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(url: &str) -> Result<Option<String>, Failure> {
        super::given(Some(url.to_owned()))
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        assert_eq!((given(""), super::given(None)), (Ok(None), Ok(None)));
    }

    #[test]
    fn another_database_is_refused() {
        assert_eq!(given("postgresql://a"), Ok(Some("postgresql://a".to_owned())));
        assert!(given("sqlite://a.db").is_err());
    }
}
