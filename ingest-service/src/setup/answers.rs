//! The three questions. An answer that cannot work is told why, and asked for
//! again; arguments are answers given beforehand.

use std::fs;
use std::io::{self, BufRead, Write};
use std::path::Path;

use flatframe_shared::frame::CameraId;

use crate::setup::SetupArgs;
use crate::source::spec::{self, SourceSpec};

/// Port of an inference-service that is named without one.
const DEFAULT_PORT: u16 = 50051;
/// Longest line read, bytes.
const MAX_LINE_BYTES: u64 = 4096;

/// What a camera box needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answers {
    /// `http://HOST:PORT`, or with `https`.
    pub(super) server: String,
    /// With `https`: authority, certificate and key, as `ca`, `cert` and `key`
    /// in the configuration; those that are not empty are set.
    pub(super) tls: [String; 3],
    /// As `source` in the configuration.
    pub(super) source: String,
    /// Stable id of the camera.
    pub(super) id: String,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// What was given cannot work.
    #[error("{flag} {given}: {why}")]
    Wrong {
        /// The argument.
        flag: &'static str,
        /// Its value.
        given: String,
        /// What is wrong, and what is allowed.
        why: String,
    },
    /// The input ended.
    #[error("no answer was given to \"{question}\": answer it, or give {flag}")]
    Ended {
        /// What was asked.
        question: &'static str,
        /// What answers it, too.
        flag: &'static str,
    },
    /// The terminal is gone.
    #[error("the terminal is gone: {0}")]
    Terminal(#[from] io::Error),
}

struct Question<'a> {
    flag: &'static str,
    text: &'static str,
    given: Option<&'a str>,
    /// Taken for an empty answer.
    default: Option<String>,
    check: fn(&str) -> Result<String, String>,
}

impl Answers {
    pub(super) fn ask(args: &SetupArgs, input: &mut dyn BufRead, output: &mut dyn Write) -> Result<Self, NoAnswer> {
        let server = Question {
            flag: "--server",
            text: "Where is the inference-service (name or address)?",
            given: args.server.as_deref(),
            default: None,
            check: server,
        };
        let source = Question {
            flag: "--source",
            text: "Which camera?",
            given: args.source.as_deref(),
            default: Some(first_camera(Path::new("/"), std::env::var_os("PATH").as_deref())),
            check: source,
        };
        let id = Question {
            flag: "--id",
            text: "What is this camera to be called?",
            given: args.id.as_deref(),
            default: fs::read_to_string("/proc/sys/kernel/hostname").ok().and_then(|name| id(name.trim()).ok()),
            check: id,
        };
        let tls = [&args.ca, &args.cert, &args.key].map(|path| path.as_deref().map_or(String::new(), absolute));
        let mut server = server.ask(input, output)?;
        if args.ca.is_some() {
            server = server.replacen("http://", "https://", 1);
        }
        Ok(Self { server, tls, source: source.ask(input, output)?, id: id.ask(input, output)? })
    }
}

impl Question<'_> {
    fn ask(self, input: &mut dyn BufRead, output: &mut dyn Write) -> Result<String, NoAnswer> {
        if let Some(given) = self.given {
            let shown = || spec::redacted(given);
            return (self.check)(given).map_err(|why| NoAnswer::Wrong { flag: self.flag, given: shown(), why });
        }
        loop {
            match &self.default {
                Some(default) => write!(output, "{} [{default}] ", self.text)?,
                None => write!(output, "{} ", self.text)?,
            }
            output.flush()?;
            let mut line = String::new();
            let read = io::Read::take(&mut *input, MAX_LINE_BYTES).read_line(&mut line)?;
            if read == 0 {
                return Err(NoAnswer::Ended { question: self.text, flag: self.flag });
            }
            let answer = match (line.trim(), &self.default) {
                ("", Some(default)) => default.as_str(),
                (answer, _) => answer,
            };
            match (self.check)(answer) {
                Ok(answer) => return Ok(answer),
                Err(why) => writeln!(output, "  {why}")?,
            }
        }
    }
}

/// A service does not start where its files were named.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn server(text: &str) -> Result<String, String> {
    let wrong = || "use a name or an address, such as server.lan or 10.0.0.5:50051".to_owned();
    let (scheme, rest) = match text.strip_prefix("https://") {
        Some(rest) => ("https", rest),
        None => ("http", text.strip_prefix("http://").unwrap_or(text)),
    };
    let authority = rest.trim_end_matches('/');
    let authority: http::uri::Authority = authority.parse().map_err(|_| wrong())?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(wrong());
    }
    match authority.port_u16() {
        Some(_) => Ok(format!("{scheme}://{authority}")),
        // A port that cannot be read, or one that is missing.
        None if authority.as_str() != authority.host() => Err(wrong()),
        None => Ok(format!("{scheme}://{authority}:{DEFAULT_PORT}")),
    }
}

fn source(text: &str) -> Result<String, String> {
    SourceSpec::parse(text).map(|_| text.to_owned())
}

fn id(text: &str) -> Result<String, String> {
    CameraId::parse(text).map(|id| id.to_string()).map_err(|error| error.to_string())
}

/// The camera that is most likely meant: a Raspberry Pi's own where its
/// software is, else the first of USB, else the test card.
fn first_camera(root: &Path, path: Option<&std::ffi::OsStr>) -> String {
    let is_installed = |program: &str| {
        path.is_some_and(|path| std::env::split_paths(path).any(|folder| folder.join(program).is_file()))
    };
    if is_installed("rpicam-vid") {
        return "rpicam".into();
    }
    let names = fs::read_dir(root.join("dev/v4l/by-id")).into_iter().flatten().flatten();
    let first = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with("-index0"))
        .min();
    match first {
        Some(name) => format!("v4l2:/dev/v4l/by-id/{name}"),
        None if root.join("dev/video0").exists() => "v4l2:/dev/video0".into(),
        None => "pattern".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(args: &SetupArgs, input: &str) -> (Result<Answers, NoAnswer>, String) {
        let mut output = Vec::new();
        let answers = Answers::ask(args, &mut input.as_bytes(), &mut output);
        (answers, String::from_utf8_lossy(&output).into_owned())
    }

    fn args(server: &str, source: &str, id: &str) -> SetupArgs {
        SetupArgs {
            server: Some(server.into()),
            source: Some(source.into()),
            id: Some(id.into()),
            ..SetupArgs::default()
        }
    }

    #[test]
    fn a_wrong_answer_is_told_why_and_asked_again() {
        let (answers, shown) =
            asked(&SetupArgs::default(), "\nhttp://a b\nserver.lan\nphoto\npattern\nfront door\nfront-door\n");
        let expected = Answers {
            server: "http://server.lan:50051".into(),
            tls: Default::default(),
            source: "pattern".into(),
            id: "front-door".into(),
        };
        assert_eq!(answers.expect("answered"), expected);
        assert_eq!(shown.matches("Where is the inference-service").count(), 3, "{shown}");
        for words in ["such as server.lan", "use pattern", "a-z"] {
            assert!(shown.contains(words), "{words:?} missing in: {shown}");
        }
    }

    #[test]
    fn arguments_are_answers_and_an_end_names_them() {
        let (answers, shown) = asked(&args("10.0.0.5:7000", "pattern", "a"), "");
        assert_eq!(answers.expect("all given").server, "http://10.0.0.5:7000");
        assert_eq!(shown, "");
        let tls = SetupArgs { ca: Some("/c/ca.pem".into()), ..args("server.lan", "pattern", "a") };
        let answers = asked(&tls, "").0.expect("all given");
        assert_eq!((answers.server.as_str(), &answers.tls[0][..]), ("https://server.lan:50051", "/c/ca.pem"));
        let (answers, _) = asked(&SetupArgs { server: None, ..args("", "pattern", "a") }, "");
        assert!(answers.expect_err("the input ended").to_string().contains("give --server"));
        let (answers, _) = asked(&args("s", "mjpeg+http://u:secret@cam:x/", "a"), "");
        let error = answers.expect_err("no port").to_string();
        assert!(error.contains("--source") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn servers() {
        for (text, address) in [
            ("server", "http://server:50051"),
            ("http://server:1/", "http://server:1"),
            ("[::1]", "http://[::1]:50051"),
            ("[::1]:9", "http://[::1]:9"),
            ("https://server", "https://server:50051"),
        ] {
            assert_eq!(server(text).as_deref(), Ok(address), "{text}");
        }
        for text in ["", ":50051", "ftp://server", "server:port", "server:", "server:99999", "u:p@server"] {
            assert!(server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_likely_camera_is_offered() {
        let root = tempfile::tempdir().expect("a folder");
        let file = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
            fs::write(path, "").expect("written");
        };
        let programs = root.path().join("bin");
        let offered = || first_camera(root.path(), Some(programs.as_os_str()));
        assert_eq!(offered(), "pattern");
        file("dev/video0");
        assert_eq!(offered(), "v4l2:/dev/video0");
        file("dev/v4l/by-id/usb-Maker_Cam-video-index1");
        file("dev/v4l/by-id/usb-Maker_Cam-video-index0");
        assert_eq!(offered(), "v4l2:/dev/v4l/by-id/usb-Maker_Cam-video-index0");
        file("bin/rpicam-vid");
        assert_eq!(offered(), "rpicam");
    }
}
