//! The account that the server runs under: PostgreSQL refuses to be root.

use std::os::unix::process::CommandExt;
use std::process::Command;

pub(crate) enum Account {
    Ours,
    /// Ours is root, and root may become anybody.
    Other {
        user: u32,
        group: u32,
    },
    /// Ours is root of a container that knows no other account; a namespace lends the server one.
    Lent {
        user: u32,
        group: u32,
    },
}

/// In the order to try them.
pub(crate) fn candidates() -> Vec<Account> {
    if !is_root() {
        return vec![Account::Ours];
    }
    let known = ["postgres", "nobody"].iter().find_map(|name| Some((id(&["-u", name])?, id(&["-g", name])?)));
    // PostgreSQL asks for the account's name, so a number that nobody has would not do.
    known.map_or(Vec::new(), |(user, group)| vec![Account::Other { user, group }, Account::Lent { user, group }])
}

impl Account {
    /// Becoming somebody fails when the command is spawned.
    pub(crate) fn command(&self, program: &str) -> Command {
        match *self {
            Account::Ours => Command::new(program),
            Account::Other { user, group } => {
                let mut command = Command::new(program);
                // With this the standard library drops root's supplementary groups, too.
                command.uid(user).gid(group);
                command
            }
            Account::Lent { user, group } => {
                let mut command = Command::new("unshare");
                command.arg("--user");
                command.args([format!("--map-user={user}"), format!("--map-group={group}")]);
                command.arg(program);
                command
            }
        }
    }
}

pub(crate) fn is_root() -> bool {
    id(&["-u"]) == Some(0)
}

fn id(args: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(args).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
