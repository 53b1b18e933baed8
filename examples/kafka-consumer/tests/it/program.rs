//! The consumer as a program of its own, so that it can be killed.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kafka_consumer::consumer::Consumer;

use crate::shop::Shop;

pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// What it logs goes to the end of `log`.
    pub(crate) fn start(consumer: &Consumer, shop: &Shop, log: &Path) -> Self {
        let settings: Vec<_> =
            consumer.config.config_map().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let file: File = OpenOptions::new().create(true).append(true).open(log).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_kafka-consumer"))
            .env("KAFKA_BROKERS", consumer.config.get("bootstrap.servers").expect("brokers"))
            .env("KAFKA_CONFIG", settings.join(" "))
            .env("WAREHOUSE", "london")
            .env("KAFKA_GROUP", &consumer.group)
            .env("KAFKA_TOPIC", &consumer.topic)
            .env("KAFKA_DEAD_LETTERS", &consumer.dead_letters)
            .env("DATABASE_URL", format!("sqlite://{}", shop.file().display()))
            .stdin(Stdio::null())
            .stderr(file.try_clone().expect("a descriptor"))
            .stdout(file)
            .spawn()
            .expect("the consumer");
        Self { child, log: log.to_owned() }
    }

    /// SIGKILL: it does not get to say goodbye.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// How many deliveries of its log did not run.
    pub(crate) fn replays(&self) -> usize {
        replays(&self.log)
    }

    fn end(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

pub(crate) fn replays(log: &Path) -> usize {
    fs::read_to_string(log).expect("a log").lines().filter(|line| line.contains("replayed=true")).count()
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("the consumer's log:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}
