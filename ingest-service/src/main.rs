//! Arguments, configuration, telemetry, run, exit code. Nothing here is worth
//! a test: it is all in the library.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use flatframe_shared::shutdown::{CancellationToken, on_signals};
use flatframe_shared::telemetry::{self, TelemetryConfig};
use ingest_service::memory::settle_allocator;
use ingest_service::{Checked, Config, check, run};

/// Exit code when the configuration cannot be used (sysexits.h, EX_CONFIG).
const EXIT_CONFIG: u8 = 78;
/// Blocking threads besides one for each camera: names, the end of telemetry.
const SPARE_BLOCKING_THREADS: usize = 2;
/// How long an idle blocking thread stays.
const BLOCKING_KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
/// Stack of a runtime thread.
const STACK_BYTES: usize = 512 * 1024;
/// A look-up of a name, or a dead disk, may hold a thread: it is left behind.
const LEAVE_THREADS_AFTER: Duration = Duration::from_millis(200);

/// Captures, thins out, downsamples and sends camera frames.
///
/// Settings come from, later ones winning: defaults, --config, environment
/// variables (FLATFRAME_INGEST_SERVER__ADDRESS=http://10.0.0.5:50051), flags.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file (TOML); config.example.toml is the reference.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, such as --set limits.mailbox_frames=1; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Validate the configuration, print the memory budget, and exit.
    #[arg(long)]
    check: bool,
    /// Print the configuration in force, without passwords, and exit.
    #[arg(long)]
    print_config: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    settle_allocator();
    let args = Args::parse();
    let config = match Config::load(args.config.as_deref(), &args.set) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    if args.print_config {
        print!("{}", config.to_toml());
        return ExitCode::SUCCESS;
    }
    let (telemetry, worker_threads) = (config.telemetry.clone(), config.runtime.worker_threads);
    let blocking_threads = config.camera.len() + SPARE_BLOCKING_THREADS;
    let checked = match check(config) {
        Ok(checked) => checked,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    print!("{}", checked.budget());
    if args.check {
        println!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads)
        .thread_stack_size(STACK_BYTES)
        // Files are read, cards drawn and names resolved on these; they stay,
        // so that the number of threads is flat.
        .max_blocking_threads(blocking_threads)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let code = runtime.block_on(serve(checked, &telemetry));
    runtime.shutdown_timeout(LEAVE_THREADS_AFTER);
    code
}

async fn serve(checked: Checked, telemetry: &TelemetryConfig) -> ExitCode {
    let telemetry = match telemetry::init("ingest-service", telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    let shutdown = CancellationToken::new();
    // Asked first, so that the handlers stand before anything is captured.
    let ended = tokio::select! {
        biased;
        refused = on_signals(shutdown.clone()) => return match refused {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error),
        },
        ended = run(checked, shutdown.clone()) => ended,
    };
    // Blocks until the last spans are sent, within its own deadline.
    let _ = tokio::task::spawn_blocking(move || telemetry.shutdown()).await;
    match ended {
        Ok(counts) if counts.balance() == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => fail(1, &error),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("ingest-service: {error}");
    ExitCode::from(code)
}
