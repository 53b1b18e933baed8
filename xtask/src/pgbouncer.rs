//! A PgBouncer in transaction mode between the stores' tests and their PostgreSQL.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::keeper::{Keeper, Server};
use crate::{Failure, folder, postgres};

/// The stores connect to what this names; the tests' own questions still go to the server itself.
pub(crate) const VARIABLE: &str = "IDEM_TEST_PGBOUNCER";

/// For `keeper.sh`. Of each database three server connections are shared by all its clients, so that a transaction
/// rarely gets the one that the last had. Each comes with strangers' statements under the names that sqlx gives: a
/// statement that is sent by name fails, or is a stranger's.
const SERVER: [&str; 4] = [
    "process up",
    r#"cat >pgbouncer.ini <<END
[databases]
* = $SERVER connect_query='DO \$\$ BEGIN FOR n IN 1..200 LOOP EXECUTE format(''PREPARE sqlx_s_%s AS SELECT 1 / 0'', n); END LOOP; END \$\$'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $PORT
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_round_robin = 1
server_login_retry = 0.1
max_client_conn = 2000
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
END"#,
    r#""$PGBOUNCER" pgbouncer.ini"#,
    "kill -KILL $server",
];

/// Debian's package and what it needs that is not there, without a word to the system: nobody needs to be root, and no
/// service is started. Only an old list of packages needs root to be brought up to date.
const DEBIAN: &str = r#"
mkdir -p "$1" && cd "$1" || exit
fetch() {
    packages=$(apt-get install --simulate --no-install-recommends pgbouncer | sed -n 's/^Inst \([^ ]*\).*/\1/p')
    [ -n "$packages" ] && apt-get download $packages
}
[ "$(id -u)" = 0 ] || as_root='sudo -n'
fetch || { $as_root apt-get update && fetch; } || exit
for package in *.deb; do dpkg -x "$package" . && rm "$package" || exit; done
"#;

/// Starts one before the server of that address.
pub(crate) fn start(postgres: &Server) -> Result<Server, Failure> {
    if let Some(given) = Server::given(VARIABLE) {
        return Ok(given);
    }
    let behind = parameters(&postgres.address).ok_or("the URL of the PostgreSQL is more than PgBouncer can be told")?;
    let Program { file, libraries } = installed().map_or_else(install, Ok)?;
    let mut failure = "this is root, and there is no account `postgres` or `nobody`".to_owned();
    for mut shell in postgres::shells() {
        if !libraries.is_empty() {
            shell.env("LD_LIBRARY_PATH", &libraries);
        }
        match Keeper::start(shell.env("PGBOUNCER", &file).env("SERVER", &behind), SERVER) {
            Ok(keeper) => {
                eprintln!("{VARIABLE}: {} on port {}", version(&file, &libraries), keeper.port);
                return Ok(Server::ours(VARIABLE, "postgres://postgres@", "/postgres", keeper));
            }
            Err(reason) => failure = reason,
        }
    }
    Err(format!("{} did not start: {failure}", file.display()))
}

/// How PgBouncer is told of a server: from `postgres://user:password@host:port/database`.
fn parameters(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let (user, rest) = rest.rsplit_once('@')?;
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let place = rest.split('/').next()?;
    let (host, port) = place.rsplit_once(':').unwrap_or((place, "5432"));
    let parameters = [("host", host), ("port", port), ("user", user), ("password", password)];
    // What would have to be decoded or quoted, in a URL or by PgBouncer's rules.
    let is_plain = !url.contains(['%', '?', '\'', ' ', '[']);
    is_plain.then(|| {
        let given = parameters.iter().filter(|(_, value)| !value.is_empty());
        given.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    })
}

struct Program {
    file: PathBuf,
    /// Where its libraries are, if not where the system has its own.
    libraries: OsString,
}

/// On the `PATH`, or where Debian has what only root is expected to call.
fn installed() -> Option<Program> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    let file = folders.map(|folder| folder.join("pgbouncer")).find(|file| file.is_file())?;
    Some(Program { file, libraries: OsString::new() })
}

fn install() -> Result<Program, Failure> {
    let root =
        folder::get("pgbouncer", |folder| folder::succeeds(Command::new("sh").args(["-c", DEBIAN, "sh"]).arg(folder)));
    let root = root.map_err(|error| format!("no PgBouncer found, and Debian's could not be fetched: {error}"))?;
    let folders = ["lib", "usr/lib"].map(|folder| root.join(folder)).into_iter().filter_map(|lib| lib.read_dir().ok());
    let libraries = folders.flatten().flatten().map(|entry| entry.path());
    let libraries = env::join_paths(libraries).map_err(|error: env::JoinPathsError| error.to_string())?;
    Ok(Program { file: root.join("usr/sbin/pgbouncer"), libraries })
}

/// As it says itself, `PgBouncer 1.18.0`.
fn version(file: &Path, libraries: &OsString) -> String {
    let output = Command::new(file).arg("--version").env("LD_LIBRARY_PATH", libraries).output();
    let output = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    output.unwrap_or_else(|error: io::Error| error.to_string()).lines().next().unwrap_or("PgBouncer").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_becomes_parameters() {
        for (url, told) in [
            ("postgres://postgres@127.0.0.1:44945/postgres", Some("host=127.0.0.1 port=44945 user=postgres")),
            ("postgresql://me:secret@db/app", Some("host=db port=5432 user=me password=secret")),
            ("postgres://db/app", None),
            ("postgres://me:%40@db/app", None),
            ("postgres://me@db/app?sslmode=require", None),
        ] {
            assert_eq!(parameters(url).as_deref(), told, "{url}");
        }
    }
}
