//! Python packages in a folder of their own, below Cargo's.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use crate::Failure;

/// Debian has pip in a package of its own, which is installed where that needs nobody's password.
const PIP: &str = "
python3 -m pip --version >/dev/null 2>&1 && exit
[ \"$(id -u)\" = 0 ] || as_root='sudo -n'
install='env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends'
$as_root apt-get update && $as_root $install python3-pip
";

/// The folder that `PYTHONPATH` is to name. What was installed once is there the next time.
pub(crate) fn install(packages: &[&str]) -> Result<PathBuf, Failure> {
    let failure = |error: io::Error| format!("{} could not be installed: {error}", packages.join(", "));
    // What is compiled is compiled for one Python.
    let python = Command::new("python3").arg("--version").stdin(Stdio::null()).output();
    let python = python.map_err(|error| format!("there is no `python3`: {error}"))?;
    let python = String::from_utf8_lossy(&python.stdout).trim().to_owned();
    let name = format!("{}-{python}", packages.join("-")).replace(|letter: char| !letter.is_alphanumeric(), "-");
    let folder = target().map_err(failure)?.join("xtask").join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    if !succeeds(Command::new("sh").args(["-c", PIP])).map_err(failure)? {
        return Err("there is no `pip`: install python3 and python3-pip".to_owned());
    }
    eprintln!("installing {} in {}", packages.join(", "), folder.display());
    // Under its own name only when it is whole.
    let unfinished = folder.with_extension(std::process::id().to_string());
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
    let installed = succeeds(pip.arg(&unfinished).args(packages)).map_err(failure)?;
    // Somebody else may have been faster.
    if !installed || fs::rename(&unfinished, &folder).is_err() {
        _ = fs::remove_dir_all(&unfinished);
    }
    if folder.is_dir() { Ok(folder) } else { Err(failure(io::Error::other("see above"))) }
}

/// Standard output belongs to the command that is yet to run.
fn succeeds(command: &mut Command) -> io::Result<bool> {
    Ok(command.stdin(Stdio::null()).stdout(io::stderr()).status()?.success())
}

/// Cargo's folder, where this program is.
fn target() -> io::Result<PathBuf> {
    if let Some(folder) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(folder.into());
    }
    // Below `target/debug`.
    Ok(std::env::current_exe()?.ancestors().nth(2).unwrap_or(Path::new("target")).to_owned())
}
