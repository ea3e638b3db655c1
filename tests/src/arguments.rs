//! How the benchmarks and proofs read their command line.

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
