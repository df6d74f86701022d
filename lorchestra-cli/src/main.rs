//! The `lorchestra` binary, which only calls the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    lorchestra_cli::main()
}
