//! The command line of r3mes-edge. With `cli/` the only code that prints, exits, reads the environment or handles
//! signals.

// This is the program, not the library.
#![allow(clippy::print_stdout, clippy::print_stderr)]
// A test that cannot go on may panic.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cli;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
