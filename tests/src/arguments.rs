//! How the benchmarks and proofs read their command line, and how they end.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

/// Reads the command line. `cargo demo -- --frames 300` works as
/// `cargo demo --frames 300` does: the alias ends in `--` already.
pub fn parse<A: Parser>() -> A {
    let mut typed = std::env::args_os();
    let program = typed.next();
    let mut rest = typed.peekable();
    rest.next_if(|first| first == "--");
    A::parse_from(program.into_iter().chain(rest))
}

/// Runs a proof to its end on one thread, so that it takes little from the
/// services beside it. The exit code is 0 when it held, and 1 when it did not or
/// could not be tried, with the error on stderr after `name`.
pub fn prove(name: &str, proof: impl Future<Output = anyhow::Result<bool>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    match runtime.context("start the runtime").and_then(|runtime| runtime.block_on(proof)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
