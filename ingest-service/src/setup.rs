//! `ingest-service setup`: three questions, a configuration with comments, and
//! a trial of it with real frames. For people: a service never runs this.
//! Never writes over a file that is there.

mod answers;
mod template;

use std::fs;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flatframe_shared::outcome::Outcome;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::board::Machine;
use crate::config::Config;
use crate::ingest::Ingest;
use crate::setup::answers::{Answers, NoAnswer};

/// Where the packaged unit looks for the configuration.
pub const DEFAULT_FILE: &str = "/etc/flatframe/ingest-service.toml";
/// The packaged unit.
const UNIT: &str = "flatframe-ingest.service";
/// systemd runs this machine when it is there.
const SYSTEMD: &str = "/run/systemd/system";
/// A camera must give a picture, and the server its answer, within this.
const TRIAL: Duration = Duration::from_secs(10);
/// Between two looks at a trial.
const LOOK: Duration = Duration::from_millis(50);

/// What may be given instead of answered.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SetupArgs {
    /// Where the inference-service is: HOST, HOST:PORT, http://HOST:PORT or
    /// https://HOST:PORT. With --ca, https is meant.
    #[arg(long, value_name = "ADDRESS")]
    pub server: Option<String>,
    /// Where the pictures come from, as `source` in the configuration.
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// Stable id of the camera, such as front-door.
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// The authority of the server's certificate (PEM), where it speaks TLS.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// This box's certificate (PEM), with --key.
    #[arg(long, value_name = "FILE", requires = "ca", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Write the file although there is one; the old one is kept beside it, as
    /// FILE.old.
    #[arg(long)]
    pub replace: bool,
}

/// Why there is no working camera at the end.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A question has no answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// There is a configuration.
    #[error(
        "{0} is there already: edit it and run `systemctl restart {UNIT}`, or give --replace (the old one is kept as {0}.old)"
    )]
    Exists(String),
    /// The file cannot be written.
    #[error("{path} cannot be written: {reason}{}", if reason.kind() == io::ErrorKind::PermissionDenied { "; run it with sudo" } else { "" })]
    Unwritable {
        /// The file.
        path: String,
        /// What the system says.
        reason: io::Error,
    },
    /// Nothing can be said any more.
    #[error("the terminal is gone: {0}")]
    Terminal(#[from] io::Error),
    /// The configuration was written, but does not work yet.
    #[error("{0}")]
    Trial(String),
}

/// Asks on `input` and `output` what `args` leave open, writes `file`, tries it,
/// and has systemd start the packaged service where it runs.
///
/// # Errors
/// [`SetupError`], for a person.
pub async fn run(
    args: &SetupArgs,
    file: Option<&Path>,
    machine: &Machine,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), SetupError> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let shown = path.display().to_string();
    if path.exists() && !args.replace {
        return Err(SetupError::Exists(shown));
    }
    let answers = Answers::ask(args, input, output)?;
    let text = template::filled(&answers);
    write(path, &text).map_err(|reason| SetupError::Unwritable { path: shown.clone(), reason })?;
    writeln!(output, "\n{shown} is written.")?;

    let config = Config::load(Some(path), &[], machine).map_err(|error| SetupError::Trial(error.to_string()))?;
    writeln!(output, "Trying it, for at most {} s ...", TRIAL.as_secs())?;
    let tried = try_out(config).await;
    match &tried {
        Ok(found) => writeln!(output, "It works: {found}.")?,
        Err(why) => writeln!(output, "It does not work yet: {why}")?,
    }
    // Also when the trial failed: the service tries for ever, and what is
    // missing may come.
    if file.is_none() && Path::new(SYSTEMD).exists() {
        writeln!(output, "{}", restart_unit())?;
    }
    tried.map(|_| ()).map_err(|why| SetupError::Trial(format!("{why} (the configuration stays in {shown})")))
}

/// Writes a new file beside `path`, keeps the old one, and renames.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let fresh = beside(".new");
    // A source may hold a password.
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    if path.exists() {
        fs::rename(path, beside(".old"))?;
    }
    fs::rename(&fresh, path)
}

/// Runs the service as configured until the server has analysed a frame.
async fn try_out(mut config: Config) -> Result<String, String> {
    // A service that runs already holds these.
    config.admin.listen.clear();
    config.admin.grpc_listen.clear();
    let server = config.server.address.clone();
    let stop = CancellationToken::new();
    let started = Instant::now();
    let ingest = Ingest::start(config, stop.clone()).await.map_err(|error| error.to_string())?;
    let analyzed = |ingest: &Ingest| ingest.totals().answered(Outcome::Analyzed);
    while analyzed(&ingest) == 0 && started.elapsed() < TRIAL {
        sleep(LOOK).await;
    }
    let (frames, why) = (analyzed(&ingest), ingest.sources().ready());
    stop.cancel();
    let totals = ingest.join().await;
    if frames > 0 {
        return Ok(format!(
            "the camera gives pictures, and {server} answered the first after {:.1} s",
            started.elapsed().as_secs_f64()
        ));
    }
    why.map_err(|why| match totals.captured {
        0 => format!("the camera gives no picture ({why})"),
        _ => format!("the camera gives pictures, but {server} does not take them ({why}): is inference-service running there, and does it listen on more than 127.0.0.1?"),
    })?;
    Err(format!("{server} takes frames but answered none within {} s: look at its log", TRIAL.as_secs()))
}

/// Has systemd start the service anew; says what came of it.
fn restart_unit() -> String {
    let status = Command::new("systemctl")
        .args(["--no-ask-password", "--no-block", "restart", UNIT])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => {
            format!("{UNIT} is started, now and at every boot. Its log: journalctl -fu {UNIT}")
        }
        _ => format!("Now start it: sudo systemctl restart {UNIT}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_file_is_kept_and_the_new_one_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("etc/ingest.toml");
        write(&path, "first").expect("written");
        write(&path, "second").expect("written");
        let read = |name: &str| fs::read_to_string(folder.path().join("etc").join(name)).expect("there");
        assert_eq!((read("ingest.toml"), read("ingest.toml.old")), ("second".into(), "first".into()));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(!folder.path().join("etc/ingest.toml.new").exists());
    }
}
