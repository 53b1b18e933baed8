//! One entry of a hint, and how it is written.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::confirmed::Epoch;
use super::secret::{Name, Secret};
use crate::fingerprint::Fingerprint;
use crate::record::{Format, Reply, Timestamp};

/// What was true of an identity in an epoch of its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was true.
    pub content: Content,
    /// The epoch that the database had confirmed before it said so.
    pub epoch: Epoch,
    /// Until when it is true, by the database's clock.
    pub expires_at: Timestamp,
}

/// What was true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The request has run, with this reply.
    Reply {
        /// The reply as it is stored: what is sealed there is sealed here.
        reply: Reply,
        /// When the run was completed, if that is known.
        completed_at: Option<Timestamp>,
    },
    /// The request is running.
    Running,
}

/// The version of the layout. A later release with another layout has another number.
const VERSION: u8 = 1;
const REPLY: u8 = 1;
const RUNNING: u8 = 2;
const TAG: usize = 32;
/// Version, kind, epoch, end.
const HEAD: usize = 1 + 1 + Epoch::LEN + 8;

impl Entry {
    /// The value to keep under the name of the identity. Identity and fingerprint are not in it: the tag binds them.
    #[must_use]
    pub fn write(&self, secret: &Secret, name: &Name, fingerprint: &Fingerprint) -> Bytes {
        let mut value = BytesMut::with_capacity(HEAD + TAG + self.content_len());
        value.put_u8(VERSION);
        value.put_u8(match self.content {
            Content::Reply { .. } => REPLY,
            Content::Running => RUNNING,
        });
        value.put_slice(self.epoch.as_bytes());
        value.put_i64(self.expires_at.0);
        if let Content::Reply { reply, completed_at } = &self.content {
            value.put_i64(completed_at.map_or(i64::MIN, |time| time.0));
            value.put_i16(reply.format.0);
            value.put_u16(reply.status.unwrap_or(0));
            value.put_u64(reply.headers.len() as u64);
            value.put_slice(&reply.headers);
            value.put_slice(&reply.body);
        }
        let tag = secret.tag(name, fingerprint, &value);
        value.put_slice(&tag);
        value.freeze()
    }

    /// The entry in a value. `None` if it is not one that was written with this secret, for this name and fingerprint,
    /// by a release with this layout.
    #[must_use]
    pub fn read(mut value: Bytes, secret: &Secret, name: &Name, fingerprint: &Fingerprint) -> Option<Self> {
        let tag = value.split_off(value.len().checked_sub(TAG)?);
        if !secret.is_tag(&tag, name, fingerprint, &value) {
            return None;
        }
        let (version, kind) = (value.try_get_u8().ok()?, value.try_get_u8().ok()?);
        if version != VERSION || value.len() < HEAD - 2 {
            return None;
        }
        let mut epoch = [0; Epoch::LEN];
        value.copy_to_slice(&mut epoch);
        let (epoch, expires_at) = (Epoch::from_bytes(epoch), Timestamp(value.get_i64()));
        let content = match kind {
            REPLY => reply(value)?,
            RUNNING => Content::Running,
            _ => return None,
        };
        Some(Self { content, epoch, expires_at })
    }

    fn content_len(&self) -> usize {
        match &self.content {
            Content::Reply { reply, .. } => 8 + 2 + 2 + 8 + reply.headers.len() + reply.body.len(),
            Content::Running => 0,
        }
    }
}

fn reply(mut value: Bytes) -> Option<Content> {
    let completed_at = Some(value.try_get_i64().ok()?).filter(|time| *time != i64::MIN).map(Timestamp);
    let format = Format(value.try_get_i16().ok()?);
    // A later release may have written another format into the same layout.
    if !matches!(format.opened().unwrap_or(format), Format::HTTP | Format::VALUE | Format::ERROR) {
        return None;
    }
    let status = Some(value.try_get_u16().ok()?).filter(|status| *status != 0);
    let headers = usize::try_from(value.try_get_u64().ok()?).ok()?;
    if value.len() < headers {
        return None;
    }
    // The parts of the value, without a copy.
    let (headers, body) = (value.split_to(headers), value);
    Some(Content::Reply { reply: Reply { format, status, headers, body }, completed_at })
}

/// How long ago a run was completed.
pub(super) fn age(completed_at: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    let micros = now.0.saturating_sub(completed_at?.0);
    Some(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn secret() -> Secret {
        Secret::new([7; 32]).expect("a secret")
    }

    fn name(key: &str) -> Name {
        secret().name(&Identity::new("scope", "hint", key).expect("an identity").digest())
    }

    fn asked(what: &str) -> Fingerprint {
        Fingerprint::of_value(what).expect("a fingerprint")
    }

    fn entries() -> [Entry; 3] {
        let (epoch, expires_at) = (Epoch::of(&[b"one"]), Timestamp(77));
        let reply = |format, status| Reply {
            format,
            status,
            headers: Bytes::from_static(b"headers"),
            body: Bytes::from_static(b"the body"),
        };
        let http = Content::Reply { reply: reply(Format::HTTP, Some(201)), completed_at: Some(Timestamp(5)) };
        let value = Content::Reply { reply: reply(Format::VALUE.sealed(), None), completed_at: None };
        [http, value, Content::Running].map(|content| Entry { content, epoch, expires_at })
    }

    #[test]
    fn r38_an_entry_is_read_as_it_was_written() {
        for entry in entries() {
            let value = entry.write(&secret(), &name("k"), &asked("this"));
            assert_eq!(Entry::read(value, &secret(), &name("k"), &asked("this")), Some(entry));
        }
    }

    #[test]
    fn r38_a_value_of_another_identity_fingerprint_or_secret_is_a_miss() {
        let other = Secret::new([8; 32]).expect("a secret");
        for entry in entries() {
            let value = || entry.write(&secret(), &name("k"), &asked("this"));
            assert_eq!(Entry::read(value(), &secret(), &name("another"), &asked("this")), None);
            assert_eq!(Entry::read(value(), &secret(), &name("k"), &asked("that")), None);
            assert_eq!(Entry::read(value(), &other, &name("k"), &asked("this")), None);
        }
    }

    #[test]
    fn r38_a_changed_or_cut_value_is_a_miss() {
        for entry in entries() {
            let value = entry.write(&secret(), &name("k"), &asked("this"));
            for at in 0..value.len() {
                let mut changed = value.to_vec();
                changed[at] ^= 1;
                let changed = Entry::read(changed.into(), &secret(), &name("k"), &asked("this"));
                assert_eq!(changed, None, "byte {at}");
                assert_eq!(Entry::read(value.slice(..at), &secret(), &name("k"), &asked("this")), None);
            }
        }
    }

    /// With a right tag: written by another release, with the same secret.
    #[test]
    fn r38_a_value_of_another_release_is_a_miss() {
        let read = |content: &[u8]| {
            let tag = secret().tag(&name("k"), &asked("this"), content);
            Entry::read([content, &tag].concat().into(), &secret(), &name("k"), &asked("this"))
        };
        for entry in entries() {
            let value = entry.write(&secret(), &name("k"), &asked("this"));
            let content = &value[..value.len() - TAG];
            assert_eq!(read(content), Some(entry.clone()));
            for (at, number) in [(0, VERSION + 1), (1, 9)] {
                let mut later = content.to_vec();
                later[at] = number;
                assert_eq!(read(&later), None, "byte {at}");
            }
            if let Content::Reply { .. } = entry.content {
                let mut later = content.to_vec();
                later[HEAD + 9] = 9;
                assert_eq!(read(&later), None, "another format");
            }
            // Each length up to the headers' is too short for its layout.
            for len in 0..(HEAD + entry.content_len().min(27)) {
                assert_eq!(read(&content[..len]), None, "{len} bytes");
            }
        }
    }
}
