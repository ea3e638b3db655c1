//! `inference-service tokens add | list | remove`: the tokens of clients. A
//! token is printed once, when it is made, and kept nowhere.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;
use flatframe_shared::renewal::NamedFile;

use crate::access::config::AuthConfig;
use crate::access::rules::Role;
use crate::access::tokens::TokenFile;
use crate::history::lock::{Lock, LockError};
use crate::table::write_table;

/// Another command that changes the file is waited for so long.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether it has ended.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What to do with the tokens.
#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// Make a token and print it, this once.
    Add {
        /// Whose it is.
        name: String,
        /// What it allows; each includes those before it.
        #[arg(long, value_enum)]
        role: Role,
        /// When it stops being good, such as 90days; never if left out.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
        /// In which file.
        #[command(flatten)]
        place: Place,
    },
    /// Print all tokens' names, roles and ends.
    List {
        /// In which file.
        #[command(flatten)]
        place: Place,
    },
    /// Remove a token. A running service closes its connections within a second.
    Remove {
        /// Whose it is.
        name: String,
        /// In which file.
        #[command(flatten)]
        place: Place,
    },
}

/// Which file.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The file of tokens; auth.tokens of the configuration, if left out.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Does what was asked; the answer goes to `out`, complaints to stderr.
///
/// # Errors
/// When `out` cannot be written; everything else is in the exit code.
pub fn run(command: &TokensCommand, config: &AuthConfig, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    match answer(command, config, out) {
        Ok(done) => done.map(|()| ExitCode::SUCCESS),
        Err(why) => {
            eprintln!("inference-service: {why}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn answer(command: &TokensCommand, config: &AuthConfig, out: &mut dyn Write) -> Result<std::io::Result<()>, String> {
    let (TokensCommand::Add { place, .. } | TokensCommand::List { place } | TokensCommand::Remove { place, .. }) =
        command;
    let named = match &place.file {
        Some(path) => NamedFile::new("--file", path),
        None if config.is_on() => NamedFile::new("auth.tokens", &config.tokens),
        None => return Err("which file? Set auth.tokens and give --config, or give --file FILE".to_owned()),
    };
    let read = || TokenFile::read(&named).map_err(|error| error.to_string());
    let write = |file: &TokenFile| file.write(&named.path).map_err(|error| named.wrong(error.to_string()).to_string());
    match command {
        TokensCommand::Add { name, role, expires, .. } => {
            let _lock = lock(&named, LOCK_PATIENCE)?;
            let mut file = if named.path.exists() { read()? } else { TokenFile::default() };
            let secret = file.add(name, *role, *expires)?;
            write(&file)?;
            Ok(writeln!(out, "{}", secret.reveal()))
        }
        TokensCommand::List { .. } => {
            let file = read()?;
            let mut rows = vec![["NAME", "ROLE", "EXPIRES"].map(String::from)];
            rows.extend(file.token.iter().map(|token| {
                let expires = token.expires.clone().unwrap_or_else(|| "never".to_owned());
                [token.name.clone(), token.role.as_str().to_owned(), expires]
            }));
            Ok(write_table(&rows, out))
        }
        TokensCommand::Remove { name, .. } => {
            let _lock = lock(&named, LOCK_PATIENCE)?;
            let mut file = read()?;
            let before = file.token.len();
            file.token.retain(|token| token.name != *name);
            if file.token.len() == before {
                return Err(format!("there is no token {name:?} in {}", named.path.display()));
            }
            write(&file)?;
            Ok(writeln!(out, "removed {name}"))
        }
    }
}

/// Keeps other commands from changing the file between our reading and our
/// writing: what they did would be lost, such as the removal of a token.
fn lock(named: &NamedFile, patience: Duration) -> Result<Lock, String> {
    let deadline = Instant::now() + patience;
    loop {
        let why = match Lock::take(&named.path) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Held(_)) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_PAUSE);
                continue;
            }
            Err(LockError::Held(who)) => format!("{who} changes it just now: try again when that has ended"),
            Err(LockError::Disk(error)) => format!("its lock, the same name with .lock, cannot be written ({error})"),
        };
        return Err(named.wrong(why).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(name: &str, file: PathBuf) -> TokensCommand {
        TokensCommand::Add { name: name.to_owned(), role: Role::Read, expires: None, place: Place { file: Some(file) } }
    }

    #[test]
    fn commands_at_the_same_time_lose_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let named = NamedFile::new("--file", folder.path().join("tokens.toml"));
        std::thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let command = add(name, named.path.clone());
                scope.spawn(move || {
                    let try_it = |_| answer(&command, &AuthConfig::default(), &mut std::io::sink());
                    let was_in_vain = |why: &String| why.contains("try again when that has ended");
                    // Beside a disk that stands still: as they are told.
                    let done = (0..12).map(try_it).find(|done| !done.as_ref().is_err_and(was_in_vain));
                    done.expect("there is an end to it").expect("added").expect("printed");
                });
            }
        });
        assert_eq!(TokenFile::read(&named).expect("read").token.len(), 4);
    }

    #[test]
    fn a_command_that_does_not_end_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let named = NamedFile::new("--file", folder.path().join("tokens.toml"));
        let held = lock(&named, Duration::ZERO).expect("free");
        let why = lock(&named, Duration::ZERO).expect_err("is held");
        assert!(why.contains("tokens.toml") && why.contains(&format!("process {}", std::process::id())), "{why}");
        drop(held);
        lock(&named, Duration::ZERO).expect("free again");
    }
}
