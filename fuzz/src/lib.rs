//! Fuzzing on a stable compiler, for the tests of this workspace.
//!
//! A target is a test with a property, over bytes or over made-up values. It always checks its corpus, then as many
//! inputs as there is time for: `IDEM_FUZZ_SECONDS` for each target, or else a few hundred inputs. What is found is made
//! smaller and added to the corpus, to be committed with its fix. `cargo xtask fuzz` runs all targets.

use std::fmt::Debug;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{FileFailurePersistence, TestError, TestRunner};

/// Inputs between two looks at the clock, and all that are made up without a time.
const CASES: u32 = 256;

/// Checks the property on each file of the corpus, and on changed copies of these files.
///
/// # Panics
/// If the property does not hold. The input that shows it is a new file of the corpus.
pub fn bytes(target: &str, property: impl Fn(&[u8])) {
    let folder = folder(target);
    let corpus = read(&folder);
    assert!(!corpus.is_empty(), "{} has no file: the inputs are changed copies of those", folder.display());
    for (path, content) in &corpus {
        let _named = Named(path);
        property(content);
    }
    let contents: Vec<_> = corpus.into_iter().map(|(_, content)| content).collect();
    let Err(found) = run(&changed(contents), None, |content| property(&content)) else { return };
    let name = found
        .input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let path = folder.join(format!("found-{name:016x}"));
    fs::write(&path, &found.input).expect("the corpus can be written");
    panic!("{}\nthe input is in {}: {}", found.why, path.display(), String::from_utf8_lossy(&found.input));
}

/// Checks the property on made-up values. Values that it did not hold for are made up first: their seeds are in the
/// corpus.
///
/// # Panics
/// If the property does not hold.
pub fn values<S: Strategy>(target: &str, made_up: S, property: impl Fn(S::Value))
where
    S::Value: Debug,
{
    let seeds = folder(target).with_extension("seeds").to_str().expect("a path in UTF-8").to_owned();
    if let Err(found) = run(&made_up, Some(seeds), property) {
        panic!("{}\nfor {:#?}", found.why, found.input);
    }
}

struct Found<T> {
    why: String,
    input: T,
}

fn run<S: Strategy>(made_up: &S, seeds: Option<String>, property: impl Fn(S::Value)) -> Result<(), Found<S::Value>>
where
    S::Value: Debug,
{
    let end = Instant::now() + seconds();
    // Its path lives as long as the process: there is one for each target.
    let seeds = seeds.map(|path| Box::new(FileFailurePersistence::Direct(path.leak())) as _);
    let config = ProptestConfig { cases: CASES, failure_persistence: seeds, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    loop {
        let checked = runner.run(made_up, |input| {
            property(input);
            Ok(())
        });
        match checked {
            Ok(()) if Instant::now() < end => {}
            Ok(()) => return Ok(()),
            Err(TestError::Fail(why, input)) => return Err(Found { why: why.to_string(), input }),
            Err(TestError::Abort(why)) => panic!("the strategy makes nothing up: {why}"),
        }
    }
}

fn seconds() -> Duration {
    let seconds = std::env::var("IDEM_FUZZ_SECONDS").map(|seconds| seconds.parse().expect("whole seconds"));
    Duration::from_secs(seconds.unwrap_or(0))
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

fn read(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort_unstable();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a readable file"))).collect()
}

/// Names the file when the property panics on it.
struct Named<'p>(&'p Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("for the corpus' {}", self.0.display());
        }
    }
}

/// Copies of these files with a few changes.
fn changed(files: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec(change(files.clone()), 0..6);
    (prop::sample::select(files), changes)
        .prop_map(|(file, changes)| changes.iter().fold(file, |file, change| change.apply(file)))
}

/// A change of an input.
#[derive(Debug, Clone)]
enum Change {
    /// Another byte.
    Byte(Index, u8),
    /// These bytes in between.
    Insert(Index, Vec<u8>),
    /// Without the bytes between the two.
    Remove(Index, Index),
    /// The bytes between the first two once more, at the third.
    Repeat(Index, Index, Index),
    /// A part of another file in between.
    Splice(Index, Vec<u8>, Index, Index),
    /// Nothing after this.
    Cut(Index),
}

fn change(contents: Vec<Vec<u8>>) -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (at(), b' '..b'\x7f').prop_map(|(at, byte)| Change::Byte(at, byte)),
        (at(), prop::collection::vec(any::<u8>(), 1..5)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), "\\PC{1,4}").prop_map(|(at, text)| Change::Insert(at, text.into_bytes())),
        (at(), at()).prop_map(|(from, to)| Change::Remove(from, to)),
        (at(), at(), at()).prop_map(|(from, to, at)| Change::Repeat(from, to, at)),
        (at(), prop::sample::select(contents), at(), at())
            .prop_map(|(at, other, from, to)| Change::Splice(at, other, from, to)),
        at().prop_map(Change::Cut),
    ]
}

impl Change {
    fn apply(&self, mut content: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Byte(at, byte) => {
                let at = place(at, &content);
                if let Some(changed) = content.get_mut(at) {
                    *changed = *byte;
                }
            }
            Self::Insert(at, bytes) => insert(&mut content, at, bytes),
            Self::Remove(from, to) => {
                let part = part(from, to, &content);
                content.drain(part);
            }
            Self::Repeat(from, to, at) => {
                let part = content[part(from, to, &content)].to_vec();
                insert(&mut content, at, &part);
            }
            Self::Splice(at, other, from, to) => insert(&mut content, at, &other[part(from, to, other)]),
            Self::Cut(at) => content.truncate(place(at, &content)),
        }
        content
    }
}

/// A place before a byte, or at the end.
fn place(at: &Index, content: &[u8]) -> usize {
    at.index(content.len() + 1)
}

fn part(from: &Index, to: &Index, content: &[u8]) -> Range<usize> {
    let (from, to) = (place(from, content), place(to, content));
    from.min(to)..from.max(to)
}

fn insert(content: &mut Vec<u8>, at: &Index, bytes: &[u8]) {
    let at = place(at, content);
    content.splice(at..at, bytes.iter().copied());
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_input_that_breaks_the_property_is_found_and_made_small() {
        let found = run(&any::<Vec<u8>>(), None, |bytes| assert!(bytes.len() < 3)).map_err(|found| found.input);
        assert_eq!(found, Err(vec![0; 3]));
    }

    #[test]
    fn changed_copies_are_what_the_corpus_does_not_have() {
        let seen = RefCell::new(HashSet::new());
        let copies = changed(vec![b"{\"a\":1}".to_vec(), b"[]".to_vec()]);
        for wanted in ["", "{", "[", "[]]", "[][]", "{\"a\":1"] {
            while !seen.borrow().contains(wanted.as_bytes()) {
                assert!(seen.borrow().len() < 50_000, "{wanted} is not made up");
                run(&copies, None, |copy| _ = seen.borrow_mut().insert(copy))
                    .map_err(|found| found.why)
                    .expect("all hold");
            }
        }
    }
}
