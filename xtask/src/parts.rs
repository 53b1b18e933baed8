//! What the tests need beside cargo, and which tests are left out where it cannot be had.

use crate::Failure;
use crate::broker::{self, Broker};
use crate::cluster::Durability;
use crate::database::{Database, URL_VARIABLE};

pub(crate) struct Part {
    /// As `--skip` names it.
    pub(crate) name: &'static str,
    pub(crate) tests: &'static str,
    /// The only package that needs it, if there is one.
    only_for: Option<&'static str>,
    /// The packages that nothing runs of without it.
    packages: &'static [&'static str],
    /// Every other test that needs it has this in its name.
    word: Option<&'static str>,
    get: fn() -> Result<Server, Failure>,
}

pub(crate) const PARTS: [Part; 3] = [
    Part {
        name: "postgres",
        tests: "everything on PostgreSQL",
        only_for: None,
        packages: &["payments", "checkout"],
        word: Some("postgres"),
        get: || Database::get(Durability::ThrowAway).map(Server::Postgres),
    },
    Part {
        name: "kafka",
        tests: "kafka-consumer on a broker process",
        only_for: Some("kafka-consumer"),
        packages: &[],
        word: Some("broker_process"),
        get: || broker::kafka().map(Server::Broker),
    },
    Part {
        name: "sqs",
        tests: "sqs-consumer",
        only_for: Some("sqs-consumer"),
        packages: &["sqs-consumer"],
        word: None,
        get: || broker::sqs().map(Server::Broker),
    },
];

/// Lives as long as this.
enum Server {
    Postgres(Database),
    Broker(Broker),
}

/// What could be had, and what could not.
#[derive(Default)]
pub(crate) struct Servers {
    running: Vec<Server>,
    left_out: Vec<&'static Part>,
    missing: Vec<(&'static Part, Failure)>,
}

impl Servers {
    /// Starts all but those that are to be left out, and those that no package that was asked for needs.
    pub(crate) fn start(skip: &[&str], is_asked_for: impl Fn(&str) -> bool) -> Servers {
        let mut servers = Servers::default();
        for part in PARTS.iter().filter(|part| part.only_for.is_none_or(&is_asked_for)) {
            if skip.contains(&part.name) {
                servers.left_out.push(part);
                continue;
            }
            match (part.get)() {
                Ok(server) => servers.running.push(server),
                Err(failure) => servers.missing.push((part, failure)),
            }
        }
        servers
    }

    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.running.iter().map(|server| match server {
            Server::Postgres(database) => (URL_VARIABLE, database.url()),
            Server::Broker(broker) => (broker.variable, broker.address.as_str()),
        })
    }

    fn without(&self) -> impl Iterator<Item = &'static Part> {
        self.left_out.iter().copied().chain(self.missing.iter().map(|(part, _)| *part))
    }

    pub(crate) fn excluded_packages(&self) -> impl Iterator<Item = &'static str> {
        self.without().flat_map(|part| part.packages.iter().copied())
    }

    pub(crate) fn skipped_words(&self) -> impl Iterator<Item = &'static str> {
        self.without().filter_map(|part| part.word)
    }

    /// Says what did not run. An error if that was nobody's wish.
    pub(crate) fn report(&self) -> Result<(), Failure> {
        for part in &self.left_out {
            eprintln!("\nnot run, as told: {}", part.tests);
        }
        if self.missing.is_empty() {
            return Ok(());
        }
        let mut report = "not all tests could run".to_owned();
        for (part, failure) in &self.missing {
            report += &format!(
                "\nnot run: {}: {failure}\n  to leave it out on purpose: cargo xtask test --skip {}",
                part.tests, part.name
            );
        }
        Err(report)
    }
}
