//! Installs Debian's packages where that needs nobody's password.

use std::io;
use std::process::{Command, Stdio};

use crate::{Failure, account};

/// Debian's package creates a cluster and starts it as a service, unless it is told not to.
/// It is told in a file of ours that goes away again, because a later installation is none of our business.
const POSTGRES: &str = "
folder=/etc/postgresql-common/createcluster.d
file=$folder/idem-xtask.conf
trap 'rm -f \"$file\"; rmdir \"$folder\" 2>/dev/null || true' EXIT
mkdir -p \"$folder\"
echo 'create_main_cluster = false' >\"$file\"
";

pub(crate) fn postgres() -> Result<(), Failure> {
    install("postgresql", POSTGRES)
}

pub(crate) fn pip() -> Result<(), Failure> {
    install("python3-pip", "")
}

pub(crate) fn is_possible() -> bool {
    succeeds("apt-get", &["--version"]) && (account::is_root() || succeeds("sudo", &["-n", "true"]))
}

fn install(package: &str, before: &str) -> Result<(), Failure> {
    eprintln!("installing Debian's package `{package}`");
    let script = format!(
        "set -e
        {before}
        export DEBIAN_FRONTEND=noninteractive
        apt-get update
        apt-get install -y --no-install-recommends {package}"
    );
    let mut command = Command::new("sh");
    if !account::is_root() {
        command = Command::new("sudo");
        command.args(["-n", "sh"]);
    }
    // Standard output belongs to the command that is yet to run.
    let status = command.args(["-c", &script]).stdin(Stdio::null()).stdout(io::stderr()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{package}` could not be installed: apt-get ended with {status}")),
        Err(error) => Err(format!("`{package}` could not be installed: {error}")),
    }
}

pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
