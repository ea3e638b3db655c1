//! `inference-service models ...`: which models there are, what their manifests
//! say, whether those that are present can be trusted, and how to get more.
//!
//! Prints; starts no service. What an operator sees of the configuration is
//! `vision.models_dir`, `vision.detector` and `vision.gender`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Subcommand;

use crate::models_fetch::{self, Client, Fetched, WaitLimits};
use crate::table::write_table;
use crate::vision::models::manifest::{
    CropSpec, DetectorManifest, DetectorOutput, GenderManifest, GenderOutput, InputSpec, Manifest,
};
use crate::vision::models::{self, Listed};
use crate::vision::{Analyzer, ModelError, VisionConfig};

/// Exit code after Ctrl-C: 128 and the signal's number.
const EXIT_INTERRUPTED: u8 = 130;

/// What to do with models.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List all models: what they are for, whether they are here, and which
    /// ones the configuration uses.
    List,
    /// Show all that the manifest of one model says.
    Show {
        /// Name of the manifest.
        name: String,
    },
    /// Check the hash of every present model and run the self-test of the
    /// start on it; exit code 1 when one is bad.
    Verify,
    /// Download a third-party model into vision.models_dir, and check its hash
    /// before it can be used. Goes on where an interrupted download stopped.
    Fetch {
        /// Name of the manifest.
        name: String,
    },
}

/// Does what was asked; the answer goes to `out`, complaints to stderr.
///
/// # Errors
/// When `out` cannot be written; everything else is in the exit code.
pub fn run(command: &ModelsCommand, config: &VisionConfig, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    match command {
        ModelsCommand::List => list(config, out),
        ModelsCommand::Show { name } => show(name, config, out),
        ModelsCommand::Verify => verify(config, out),
        ModelsCommand::Fetch { name } => fetch(name, config, out),
    }
}

fn refuse(error: &dyn std::fmt::Display) -> std::io::Result<ExitCode> {
    eprintln!("inference-service: {error}");
    Ok(ExitCode::FAILURE)
}

fn list(config: &VisionConfig, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let mut rows = vec![["NAME", "KIND", "WEIGHTS", "LICENCE", "BYTES", "IN USE"].map(String::from)];
    let mut bad = Vec::new();
    for name in models::known_names(&config.models_dir) {
        let in_use = if is_in_use(&name, config) { "yes" } else { "" };
        match models::list(&name, &config.models_dir) {
            Ok(listed) => {
                let bytes = listed.present_bytes().or(listed.manifest.weights().bytes);
                let bytes = bytes.map_or_else(|| "?".into(), |bytes| bytes.to_string());
                let licence = listed.manifest.weights().licence.clone();
                let state = weights_state(&listed).into();
                rows.push([name, kind(&listed.manifest).into(), state, licence, bytes, in_use.into()]);
            }
            Err(error) => {
                rows.push([name, "?".into(), "bad manifest".into(), "?".into(), "?".into(), in_use.into()]);
                bad.push(error);
            }
        }
    }
    write_table(&rows, out)?;
    for error in bad {
        eprintln!("inference-service: {error}");
    }
    Ok(ExitCode::SUCCESS)
}

fn is_in_use(name: &str, config: &VisionConfig) -> bool {
    name == config.detector || name == config.gender
}

const fn kind(manifest: &Manifest) -> &'static str {
    match manifest {
        Manifest::Detector(_) => "detector",
        Manifest::Gender(_) => "gender",
    }
}

fn weights_state(listed: &Listed) -> &'static str {
    match (&listed.weights_file, listed.present_bytes()) {
        (None, _) => "embedded",
        (Some(_), Some(_)) => "present",
        (Some(_), None) => "absent",
    }
}

fn show(name: &str, config: &VisionConfig, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let listed = match models::list(name, &config.models_dir) {
        Ok(listed) => listed,
        Err(error) => return refuse(&error),
    };
    let weights = listed.manifest.weights();
    let place = |file: &Option<std::path::PathBuf>| match file {
        Some(path) => path.display().to_string(),
        None => "embedded".into(),
    };
    let mut rows = vec![
        ["name".into(), name.to_owned()],
        ["kind".into(), kind(&listed.manifest).to_owned()],
        ["in use".into(), if is_in_use(name, config) { "yes" } else { "no" }.into()],
        ["manifest".into(), place(&listed.manifest_file)],
        ["weights".into(), weights_state(&listed).into()],
        ["weights file".into(), place(&listed.weights_file)],
        ["bytes".into(), listed.present_bytes().or(weights.bytes).map_or("not stated".into(), |b| b.to_string())],
        ["sha256".into(), weights.sha256.clone()],
        ["licence".into(), weights.licence.clone()],
        ["source".into(), weights.source.clone()],
        ["download".into(), weights.url.clone().unwrap_or_else(|| "none".into())],
    ];
    if !weights.note.is_empty() {
        rows.push(["note".into(), weights.note.clone()]);
    }
    let details = match &listed.manifest {
        Manifest::Detector(detector) => describe_detector(detector),
        Manifest::Gender(gender) => describe_gender(gender),
    };
    rows.extend(details.into_iter().map(|(key, value)| [key.into(), value]));
    write_table(&rows, out)?;
    Ok(ExitCode::SUCCESS)
}

type Lines = Vec<(&'static str, String)>;

fn describe_detector(detector: &DetectorManifest) -> Lines {
    let output = match &detector.output {
        DetectorOutput::Yunet { strides, cls, obj, bbox, kps } => {
            format!("yunet, strides {strides:?} px, outputs {cls}N, {obj}N, {bbox}N, {kps}N; with landmarks")
        }
        DetectorOutput::Flatface { strides, head } => {
            format!("flatface, strides {strides:?} px, outputs {head}N; with landmarks")
        }
        DetectorOutput::Ultraface { scores, boxes } => {
            format!("ultraface, outputs {scores}, {boxes}; without landmarks")
        }
    };
    let mut lines = describe_input(&detector.input);
    lines.push(("output", output));
    lines.push(("score", format!("a face from {} on", detector.thresholds.score)));
    lines.push((
        "overlap",
        format!("of two that overlap by more than {}, the better stays", detector.thresholds.nms_iou),
    ));
    lines
}

fn describe_gender(gender: &GenderManifest) -> Lines {
    let crop = match &gender.crop {
        CropSpec::Aligned { targets } => {
            format!("turned and scaled so that eyes, nose and mouth corners lie at {targets:?} px")
        }
        CropSpec::Box { scale } => format!("an upright square, {scale} times the longer side of the face's box"),
    };
    let output = match &gender.output {
        GenderOutput::GenderSoftmax { name, values, classes: [first, second] } => {
            format!("{name}: two values ({values:?}): {first:?}, {second:?}").to_lowercase()
        }
        GenderOutput::GenderLogit { name, positive } => format!("{name}: logit of {positive:?}").to_lowercase(),
    };
    let mut lines = describe_input(&gender.input);
    lines.push(("crop", crop));
    lines.push(("output", output));
    lines.push(("probability", format!("unknown below {}", gender.thresholds.probability)));
    lines
}

fn describe_input(input: &InputSpec) -> Lines {
    let used: Vec<String> = input.default_sizes().map(|size| size.to_string()).collect();
    let used = used.join(" and ");
    let sizes = match input.range {
        None => format!("{used} px, no other"),
        Some(range) => format!(
            "{used} px, or sides of {} to {} px that are multiples of {}",
            range.min_px, range.max_px, range.multiple_px
        ),
    };
    let colour = format!("{:?}", input.colour).to_lowercase();
    vec![("input", sizes), ("values", format!("{colour}, (channel - {:?}) x {}", input.mean, input.scale))]
}

fn verify(config: &VisionConfig, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let mut rows = Vec::new();
    let mut good = true;
    for name in models::known_names(&config.models_dir) {
        let verdict = match models::list(&name, &config.models_dir) {
            Ok(listed) if listed.present_bytes().is_some() => self_test(&listed, config).map(|()| "good".to_owned()),
            Ok(listed) if is_in_use(&name, config) => listed.read_weights().map(|_| "good".to_owned()),
            Ok(_) => Ok("absent".to_owned()),
            Err(error) => Err(error),
        };
        good &= verdict.is_ok();
        rows.push([name, verdict.unwrap_or_else(|error| format!("BAD: {error}"))]);
    }
    write_table(&rows, out)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As at the start of the service, hash included, at the model's own size; a
/// gender classifier behind the default detector.
fn self_test(listed: &Listed, config: &VisionConfig) -> Result<(), ModelError> {
    let alone = VisionConfig { models_dir: config.models_dir.clone(), ..VisionConfig::default() };
    let tested = match listed.manifest {
        Manifest::Detector(_) => VisionConfig { detector: listed.name.clone(), gender: String::new(), ..alone },
        Manifest::Gender(_) => VisionConfig { gender: listed.name.clone(), ..alone },
    };
    Analyzer::load(&tested).map(|_| ())
}

fn fetch(name: &str, config: &VisionConfig, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let listed = match models::list(name, &config.models_dir) {
        Ok(listed) => listed,
        Err(error) => return refuse(&error),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let fetched = runtime.block_on(async {
        let mut progress = Progress::new(std::io::stderr().is_terminal());
        let client = Client::new(WaitLimits::default());
        let mut on_progress = |bytes, of| progress.show(bytes, of);
        let fetched = tokio::select! {
            fetched = models_fetch::fetch(&listed, &client, &mut on_progress) => Some(fetched),
            _ = tokio::signal::ctrl_c() => None,
        };
        progress.end();
        fetched
    });
    // A name service that does not answer must not hold us up.
    runtime.shutdown_background();
    match fetched {
        Some(Ok(Fetched::Embedded)) => writeln!(out, "{name} is embedded: there is nothing to fetch")?,
        Some(Ok(Fetched::AlreadyThere(path))) => writeln!(out, "{name} is already at {}, sha256 good", path.display())?,
        Some(Ok(Fetched::Downloaded { path, bytes })) => {
            writeln!(out, "{name} is now at {}: {bytes} bytes, sha256 good", path.display())?;
        }
        Some(Err(error)) => return refuse(&format!("{name} was not fetched: {error}")),
        None => {
            eprintln!("inference-service: interrupted; run the same command again to go on where it stopped");
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One line that is written over and over, on a terminal only.
struct Progress {
    on: bool,
    /// In steps: percent, or 64 KiB where the end is not known.
    shown: Option<u64>,
}

impl Progress {
    const fn new(on: bool) -> Self {
        Self { on, shown: None }
    }

    fn show(&mut self, bytes: u64, of: Option<u64>) {
        let step = of.map_or(bytes >> 16, |of| bytes.saturating_mul(100) / of.max(1));
        if !self.on || self.shown == Some(step) {
            return;
        }
        self.shown = Some(step);
        match of {
            Some(of) => eprint!("\r{bytes} of {of} bytes, {step} %"),
            None => eprint!("\r{bytes} bytes"),
        }
    }

    fn end(&self) {
        if self.shown.is_some() {
            eprintln!();
        }
    }
}
