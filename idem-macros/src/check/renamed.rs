//! Whether the package calls `idem-core` by another name: rustc would say at each token that it cannot find `idem_core`.

use std::path::Path;
use std::{env, fs};

/// The other name, if the manifest of the package that is being compiled has it, and not the usual one.
///
/// Only what a manifest says itself is read. A dependency that is inherited from a workspace has its name elsewhere.
pub(super) fn renamed() -> Option<String> {
    let folder = env::var_os("CARGO_MANIFEST_DIR")?;
    name(&fs::read_to_string(Path::new(&folder).join("Cargo.toml")).ok()?)
}

fn name(manifest: &str) -> Option<String> {
    let is_ours =
        |text: &str| text.split('#').next().unwrap_or_default().trim().trim_matches(['"', '\'']) == "idem-core";
    let mut renamed = None;
    let mut table = "";
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            table = header.split(']').next().unwrap_or_default().trim();
        }
        // `[dependencies.NAME]`, or `NAME = …` below `[dependencies]`.
        let (name, settings) = match table.rsplit_once("dependencies.") {
            Some((_, name)) => (name, line),
            None if table.ends_with("dependencies") => match line.split_once('=') {
                Some((key, value)) => match key.split_once('.') {
                    Some((name, _)) => (name, line.split_once('.').map_or("", |(_, setting)| setting)),
                    None => (key, value),
                },
                None => continue,
            },
            None => continue,
        };
        let name = name.trim().trim_matches(['"', '\'']);
        if name == "idem-core" || name == "idem_core" {
            return None;
        }
        let settings = settings.trim().trim_start_matches('{').split('}').next().unwrap_or_default();
        let is_package = |setting: &str| {
            setting.split_once('=').is_some_and(|(key, value)| key.trim() == "package" && is_ours(value))
        };
        if settings.split(',').any(is_package) {
            renamed = Some(name.replace('-', "_"));
        }
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn a_renamed_dependency_is_found() {
        for manifest in [
            "[dependencies]\nserde = \"1\"\nmy-idem = { version = \"0.1\", package = \"idem-core\" }",
            "[dependencies]\nmy-idem = { package = 'idem-core', path = \"..\" }\n[features]\na = []",
            "[dependencies.my-idem]\nversion = \"0.1\"\npackage = \"idem-core\" # renamed",
            "[target.'cfg(unix)'.dependencies]\nmy-idem = {package=\"idem-core\"}",
            "[dependencies]\nmy-idem.version = \"0.1\"\nmy-idem.package = \"idem-core\"",
            "[dev-dependencies]\n\"my-idem\" = { package = \"idem-core\" } # for tests",
        ] {
            assert_eq!(name(manifest).as_deref(), Some("my_idem"), "{manifest}");
        }
    }

    #[test]
    fn the_usual_name_is_left_alone() {
        for manifest in [
            "[package]\nname = \"shop\"",
            "[package]\nname = \"idem-core\"\n[dependencies]\nserde = \"1\"",
            "[dependencies]\nidem-core = \"0.1\"",
            "[dependencies]\nidem_core = { package = \"idem-core\" }",
            "[dependencies.idem-core]\nversion = \"0.1\"",
            "[dependencies]\nidem-core.workspace = true\n[dev-dependencies]\nother = { package = \"idem-core\" }",
            "[dependencies]\nother = { package = \"idem-core-extras\" }",
            "[dependencies]\nother = { version = \"1\" }\n[package.metadata]\npackage = \"idem-core\"",
            "# my-idem = { package = \"idem-core\" }",
        ] {
            assert_eq!(name(manifest), None, "{manifest}");
        }
    }

    #[test]
    fn the_page_has_the_message() {
        let page = include_str!("../../../idem-core/docs/compiler.md");
        assert!(page.contains(&super::super::arguments::renamed_message("idem").replace('\n', "\n       ")));
    }
}
