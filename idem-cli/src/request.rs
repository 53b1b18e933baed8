//! Which record is meant. A key is read from standard input or a file and hashed here: a key in an argument would stand
//! in the list of processes and in the shell's history.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use clap::Args;
use idem_core::{FirstSent, Identity, Key, Operation, Scope};

use crate::failure::Failure;

/// Whose records.
#[derive(Debug, Clone, Args)]
pub(crate) struct Owner {
    /// The scope; once for each part of a scope of several parts
    #[arg(long, value_name = "PART", conflicts_with = "global")]
    pub(crate) scope: Vec<String>,
    /// The scope that all callers share (`scope = global`)
    #[arg(long)]
    pub(crate) global: bool,
}

impl Owner {
    pub(crate) fn scope(&self) -> Result<Option<Scope>, Failure> {
        let scope = match self.scope.as_slice() {
            [] => return Ok(self.global.then(Scope::global)),
            [part] => Scope::of(part.as_str()),
            parts => Scope::of_parts(parts),
        };
        scope.map(Some).map_err(|_| Failure::usage("a scope has 1 to 255 bytes, none of them NUL: check --scope"))
    }

    pub(crate) fn required(&self) -> Result<Scope, Failure> {
        self.scope()?.ok_or_else(|| Failure::usage("say whose records: --scope PART, or --global"))
    }
}

/// Which record.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    #[command(flatten)]
    owner: Owner,
    /// The handler's stable name
    #[arg(long)]
    operation: String,
    /// The file that has the key; without it, the key is read from standard input
    #[arg(long, value_name = "PATH", conflicts_with = "key_hash")]
    key_file: Option<PathBuf>,
    /// The hash of the key in hexadecimal digits, as `list` prints it, in place of the key
    #[arg(long, value_name = "HEX")]
    key_hash: Option<String>,
}

impl Which {
    pub(crate) fn identity(&self) -> Result<Identity, Failure> {
        let scope = self.owner.required()?;
        let operation = Operation::named(&self.operation);
        let operation =
            operation.ok_or_else(|| Failure::usage("that is no name of an operation: check --operation"))?;
        Ok(Identity { scope, operation, key: self.key()? })
    }

    fn key(&self) -> Result<Key, Failure> {
        if let Some(hex) = &self.key_hash {
            let hash = hash(hex).ok_or_else(|| Failure::usage("a hash of a key has 64 hexadecimal digits"))?;
            return Ok(Key::from_hash(hash));
        }
        let text = match &self.key_file {
            Some(path) => std::fs::read(path)
                .map_err(|error| Failure::usage(format!("the file of the key cannot be read ({})", error.kind())))?,
            None => typed()?,
        };
        let text = String::from_utf8(text).map_err(|_| Failure::usage("the key is no UTF-8 text"))?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let key = Key::of(line).map_err(|error| Failure::usage(format!("the key cannot be a key: {error}")))?;
        key.ok_or_else(|| Failure::usage("the key is empty: write it to standard input, or name --key-file"))
    }
}

/// When a retry says that it was first sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FirstSaid {
    /// By a header. A key with a time counts, too.
    At(FirstSent),
    /// By its key alone.
    ByKey,
}

impl FirstSaid {
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        if text == "key" {
            return Ok(Self::ByKey);
        }
        let time = humantime::parse_rfc3339_weak(text).ok().or_else(|| httpdate::parse_http_date(text).ok());
        let form = "a time such as 2026-11-29T10:00:00Z or \"Sun, 29 Nov 2026 10:00:00 GMT\", or `key`";
        time.map(|time| Self::At(FirstSent::at(time))).ok_or_else(|| form.to_owned())
    }

    /// The time that a request with this key says: the earlier of two counts.
    pub(crate) fn with(self, key: &Key) -> Result<FirstSent, Failure> {
        let by_key = FirstSent::of_key(key);
        match self {
            Self::At(time) => Ok(by_key.map_or(time, |by_key| by_key.min(time))),
            Self::ByKey => by_key.ok_or_else(|| Failure::usage("the key has no time: it is no UUID of version 7")),
        }
    }
}

/// From standard input: one line of a terminal, or all of a pipe.
fn typed() -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let mut stdin = std::io::stdin().lock();
    let read = if stdin.is_terminal() {
        let mut stderr = std::io::stderr();
        let _nobody_looks = write!(stderr, "key: ").and_then(|()| stderr.flush());
        std::io::BufRead::read_until(&mut stdin, b'\n', &mut text)
    } else {
        stdin.read_to_end(&mut text)
    };
    read.map_err(|error| Failure::usage(format!("the key cannot be read ({})", error.kind())))?;
    Ok(text)
}

fn hash(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some(hash)
}
