//! Project chores: `cargo xtask tidy` checks that the house looks like its drawing.

mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => report(&tidy::problems(&root())),
        _ => {
            eprintln!("usage: cargo xtask tidy    check arrows, dependencies, file sizes and words");
            ExitCode::from(2)
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn report(problems: &[String]) -> ExitCode {
    for problem in problems {
        eprintln!("tidy: {problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_house_is_tidy() {
        let problems = super::tidy::problems(&super::root());
        assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    }
}
