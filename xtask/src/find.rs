//! Where the server's programs are.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest version that its makers still mend.
pub(crate) const OLDEST_VERSION: u32 = 14;

const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// The folder of a server that is new enough: first on the `PATH`, then the newest below `debian`,
/// where Debian's packages put each version in a folder that is not on the `PATH`.
pub(crate) fn programs(path: &OsStr, debian: &Path) -> Option<PathBuf> {
    let on_path = std::env::split_paths(path).flat_map(with_link_followed);
    let versioned = newest_first(debian).into_iter().map(|version| version.join("bin"));
    on_path.chain(versioned).find(|folder| is_complete(folder) && is_new_enough(folder))
}

/// A folder on the `PATH` may hold links to some of the programs only.
fn with_link_followed(folder: PathBuf) -> impl Iterator<Item = PathBuf> {
    let link = folder.join(PROGRAMS[0]).canonicalize().ok();
    let linked = link.and_then(|initdb| Some(initdb.parent()?.to_owned()));
    linked.into_iter().chain([folder])
}

fn newest_first(debian: &Path) -> Vec<PathBuf> {
    let entries = debian.read_dir().into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> =
        entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))).collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, folder)| folder).collect()
}

fn is_complete(folder: &Path) -> bool {
    PROGRAMS.iter().all(|program| folder.join(program).is_file())
}

fn is_new_enough(folder: &Path) -> bool {
    let output = Command::new(folder.join("postgres")).arg("--version").output();
    output.is_ok_and(|output| major_version(&String::from_utf8_lossy(&output.stdout)) >= Some(OLDEST_VERSION))
}

/// From `postgres (PostgreSQL) 17.2 (Debian 17.2-1)`, `… 9.6.24` or `… 18beta1`.
fn major_version(line: &str) -> Option<u32> {
    let version = line.split_once("(PostgreSQL) ")?.1;
    let digits = version.split(|character: char| !character.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn major_versions() {
        assert_eq!(major_version("postgres (PostgreSQL) 17.2 (Debian 17.2-1.pgdg120+1)"), Some(17));
        assert_eq!(major_version("postgres (PostgreSQL) 9.6.24"), Some(9));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_version("something else"), None);
    }

    #[test]
    fn the_newest_version_by_number() {
        let debian = Scratch::new("newest");
        for version in ["9.6", "9", "100", "16", "notes"] {
            fs::create_dir(debian.0.join(version)).unwrap();
        }
        let names = ["100", "16", "9"].map(|version| debian.0.join(version));
        assert_eq!(newest_first(&debian.0), names);
        assert!(newest_first(&debian.0.join("absent")).is_empty());
    }

    #[test]
    fn the_path_comes_before_the_newest() {
        let root = Scratch::new("path");
        let old = root.server("opt/13/bin", 13);
        let chosen = root.server("opt/15/bin", 15);
        let newest = root.server("debian/17/bin", 17);
        root.server("debian/9.6/bin", 9);
        fs::create_dir(root.0.join("debian/18")).unwrap();
        let debian = root.0.join("debian");

        let path = std::env::join_paths([root.0.join("absent"), old.clone(), chosen.clone()]).unwrap();
        assert_eq!(programs(&path, &debian), Some(chosen));
        assert_eq!(programs(old.as_os_str(), &debian), Some(newest));
        assert_eq!(programs(old.as_os_str(), &root.0.join("absent")), None);
    }

    #[test]
    fn a_lone_link_leads_to_its_folder() {
        let root = Scratch::new("link");
        let folder = root.server("opt/15/bin", 15);
        let links = root.0.join("links");
        fs::create_dir(&links).unwrap();
        std::os::unix::fs::symlink(folder.join("initdb"), links.join("initdb")).unwrap();
        assert_eq!(programs(links.as_os_str(), Path::new("absent")), Some(folder));
    }

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let folder = format!("idem-xtask-find-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().canonicalize().unwrap().join(folder);
            fs::create_dir(&folder).unwrap();
            Scratch(folder)
        }

        fn server(&self, folder: &str, version: u32) -> PathBuf {
            let folder = self.0.join(folder);
            fs::create_dir_all(&folder).unwrap();
            // Another process writes them: a descriptor of ours may be copied into a process that
            // another test is just starting, and a file open for writing cannot be executed.
            let write = r#"
                cd "$1" && shift
                for program; do
                    printf '#!/bin/sh\necho "postgres (PostgreSQL) %s.1"\n' "$VERSION" >"$program"
                    chmod 755 "$program"
                done"#;
            let mut shell = Command::new("sh");
            shell.args(["-c", write, "sh"]).arg(&folder).args(PROGRAMS).env("VERSION", version.to_string());
            assert!(shell.status().unwrap().success());
            folder
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }
}
