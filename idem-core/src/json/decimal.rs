//! The exact value of a number.

/// The exact value of a number: its digits as one integer, times a power of ten. Equal values have equal parts: the
/// digits neither begin nor end with a zero, and zero has no digits.
///
/// It is never a float, which would make two large integers equal. It is never expanded, so `1e999999999` stays small.
pub(super) struct Decimal<'t> {
    pub(super) is_negative: bool,
    /// The digits, in the two parts of the text that hold them.
    pub(super) digits: [&'t str; 2],
    pub(super) exponent: i128,
}

impl<'t> Decimal<'t> {
    /// Returns `None` if the exponent itself has some forty digits: such numbers are compared as they are written.
    pub(super) fn of(text: &'t str) -> Option<Self> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (is_negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));

        let whole = whole.trim_start_matches('0');
        let decimals = fraction.len();
        let fraction = if whole.is_empty() { fraction.trim_start_matches('0') } else { fraction };
        let written = whole.len() + fraction.len();
        let fraction = fraction.trim_end_matches('0');
        let whole = if fraction.is_empty() { whole.trim_end_matches('0') } else { whole };
        let kept = whole.len() + fraction.len();
        if kept == 0 {
            return Some(Self { is_negative: false, digits: ["", ""], exponent: 0 });
        }
        let exponent = exponent.parse::<i128>().ok()?.checked_add((written - kept) as i128)?;
        Some(Self { is_negative, digits: [whole, fraction], exponent: exponent.checked_sub(decimals as i128)? })
    }
}
