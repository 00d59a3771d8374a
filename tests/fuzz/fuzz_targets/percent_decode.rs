//! Fuzz target: percent-decoding of paths; `properties.rs` says what must hold for every input.
#![no_main]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::percent_decode(bytes));
