//! What is made from the command line's definition: completions and man pages.

use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::{Failure, Result};
use crate::output;

/// Writes a shell's completions.
pub(crate) fn completions(shell: Shell) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
    output::data(&String::from_utf8_lossy(&script))
}

/// Writes the man pages of all commands into a folder, or that of `weft` to stdout.
pub(crate) fn man(dir: Option<&Path>) -> Result {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered.map_err(|error| Failure::of("output", &error, ""))?;
        return output::data(&String::from_utf8_lossy(&page));
    };
    let written = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written.map_err(|error| {
        let title = format!("cannot write man pages into {}: {error}", dir.display());
        Failure::new("output", title, "name a folder that can be written")
    })
}
