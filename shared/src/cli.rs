//! What the command lines of both services have in common. Parses; does
//! nothing.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code when the configuration cannot be used (sysexits.h, EX_CONFIG).
pub const EXIT_CONFIG: u8 = 78;

/// Where the configuration comes from, and what is to be done with it.
#[derive(Debug, clap::Args)]
pub struct ServiceArgs {
    /// Configuration file (TOML); config.example.toml is the reference.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one key, such as --set telemetry.log=debug; may be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// Validate the configuration and all that it names, print the memory
    /// budget, and exit.
    #[arg(long)]
    pub check: bool,
    /// Listen on other addresses than this machine's own without TLS and
    /// authentication: whoever reaches them may do anything.
    #[arg(long)]
    pub insecure: bool,
    /// Print the configuration in force, without passwords, and exit.
    #[arg(long)]
    pub print_config: bool,
}

/// Splits `KEY=VALUE`, for clap.
///
/// # Errors
/// When there is no `=` or no key.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("use KEY=VALUE".to_owned()),
    }
}

/// Says on stderr why `program` ends, and gives its exit code.
pub fn fail(program: &str, code: u8, error: &dyn Display) -> ExitCode {
    // A full or closed stderr changes nothing about the code.
    let _ = writeln!(std::io::stderr(), "{program}: {error}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values() {
        assert_eq!(key_value("a.b=c=d"), Ok(("a.b".to_owned(), "c=d".to_owned())));
        assert_eq!(key_value("a="), Ok(("a".to_owned(), String::new())));
        assert!(key_value("a").is_err() && key_value("=a").is_err());
    }
}
