//! Installs Debian's PostgreSQL where that needs nobody's password.

use std::io;
use std::process::{Command, Stdio};

use crate::{Failure, account};

/// Debian's package creates a cluster and starts it as a service, unless it is told not to.
/// It is told in a file of ours that goes away again, because a later installation is none of our business.
const SCRIPT: &str = "
set -e
folder=/etc/postgresql-common/createcluster.d
file=$folder/idem-xtask.conf
trap 'rm -f \"$file\"; rmdir \"$folder\" 2>/dev/null || true' EXIT
mkdir -p \"$folder\"
echo 'create_main_cluster = false' >\"$file\"
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends postgresql
";

pub(crate) fn is_possible() -> bool {
    succeeds("apt-get", &["--version"]) && (account::is_root() || succeeds("sudo", &["-n", "true"]))
}

pub(crate) fn install() -> Result<(), Failure> {
    eprintln!("no PostgreSQL found: installing Debian's package `postgresql`");
    let mut command = Command::new("sh");
    if !account::is_root() {
        command = Command::new("sudo");
        command.args(["-n", "sh"]);
    }
    // Standard output belongs to the command that is yet to run.
    let status = command.args(["-c", SCRIPT]).stdin(Stdio::null()).stdout(io::stderr()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("PostgreSQL could not be installed: apt-get ended with {status}")),
        Err(error) => Err(format!("PostgreSQL could not be installed: {error}")),
    }
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
