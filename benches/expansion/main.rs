//! `cargo bench -p expansion`: what the attribute costs when a program is compiled. `-- 21` sets the number of rounds.
//!
//! The same handlers three times, each a crate of its own: without idempotency, by hand against `store.begin`, and with
//! the attribute. What they have in common is in `shared.rs`, the handlers beside it; a test of `idem-sqlx` compiles
//! them. Each round checks all three, in an order that turns, so that whatever drifts on the machine hits all alike;
//! differences are taken inside a round.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// Why nothing was measured.
type Failure = String;

const VARIANTS: [(&str, &str); 3] = [
    ("bare", include_str!("bare.rs")),
    ("by_hand", include_str!("by_hand.rs")),
    ("attribute", include_str!("attribute.rs")),
];
const HANDLERS: usize = 100;
const ROUNDS: usize = 9;

/// Where the compiler's memory is written to. Set, it makes this program a wrapper around the compiler.
const REPORT: &str = "IDEM_EXPANSION_REPORT";

/// One `cargo check`.
#[derive(Clone, Copy)]
struct Check {
    milliseconds: f64,
    megabytes: f64,
}

fn main() -> ExitCode {
    wrapped().unwrap_or_else(measure).unwrap_or_else(|failure| {
        eprintln!("expansion: {failure}");
        ExitCode::FAILURE
    })
}

fn measure() -> Result<ExitCode, Failure> {
    // Cargo adds `--bench`.
    let rounds = match env::args().skip(1).find(|arg| arg != "--bench") {
        None => ROUNDS,
        Some(rounds) => rounds.parse().map_err(|_| format!("`{rounds}` is no number of rounds"))?,
    };
    let folder = write_programs().map_err(|error| format!("the programs could not be written: {error}"))?;
    // Dependencies, and whatever the first check reads from the disk.
    for (variant, _) in VARIANTS {
        check(&folder, variant)?;
    }
    let mut checks = [const { Vec::new() }; VARIANTS.len()];
    for round in 0..rounds {
        for turn in 0..VARIANTS.len() {
            let at = (round + turn) % VARIANTS.len();
            checks[at].push(check(&folder, VARIANTS[at].0)?);
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    print(&checks);
    Ok(ExitCode::SUCCESS)
}

/// A workspace of its own in Cargo's folder, with our versions of everything.
fn write_programs() -> std::io::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a workspace");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = target.join("expansion");
    fs::create_dir_all(&folder)?;
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock"))?;
    let members = VARIANTS.map(|(variant, _)| format!("{variant:?}")).join(", ");
    let root = root.display();
    fs::write(
        folder.join("Cargo.toml"),
        format!(
            "[workspace]\nresolver = \"3\"\nmembers = [{members}]\n\n[workspace.dependencies]\n\
             axum = {{ version = \"0.8\", default-features = false, features = [\"json\", \"tokio\"] }}\n\
             idem-core = {{ path = \"{root}/idem-core\" }}\n\
             idem-sqlx = {{ path = \"{root}/idem-sqlx\" }}\n\
             serde = {{ version = \"1\", features = [\"derive\"] }}\n\
             sqlx = {{ version = \"0.9\", default-features = false, features = [\"runtime-tokio\", \"postgres\"] }}\n"
        ),
    )?;
    for (variant, handler) in VARIANTS {
        let source = folder.join(variant).join("src");
        fs::create_dir_all(&source)?;
        let dependencies =
            ["axum", "idem-core", "idem-sqlx", "serde", "sqlx"].map(|name| format!("{name}.workspace = true\n"));
        let manifest = format!(
            "[package]\nname = \"{variant}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{}",
            dependencies.concat()
        );
        fs::write(folder.join(variant).join("Cargo.toml"), manifest)?;
        fs::write(source.join("lib.rs"), program(variant, handler))?;
    }
    Ok(folder)
}

fn program(variant: &str, handler: &str) -> String {
    let shared = include_str!("shared.rs").replace("HANDLERS", &HANDLERS.to_string());
    let state = if variant == "bare" { "sqlx::PgPool" } else { "PgStore" };
    let mut routes = String::new();
    let mut program = format!("{shared}\n");
    for number in 0..HANDLERS {
        let name = format!("pay_{number}");
        _ = writeln!(program, "{}", handler.replace("NAME", &name));
        _ = writeln!(routes, "        .route(\"/{name}\", post({name}))");
    }
    // Not every variant needs all that is imported for them.
    format!(
        "#![allow(unused_imports)]\n{program}pub fn routes() -> Router<{state}> {{\n    Router::new()\n{routes}}}\n"
    )
}

/// Checks one crate whose dependencies are there, from nothing.
fn check(folder: &Path, variant: &str) -> Result<Check, Failure> {
    let failure = |error| format!("{variant} could not be checked: {error}");
    let report = folder.join("report");
    let wrapper = env::current_exe().map_err(failure)?;
    let touched = folder.join(variant).join("src/lib.rs");
    fs::File::options()
        .append(true)
        .open(touched)
        .and_then(|file| file.set_modified(std::time::SystemTime::now()))
        .map_err(failure)?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["check", "--quiet", "--package", variant])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        // What a second check would spare is not what is asked.
        .env("CARGO_INCREMENTAL", "0")
        .env("RUSTC_WORKSPACE_WRAPPER", wrapper)
        .env(REPORT, &report)
        .stdin(Stdio::null());
    let begin = Instant::now();
    let status = cargo.status().map_err(failure)?;
    let milliseconds = begin.elapsed().as_secs_f64() * 1000.0;
    if !status.success() {
        return Err(format!("{variant} does not compile"));
    }
    let kilobytes: f64 = fs::read_to_string(report).map_err(failure)?.trim().parse().unwrap_or(f64::NAN);
    Ok(Check { milliseconds, megabytes: kilobytes / 1024.0 })
}

/// Cargo calls us in the compiler's place: runs it, and watches its memory. `None` where we were not called so.
fn wrapped() -> Option<Result<ExitCode, Failure>> {
    let report = env::var_os(REPORT)?;
    let mut args = env::args_os().skip(1);
    let mut command = Command::new(args.next()?);
    command.args(args);
    Some(watch(command, Path::new(&report)).map_err(|error| format!("the compiler could not be run: {error}")))
}

fn watch(mut command: Command, report: &Path) -> std::io::Result<ExitCode> {
    let mut compiler = command.spawn()?;
    let status = format!("/proc/{}/status", compiler.id());
    let mut peak = String::from("unknown");
    let ended = loop {
        // The kernel keeps the highest so far, so that only what comes in the last moment is missed.
        let text = fs::read_to_string(&status).unwrap_or_default();
        if let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            peak = line.trim().trim_end_matches(" kB").to_owned();
        }
        if let Some(ended) = compiler.try_wait()? {
            break ended;
        }
        thread::sleep(Duration::from_millis(2));
    };
    fs::write(report, peak)?;
    Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "what the command is for")]
fn print(checks: &[Vec<Check>; VARIANTS.len()]) {
    println!(
        "| {HANDLERS} handlers | `cargo check`, s | ms a handler more than bare | peak memory of rustc, MiB |\n|---|---|---|---|"
    );
    for ((variant, _), own) in VARIANTS.iter().zip(checks) {
        let seconds = spread(own.iter().map(|check| check.milliseconds / 1000.0));
        let more = spread(
            own.iter().zip(&checks[0]).map(|(one, bare)| (one.milliseconds - bare.milliseconds) / HANDLERS as f64),
        );
        let memory = spread(own.iter().map(|check| check.megabytes));
        println!("| {} | {} | {} | {} |", variant.replace('_', " "), cell(seconds, 2), cell(more, 1), cell(memory, 0));
    }
}

/// The lower quartile, the median, and the upper quartile.
fn spread(numbers: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    [0.25, 0.5, 0.75].map(|share| numbers[((numbers.len() - 1) as f64 * share).round() as usize])
}

fn cell([lower, median, upper]: [f64; 3], digits: usize) -> String {
    format!("{median:.digits$} ({lower:.digits$}–{upper:.digits$})")
}
