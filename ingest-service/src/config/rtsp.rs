//! The words for how an RTSP camera is read. Reads no stream.

use serde::{Deserialize, Serialize};

/// What carries the pictures of an RTSP camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum RtspTransport {
    /// The RTSP connection itself: nothing is lost.
    #[default]
    Tcp,
    /// Datagrams: what is lost is lost.
    Udp,
}

/// What decodes H.264.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum H264Decoder {
    /// openh264 where this program was built with it, else ffmpeg.
    #[default]
    Auto,
    /// A supervised `ffmpeg`.
    Ffmpeg,
    /// This process.
    OpenH264,
}

// Not derived: a wrong word is to be answered with the right ones.
impl TryFrom<String> for RtspTransport {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(format!("transport = {text:?}: use \"tcp\" or \"udp\"")),
        }
    }
}

impl TryFrom<String> for H264Decoder {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "ffmpeg" => Ok(Self::Ffmpeg),
            "openh264" => Ok(Self::OpenH264),
            _ => Err(format!("h264 = {text:?}: use \"auto\", \"ffmpeg\" or \"openh264\"")),
        }
    }
}
