//! A rejection that has something to undo, as it is recorded before the first undo.

use bytes::{Buf, BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use super::nothing;
use crate::error::{Error, Kind};
use crate::record::{Outcome, Reply};
use crate::store::{Step, StepForm};

/// What a run was rejected with, and what is to be undone for it.
///
/// It is recorded like a step, and each undo behind it: so whoever goes on knows how far the one before came, and
/// answers as that one would have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) outcome: Outcome,
    /// The steps to undo, in the order in which they are undone.
    pub(super) undos: Vec<String>,
    /// The place of the next undo among the steps.
    pub(super) next: u32,
}

/// What of it is not the reply's bytes: written in front of its headers, behind its length of 4 bytes.
#[derive(Serialize, Deserialize)]
struct Head {
    undos: Vec<String>,
    is_oversized: bool,
    status: Option<u16>,
}

impl Rejection {
    /// No step of a handler has this name.
    const NAME: &str = "";

    /// Takes it from the steps that earlier attempts have recorded, if it is there, with what is left to undo.
    pub(super) fn take_from(recorded: &mut Vec<Step>) -> Result<Option<Self>, Error> {
        let Some(at) = recorded.iter().position(|step| step.form == StepForm::REJECTION) else { return Ok(None) };
        let behind = recorded.split_off(at);
        let mut rejection = Self::of(&behind[0])?;
        for undone in &behind[1..] {
            // What is not known to be undone is not taken for it.
            let is_undo = |undo: &String| undone.form == StepForm::UNDO && *undo == undone.name;
            let at = rejection.undos.iter().position(is_undo).ok_or_else(|| Error::new(Kind::RecordUnreadable))?;
            rejection.undos.remove(at);
            rejection.next = undone.position + 1;
        }
        Ok(Some(rejection))
    }

    /// As it is recorded: in the place before its first undo.
    pub(super) fn step(&self) -> Result<Step, Error> {
        let (reply, is_oversized) = match &self.outcome {
            Outcome::Reply(reply) => (reply.clone(), false),
            Outcome::Oversized => (nothing(), true),
        };
        let head = Head { undos: self.undos.clone(), is_oversized, status: reply.status };
        let head = serde_json::to_vec(&head).map_err(|error| Error::new(Kind::ReplyFailed).caused_by(error))?;
        let mut headers = BytesMut::new();
        headers.put_u32(u32::try_from(head.len()).unwrap_or(u32::MAX));
        headers.put_slice(&head);
        headers.put_slice(&reply.headers);
        let result = Reply { headers: headers.freeze(), status: None, ..reply };
        let position = self.next - 1;
        Ok(Step { position, name: Self::NAME.to_owned(), form: StepForm::REJECTION, result })
    }

    fn of(step: &Step) -> Result<Self, Error> {
        let unreadable = || Error::new(Kind::RecordUnreadable);
        let mut headers = step.result.headers.clone();
        let length = headers.try_get_u32().map_err(|_| unreadable())? as usize;
        if length > headers.len() {
            return Err(unreadable());
        }
        let head = headers.split_to(length);
        let head: Head = serde_json::from_slice(&head).map_err(|error| unreadable().caused_by(error))?;
        let outcome = if head.is_oversized {
            Outcome::Oversized
        } else {
            Outcome::Reply(Reply { headers, status: head.status, ..step.result.clone() })
        };
        Ok(Self { outcome, undos: head.undos, next: step.position + 1 })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::Format;

    fn rejections() -> [Rejection; 2] {
        let body = Bytes::from_static(b"declined");
        let reply = Reply { format: Format::HTTP, status: Some(402), headers: Bytes::from_static(b"\0\x01a\0"), body };
        let undos = || vec!["charge".to_owned(), "reserve".to_owned()];
        [
            Rejection { outcome: Outcome::Reply(reply), undos: undos(), next: 3 },
            Rejection { outcome: Outcome::Oversized, undos: undos(), next: 3 },
        ]
    }

    #[test]
    fn r19_a_rejection_comes_back_as_it_was_recorded() {
        for rejection in rejections() {
            let mut recorded = vec![rejection.step().expect("a step")];
            assert_eq!(Rejection::take_from(&mut recorded).expect("readable"), Some(rejection));
            assert!(recorded.is_empty());
        }
        assert_eq!(Rejection::take_from(&mut Vec::new()).expect("readable"), None);
    }

    #[test]
    fn what_is_undone_is_not_undone_again() {
        let [rejection, _] = rejections();
        let step = rejection.step().expect("a step");
        let first = Step { position: 0, form: StepForm::CALL, ..step.clone() };
        let undone = Step { position: 3, form: StepForm::UNDO, name: "charge".to_owned(), ..step.clone() };
        let mut recorded = vec![first.clone(), step, undone];
        let left = Rejection::take_from(&mut recorded).expect("readable").expect("a rejection");
        assert_eq!((left.undos, left.next), (vec!["reserve".to_owned()], 4));
        assert_eq!(recorded, [first]);
    }

    #[test]
    fn r22_what_stands_behind_a_rejection_and_is_not_known_is_unreadable() {
        let [rejection, _] = rejections();
        let step = rejection.step().expect("a step");
        let undone = Step { position: 3, form: StepForm::UNDO, name: "charge".to_owned(), ..step.clone() };
        for behind in
            [Step { form: StepForm(99), ..undone.clone() }, Step { name: "another".to_owned(), ..undone.clone() }]
        {
            let unreadable = Rejection::take_from(&mut vec![step.clone(), behind]);
            assert_eq!(unreadable.expect_err("unreadable").kind(), Kind::RecordUnreadable);
        }
    }

    #[test]
    fn r22_a_damaged_rejection_is_unreadable() {
        for rejection in rejections() {
            let step = rejection.step().expect("a step");
            for end in 0..step.result.headers.len() {
                let mut cut = step.clone();
                cut.result.headers = step.result.headers.slice(..end);
                match Rejection::take_from(&mut vec![cut]) {
                    Err(error) => assert_eq!(error.kind(), Kind::RecordUnreadable),
                    // The reply's own headers are for whoever replays it.
                    Ok(read) => assert_eq!(read.expect("a rejection").undos, rejection.undos),
                }
            }
        }
    }
}
