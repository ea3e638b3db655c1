//! `ingest-service cameras`: what is attached to this machine, as a
//! configuration to start from: all that is not TOML stands in comments.
//! Captures nothing and reads no configuration.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::config::{CameraConfig, LimitsConfig};
use crate::plan::CameraPlan;
use crate::source::rpicam::list::{self, PiCamera};
use crate::source::v4l2::attached::{Attached, Found, attached};
use crate::source::v4l2::mode::{Intervals, Sizes, choose_size, rate};

const NONE: &str = "no camera that can be read is attached to this machine.
  A USB camera: plug it in; it shows as /dev/video0. In a container, pass the device on.
  A Raspberry Pi camera: switch off, check the ribbon cable; install rpicam-apps-lite.
  A network camera: source = \"rtsp://...\" or \"mjpeg+http://...\"; try it with `ingest-service probe SOURCE`.
  Without a camera: source = \"pattern\".";

/// Lists what is attached; the answer goes to `out`, complaints to stderr.
///
/// # Errors
/// When `out` cannot be written; everything else is in the exit code.
pub fn run(out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pi = runtime.block_on(list::pi_cameras());
    let (text, cameras) = configuration(&attached(Path::new("/dev")), &pi);
    out.write_all(text.as_bytes())?;
    if cameras == 0 {
        eprintln!("ingest-service: {NONE}");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration, and how many cameras it has.
fn configuration(video: &[Attached], pi: &Result<Vec<PiCamera>, String>) -> (String, usize) {
    let mut tables = Vec::new();
    let mut text = String::from(
        "# The cameras of this machine, as a configuration to start from. Every key is\n\
         # explained in config.example.toml; what a camera gives shows\n\
         #   ingest-service probe SOURCE\n\n[server]\naddress = \"http://127.0.0.1:50051\"\n",
    );
    for device in video {
        let Attached { path, stable, found } = device;
        match found {
            Ok(found) => {
                let about = format!("{} ({}, {})", found.identity.card, found.identity.driver, found.identity.bus);
                comment(&mut text, "\n# ", &format!("{}: {about}", path.display()));
                let path = stable.as_ref().unwrap_or(path).display().to_string();
                let table = offered(&mut text, found).then(|| (found.identity.card.as_str(), format!("v4l2:{path}")));
                table_of(&mut text, &mut tables, table);
            }
            Err(why) => comment(&mut text, "\n# ", why),
        }
    }
    match pi {
        Ok(cameras) => {
            for camera in cameras {
                comment(&mut text, "\n# ", &format!("Raspberry Pi camera {}: {}", camera.number, camera.about));
                let source = if camera.number == 0 { "rpicam".into() } else { format!("rpicam:{}", camera.number) };
                table_of(&mut text, &mut tables, Some((&camera.sensor, source)));
            }
        }
        Err(why) => comment(&mut text, "\n# ", &format!("Raspberry Pi cameras: {why}")),
    }
    (text, tables.len())
}

/// Writes what a device offers; whether any of it can be read.
fn offered(text: &mut String, found: &Found) -> bool {
    for offer in &found.offers {
        let known = if offer.format.coding().is_some() { "" } else { " (not read)" };
        let at = |index: usize| offer.intervals.get(index).map_or(String::new(), rates);
        let sizes: Vec<String> = match &offer.sizes {
            Sizes::Exact(sizes) => sizes
                .iter()
                .enumerate()
                .map(|(index, size)| format!("{}x{}{}", size.width_px, size.height_px, at(index)))
                .collect(),
            Sizes::Range { from, to, .. } => {
                let [from, to] = [from, to].map(|size| format!("{}x{}", size.width_px, size.height_px));
                vec![format!("{from} to {to}{}", at(0))]
            }
        };
        comment(text, "#   ", &format!("{}{known}  {}", offer.format, sizes.join("; ")));
    }
    let plan = CameraPlan::new(&CameraConfig::new("camera", "pattern"), &LimitsConfig::default());
    let Ok(plan) = plan else { return false };
    let offers: Vec<_> = found.offers.iter().map(|offer| (offer.format, offer.sizes.clone())).collect();
    match choose_size(&offers, plan.asked_size(), plan.prepare.source_size) {
        Ok((format, size)) => {
            let size = format!("{}x{}", size.width_px, size.height_px);
            comment(text, "# ", &format!("taken by default: {format} {size}; width_px, height_px and fps choose"));
            true
        }
        Err(why) => {
            comment(text, "# ", &why);
            false
        }
    }
}

/// Rates, highest first, such as ` at 30, 15 fps`.
fn rates(intervals: &Intervals) -> String {
    let shown = |interval| {
        let rate = rate(interval);
        if rate.fract().abs() < 0.005 { format!("{rate:.0}") } else { format!("{rate:.2}") }
    };
    match intervals {
        Intervals::Exact(exact) if exact.is_empty() => String::new(),
        Intervals::Exact(exact) => {
            let rates: Vec<_> = exact.iter().map(|interval| shown(*interval)).collect();
            format!(" at {} fps", rates.join(", "))
        }
        Intervals::Range { shortest, longest } => format!(" at {} to {} fps", shown(*longest), shown(*shortest)),
    }
}

/// Writes the table of one camera, with the next free id.
fn table_of(text: &mut String, ids: &mut Vec<String>, camera: Option<(&str, String)>) {
    let Some((name, source)) = camera else { return };
    let id = format!("camera-{}", ids.len() + 1);
    let quoted = |text: String| toml::Value::String(text).to_string();
    let name: String = line(name).chars().take(40).collect();
    // Writing into a String does not fail.
    let _ = write!(text, "[[camera]]\nid = \"{id}\"\nname = {}\nsource = {}\n", quoted(name), quoted(source));
    ids.push(id);
}

fn comment(text: &mut String, mark: &str, words: &str) {
    text.push_str(mark);
    text.push_str(&line(words));
    text.push('\n');
}

/// What a device says, in one line and without commands to the terminal.
fn line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

#[cfg(test)]
mod tests;
