//! An RTSP camera, over TCP or UDP. JPEG is passed on as it came; H.264 is
//! decoded, by a supervised ffmpeg or in this process. Decoding needs every
//! picture, whatever rate is wanted: each is made from the one before.
//!
//! Every step has a deadline, no password is shown, and the camera is told when
//! nobody looks any more (TEARDOWN). Reads no sound, no H.265 and no rtsps.

mod by_ffmpeg;
#[cfg(feature = "h264")]
mod here;
mod pictures;

use std::sync::Arc;
use std::time::Duration;

use flatframe_shared::outcome::DropReason;
use retina::client::{
    Credentials, PlayOptions, Session, SessionGroup, SessionOptions, SetupOptions, TcpTransportOptions, Transport,
    UdpTransportOptions,
};
use retina::codec::FrameFormat;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::config::RtspTransport;
use crate::memory::PICTURES;
use crate::plan::CameraPlan;
use crate::source::capture::Capture;
use crate::source::rtsp::pictures::{Coded, CodedPictures, Coding};
use crate::source::spec::{self, CameraAddress};
use crate::source::{BoxFuture, Source, SourceError, mjpeg_child};

/// Time to connect and to get through DESCRIBE, SETUP and PLAY, all together: a
/// camera that is well again must give pictures within 10 s.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Time to say TEARDOWN.
const TEARDOWN_DEADLINE: Duration = Duration::from_millis(500);
/// What the connection reads ahead and the sockets' messages, with a margin.
const CONNECTION_BYTES: u64 = 512 << 10;
/// Bytes per pixel of a decoder's memory: 16 pictures that others may be made
/// from and the one in work (ITU-T H.264, A.3.1), at 1.5 bytes.
const DECODER_BYTES_PER_PIXEL: u64 = 26;

/// One RTSP camera.
pub struct RtspSource {
    address: CameraAddress,
    plan: CameraPlan,
}

impl RtspSource {
    /// The camera at `address`, with the login of the plan.
    pub fn new(address: CameraAddress, plan: &CameraPlan) -> Self {
        let login = plan.login.clone().or(address.login.clone());
        Self { address: CameraAddress { login, ..address }, plan: plan.clone() }
    }

    async fn read(
        &self,
        group: &Arc<SessionGroup>,
        capture: &mut Capture,
        stop: &CancellationToken,
    ) -> Result<(), SourceError> {
        let Some(opened) = stop.run_until_cancelled(self.open(group)).await else { return Ok(()) };
        let pictures = opened?;
        capture.opened();
        match pictures.coding() {
            Coding::Jpeg => self.pass_on(pictures, capture, stop).await,
            #[cfg(feature = "h264")]
            Coding::H264 if self.plan.decodes_h264_here() => here::decode(pictures, capture, stop).await,
            Coding::H264 => by_ffmpeg::decode(pictures, &self.plan, capture, stop).await,
        }
    }

    /// Connects and has the camera send.
    async fn open(&self, group: &Arc<SessionGroup>) -> Result<CodedPictures, SourceError> {
        let deadline = Instant::now() + OPEN_DEADLINE;
        let not_opened = |what: String| SourceError::NotOpened(format!("{what} ({:?})", self.address));
        let late = |step: &str| not_opened(format!("{step} did not end within {} s", OPEN_DEADLINE.as_secs()));
        let refused = |step: &str, error: &retina::Error| not_opened(why(step, error));

        let url = format!("rtsp://{}{}", self.address.host_port(), self.address.path);
        let url = Url::parse(&url).map_err(|error| not_opened(format!("not a URL: {error}")))?;
        let login = self.address.login.as_ref();
        let creds = login.map(|it| Credentials { username: it.username.clone(), password: it.password.clone() });
        let options = SessionOptions::default()
            .creds(creds)
            .user_agent(flatframe_shared::SOFTWARE.to_owned())
            .session_group(group.clone());
        let mut session = timeout_at(deadline, Session::describe(url, options))
            .await
            .map_err(|_| late("DESCRIBE"))?
            .map_err(|error| refused("DESCRIBE", &error))?;
        let (stream, coding) = pictures::choose(session.streams()).map_err(not_opened)?;
        let transport = match self.plan.transport {
            RtspTransport::Tcp => Transport::Tcp(TcpTransportOptions::default()),
            RtspTransport::Udp => Transport::Udp(UdpTransportOptions::default()),
        };
        let setup = SetupOptions::default().transport(transport).frame_format(FrameFormat::SIMPLE);
        timeout_at(deadline, session.setup(stream, setup))
            .await
            .map_err(|_| late("SETUP"))?
            .map_err(|error| refused("SETUP", &error))?;
        let playing = timeout_at(deadline, session.play(PlayOptions::default()))
            .await
            .map_err(|_| late("PLAY"))?
            .map_err(|error| refused("PLAY", &error))?;
        let demuxed = playing.demuxed().map_err(|error| refused("PLAY", &error))?;
        Ok(CodedPictures::new(demuxed, stream, coding, &self.plan))
    }

    /// JPEGs need no decoding.
    async fn pass_on(
        &self,
        mut pictures: CodedPictures,
        capture: &mut Capture,
        stop: &CancellationToken,
    ) -> Result<(), SourceError> {
        while let Some(next) = stop.run_until_cancelled(pictures.next()).await {
            match next? {
                Coded::Whole(jpeg) if jpeg.len() <= self.plan.max_picture_bytes => capture.jpeg(jpeg.into()),
                Coded::Whole(_) => capture.broken(DropReason::TooLarge),
                Coded::Damaged => capture.broken(DropReason::Corrupt),
                Coded::NotWanted => {}
            }
        }
        Ok(())
    }
}

impl Source for RtspSource {
    fn run_once<'a>(
        &'a mut self,
        capture: &'a mut Capture,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async {
            let group = Arc::new(SessionGroup::default());
            let ended = self.read(&group, capture, stop).await;
            // The session says it by itself when it is dropped; a camera that
            // does not listen forgets it in a minute.
            let _ = timeout(TEARDOWN_DEADLINE, group.await_teardown()).await;
            ended
        })
    }
}

/// Why a step failed, and what to do, short enough for a log line.
fn why(step: &str, error: &retina::Error) -> String {
    match error.status_code() {
        Some(401 | 403) => "the camera wants a login, or another one: set username and password".into(),
        Some(404) => "the camera has no such stream: look up the path in its manual".into(),
        Some(461) => "the camera does not send this way: try the other transport (tcp, udp)".into(),
        Some(code) => format!("the camera answers {step} with {code}"),
        None => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("{step}: {}", spec::redacted(line).chars().take(160).collect::<String>())
        }
    }
}

/// Most memory of one camera, in bytes: a picture that is collected and one
/// that is handed on; where it is decoded here, the decoder and its pixels.
pub fn most_bytes(plan: &CameraPlan) -> u64 {
    let pixels = plan.prepare.source_size.pixels();
    let coded = 2 * plan.max_picture_bytes as u64 + CONNECTION_BYTES;
    let decoding = match plan.decodes_h264_here() {
        true => pixels * DECODER_BYTES_PER_PIXEL + PICTURES * pixels * 3 / 2,
        false => mjpeg_child::READ_BUFFER_BYTES as u64,
    };
    coded + decoding
}
