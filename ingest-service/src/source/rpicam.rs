//! A Raspberry Pi camera, by `rpicam-vid` or any command configured in its
//! place. The child is asked for the wanted size and rate, so that nothing is
//! decoded here to make pictures smaller.

pub mod list;

use tokio_util::sync::CancellationToken;

use crate::plan::CameraPlan;
use crate::source::capture::Capture;
use crate::source::mjpeg_child::MjpegChild;
use crate::source::{BoxFuture, Source, SourceError};

/// A camera behind a child process.
#[derive(Debug)]
pub struct RpicamSource {
    command: Vec<String>,
    max_picture_bytes: usize,
}

impl RpicamSource {
    /// The plan's command, or `rpicam-vid` asked for the plan's size and rate,
    /// of the camera with this number.
    pub fn new(number: u32, plan: &CameraPlan) -> Self {
        let command = if plan.command.is_empty() { rpicam_vid(number, plan) } else { plan.command.clone() };
        Self { command, max_picture_bytes: plan.max_picture_bytes }
    }

    async fn read(&self, capture: &mut Capture, stop: &CancellationToken) -> Result<(), SourceError> {
        let child = MjpegChild::start(&self.command, self.max_picture_bytes)?;
        capture.opened();
        child.read_to_end(capture, stop).await
    }
}

impl Source for RpicamSource {
    fn run_once<'a>(
        &'a mut self,
        capture: &'a mut Capture,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(self.read(capture, stop))
    }
}

fn rpicam_vid(number: u32, plan: &CameraPlan) -> Vec<String> {
    let size = plan.asked_size();
    let mut command: Vec<String> =
        ["rpicam-vid", "--codec", "mjpeg", "-o", "-", "-t", "0", "-n", "--flush"].map(String::from).into();
    for (option, value) in [
        ("--camera", number.to_string()),
        ("--width", size.width_px.to_string()),
        ("--height", size.height_px.to_string()),
        ("--framerate", plan.fps.to_string()),
        ("--quality", plan.quality.to_string()),
    ] {
        command.extend([option.to_owned(), value]);
    }
    // Last, so that they win.
    command.extend(plan.controls.iter().cloned());
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CameraConfig;

    fn command(config: &CameraConfig) -> Vec<String> {
        let plan = CameraPlan::new(config, &Default::default()).expect("valid");
        match plan.source {
            crate::source::spec::SourceSpec::Rpicam(number) => RpicamSource::new(number, &plan).command,
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_camera_is_asked_for_size_rate_and_controls() {
        let config = CameraConfig { width_px: 320, height_px: 240, fps: 7.5, ..CameraConfig::new("a", "rpicam") };
        assert_eq!(
            command(&config).join(" "),
            "rpicam-vid --codec mjpeg -o - -t 0 -n --flush --camera 0 --width 320 --height 240 --framerate 7.5 \
             --quality 75"
        );
        let controls = ["--awb", "indoor", "--hflip"].map(String::from).to_vec();
        let second = CameraConfig { controls, ..CameraConfig::new("a", "rpicam:1") };
        let asked = command(&second).join(" ");
        assert!(asked.contains("--camera 1") && asked.ends_with("--quality 75 --awb indoor --hflip"), "{asked}");
        let config = CameraConfig { command: vec!["cat".into(), "x.mjpeg".into()], ..config };
        assert_eq!(command(&config), ["cat", "x.mjpeg"]);
    }
}
