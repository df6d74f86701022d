//! The `lorchestra` binary. All of it is the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    lorchestra_cli::main()
}
