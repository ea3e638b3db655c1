//! Arguments, telemetry, configuration, run, exit code. Nothing here is worth
//! a test: it is all in the library.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use flatframe_shared::allocator::Counted;
use flatframe_shared::cli::{self, EXIT_CONFIG, ServiceArgs};
use flatframe_shared::shutdown::{CancellationToken, LEAVE_THREADS_AFTER, Signals};
use flatframe_shared::telemetry;
use inference_service::access::exposure::{self, Exposed};
use inference_service::certs_command::{self, CertsCommand};
use inference_service::client_command::{self, ClientCommand};
use inference_service::config::Config;
use inference_service::eval::{self, EvalArgs};
use inference_service::history_command::{self, HistoryCommand};
use inference_service::models_command::{self, ModelsCommand};
use inference_service::server::{Listeners, Server, load};
use inference_service::tokens_command::{self, TokensCommand};

const PROGRAM: &str = "inference-service";

/// glibc took what is kept of a result from the hole that its decoded picture
/// left, and each kept result held a megabyte: docs/performance.md,
/// "Allocators".
#[global_allocator]
static ALLOCATOR: Counted<mimalloc::MiMalloc> = Counted(mimalloc::MiMalloc);

/// Finds faces in the frames of cameras and answers clients over gRPC. Without
/// a command it serves.
///
/// Settings come from, later ones winning: defaults, --config, environment
/// variables (FLATFRAME_INFERENCE_LIMITS__MAX_STREAMS=8), flags.
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
    /// Show, check and fetch models.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Judge models on a folder of labelled pictures.
    Eval(EvalArgs),
    /// Check and repair the history on disk.
    #[command(subcommand)]
    History(HistoryCommand),
    /// Make a private authority for homes and tests, and certificates of it.
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Make, list and remove the tokens of clients.
    #[command(subcommand)]
    Tokens(TokensCommand),
    #[command(flatten)]
    Client(ClientCommand),
}

fn main() -> ExitCode {
    let Args { service: args, command } = Args::parse();
    if command.is_some() {
        let refuse = |text| Args::command().error(clap::error::ErrorKind::ArgumentConflict, text).exit();
        if args.check || args.print_config || args.insecure {
            refuse("--check, --insecure and --print-config go without a command");
        }
        // clap keeps only the last group of a repeated global flag.
        let is_set = |arg: &std::ffi::OsString| arg == "--set" || arg.to_string_lossy().starts_with("--set=");
        if std::env::args_os().filter(is_set).count() > args.set.len() {
            refuse("give every --set after the command");
        }
    }
    if let Some(Command::Client(command)) = &command {
        let done = client_command::run(command, &mut std::io::stdout());
        return done.unwrap_or_else(|error| unprinted(&error));
    }
    if let Some(Command::Certs(command)) = &command {
        let done = certs_command::run(command, &mut std::io::stdout());
        return done.unwrap_or_else(|error| unprinted(&error));
    }
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
    if let Some(command) = command {
        let mut out = std::io::stdout();
        let done = match &command {
            Command::Models(command) => models_command::run(command, &config.vision, &mut out),
            Command::Eval(args) => eval::run(args, &config.vision, &mut out),
            Command::History(command) => history_command::run(*command, &config.history, &mut out),
            Command::Tokens(command) => tokens_command::run(command, &config.auth, &mut out),
            Command::Client(_) | Command::Certs(_) => unreachable!("needs no configuration, and was done before"),
        };
        return done.unwrap_or_else(|error| unprinted(&error));
    }
    let exposed = match exposure::check(&config, args.insecure) {
        Ok(exposed) => exposed,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let code = runtime.block_on(async {
        let telemetry = match telemetry::init(PROGRAM, &config.telemetry) {
            Ok(telemetry) => telemetry,
            Err(error) => return fail(EXIT_CONFIG, &error),
        };
        exposed.iter().for_each(Exposed::warn);
        let code = run(config, args.check).await;
        // Blocks until the last spans are sent, within its own deadline.
        let _ = tokio::task::spawn_blocking(move || telemetry.shutdown()).await;
        code
    });
    // A worker that hangs holds a thread.
    runtime.shutdown_timeout(LEAVE_THREADS_AFTER);
    code
}

async fn run(config: Config, check: bool) -> ExitCode {
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
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(1, &error),
    };
    let listeners = match Listeners::bind(&config).await {
        Ok(listeners) => listeners,
        Err(error) => return fail(1, &error),
    };
    let shutdown = CancellationToken::new();
    // Ends with the runtime: a second signal counts to the last moment.
    tokio::spawn(signals.stop(shutdown.clone()));
    let server = match Server::start(loaded, listeners, shutdown).await {
        Ok(server) => server,
        Err(error) => return fail(1, &error),
    };
    let scheme = if config.tls.files().is_some() { "https" } else { "http" };
    let page = config.listen.page.map(|address| format!("{scheme}://{address}"));
    tracing::info!(grpc = %config.listen.grpc, admin = %config.listen.admin, page, "serving");
    let totals = server.join().await;
    if totals.balance() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The answer of a command could not be printed.
fn unprinted(error: &std::io::Error) -> ExitCode {
    // Whoever read it has seen enough; a verdict that nobody read is no success.
    if error.kind() == ErrorKind::BrokenPipe { ExitCode::FAILURE } else { fail(1, error) }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    cli::fail(PROGRAM, code, error)
}
