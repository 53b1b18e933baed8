//! The word that a misspelt word was meant to be.

/// The known word that is nearest to the written one, if it is near enough to be meant.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace(['-', '_'], "");
    let written = plain(written);
    known
        .into_iter()
        .map(|word| (distance(&written, &plain(word)), word))
        .filter(|(distance, word)| *distance <= slips(word))
        .min()
        .map(|(_, word)| word)
}

/// How many slips a word of this length may have. In a short word, two slips could make it any other word.
fn slips(word: &str) -> usize {
    if word.len() < 6 { 1 } else { 2 }
}

/// How many letters must be added, dropped, changed or swapped with their neighbour to turn one word into the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<_>, Vec<_>) = (from.chars().collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let changed = usize::from(from[i - 1] != to[j - 1]);
            let mut least = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    const KNOWN: [&str; 6] = ["scope", "ttl", "key", "fingerprint", "in_flight", "missing_key"];

    #[test]
    fn a_slip_is_answered_by_name() {
        for (written, meant) in [
            ("tll", "ttl"),
            ("tt", "ttl"),
            ("TTL", "ttl"),
            ("scpoe", "scope"),
            ("scopes", "scope"),
            ("inflight", "in_flight"),
            ("finger_print", "fingerprint"),
            ("fingreprnt", "fingerprint"),
            ("missing_keys", "missing_key"),
            ("keys", "key"),
        ] {
            assert_eq!(nearest(written, KNOWN), Some(meant), "{written}");
        }
    }

    #[test]
    fn another_word_is_not_taken_for_a_slip() {
        for written in ["user", "timeout", "a", "", "store", "toll_key"] {
            assert_eq!(nearest(written, KNOWN), None, "{written}");
        }
    }
}
