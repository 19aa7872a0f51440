//! The command line of r3mes-edge. With `cli/` the only code that prints, exits, reads the environment or handles
//! signals.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the program, not the library"
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        reason = "a test that cannot go on may panic"
    )
)]

mod cli;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
