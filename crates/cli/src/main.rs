//! The `weft` binary: the command line, and the hidden roles of its own processes.

#![allow(clippy::result_large_err, reason = "a failure is told to a person, and costs a move once")]

mod args;
mod commands;
mod descriptors;
mod failure;
mod file;
mod link;
mod output;
mod progress;
mod streams;
mod table;
mod terminal;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let json = cli.json;
    match commands::run(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(json),
    }
}
