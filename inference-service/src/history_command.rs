//! `inference-service history ...`: whether the history on disk is whole, and
//! how to get out of a damaged one what can be read. Only while no service has
//! it open.
//!
//! Prints; starts no service. What an operator sees of the configuration is
//! `history.file`.

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

use crate::config::HistoryConfig;
use crate::history::repair;

/// What to do with the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum HistoryCommand {
    /// Read all of it; exit code 1 when it is damaged. Changes nothing.
    Check,
    /// Copy all readable rows of a damaged one into a new file that takes its
    /// place; the damaged one is kept beside it.
    Repair,
}

/// Does what was asked; the answer goes to `out`, complaints to stderr.
///
/// # Errors
/// When `out` cannot be written; everything else is in the exit code.
pub fn run(command: HistoryCommand, config: &HistoryConfig, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let Some(settings) = config.settings() else {
        return refuse(&"no history is kept: history.file is empty; give --config FILE or --set history.file=FILE");
    };
    let file = settings.file;
    match command {
        HistoryCommand::Check => match repair::check(&file) {
            Ok(checked) => {
                for (table, rows) in checked.rows {
                    let rows = rows.map_or("cannot be read".to_owned(), |rows| format!("{rows} rows"));
                    writeln!(out, "{table:<16} {rows}")?;
                }
                if checked.findings.is_empty() {
                    writeln!(out, "{} is whole", file.display())?;
                    return Ok(ExitCode::SUCCESS);
                }
                for finding in checked.findings {
                    writeln!(out, "damaged: {finding}")?;
                }
                writeln!(out, "`inference-service history repair` saves what can be read")?;
                Ok(ExitCode::FAILURE)
            }
            Err(error) => refuse(&error),
        },
        HistoryCommand::Repair => match repair::repair(&file) {
            Ok(repaired) => {
                writeln!(out, "{repaired}")?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => refuse(&error),
        },
    }
}

fn refuse(error: &dyn std::fmt::Display) -> std::io::Result<ExitCode> {
    eprintln!("inference-service: {error}");
    Ok(ExitCode::FAILURE)
}
