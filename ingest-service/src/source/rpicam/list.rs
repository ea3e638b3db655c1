//! The Raspberry Pi cameras of this machine, as `rpicam-hello` lists them, for
//! people.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::source::child::{Supervised, drain_lines};

/// Time for the list; the first call after a start takes seconds on a Zero.
const DEADLINE: Duration = Duration::from_secs(10);
/// Most of a list that is read, in bytes.
const MAX_LIST_BYTES: u64 = 64 * 1024;

/// One camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PiCamera {
    /// What `--camera` takes.
    pub number: u32,
    /// Name of its sensor.
    pub sensor: String,
    /// The sensor with its largest size.
    pub about: String,
}

/// The cameras.
///
/// # Errors
/// Why they cannot be known.
pub async fn pi_cameras() -> Result<Vec<PiCamera>, String> {
    let command = ["rpicam-hello", "--list-cameras"].map(String::from);
    let (child, stdout, stderr) = Supervised::spawn(&command).map_err(|error| match error.kind() {
        ErrorKind::NotFound => "rpicam-hello is not installed".to_owned(),
        _ => format!("rpicam-hello does not start: {error}"),
    })?;
    let mut list = Vec::new();
    let mut stdout = stdout.take(MAX_LIST_BYTES);
    let read = async { tokio::join!(stdout.read_to_end(&mut list), drain_lines(stderr)) };
    let in_time = timeout(DEADLINE, read).await.is_ok();
    // How it ended says nothing that the list does not.
    let _ = child.stop().await;
    if in_time {
        Ok(parsed(&String::from_utf8_lossy(&list)))
    } else {
        Err(format!("rpicam-hello does not answer within {} s", DEADLINE.as_secs()))
    }
}

/// Reads lines such as `0 : imx219 [3280x2464 10-bit RGGB] (/base/soc/...)`.
/// USB cameras are left out: they are V4L2 devices.
pub fn parsed(list: &str) -> Vec<PiCamera> {
    let camera = |line: &str| {
        let (number, rest) = line.trim().split_once(" : ")?;
        let (about, path) = rest.rsplit_once(" (").unwrap_or((rest, ""));
        let sensor = about.split_whitespace().next()?.to_owned();
        let is_usb = path.contains("/usb");
        (!is_usb).then_some(PiCamera { number: number.parse().ok()?, sensor, about: about.to_owned() })
    };
    list.lines().filter_map(camera).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list() {
        let list = "Available cameras\n-----------------\n\
            0 : imx219 [3280x2464 10-bit RGGB] (/base/soc/i2c0mux/i2c@1/imx219@10)\n    \
            Modes: 'SRGGB10_CSI2P' : 640x480 [206.65 fps - (1000, 752)/1280x960 crop]\n                             \
            1640x1232 [41.85 fps - (0, 0)/3280x2464 crop]\n\
            1 : Webcam [640x480] (/base/soc/usb@7e980000/usb1@1-1.2:1.0-046d:081b)\n\
            2 : ov5647 [2592x1944 10-bit GBRG] (/base/soc/i2c0mux/i2c@0/ov5647@36)\n";
        let about = |camera: &PiCamera| (camera.number, camera.sensor.clone(), camera.about.clone());
        assert_eq!(
            parsed(list).iter().map(about).collect::<Vec<_>>(),
            [
                (0, "imx219".into(), "imx219 [3280x2464 10-bit RGGB]".into()),
                (2, "ov5647".into(), "ov5647 [2592x1944 10-bit GBRG]".into())
            ]
        );
        assert_eq!(parsed("No cameras available!\n"), []);
    }
}
