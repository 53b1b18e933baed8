//! Rule 34: what is printed for debugging, and what an error says, has no content of a request or a reply in it.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use idem_core::machine::{Journal, Next, Resume};
use idem_core::store::{
    Abandoned, Attempt, Claim, Claimed, Entry, EntryKind, Format, Input, Outcome, Place, Record, Rejected, Reply,
    State, Timestamp,
};
use idem_core::{Error, Fingerprint, Identity, Key, Kind, Request, Scope, Settled, Unordered};

/// A word of a request, a reply, a key or a scope.
const CANARY: &str = "canary";

/// The word in every form in which `Debug` shows text and bytes.
fn forms() -> [String; 4] {
    let bytes = CANARY.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = bytes.iter().map(u8::to_string).collect::<Vec<_>>();
    [CANARY.to_owned(), hex, list.join(", "), list.join(",\n")]
}

fn assert_hidden(what: &str, value: &dyn Debug) {
    let hash = Key::of(CANARY).expect("valid").expect("a key");
    let hashed =
        [hash.hash()[..4].iter().map(|byte| format!("{byte:02x}")).collect(), format!("{:?}", &hash.hash()[..4])];
    for shown in [format!("{value:?}"), format!("{value:#?}")] {
        let compact: String = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        for form in forms().iter().chain(&hashed) {
            let form = form.trim_matches(['[', ']']);
            assert!(!shown.contains(form) && !compact.contains(form), "{what} shows {form}: {shown}");
        }
    }
}

fn reply() -> Reply {
    let content = Bytes::from_static(CANARY.as_bytes());
    Reply { format: Format::VALUE, status: Some(200), headers: content.clone(), body: content }
}

fn entry() -> Entry {
    Entry::new(0, EntryKind::TRANSACTION, "reserve").with_reply(reply())
}

fn request() -> Request {
    let identity = Identity::new(CANARY, "payments.create", CANARY).expect("an identity");
    let asked = Fingerprint::of_value(CANARY).expect("serialisable");
    let request = Request::new(identity, asked, Duration::from_secs(60)).expect("a request");
    request.with_input(Input(CANARY.into()))
}

#[test]
fn r34_debug_shows_no_content() {
    let asked = Fingerprint::of_value(CANARY).expect("serialisable");
    let claim = Claim::random().expect("randomness");
    let place = Place { scope: CANARY.to_owned(), key_hash: Key::of(CANARY).unwrap().unwrap().hash().to_vec() };
    let journal = Journal::read(vec![entry()]).map_err(|_| "readable");
    let shown: Vec<(&str, Box<dyn Debug>)> = vec![
        ("a reply", Box::new(reply())),
        ("an outcome", Box::new(Outcome::Reply(reply()))),
        ("a state", Box::new(State::Completed(reply()))),
        ("a record", Box::new(Record::new(Some(asked), State::Completed(reply()), claim, Timestamp(0)))),
        ("an entry", Box::new(entry())),
        ("entries", Box::new(Attempt { lease: (), number: 1, fingerprint: asked, entries: vec![entry()] })),
        ("a journal", Box::new(journal)),
        ("a finished step", Box::new(Next::Finished(reply()))),
        ("a replay", Box::new(Claimed::<()>::Replay(reply(), None))),
        ("a rejection's replay", Box::new(Rejected::Replay(reply()))),
        (
            "what can be resumed",
            Box::new(Resume { claim, attempt: 1, released: 0, is_rejected: false, fingerprint: asked }),
        ),
        ("an input", Box::new(Input(CANARY.into()))),
        ("an abandoned run", Box::new(Abandoned { place: place.clone(), input: Input(CANARY.into()) })),
        ("a place", Box::new(place)),
        ("a request", Box::new(request())),
        ("an identity", Box::new(request().identity)),
        ("a scope", Box::new(Scope::of(CANARY).expect("a scope"))),
        ("a scope of parts", Box::new(Scope::of_parts(&[CANARY.to_owned(), "x".to_owned()]).expect("a scope"))),
        ("a key", Box::new(Key::of(CANARY))),
        ("a settled value", Box::new(Settled::Kept(CANARY))),
        ("an error", Box::new(Error::new(Kind::StoreFailed))),
    ];
    for (what, value) in shown {
        assert_hidden(what, &*value);
    }
    // The search finds what it is for.
    for leak in [Box::new(CANARY) as Box<dyn Debug>, Box::new(CANARY.as_bytes()), Box::new(Unordered(CANARY))] {
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| assert_hidden("a leak", &*leak)));
        assert!(found.is_err());
    }
}

#[test]
fn r34_what_a_fingerprint_cannot_be_made_of_is_not_quoted() {
    struct Refuses;

    impl serde::Serialize for Refuses {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom(CANARY))
        }
    }

    let refused = Fingerprint::of_value(&Refuses).expect_err("it does not serialise");
    assert_hidden("a fingerprint's error", &refused);
}
