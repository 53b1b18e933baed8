//! What xtask installs: each thing in a folder of its own, below Cargo's.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

/// The folder of this name. What was installed once is there the next time. Otherwise `install` fills it, and says
/// whether it could.
pub(crate) fn get(name: &str, install: impl FnOnce(&Path) -> io::Result<bool>) -> io::Result<PathBuf> {
    let folder = target()?.join("xtask").join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    eprintln!("installing {}", folder.display());
    // Under its own name only when it is whole.
    let mut unfinished = folder.clone().into_os_string();
    unfinished.push(format!(".{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let installed = install(&unfinished);
    // Somebody else may have been faster.
    if !matches!(installed, Ok(true)) || fs::rename(&unfinished, &folder).is_err() {
        _ = fs::remove_dir_all(&unfinished);
    }
    installed?;
    if folder.is_dir() { Ok(folder) } else { Err(io::Error::other("see above")) }
}

/// Standard output belongs to the command that is yet to run.
pub(crate) fn succeeds(command: &mut Command) -> io::Result<bool> {
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
