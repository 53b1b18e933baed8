//! The names of keys: all keys of one record are in one slot of a cluster.

use idem_core::Identity;
use idem_core::operate::Cursor;
use idem_core::store::Place;

/// A shard is named by the first byte of the identity's digest. The number never changes: a record would not be found.
pub(crate) const SHARDS: u16 = 256;

/// The keys of a record, as every script gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    /// The record, a hash.
    pub(crate) record: String,
    /// The reply of a finished record that refuses retries after its `ttl`.
    pub(crate) reply: String,
    /// The runs of the shard that are not over, a sorted set.
    pub(crate) index: String,
    /// The member of the index.
    pub(crate) member: Vec<u8>,
}

impl Keys {
    pub(crate) fn of(prefix: &str, identity: &Identity) -> Self {
        let digest = identity.digest();
        let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let shard = u16::from(digest[0]);
        // In braces: that part alone says in which slot a key is.
        let record = format!("{}{digits}", records_of(prefix, shard));
        let cursor = Cursor::of(identity);
        Self { reply: format!("{record}:reply"), record, index: index(prefix, shard), member: member(&cursor) }
    }
}

/// The beginning of the names of a shard's records.
fn records_of(prefix: &str, shard: u16) -> String {
    format!("{prefix}:{{{shard:02x}}}:")
}

/// The index of a shard.
pub(crate) fn index(prefix: &str, shard: u16) -> String {
    format!("{}runs", records_of(prefix, shard))
}

/// What `SCAN` compares with the names of keys. It also finds replies and indexes, whose names are longer or shorter.
pub(crate) fn pattern(prefix: &str) -> String {
    let quoted: String = prefix.chars().flat_map(|letter| ['\\', letter]).collect();
    format!("{quoted}:{{??}}:{}", "?".repeat(64))
}

/// The keys of a record whose name was found.
pub(crate) fn of_record(record: String) -> Option<[String; 3]> {
    let (shard, _digest) = record.rsplit_once(':')?;
    Some([format!("{record}:reply"), format!("{shard}:runs"), record])
        .map(|[reply, index, record]| [record, reply, index])
}

/// Members are in the order of operation, scope and key hash: none of the first two has a NUL.
pub(crate) fn member(at: &Cursor) -> Vec<u8> {
    [at.operation.as_bytes(), b"\0", at.scope.as_bytes(), b"\0", &at.key_hash].concat()
}

/// The place of a run in a member of the index.
pub(crate) fn place(member: &[u8]) -> Option<(String, Place)> {
    let mut parts = member.splitn(3, |byte| *byte == 0);
    let (operation, scope, key_hash) = (parts.next()?, parts.next()?, parts.next()?);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Some((text(operation)?, Place { scope: text(scope)?, key_hash: key_hash.to_vec() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r40_all_keys_of_a_record_have_one_tag_and_a_member_gives_its_place_back() {
        let identity = Identity::new("u1", "mails.send", "k").expect("an identity");
        let keys = Keys::of("shop", &identity);
        let tag = |key: &str| key[key.find('{').expect("a tag")..=key.find('}').expect("its end")].to_owned();
        assert_eq!([&keys.record, &keys.reply, &keys.index].map(|key| tag(key)), [(); 3].map(|()| tag(&keys.record)));
        let found = of_record(keys.record.clone()).expect("a record");
        assert_eq!(found, [keys.record, keys.reply, keys.index]);
        let (operation, place) = place(&keys.member).expect("a place");
        assert_eq!((operation.as_str(), place.scope.as_str()), ("mails.send", "u1"));
        assert_eq!(place.key_hash, identity.key.hash());
    }
}
