//! Arguments, telemetry, configuration, run, exit code. Nothing here is worth
//! a test: it is all in the library.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use flatframe_shared::cli::{self, EXIT_CONFIG, ServiceArgs};
use flatframe_shared::shutdown::{CancellationToken, Signals};
use flatframe_shared::telemetry;
use inference_service::config::Config;
use inference_service::server::{Listeners, Server, load};

const PROGRAM: &str = "inference-service";

/// Finds faces in the frames of cameras and answers clients over gRPC.
///
/// Settings come from, later ones winning: defaults, --config, environment
/// variables (FLATFRAME_INFERENCE_LIMITS__MAX_STREAMS=8), flags.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let args = Args::parse().service;
    let config = match Config::load(args.config.as_deref(), &args.set) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    if args.print_config {
        return match toml::to_string(&config) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => fail(1, &error),
        };
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    runtime.block_on(async {
        let signals = match Signals::install() {
            Ok(signals) => signals,
            Err(error) => return fail(1, &error),
        };
        let telemetry = match telemetry::init(PROGRAM, &config.telemetry) {
            Ok(telemetry) => telemetry,
            Err(error) => return fail(EXIT_CONFIG, &error),
        };
        let code = run(config, args.check, signals).await;
        // Blocks until the last spans are sent, within its own deadline.
        let _ = tokio::task::spawn_blocking(move || telemetry.shutdown()).await;
        code
    })
}

async fn run(config: Config, check: bool, signals: Signals) -> ExitCode {
    let loaded = match load(config.clone()) {
        Ok(loaded) => loaded,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    let verdict = if check { "the configuration is good\n" } else { "" };
    // A closed stdout is no reason not to serve.
    let _ = write!(std::io::stdout(), "{}{verdict}", loaded.budget);
    if check {
        return ExitCode::SUCCESS;
    }
    let listeners = match Listeners::bind(&config).await {
        Ok(listeners) => listeners,
        Err(error) => return fail(1, &error),
    };
    let shutdown = CancellationToken::new();
    let signals = tokio::spawn(signals.stop(shutdown.clone()));
    let server = match Server::start(loaded, listeners, shutdown).await {
        Ok(server) => server,
        Err(error) => return fail(1, &error),
    };
    tracing::info!(grpc = %config.listen.grpc, admin = %config.listen.admin, "serving");
    let totals = server.join().await;
    signals.abort();
    if totals.balance() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    cli::fail(PROGRAM, code, error)
}
