//! Fuzz target: HTTP/1 request heads; `properties.rs` says what must hold for every input.
#![no_main]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::http1_head(bytes));
