//! The fault matrix: each row does one kind of harm to the real programs on
//! real sockets, each column is a promise that must hold all the same. Prints a
//! table and ends with exit code 1 when a cell fails.
//!
//! As root it first moves into network and mount namespaces of its own, in
//! which all its networks and file systems live: they vanish with it, however
//! it ends. Without root the rows that need them are skipped, visibly.

mod camera_rows;
mod cameras;
mod client_rows;
mod clients;
mod host_rows;
mod layout;
mod network;
mod network_rows;
mod rows;
mod server_rows;
mod service;
mod table;
mod trial;
mod wire;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;

use crate::network::Network;
use crate::rows::{Bench, ROWS, Row};
use crate::table::{Ended, print_json, print_row, print_table};

/// Does harm to both services and measures what becomes of it.
#[derive(Parser)]
struct Args {
    /// Print the names of the rows and what each does.
    #[arg(long)]
    list: bool,
    /// Only this row; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// A row that is skipped fails.
    #[arg(long)]
    require_all: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for row in &ROWS {
            println!("{:<20} {}", row.name, row.what);
        }
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("faults: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    if let Some(unknown) = args.only.iter().find(|name| ROWS.iter().all(|row| row.name != name.as_str())) {
        bail!("no row is called {unknown}: --list prints all names");
    }
    let chosen = |row: &&Row| args.only.is_empty() || args.only.iter().any(|name| name == row.name);
    // Namespaces belong to threads: before there is a second one.
    let network = Network::enter();
    if let Err(why) = &network {
        eprintln!("faults: no network of its own: {why}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let bench = Bench::new(network)?;
        let mut ended = Vec::new();
        for row in ROWS.iter().filter(chosen) {
            let end = tokio::select! {
                end = run_row(row, &bench) => end,
                // What the row holds is dropped, and with it its programs.
                interrupt = tokio::signal::ctrl_c() => {
                    interrupt.context("wait for an interrupt")?;
                    bail!("interrupted in row {}", row.name);
                }
            };
            print_row(row.name, &end);
            if !matches!(&end, Ended::Measured(measured) if measured.good()) {
                bench.print_logs(row.name);
            }
            ended.push((row.name, end));
        }
        print_table(&ended);
        if args.json {
            print_json(&ended);
        }
        let good = |end: &Ended| match end {
            Ended::Measured(measured) => measured.good(),
            Ended::Skipped(_) => !args.require_all,
            Ended::Broken(_) => false,
        };
        Ok(ended.iter().all(|(_, end)| good(end)))
    })
}

async fn run_row(row: &Row, bench: &Bench) -> Ended {
    if let Some(why) = bench.lacks(row.needs) {
        return Ended::Skipped(why);
    }
    match tokio::time::timeout(row.limit, (row.run)(bench, row.name)).await {
        Ok(Ok(measured)) => Ended::Measured(measured),
        Ok(Err(error)) => Ended::Broken(format!("{error:#}")),
        Err(_) => Ended::Broken(format!("not over within {} s", row.limit.as_secs())),
    }
}
