//! Arguments, configuration, telemetry, run, exit code. Nothing here is worth
//! a test: it is all in the library.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use flatframe_shared::allocator;
use flatframe_shared::cli::{self, EXIT_CONFIG, ServiceArgs};
use flatframe_shared::shutdown::{CancellationToken, LEAVE_THREADS_AFTER, Signals};
use flatframe_shared::telemetry::{self, TelemetryConfig};
use ingest_service::board::{Board, Machine};
use ingest_service::probe_command::{self, ProbeArgs};
use ingest_service::profile::{Fitted, Profile};
use ingest_service::recordings_command::{self, RecordingsArgs};
use ingest_service::setup::{self, SetupArgs};
use ingest_service::{Checked, Config, cameras_command, check, run};

const PROGRAM: &str = "ingest-service";
/// Blocking threads besides two for each camera: names, changed certificates,
/// the end of telemetry.
const SPARE_BLOCKING_THREADS: usize = 3;
/// How long an idle blocking thread stays.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(24 * 3600);
/// Stack of a runtime thread.
const STACK_BYTES: usize = 512 * 1024;

/// Captures, thins out, downsamples and sends camera frames. Without a command
/// it serves.
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

#[derive(Subcommand)]
enum Command {
    /// Ask three questions, write the configuration, and try it.
    Setup(SetupArgs),
    /// List the cameras of this machine, as a configuration to start from.
    Cameras,
    /// Open a source and say what it gives.
    Probe(ProbeArgs),
    Recordings(RecordingsArgs),
}

fn main() -> ExitCode {
    allocator::settle();
    let Args { service: args, command } = Args::parse();
    let machine = Board::default().machine();
    if let Some(command) = command {
        let refuse = |text| Args::command().error(clap::error::ErrorKind::ArgumentConflict, text).exit();
        if args.check || args.print_config || args.insecure {
            refuse("--check, --insecure and --print-config go without a command");
        }
        // clap keeps only the last group of a repeated global flag.
        let is_set = |arg: &std::ffi::OsString| arg == "--set" || arg.to_string_lossy().starts_with("--set=");
        if std::env::args_os().filter(is_set).count() > args.set.len() {
            refuse("give every --set after the command");
        }
        let mut out = std::io::stdout();
        let done = match command {
            Command::Cameras => cameras_command::run(&mut out),
            Command::Probe(probe) => probe_command::run(&probe, &args, &machine, &mut out),
            Command::Recordings(recordings) => recordings_command::run(&recordings, &args, &machine, &mut out.lock()),
            Command::Setup(setup) => return set_up(&setup, &args, &machine),
        };
        return done.unwrap_or_else(|error| unprinted(&error));
    }
    let loaded = Config::load(args.config.as_deref(), &args.set, &machine)
        .and_then(|config| Ok((Profile::choose(&config.runtime.profile, &machine)?, config)));
    let (profile, config) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    if args.print_config {
        print!("{}", config.to_toml());
        return ExitCode::SUCCESS;
    }
    let exposed = match config.admin.exposed(args.insecure) {
        Ok(exposed) => exposed,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    let (telemetry, worker_threads) = (config.telemetry.clone(), config.runtime.worker_threads);
    // One for the source of each camera, one for its late frames.
    let blocking_threads = 2 * config.camera.len() + SPARE_BLOCKING_THREADS;
    let checked = match check(config) {
        Ok(checked) => checked,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    let verdict = if args.check { "the configuration is good\n" } else { "" };
    // A full or closed stdout is no reason not to serve.
    let _ = write!(std::io::stdout(), "{}{}{verdict}", Fitted { machine, profile }, checked.budget());
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
    let code = runtime.block_on(serve(checked, exposed, &telemetry));
    // A look-up of a name, or a dead disk, may hold a thread.
    runtime.shutdown_timeout(LEAVE_THREADS_AFTER);
    code
}

fn set_up(setup: &SetupArgs, args: &ServiceArgs, machine: &Machine) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout());
    match runtime.block_on(setup::run(setup, args.config.as_deref(), machine, &mut input, &mut output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

async fn serve(checked: Checked, exposed: Option<SocketAddr>, telemetry: &TelemetryConfig) -> ExitCode {
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(1, &error),
    };
    let telemetry = match telemetry::init(PROGRAM, telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    if let Some(address) = exposed {
        tracing::warn!(%address, "INSECURE: anyone who reaches admin.grpc_listen may read it (--insecure)");
    }
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

/// The answer of a command could not be printed.
fn unprinted(error: &std::io::Error) -> ExitCode {
    // Whoever read it has seen enough; a verdict that nobody read is no success.
    if error.kind() == ErrorKind::BrokenPipe { ExitCode::FAILURE } else { fail(1, error) }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    cli::fail(PROGRAM, code, error)
}
