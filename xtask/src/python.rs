//! Python packages in a folder of their own, below Cargo's.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{Failure, install};

/// The folder that `PYTHONPATH` is to name. What was installed once is there the next time.
pub(crate) fn install(packages: &[&str]) -> Result<PathBuf, Failure> {
    // What is compiled is compiled for one Python.
    let python = Command::new("python3").arg("--version").stdin(Stdio::null()).output();
    let python = python.map_err(|error| format!("there is no `python3`: {error}"))?;
    let python = String::from_utf8_lossy(&python.stdout).trim().to_owned();
    let name: String = format!("{}-{python}", packages.join("-"))
        .chars()
        .map(|letter| if letter.is_alphanumeric() { letter } else { '-' })
        .collect();
    let folder = target()?.join("xtask").join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    pip()?;
    eprintln!("installing {} in {}", packages.join(", "), folder.display());
    // Under its own name only when it is whole.
    let unfinished = folder.with_extension(std::process::id().to_string());
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
    command.arg(&unfinished).args(packages).stdin(Stdio::null()).stdout(io::stderr());
    let installed = match command.status() {
        Ok(status) if status.success() => fs::rename(&unfinished, &folder).map_err(|error| error.to_string()),
        Ok(status) => Err(format!("pip ended with {status}")),
        Err(error) => Err(error.to_string()),
    };
    if installed.is_err() {
        _ = fs::remove_dir_all(&unfinished);
    }
    // Somebody else may have been faster.
    if folder.is_dir() {
        return Ok(folder);
    }
    installed.map(|()| folder).map_err(|failure| format!("{} could not be installed: {failure}", packages.join(", ")))
}

fn pip() -> Result<(), Failure> {
    let is_there = || install::succeeds("python3", &["-m", "pip", "--version"]);
    if !is_there() && install::is_possible() {
        install::pip()?;
    }
    if is_there() { Ok(()) } else { Err("there is no `pip`: install python3 and python3-pip".to_owned()) }
}

/// Cargo's folder, where this program is.
fn target() -> Result<PathBuf, Failure> {
    if let Some(folder) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(folder.into());
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    // Below `target/debug`.
    Ok(program.ancestors().nth(2).ok_or("this program is in no folder")?.to_owned())
}
