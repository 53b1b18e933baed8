//! Limits how deep a value may nest.

/// Deeper values are not stored: reading recurses, and a record must not exhaust the stack.
pub(super) const MAX_DEPTH: usize = 500;

/// The largest number of brackets and braces that are open at once.
pub(super) fn depth(text: &str) -> usize {
    let (mut open, mut most, mut is_string, mut is_escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_string => is_escaped = true,
            b'"' => is_string = !is_string,
            b'[' | b'{' if !is_string => {
                open += 1;
                most = most.max(open);
            }
            b']' | b'}' if !is_string => open = open.saturating_sub(1),
            _ => {}
        }
    }
    most
}
