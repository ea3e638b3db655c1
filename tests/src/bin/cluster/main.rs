//! Several servers under faults: three replicas behind a name with three
//! addresses, with a result bus between them, hundreds of cameras, one replica
//! killed, frozen, all restarted in turn, the name changed; then the same cameras
//! through haproxy and nginx; then what a second replica brings. Prints each figure, and ends with exit code 1
//! when a bound is broken. `tests/cluster/run` starts it with a hosts file of its
//! own in place of DNS.

mod bus;
mod crowd;
mod faults;
mod proxies;
mod replicas;
mod scaling;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value};

/// Measures several servers under faults.
#[derive(Parser)]
#[command(bin_name = "tests/cluster/run")]
pub struct Args {
    /// The hosts file that name look-ups read; it is written.
    #[arg(long)]
    hosts: PathBuf,
    /// What is run.
    #[arg(long, value_delimiter = ',', default_value = "faults,proxies,scaling")]
    parts: Vec<Part>,
    /// Cameras of the faults.
    #[arg(long, default_value_t = 300)]
    cameras: usize,
    /// Frames a second of each camera.
    #[arg(long, default_value_t = 2.0)]
    fps: f32,
    /// `server.return_s` of the cameras.
    #[arg(long, default_value_t = 10)]
    return_s: u64,
    /// Length of a round of scaling, in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Faults,
    Proxies,
    Scaling,
}

/// What was measured, and which bounds were broken.
#[derive(Default)]
pub struct Report {
    figures: Map<String, Value>,
    broken: Vec<String>,
}

impl Report {
    /// A figure, printed at once.
    pub fn tell(&mut self, name: &str, figure: Value) {
        println!("{name}: {figure}");
        self.figures.insert(name.into(), figure);
    }

    /// A bound.
    pub fn expect(&mut self, is_kept: bool, what: impl Into<String>) {
        if !is_kept {
            let what = what.into();
            println!("BROKEN: {what}");
            self.broken.push(what);
        }
    }
}

fn main() -> ExitCode {
    let args: Args = e2e::arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let run = runtime.context("start the runtime").and_then(|runtime| runtime.block_on(run(&args)));
    match run {
        Ok(report) => {
            if args.json {
                println!("{}", Value::Object(report.figures));
            }
            if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for part in &args.parts {
        match part {
            Part::Faults => faults::run(args, &mut report).await?,
            Part::Proxies => proxies::run(args, &mut report).await?,
            Part::Scaling => scaling::run(args, &mut report).await?,
        }
    }
    for broken in &report.broken {
        println!("broken: {broken}");
    }
    Ok(report)
}
