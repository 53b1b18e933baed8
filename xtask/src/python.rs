//! Python packages in a folder of their own.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{Failure, folder};

/// Debian has pip in a package of its own, which is installed where that needs nobody's password.
const PIP: &str = "
python3 -m pip --version >/dev/null 2>&1 && exit
[ \"$(id -u)\" = 0 ] || as_root='sudo -n'
install='env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends'
$as_root apt-get update && $as_root $install python3-pip
";

/// The folder that `PYTHONPATH` is to name.
pub(crate) fn install(packages: &[&str]) -> Result<PathBuf, Failure> {
    // What is compiled is compiled for one Python.
    let python = Command::new("python3").arg("--version").stdin(Stdio::null()).output();
    let python = python.map_err(|error| format!("there is no `python3`: {error}"))?;
    let python = String::from_utf8_lossy(&python.stdout).trim().to_owned();
    let name = format!("{}-{python}", packages.join("-")).replace(|letter: char| !letter.is_alphanumeric(), "-");
    let folder = folder::get(&name, |folder| {
        if !folder::succeeds(Command::new("sh").args(["-c", PIP]))? {
            return Err(io::Error::other("there is no `pip`: install python3 and python3-pip"));
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
        folder::succeeds(pip.arg(folder).args(packages))
    });
    folder.map_err(|error| format!("{} could not be installed: {error}", packages.join(", ")))
}
