//! `demo`: the main job on one machine. Also `demo librarian ...` and `demo agent ...`, so that one binary is the whole
//! pool.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    match args.peek().and_then(|word| word.to_str()) {
        Some("librarian") => {
            args.next();
            eprintln!("this build has no librarian");
            ExitCode::FAILURE
        }
        Some("agent") => {
            args.next();
            eprintln!("this build has no agent");
            ExitCode::FAILURE
        }
        Some(_) | None => ExitCode::FAILURE,
    }
}
