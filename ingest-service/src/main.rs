//! Arguments, configuration, telemetry, run, exit code. Nothing here is worth
//! a test: it is all in the library.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use flatframe_shared::allocator;
use flatframe_shared::cli::{self, EXIT_CONFIG, ServiceArgs};
use flatframe_shared::shutdown::{CancellationToken, LEAVE_THREADS_AFTER, Signals};
use flatframe_shared::telemetry::{self, TelemetryConfig};
use ingest_service::recordings_command::{self, RecordingsArgs};
use ingest_service::{Checked, Config, check, run};

const PROGRAM: &str = "ingest-service";
/// Blocking threads besides one for each camera: names, the end of telemetry.
const SPARE_BLOCKING_THREADS: usize = 2;
/// How long an idle blocking thread stays.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(24 * 3600);
/// Stack of a runtime thread.
const STACK_BYTES: usize = 512 * 1024;

/// Captures, thins out, downsamples and sends camera frames.
///
/// Settings come from, later ones winning: defaults, --config, environment
/// variables (FLATFRAME_INGEST_SERVER__ADDRESS=http://10.0.0.5:50051), flags.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    service: ServiceArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do in place of serving.
#[derive(Subcommand)]
enum Command {
    Recordings(RecordingsArgs),
}

fn main() -> ExitCode {
    allocator::settle();
    let Args { service: args, command } = Args::parse();
    match command {
        None => {}
        Some(Command::Recordings(recordings)) => {
            let ended = recordings_command::run(&recordings, &args, &mut std::io::stdout().lock());
            // A closed pipe is what `| head` does.
            return ended.unwrap_or(ExitCode::FAILURE);
        }
    }
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
    let verdict = if args.check { "the configuration is good\n" } else { "" };
    // A full or closed stdout is no reason not to serve.
    let _ = write!(std::io::stdout(), "{}{verdict}", checked.budget());
    if args.check {
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
    // A look-up of a name, or a dead disk, may hold a thread.
    runtime.shutdown_timeout(LEAVE_THREADS_AFTER);
    code
}

async fn serve(checked: Checked, telemetry: &TelemetryConfig) -> ExitCode {
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(1, &error),
    };
    let telemetry = match telemetry::init(PROGRAM, telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    let shutdown = CancellationToken::new();
    // Ends with the runtime: a second signal counts to the last moment.
    tokio::spawn(signals.stop(shutdown.clone()));
    let ended = run(checked, shutdown).await;
    // Blocks until the last spans are sent, within its own deadline.
    let _ = tokio::task::spawn_blocking(move || telemetry.shutdown()).await;
    match ended {
        Ok(counts) if counts.balance() == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => fail(1, &error),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    cli::fail(PROGRAM, code, error)
}
