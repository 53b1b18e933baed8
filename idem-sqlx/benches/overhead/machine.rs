//! The machine and the time of a measurement.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

pub(crate) fn facts() -> Vec<String> {
    vec![format!("date: {}", output("date", &["-u", "+%F"])), hardware(), system(), versions()]
}

fn hardware() -> String {
    let cores = available_parallelism().map_or(0, usize::from);
    let model = field("/proc/cpuinfo", "model name");
    let kilobytes: u64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    let gigabytes = kilobytes as f64 / 1024.0 / 1024.0;
    format!("machine: {cores} cores, {model}, {gigabytes:.0} GiB; clients, handlers and database share it")
}

fn system() -> String {
    let name = text("/etc/os-release");
    let name = name.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown");
    let kernel = text("/proc/sys/kernel/osrelease");
    format!("system: {}, Linux {}", name.trim_matches('"'), kernel.trim())
}

fn versions() -> String {
    let crates = ["axum", "sqlx", "tokio"].map(|name| format!("{name} {}", locked(name)));
    let rustc = output("rustc", &["-V"]);
    format!("versions: idem-sqlx {}, {}, {rustc}", env!("CARGO_PKG_VERSION"), crates.join(", "))
}

/// The version of a crate in the workspace's lock file.
fn locked(name: &str) -> String {
    let lock = text(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock"));
    let version = lock.split_once(&format!("name = \"{name}\"\nversion = \"")).map(|(_, rest)| rest);
    version.and_then(|rest| rest.split('"').next()).unwrap_or("unknown").to_owned()
}

/// A value of a file with lines of `name : value`.
fn field(path: &str, name: &str) -> String {
    let text = text(path);
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or(": unknown");
    line.trim_start().trim_start_matches(':').trim().to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn output(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(_) => "unknown".to_owned(),
    }
}
