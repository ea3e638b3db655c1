//! Anything that ffmpeg can read (a file, a camera's address, a device), by a
//! supervised `ffmpeg` that decodes, scales and paces, so that little is left
//! to do here. A file is played at its own speed, in a loop.

use tokio_util::sync::CancellationToken;

use crate::plan::CameraPlan;
use crate::source::capture::Capture;
use crate::source::mjpeg_child::MjpegChild;
use crate::source::{BoxFuture, Source, SourceError};

/// An input of ffmpeg. Not shown: its command may hold a password.
pub struct FfmpegSource {
    command: Vec<String>,
    max_picture_bytes: usize,
}

impl FfmpegSource {
    /// `input`, asked for the plan's size and rate.
    pub fn new(input: &str, plan: &CameraPlan) -> Self {
        let mut options = plan.ffmpeg_input_options.clone();
        if is_file(input) {
            options.extend(["-re", "-stream_loop", "-1"].map(String::from));
        }
        Self { command: command(&options, input, plan), max_picture_bytes: plan.max_picture_bytes }
    }

    async fn read(&self, capture: &mut Capture, stop: &CancellationToken) -> Result<(), SourceError> {
        let child = MjpegChild::start(&self.command, self.max_picture_bytes)?;
        capture.opened();
        child.read_to_end(capture, stop).await
    }
}

impl Source for FfmpegSource {
    fn run_once<'a>(
        &'a mut self,
        capture: &'a mut Capture,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(self.read(capture, stop))
    }
}

/// The command that turns `input` into JPEGs of the plan's size and rate on its
/// standard output. What follows `-i` is taken for an input whatever it is.
pub(super) fn command(input_options: &[String], input: &str, plan: &CameraPlan) -> Vec<String> {
    let size = plan.asked_size();
    // What comes less than half a period after another is dropped; the rate gate
    // does the rest, evenly. ffmpeg's own fps filter would repeat pictures of a
    // slow camera: a frozen one would look alive. Time may run backwards.
    let too_early = 0.5 / f64::from(plan.fps);
    // The times that it writes are nobody's: they only must grow.
    // Smaller pictures stay as they are: nothing is gained by enlarging them.
    let filter = format!(
        "select='isnan(prev_selected_t)+gte(t-prev_selected_t,{too_early:.6})+lt(t,prev_selected_t)',scale=w='min({},iw)':h='min({},ih)':force_original_aspect_ratio=decrease:force_divisible_by=2,\
         settb=1/1000,setpts=N",
        size.width_px, size.height_px
    );
    let mut command: Vec<String> =
        ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error"].map(String::from).into();
    command.extend(input_options.iter().cloned());
    command.extend(
        [
            "-i",
            input,
            "-map",
            "0:v:0",
            "-vf",
            &filter,
            "-fps_mode",
            "passthrough",
            "-enc_time_base",
            "1:1000",
            "-pix_fmt",
            "yuvj420p",
        ]
        .map(String::from),
    );
    // Without the flush a picture would wait for the next to fill a buffer.
    let quality = qscale(plan.quality).to_string();
    command.extend(["-q:v", &quality, "-flush_packets", "1", "-f", "mjpeg", "-"].map(String::from));
    command
}

/// ffmpeg's quantiser, 2 (good) to 31, that is about as good as a JPEG quality.
///
/// libjpeg scales its tables by (200 - 2 x quality) %, below 50 by 5000 /
/// quality %; ffmpeg scales smaller ones by an eighth of the quantiser. At 50,
/// the means of both are equal at 12.
fn qscale(quality: u8) -> u32 {
    let quality = f64::from(quality.clamp(1, 100));
    let percent = if quality < 50.0 { 5000.0 / quality } else { 200.0 - 2.0 * quality };
    (12.0 * percent / 100.0).round().clamp(2.0, 31.0) as u32
}

/// Whether an input is a file, which ffmpeg would read as fast as it can.
fn is_file(input: &str) -> bool {
    let has_protocol = input.split_once(':').is_some_and(|(protocol, _)| {
        !protocol.is_empty() && protocol.chars().all(|letter| letter.is_ascii_alphanumeric())
    });
    !has_protocol && !input.starts_with("/dev/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CameraConfig;

    #[test]
    fn it_scales_and_paces_and_takes_no_input_for_an_option() {
        let plan = |config: &CameraConfig| CameraPlan::new(config, &Default::default()).expect("valid");
        let config = CameraConfig {
            fps: 5.0,
            width_px: 320,
            height_px: 240,
            ffmpeg_input_options: ["-rtsp_transport", "tcp"].map(String::from).to_vec(),
            ..CameraConfig::new("a", "ffmpeg:rtsp://cam/x")
        };
        assert_eq!(
            FfmpegSource::new("rtsp://cam/x", &plan(&config)).command.join(" "),
            "ffmpeg -nostdin -hide_banner -loglevel error -rtsp_transport tcp -i rtsp://cam/x -map 0:v:0 -vf \
             select='isnan(prev_selected_t)+gte(t-prev_selected_t,0.100000)+lt(t,prev_selected_t)',\
             scale=w='min(320,iw)':h='min(240,ih)':force_original_aspect_ratio=decrease:force_divisible_by=2,settb=1/1000,setpts=N \
             -fps_mode passthrough -enc_time_base 1:1000 -pix_fmt yuvj420p -q:v 6 -flush_packets 1 -f \
             mjpeg -"
        );
        let config = CameraConfig::new("a", "ffmpeg:clip.mp4");
        for (input, played) in [
            ("clip.mp4", true),
            ("/srv/a: b.mkv", true),
            ("C3:x", false),
            ("http://x/y.mp4", false),
            ("/dev/video0", false),
        ] {
            let command = FfmpegSource::new(input, &plan(&config)).command;
            assert_eq!(command.contains(&"-re".to_owned()), played, "{input}");
            let at = command.iter().position(|word| word == "-i").expect("an input");
            assert_eq!(command[at + 1], input, "right behind -i");
        }
    }

    #[test]
    fn quality() {
        for (quality, expected) in [(1, 31), (25, 24), (50, 12), (75, 6), (90, 2), (100, 2)] {
            assert_eq!(qscale(quality), expected, "{quality}");
        }
    }
}
