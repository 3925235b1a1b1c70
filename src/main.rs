//! The `steadfast` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    steadfast::cli::run()
}
