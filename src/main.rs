//! The binary: hands the command line to [`ringhorn::cli`] and exits with its code.

/// Keeps the loops' heaps small and gives memory back after a burst.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ringhorn::cli::run(std::env::args_os())
}
