//! The fuzz targets on stable Rust, bounded: the golden cases, then seeded mutations of them.
//!
//! The same properties as under `cargo fuzz`, without its coverage feedback; a failure prints the
//! input. The seed is fixed, so a failure comes again.

#![allow(clippy::print_stderr, reason = "a failing input is shown to who runs the test")]

#[path = "data/golden.rs"]
mod golden;
#[path = "fuzz/properties.rs"]
mod properties;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Mutated inputs for each property: about a second in a debug build.
const ROUNDS: usize = 100_000;

#[test]
fn http1_heads() {
    replay(properties::http1_head, &seeds("http1"), ROUNDS / 2);
}

#[test]
fn http1_chunked_bodies() {
    let bodies: Vec<Vec<u8>> = seeds("http1").iter().filter_map(|bytes| body_of(bytes)).collect();
    replay(properties::http1_chunked, &bodies, ROUNDS);
}

#[test]
fn percent_decoding() {
    let paths = ["/", "/a%20b", "/%2F%2f%C3%A9", "%", "/%00", "/%zz%1"];
    replay(properties::percent_decode, &paths.map(|path| path.as_bytes().to_vec()), ROUNDS);
}

#[test]
fn uwsgi_packets() {
    replay(properties::uwsgi_packet, &seeds("uwsgi"), ROUNDS);
}

/// The golden inputs of a folder.
fn seeds(folder: &str) -> Vec<Vec<u8>> {
    golden::read(folder).into_iter().map(|case| case.bytes).collect()
}

/// What follows the first head, if anything does.
fn body_of(bytes: &[u8]) -> Option<Vec<u8>> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    (end < bytes.len()).then(|| bytes[end..].to_vec())
}

/// Runs `property` on each seed as it is, then on `rounds` mutations of the short ones.
fn replay(property: fn(&[u8]), seeds: &[Vec<u8>], rounds: usize) {
    for seed in seeds {
        run(property, seed);
    }
    let short: Vec<&Vec<u8>> = seeds.iter().filter(|seed| seed.len() <= 400).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..rounds {
        let mut bytes = short[random.below(short.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut bytes, short[random.below(short.len())], &mut random);
        }
        run(property, &bytes);
    }
}

fn run(property: fn(&[u8]), bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| property(bytes))) {
        eprintln!("the input was b\"{}\"", bytes.escape_ascii());
        resume_unwind(panic);
    }
}

/// One change: a byte, a cut, a doubled piece, or a piece of another seed.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    const TELLING: &[u8] = b"\r\n\0 \t:;,%/#?*_[]@09afxX\x7f\x80\xff";
    let at = random.below(bytes.len() + 1);
    match random.below(6) {
        0 if at < bytes.len() => bytes[at] = TELLING[random.below(TELLING.len())],
        1 if at < bytes.len() => bytes[at] = random.below(256) as u8,
        2 => bytes.insert(at, TELLING[random.below(TELLING.len())]),
        3 => {
            let end = (at + random.below(8)).min(bytes.len());
            bytes.drain(at..end);
        }
        4 => {
            let end = (at + random.below(40)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => {
            let from = random.below(other.len() + 1);
            let end = (from + random.below(40)).min(other.len());
            bytes.splice(at..at, other[from..end].iter().copied());
        }
    }
}

/// xorshift64: enough to pick places.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
