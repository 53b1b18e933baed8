//! The browser in which the console is tested.

use std::process::Command;

use crate::keeper::Server;
use crate::{Failure, folder};

const VARIABLE: &str = "IDEM_TEST_CHROMIUM";

/// Debian's package, where that needs nobody's password. It needs so many others that a folder of our own would not do.
const DEBIAN: &str = "
[ \"$(id -u)\" = 0 ] || as_root='sudo -n'
install='env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends'
{ $as_root $install chromium || { $as_root apt-get update && $as_root $install chromium; }; } >/dev/null
";

/// No server: each test starts one for itself.
pub(crate) fn find() -> Result<Server, Failure> {
    if let Some(given) = Server::given(VARIABLE) {
        return Ok(given);
    }
    let program = installed().or_else(|| {
        let is_done = folder::succeeds(Command::new("sh").args(["-c", DEBIAN]));
        is_done.ok().filter(|is_done| *is_done).and_then(|_| installed())
    });
    let address = program.ok_or("there is no Chromium, and Debian's `chromium` could not be installed")?;
    eprintln!("{VARIABLE}: {address}");
    Ok(Server { variable: VARIABLE, address, keeper: None })
}

/// The first of these names on the PATH.
fn installed() -> Option<String> {
    const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
    let is_there = |name: &str| {
        let answer = Command::new(name).arg("--version").output();
        answer.is_ok_and(|answer| answer.status.success())
    };
    NAMES.into_iter().find(|name| is_there(name)).map(str::to_owned)
}
