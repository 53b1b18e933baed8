//! Seals and opens the contents of a record.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::index::Index;
use super::{Binding, Mark, Part, Seal};
use crate::entry::Entry;
use crate::error::{Error, Kind};
use crate::fingerprint::Fingerprint;
use crate::hex::{bytes, hex};
use crate::identity::Identity;
use crate::machine::Explanation;
use crate::operate::Reason;
use crate::record::{Input, Outcome, Reply, Request};
use crate::store::{Abandoned, Claimed, Rejected};

/// Seals and opens the contents of records, for a store. Without a [`Seal`] it stores contents as they are, and refuses
/// those that are sealed.
///
/// A sealed reply has its [format](crate::store::Format::sealed) marked. Its headers are empty, and its body is both.
#[derive(Clone, Default)]
pub struct Sealer {
    seal: Option<Arc<dyn Seal>>,
    /// The mark of the index, if there is one.
    mark: Option<Mark>,
}

impl Sealer {
    /// A sealer that seals by this.
    pub fn new(seal: impl Seal) -> Self {
        Self { mark: Index::mark(&seal), seal: Some(Arc::new(seal)) }
    }

    /// Whether contents are sealed.
    #[must_use]
    pub fn is_sealing(&self) -> bool {
        self.sealing().is_some()
    }

    fn sealing(&self) -> Option<&dyn Seal> {
        self.seal.as_deref().filter(|seal| !seal.writes_plain())
    }

    /// The mark of the index under which claims are made. `None`: there is no index key. A store must refuse a claim with
    /// another mark than that of its records.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        self.mark
    }

    fn index(&self) -> Option<Index<'_>> {
        Some(Index::new(&**self.seal.as_ref()?, self.mark?))
    }

    /// The identity as it is stored.
    #[must_use]
    pub fn identity<'i>(&self, identity: &'i Identity) -> Cow<'i, Identity> {
        let stored = self.index().and_then(|index| index.identity(identity));
        stored.map_or(Cow::Borrowed(identity), Cow::Owned)
    }

    /// The fingerprint of a request as it is stored. The identity is the stored one.
    #[must_use]
    pub fn fingerprint(&self, identity: &Identity, fingerprint: Fingerprint) -> Fingerprint {
        self.index().and_then(|index| index.fingerprint(&identity.key, fingerprint)).unwrap_or(fingerprint)
    }

    /// The outcome as it is to be stored.
    ///
    /// # Errors
    /// Those of [`Seal::seal`].
    pub fn outcome<'o>(&self, identity: &Identity, outcome: &'o Outcome) -> Result<Cow<'o, Outcome>, Error> {
        match (self.sealing(), outcome) {
            (Some(seal), Outcome::Reply(reply)) => {
                let sealed = sealed(seal, &binding(identity, reply_part(reply)), reply)?;
                Ok(Cow::Owned(Outcome::Reply(sealed)))
            }
            _ => Ok(Cow::Borrowed(outcome)),
        }
    }

    /// The entry as it is to be stored.
    ///
    /// # Errors
    /// Those of [`Seal::seal`].
    pub fn entry<'e>(&self, identity: &Identity, entry: &'e Entry) -> Result<Cow<'e, Entry>, Error> {
        match (self.sealing(), &entry.reply) {
            (Some(seal), Some(reply)) => {
                let sealed = sealed(seal, &binding(identity, entry_part(entry, reply)), reply)?;
                Ok(Cow::Owned(entry.clone().with_reply(sealed)))
            }
            _ => Ok(Cow::Borrowed(entry)),
        }
    }

    /// The request with its identity and its fingerprint as they are stored, for a look-up.
    #[must_use]
    pub fn named<'r>(&self, request: &'r Request) -> Cow<'r, Request> {
        if self.mark.is_none() {
            return Cow::Borrowed(request);
        }
        let identity = self.identity(&request.identity).into_owned();
        let fingerprint = self.fingerprint(&identity, request.fingerprint);
        Cow::Owned(Request { identity, fingerprint, ..request.clone() })
    }

    /// The request as it is to be stored: its identity, its fingerprint and its input. A claim begins with this, and
    /// everything after it is about the request that is returned.
    ///
    /// # Errors
    /// Those of [`Seal::seal`].
    pub fn request<'r>(&self, request: &'r Request) -> Result<Cow<'r, Request>, Error> {
        let mut stored = self.named(request);
        if let (Some(seal), Some(Input(input))) = (self.sealing(), &request.input) {
            let sealed = seal.seal(&binding(&stored.identity, Part::Input), input)?;
            stored.to_mut().input = Some(Input([&[SEALED_INPUT], sealed.as_slice()].concat().into()));
        }
        Ok(stored)
    }

    /// The reason as it is to be stored.
    ///
    /// # Errors
    /// Those of [`Seal::seal`].
    pub fn reason<'r>(&self, identity: &Identity, reason: &'r Reason) -> Result<Cow<'r, Reason>, Error> {
        let Some(seal) = self.sealing() else { return Ok(Cow::Borrowed(reason)) };
        let sealed = seal.seal(&binding(identity, Part::Reason), reason.as_str().as_bytes())?;
        // The column is a text.
        Ok(Cow::Owned(Reason::from_stored(format!("{SEALED_REASON}{}", hex(&sealed)))))
    }

    /// The explanation with its reason opened. A reason that cannot be opened is left out: it decides nothing, and its
    /// record outlives its key. One in clear is shown, since a tool without a key may have written it.
    #[must_use]
    pub fn explanation(&self, identity: &Identity, explanation: Explanation) -> Explanation {
        let stored = explanation.reason.as_ref().map(Reason::as_str);
        let Some(digits) = stored.and_then(|stored| stored.strip_prefix(SEALED_REASON)) else { return explanation };
        let reason = self.seal.as_ref().zip(bytes(digits)).and_then(|(seal, sealed)| {
            let opened = seal.open(&binding(identity, Part::Reason), &sealed);
            let opened = opened.inspect_err(|error| tell(error, "a sealed reason was not opened")).ok()?;
            String::from_utf8(opened).ok().map(Reason::from_stored)
        });
        Explanation { is_reason_sealed: reason.is_none(), reason, ..explanation }
    }

    /// The answer to a claim, with the reply to replay opened. A reply that cannot be opened is refused as
    /// [`Kind::RecordUnreadable`].
    ///
    /// # Errors
    /// Those of [`Seal::open`] with another kind, such as that of a key service that does not answer.
    pub fn claimed<T>(&self, identity: &Identity, claimed: Claimed<T>) -> Result<Claimed<T>, Error> {
        let Claimed::Replay(reply, age) = claimed else { return Ok(claimed) };
        match self.reply(identity, reply) {
            Ok(reply) => Ok(Claimed::Replay(reply, age)),
            Err(error) if error.kind() == Kind::RecordUnreadable => {
                tell(&error, "a sealed reply was not opened");
                Ok(Claimed::Refuse(Kind::RecordUnreadable))
            }
            Err(error) => Err(error),
        }
    }

    /// What became of a rejection, with the reply of an earlier attempt opened.
    ///
    /// # Errors
    /// Those of [`Seal::open`].
    pub fn rejected(&self, identity: &Identity, rejected: Rejected) -> Result<Rejected, Error> {
        match rejected {
            Rejected::Replay(reply) => self.reply(identity, reply).map(Rejected::Replay),
            rejected => Ok(rejected),
        }
    }

    /// Opens a stored reply.
    ///
    /// # Errors
    /// Those of [`Seal::open`].
    pub fn reply(&self, identity: &Identity, reply: Reply) -> Result<Reply, Error> {
        let Some(reply) = unmarked(&reply) else { return self.plain(reply) };
        self.opened(&binding(identity, reply_part(&reply)), &reply)
    }

    /// Opens a stored entry.
    ///
    /// # Errors
    /// Those of [`Seal::open`].
    pub fn open_entry(&self, identity: &Identity, mut entry: Entry) -> Result<Entry, Error> {
        if let Some(reply) = entry.reply.take() {
            entry.reply = Some(match unmarked(&reply) {
                Some(reply) => self.opened(&binding(identity, entry_part(&entry, &reply)), &reply)?,
                None => self.plain(reply)?,
            });
        }
        Ok(entry)
    }

    /// Opens the input of an abandoned run of this operation. An input that cannot be opened is left empty, which is no
    /// JSON: its run is not resumed, and the others are.
    #[must_use]
    pub fn abandoned(&self, operation: &str, abandoned: Abandoned) -> Abandoned {
        let Abandoned { place, input } = abandoned;
        let binding = Binding::new(&place.scope, operation, &place.key_hash, Part::Input);
        let opened = match &self.seal {
            Some(seal) if input.0.first() == Some(&SEALED_INPUT) => seal.open(&binding, &input.0[1..]).map(Bytes::from),
            Some(seal) if !seal.reads_plain() => Err(unreadable("it is not sealed")),
            _ => return Abandoned { place, input },
        };
        let input = opened.unwrap_or_else(|error| {
            tell(&error, "a sealed input was not opened");
            Bytes::new()
        });
        Abandoned { place, input: Input(input) }
    }

    /// A reply that is not sealed.
    fn plain(&self, reply: Reply) -> Result<Reply, Error> {
        match &self.seal {
            Some(seal) if !seal.reads_plain() => Err(unreadable("it is not sealed")),
            _ => Ok(reply),
        }
    }

    fn opened(&self, binding: &Binding<'_>, reply: &Reply) -> Result<Reply, Error> {
        if !reply.headers.is_empty() {
            return Err(unreadable("what is sealed has headers beside it"));
        }
        let seal = self.seal.as_ref().ok_or_else(|| unreadable("the store has no keyring"))?;
        let content = Bytes::from(seal.open(binding, &reply.body)?);
        let (headers, body) = split(&content).ok_or_else(|| unreadable("what was sealed is no reply"))?;
        Ok(Reply { headers, body, ..reply.clone() })
    }
}

/// Tells an operator which key is missing, or what else is wrong: the cause says that.
fn tell(error: &Error, what: &str) {
    let cause = std::error::Error::source(error);
    tracing::error!(target: "idem", %error, cause = ?cause, "{what}");
}

/// The reply with the format of its content, if it is sealed.
fn unmarked(reply: &Reply) -> Option<Reply> {
    reply.format.opened().map(|format| Reply { format, ..reply.clone() })
}

fn unreadable(why: &str) -> Error {
    Error::new(Kind::RecordUnreadable).caused_by(why.to_owned())
}

fn sealed(seal: &dyn Seal, binding: &Binding<'_>, reply: &Reply) -> Result<Reply, Error> {
    let length = u32::try_from(reply.headers.len()).map_err(|_| Error::new(Kind::ReplyTooLarge))?;
    let content = [length.to_be_bytes().as_slice(), &reply.headers, &reply.body].concat();
    let body = Bytes::from(seal.seal(binding, &content)?);
    Ok(Reply { format: reply.format.sealed(), status: reply.status, headers: Bytes::new(), body })
}

fn split(content: &Bytes) -> Option<(Bytes, Bytes)> {
    let length = u32::from_be_bytes(*content.first_chunk()?);
    let body = usize::try_from(length).ok()?.checked_add(4)?;
    (body <= content.len()).then(|| (content.slice(4..body), content.slice(body..)))
}

/// What stands before a sealed input. A recorded input is JSON, which cannot begin with a control character.
const SEALED_INPUT: u8 = 1;

/// What stands before a sealed reason, in hexadecimal digits. No reason begins with a control character.
const SEALED_REASON: char = '\u{1}';

fn binding<'a>(identity: &'a Identity, part: Part<'a>) -> Binding<'a> {
    Binding::new(identity.scope.as_str(), identity.operation.as_str(), identity.key.hash(), part)
}

fn reply_part(reply: &Reply) -> Part<'static> {
    Part::Reply { format: reply.format.0, status: reply.status }
}

fn entry_part<'a>(entry: &'a Entry, reply: &Reply) -> Part<'a> {
    let Entry { position, kind, name, .. } = entry;
    Part::Entry { position: *position, kind: kind.0, name, format: reply.format.0, status: reply.status }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("is_sealing", &self.is_sealing()).finish()
    }
}
