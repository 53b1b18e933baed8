//! The fingerprint: the digest that tells a retry from another request under the same key.

use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::encoding;
use crate::error::{Error, Kind};
use crate::json;
use crate::redacted::Beginning;
use crate::seal::Mark;

/// A digest of what a request asks for. The same key with another fingerprint is refused.
///
/// ```
/// use idem_core::Fingerprint;
///
/// let asked = Fingerprint::of_value(&("c1", 100))?;
/// assert_eq!(asked, Fingerprint::of_value(&("c1", 100))?);
/// assert_ne!(asked, Fingerprint::of_value(&("c1", 101))?);
/// # Ok::<(), idem_core::Error>(())
/// ```
///
/// A fingerprint starts with the version of its rules. So a later release may change the rules, and a retry is still
/// not taken for another request.
///
/// A store with an [index key](crate::seal::Seal::hmac) has an HMAC of the fingerprint in its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; Self::LEN]);

impl Fingerprint {
    /// The version of the rules below.
    pub const VERSION: u8 = 1;

    /// The length in bytes: the version and a SHA-256.
    pub const LEN: usize = 33;

    /// The fingerprint of a plain function that compares nothing (`fingerprint = none`).
    #[must_use]
    pub fn none() -> Self {
        Self::of_parts(&[b"none"])
    }

    /// The fingerprint of a serialisable value, by serde's data model: values that serde tells apart have different
    /// fingerprints.
    ///
    /// ```
    /// use idem_core::Fingerprint;
    ///
    /// let of = |value: Option<f64>| Fingerprint::of_value(&value);
    /// assert_ne!(of(None)?, of(Some(f64::NAN))?);
    /// assert_ne!(of(Some(0.0))?, of(Some(-0.0))?);
    /// # Ok::<(), idem_core::Error>(())
    /// ```
    ///
    /// # Rules
    /// - Options, units, variants and bytes differ from the values that they hold. Floats are compared bit for bit,
    ///   integers by value whatever their width, strings byte by byte. A newtype struct equals the value that it holds.
    /// - The order of a map's entries and of a struct's fields does not matter.
    ///
    /// # Errors
    /// [`Kind::FingerprintFailed`] if the value does not serialise.
    ///
    /// # Limitations
    /// - A set counts as a list, since serde does not tell them apart. A `HashSet` iterates in another order each time
    ///   it is made, so a retry with the same set is refused as [`Kind::KeyReused`]. Wrap the set in [`Unordered`], or
    ///   use a `BTreeSet`.
    pub fn of_value<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        let text = encoding::compared(value).map_err(|error| Error::new(Kind::FingerprintFailed).caused_by(error))?;
        Ok(Self::of_parts(&[b"value", &text]))
    }

    /// The fingerprint of several values in their order.
    #[must_use]
    pub fn of_all(fingerprints: &[Self]) -> Self {
        let parts: Vec<&[u8]> = fingerprints.iter().map(|part| part.0.as_slice()).collect();
        Self::of_parts(&[&[b"all".as_slice()], parts.as_slice()].concat())
    }

    /// The fingerprint of an HTTP request.
    ///
    /// `content_type` is the request's `Content-Type`. Only its media type counts, not the parameters. A JSON body is
    /// compared by meaning, every other body byte by byte.
    #[must_use]
    pub fn of_request(method: &str, path: &str, query: Option<&str>, content_type: &[u8], body: &[u8]) -> Self {
        let media_type = media_type(content_type);
        let canonical = is_json(&media_type).then(|| json::digest(body)).flatten();
        let body: [&[u8]; 2] = match &canonical {
            Some(digest) => [b"json", digest],
            None => [b"bytes", body],
        };
        let query = query_parts(query);
        Self::of_parts(&[
            b"http",
            method.as_bytes(),
            path.as_bytes(),
            query[0],
            query[1],
            &media_type,
            body[0],
            body[1],
        ])
    }

    /// The fingerprint of an HTTP request whose handler has chosen which of its content is compared.
    ///
    /// The method, the path and the query count, too: they say what the request is about, and a route may take all its
    /// parameters from them.
    #[must_use]
    pub fn of_request_with(method: &str, path: &str, query: Option<&str>, chosen: &Self) -> Self {
        let query = query_parts(query);
        let (method, path) = (method.as_bytes(), path.as_bytes());
        Self::of_parts(&[b"http chosen", method, path, query[0], query[1], &chosen.0])
    }

    /// The fingerprint of an HTTP request whose handler compares only the path.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        Self::of_parts(&[b"http path", path.as_bytes()])
    }

    /// A digest over the parts, each with its length: no joining of parts makes two lists equal.
    fn of_parts(parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut bytes = [Self::VERSION; Self::LEN];
        bytes[1..].copy_from_slice(&digest.finalize());
        Self(bytes)
    }

    /// A stored fingerprint, or `None` if the bytes have no version that this release knows.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; Self::LEN] = bytes.try_into().ok()?;
        [Self::VERSION, Mark::INDEXED].contains(&bytes[0]).then_some(Self(bytes))
    }

    /// The fingerprint as a store with an index key has it: the mark of the index, and as much of the HMAC as fits.
    pub(crate) fn indexed(mark: Mark, hmac: &[u8; 32]) -> Self {
        let mut bytes = [0; Self::LEN];
        let (head, tail) = bytes.split_at_mut(Mark::LEN);
        head.copy_from_slice(mark.as_bytes());
        tail.copy_from_slice(&hmac[..tail.len()]);
        Self(bytes)
    }

    /// Whether the fingerprint is as a store with an index key has it.
    pub(crate) fn is_indexed(&self) -> bool {
        self.0[0] == Mark::INDEXED
    }

    /// The bytes to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fingerprint").field(&Beginning(&self.0[1..])).finish()
    }
}

/// A collection whose order does not count in a fingerprint: a `HashSet`, a list of tags.
///
/// ```
/// use std::collections::HashSet;
///
/// use idem_core::{Fingerprint, Unordered};
///
/// let tags = HashSet::from(["a", "b", "c"]);
/// let again: HashSet<_> = tags.iter().copied().collect();
/// assert_eq!(Fingerprint::of_value(&Unordered(&tags))?, Fingerprint::of_value(&Unordered(&again))?);
/// assert_eq!(Fingerprint::of_value(&Unordered(["a", "b"]))?, Fingerprint::of_value(&Unordered(["b", "a"]))?);
/// # Ok::<(), idem_core::Error>(())
/// ```
///
/// In an expression: `fingerprint = (order.id, Unordered(&order.tags))`. On a field, for every comparison of its
/// struct: `#[serde(serialize_with = "idem_core::unordered")]`.
///
/// # Rules
/// - The items are compared as a multiset: the same item twice is not the same item once.
/// - Every other serialisation sees the collection as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unordered<T>(pub T);

impl<T: Serialize> Serialize for Unordered<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        unordered(&self.0, serializer)
    }
}

/// Serialises a field whose order does not count in a fingerprint: see [`Unordered`].
///
/// ```
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Order {
///     id: u64,
///     #[serde(serialize_with = "idem_core::unordered")]
///     tags: std::collections::HashSet<String>,
/// }
/// ```
///
/// # Errors
/// The errors of the collection's serialisation.
pub fn unordered<T: Serialize + ?Sized, S: Serializer>(collection: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_newtype_struct(encoding::UNORDERED, collection)
}

/// An absent query and an empty one are different requests to some routers.
fn query_parts(query: Option<&str>) -> [&[u8]; 2] {
    query.map_or([b"no", b""], |query| [b"query", query.as_bytes()])
}

/// `Application/JSON; charset=utf-8` is `application/json`.
fn media_type(content_type: &[u8]) -> Vec<u8> {
    content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase()
}

fn is_json(media_type: &[u8]) -> bool {
    media_type == b"application/json" || media_type.ends_with(b"+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(parts: (&str, &str, Option<&str>, &str, &str)) -> Fingerprint {
        let (method, path, query, content_type, body) = parts;
        Fingerprint::of_request(method, path, query, content_type.as_bytes(), body.as_bytes())
    }

    #[test]
    fn r05_the_same_request() {
        let asked = request(("POST", "/p", Some("a=1"), "application/json", r#"{"a":1,"b":2}"#));
        for other in [
            ("POST", "/p", Some("a=1"), "Application/JSON; charset=utf-8", r#"{"b":2, "a":1}"#),
            ("POST", "/p", Some("a=1"), "application/json", "{\n\"a\":1,\"b\":2}"),
            ("POST", "/p", Some("a=1"), "application/json", r#"{"a":1.0,"b":0.2e1}"#),
            ("POST", "/p", Some("a=1"), "application/json;profile=\"a;b\"", r#"{"a":1,"b":2}"#),
        ] {
            assert_eq!(asked, request(other), "{other:?}");
        }
        let asked = request(("POST", "/p", None, "application/vnd.api+json", "[1]"));
        assert_eq!(asked, request(("POST", "/p", None, "application/vnd.api+json", "[ 1 ]")));
    }

    #[test]
    fn r05_r08_another_request() {
        let requests = [
            ("POST", "/p", Some("a=1"), "application/json", r#"{"a":1,"b":2}"#),
            ("PUT", "/p", Some("a=1"), "application/json", r#"{"a":1,"b":2}"#),
            ("POST", "/p/", Some("a=1"), "application/json", r#"{"a":1,"b":2}"#),
            ("POST", "/p", Some("a=2"), "application/json", r#"{"a":1,"b":2}"#),
            ("POST", "/p", Some(""), "application/json", r#"{"a":1,"b":2}"#),
            ("POST", "/p", None, "application/json", r#"{"a":1,"b":2}"#),
            ("POST", "/p", Some("a=1"), "text/plain", r#"{"a":1,"b":2}"#),
            ("POST", "/p", Some("a=1"), "text/plain", r#"{"b":2,"a":1}"#),
            ("POST", "/p", Some("a=1"), "application/json", r#"{"a":1.5,"b":2}"#),
            ("POST", "/p", Some("a=1"), "application/json", r#"{"a":1,"b":null}"#),
            ("POST", "/p", Some("a=1"), "application/json", r#"{"a":1}"#),
            ("POST", "/p", Some("a=1"), "application/json", r#"{"a":1,"a":1}"#),
            ("POST", "/p", Some("a=1"), "application/json", r#"{"a":1, "a":1}"#),
            ("POST", "/p", Some("a=1"), "", ""),
        ];
        for (at, one) in requests.iter().enumerate() {
            for other in &requests[..at] {
                assert_ne!(request(*one), request(*other), "{one:?} and {other:?}");
            }
        }
    }

    #[test]
    fn r06_parts_are_told_apart_by_their_lengths() {
        assert_ne!(Fingerprint::of_parts(&[b"ab", b"c"]), Fingerprint::of_parts(&[b"a", b"bc"]));
        assert_ne!(Fingerprint::of_parts(&[b"ab"]), Fingerprint::of_parts(&[b"ab", b""]));
        assert_ne!(request(("POST", "/a", Some("b"), "", "")), request(("POST", "/ab", None, "", "")));
    }

    #[test]
    fn r08_a_chosen_fingerprint_is_of_one_method_path_and_query() {
        let chosen = Fingerprint::of_value("a").unwrap();
        let with = |(method, path, query): (&str, &str, Option<&str>)| {
            Fingerprint::of_request_with(method, path, query, &chosen)
        };
        let requests = [
            ("POST", "/accounts/1/pay", None),
            ("POST", "/accounts/2/pay", None),
            ("PUT", "/accounts/1/pay", None),
            ("POST", "/accounts/1/pay", Some("")),
            ("POST", "/accounts/1/pay", Some("a=1")),
            ("POST", "/accounts/1/pay", Some("a=2")),
            ("POST", "/accounts/1/pay/", None),
            ("POST", "/accounts/1", Some("/pay")),
        ];
        for (at, one) in requests.iter().enumerate() {
            assert_eq!(with(*one), with(*one));
            for other in &requests[..at] {
                assert_ne!(with(*one), with(*other), "{one:?} and {other:?}");
            }
        }
        let other = Fingerprint::of_request_with("POST", "/accounts/1/pay", None, &Fingerprint::none());
        assert_ne!(other, with(requests[0]));
        assert_ne!(Fingerprint::of_path("/accounts/1/pay"), Fingerprint::of_path("/accounts/2/pay"));
    }

    #[test]
    fn r06_no_two_ways_of_asking_make_one_digest() {
        let chosen = Fingerprint::of_value("").unwrap();
        let ways = [
            Fingerprint::none(),
            chosen,
            Fingerprint::of_all(&[]),
            Fingerprint::of_all(&[chosen]),
            Fingerprint::of_path(""),
            Fingerprint::of_request("", "", None, b"", b""),
            Fingerprint::of_request_with("", "", None, &chosen),
            Fingerprint::of_request_with("", "", None, &Fingerprint::none()),
        ];
        for (at, one) in ways.iter().enumerate() {
            assert!(!ways[..at].contains(one), "{at}");
        }
    }

    #[test]
    fn r06_the_version_is_kept_and_checked() {
        let asked = Fingerprint::none();
        assert_eq!(asked.as_bytes()[0], Fingerprint::VERSION);
        assert_eq!(Fingerprint::from_bytes(asked.as_bytes()), Some(asked));
        let mut newer = *asked.as_bytes();
        newer[0] += 1;
        assert_eq!(Fingerprint::from_bytes(&newer), None);
        assert_eq!(Fingerprint::from_bytes(&newer[1..]), None);
    }

    /// Pinned: a release with another digest would refuse every retry that spans the deploy.
    #[test]
    fn r06_the_digest_of_version_1_does_not_change() {
        let asked = request(("POST", "/payments", None, "application/json", r#"{"amount":100}"#));
        let hex: String = asked.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, PINNED);
    }

    const PINNED: &str = "01daf090350d66ceb2f6eeb9e0421f916e97ab673e7f8f86034380a5546e68047f";

    #[test]
    fn a_value_that_does_not_serialise_is_an_error() {
        let borrowed = std::cell::RefCell::new(1);
        let _guard = borrowed.borrow_mut();
        assert_eq!(Fingerprint::of_value(&borrowed).unwrap_err().kind(), Kind::FingerprintFailed);
    }

    #[test]
    fn r05a_the_order_of_what_is_unordered_does_not_matter() {
        #[derive(Serialize)]
        struct Order {
            lines: Vec<u8>,
            #[serde(serialize_with = "unordered")]
            tags: Vec<Option<u8>>,
        }

        let of = |lines: &[u8], tags: &[Option<u8>]| {
            Fingerprint::of_value(&Order { lines: lines.to_vec(), tags: tags.to_vec() }).expect("serialisable")
        };
        let asked = of(&[1, 2], &[Some(1), None, Some(2), None]);
        assert_eq!(asked, of(&[1, 2], &[None, Some(2), None, Some(1)]));
        assert_ne!(asked, of(&[1, 2], &[None, Some(2), Some(1)]));
        assert_ne!(asked, of(&[2, 1], &[Some(1), None, Some(2), None]));
        let maybe = |tags: Option<[u8; 2]>| Fingerprint::of_value(&Unordered(tags)).expect("serialisable");
        assert_eq!(maybe(Some([1, 2])), maybe(Some([2, 1])));
        assert_ne!(maybe(Some([1, 2])), maybe(None));
        // A list in an unordered collection keeps its order.
        let nested = |lists: [[u8; 2]; 2]| Fingerprint::of_value(&Unordered(lists)).expect("serialisable");
        assert_eq!(nested([[1, 2], [3, 4]]), nested([[3, 4], [1, 2]]));
        assert_ne!(nested([[1, 2], [3, 4]]), nested([[2, 1], [3, 4]]));
        assert_eq!(serde_json::to_string(&Unordered([2, 1])).expect("serialisable"), "[2,1]");
    }

    #[test]
    fn the_order_of_a_map_does_not_matter() {
        let one = std::collections::HashMap::from([("a", 1), ("b", 2), ("c", 3)]);
        let other: std::collections::HashMap<_, _> = one.clone().into_iter().collect();
        assert_eq!(Fingerprint::of_value(&one).unwrap(), Fingerprint::of_value(&other).unwrap());
    }
}
