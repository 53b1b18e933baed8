//! A PostgreSQL to run on: the one that the environment names, or one of our own.

use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, Durability};
use crate::{Failure, find, install};

/// The tests of the stores read the URL of a superuser from here.
pub(crate) const URL_VARIABLE: &str = "IDEM_TEST_POSTGRES";

pub(crate) enum Database {
    Given { url: String },
    Started { cluster: Cluster, url: String },
}

impl Database {
    pub(crate) fn get(durability: Durability) -> Result<Database, Failure> {
        if let Some((variable, url)) = given(|variable| std::env::var(variable).ok())? {
            eprintln!("PostgreSQL: the one that {variable} names");
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

    /// Both names of the URL, and for our own server what libpq's programs read.
    pub(crate) fn client_environment(&self) -> Vec<(&'static str, String)> {
        let url = self.url().to_owned();
        let mut environment = vec![(URL_VARIABLE, url.clone()), ("DATABASE_URL", url)];
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

/// `DATABASE_URL` may name another kind of database, and is then not meant for us.
fn given(variable: impl Fn(&str) -> Option<String>) -> Result<Option<(&'static str, String)>, Failure> {
    let is_postgres = |url: &String| url.starts_with("postgres://") || url.starts_with("postgresql://");
    match variable(URL_VARIABLE).filter(|url| !url.is_empty()) {
        Some(url) if is_postgres(&url) => return Ok(Some((URL_VARIABLE, url))),
        Some(_) => return Err(format!("{URL_VARIABLE} has to begin with postgres://")),
        None => {}
    }
    Ok(variable("DATABASE_URL").filter(is_postgres).map(|url| ("DATABASE_URL", url)))
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

    fn given_in(environment: &[(&str, &str)]) -> Result<Option<(&'static str, String)>, Failure> {
        given(|variable| {
            let (_, value) = environment.iter().find(|(name, _)| *name == variable)?;
            Some((*value).to_owned())
        })
    }

    #[test]
    fn our_variable_wins_over_the_common_one() {
        let both = [("DATABASE_URL", "postgres://b"), ("IDEM_TEST_POSTGRES", "postgresql://a")];
        let (variable, url) = given_in(&both).unwrap().unwrap();
        assert_eq!((variable, url.as_str()), ("IDEM_TEST_POSTGRES", "postgresql://a"));

        let (variable, url) = given_in(&both[..1]).unwrap().unwrap();
        assert_eq!((variable, url.as_str()), ("DATABASE_URL", "postgres://b"));
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        assert_eq!(given_in(&[("IDEM_TEST_POSTGRES", ""), ("DATABASE_URL", "")]), Ok(None));
    }

    #[test]
    fn another_database_is_passed_over_where_it_may_stand() {
        assert_eq!(given_in(&[("DATABASE_URL", "sqlite://a.db")]), Ok(None));
        assert!(given_in(&[("IDEM_TEST_POSTGRES", "sqlite://a.db")]).is_err());
    }
}
