//! How much memory a digest takes. A binary of its own with a single test, since the allocator counts the whole process.

use std::time::{Duration, Instant};

use idem_core::Fingerprint;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// An eighth of the longest body that Axum takes unless told otherwise: an unoptimised test is to end soon.
const LENGTH: usize = 2 << 17;

/// The live bytes that a digest may take for each byte of the body.
const FACTOR: f64 = 5.3;

/// `part` side by side up to the length.
fn array(part: impl Fn(usize) -> String) -> String {
    let mut body = String::from("[");
    for at in 0.. {
        let part = part(at);
        if body.len() + part.len() + 1 > LENGTH {
            break;
        }
        if at > 0 {
            body.push(',');
        }
        body.push_str(&part);
    }
    body + "]"
}

fn object(member: impl Fn(usize) -> String) -> String {
    let body = array(member);
    format!("{{{}}}", &body[1..body.len() - 1])
}

/// Bodies that would make a tree, a list of tokens or a decoded copy large.
fn hostile() -> Vec<(&'static str, String)> {
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(120), close.repeat(120));
    vec![
        ("deep arrays side by side", array(|_| nested("[", "]"))),
        ("deep objects side by side", array(|_| nested("{\"\":", "}").replace(":}", ":0}"))),
        ("deep arrays in objects", array(|_| nested("{\"\":[", "]}"))),
        ("empty arrays", array(|_| "[]".to_owned())),
        ("empty objects", array(|_| "{}".to_owned())),
        ("tiny keys", object(|at| format!("\"{at:x}\":0"))),
        ("tiny keys, the last first", object(|at| format!("\"{:x}\":0", usize::MAX - at))),
        ("tiny objects", array(|_| "{\"\":0}".to_owned())),
        ("keys of escapes", object(|at| format!("\"\\u0061\\u0062{at:x}\":[]"))),
        ("the same key again", object(|_| "\"a\":0".to_owned())),
        ("the same long key again", object(|_| format!("\"{}\":0", "\\n".repeat(1000)))),
        ("numbers", array(|_| "0".to_owned())),
        ("decimals", array(|at| format!("{at}.5e{at}"))),
        ("one long number", array(|_| "1".repeat(LENGTH - 3))),
        ("one long fraction", array(|_| format!("0.{}1", "0".repeat(LENGTH - 10)))),
        ("one long exponent", array(|_| format!("1e{}", "1".repeat(LENGTH - 10)))),
        ("a long string of escapes", array(|_| format!("\"{}\"", "\\n".repeat(LENGTH / 2 - 3)))),
        ("a long string of pairs", array(|_| format!("\"{}\"", "\\ud83d\\ude00".repeat(LENGTH / 12 - 1)))),
        ("a long string of brackets", array(|_| format!("\"{}\"", "[:".repeat(LENGTH / 2 - 3)))),
        ("a long key", object(|_| format!("\"{}\":0", "\\t".repeat(LENGTH / 2 - 10)))),
        ("white space", format!("[{}]", " ".repeat(LENGTH))),
        ("not JSON at its end", array(|_| nested("[", "]")) + "]"),
    ]
}

#[test]
fn r05_a_digest_takes_memory_in_proportion_to_the_body() {
    for (name, body) in hostile() {
        assert!(body.len() > LENGTH / 2, "{name} is short: {}", body.len());
        MEMORY.reset_peak_usage();
        let (before, began) = (MEMORY.current_usage(), Instant::now());
        let asked = Fingerprint::of_request("POST", "/p", None, b"application/json", body.as_bytes());
        let took = began.elapsed();
        let factor = (MEMORY.peak_usage() - before) as f64 / body.len() as f64;
        eprintln!("{name}: {factor:.2} bytes for each byte, {took:?}, {:02x}", asked.as_bytes()[1]);
        assert!(factor <= FACTOR, "{name} takes {factor:.1} bytes for each byte of its body");
        // A digest whose time grows with the square of the body takes minutes.
        assert!(took < Duration::from_secs(20), "{name} takes {took:?}");
    }
}
