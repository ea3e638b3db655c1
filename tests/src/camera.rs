//! A camera's sender in the raw: speaks the protocol frame by frame, so that a
//! test can break it at any point. The well-behaved one is ingest-service.

use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::{self, frame_service_client::FrameServiceClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Room for messages not yet taken by the transport.
const OUTBOX: usize = 64;
/// Longest wait for a message of the server in a test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An open stream.
pub struct RawCamera {
    /// Messages to the server; drop it to half-close.
    pub outbox: Option<mpsc::Sender<v1::PublishRequest>>,
    /// Messages from the server.
    pub inbox: Streaming<v1::PublishResponse>,
    next_number: u64,
}

/// A hello that is in order.
pub fn hello(camera: &str, session: u64) -> v1::Hello {
    v1::Hello {
        protocol_version: 1,
        camera_id: camera.into(),
        session_id: session,
        software: "test".into(),
        rotation_degrees: 0,
        wanted_fps: 100.0,
        ttl_ms: 1000,
        display_name: String::new(),
        late: false,
    }
}

impl RawCamera {
    /// Opens a stream with `hello` and returns it with the server's welcome.
    ///
    /// # Errors
    /// The status that the server answered, or "no welcome".
    pub async fn open(channel: Channel, hello: v1::Hello) -> Result<(Self, v1::Welcome), Status> {
        let mut camera = Self::open_with(channel, v1::publish_request::Message::Hello(hello)).await?;
        match camera.next().await? {
            Some(v1::publish_response::Message::Welcome(welcome)) => Ok((camera, welcome)),
            other => Err(Status::internal(format!("no welcome but {other:?}"))),
        }
    }

    /// Opens a stream with any first message.
    ///
    /// # Errors
    /// The status that the server answered.
    pub async fn open_with(channel: Channel, first: v1::publish_request::Message) -> Result<Self, Status> {
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let first = v1::PublishRequest { message: Some(first) };
        outbox.send(first).await.map_err(|_| Status::internal("the stream is closed"))?;
        let inbox = FrameServiceClient::new(channel).publish(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { outbox: Some(outbox), inbox, next_number: 1 })
    }

    /// The next message of the server; `None` at a good end.
    ///
    /// # Errors
    /// The status that ended the stream, or DEADLINE_EXCEEDED after
    /// [`PATIENCE`].
    pub async fn next(&mut self) -> Result<Option<v1::publish_response::Message>, Status> {
        match tokio::time::timeout(PATIENCE, self.inbox.message()).await {
            Err(_) => Err(Status::deadline_exceeded("the test waited for a message")),
            Ok(Err(status)) => Err(status),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(response))) => Ok(response.message),
        }
    }

    /// The next outcome, other messages passed over.
    ///
    /// # Errors
    /// The status that ended the stream.
    pub async fn outcome(&mut self) -> Result<v1::FrameOutcome, Status> {
        loop {
            match self.next().await? {
                Some(v1::publish_response::Message::Outcome(outcome)) => return Ok(outcome),
                Some(_) => {}
                None => return Err(Status::unavailable("the stream ended")),
            }
        }
    }

    /// Sends any message.
    ///
    /// # Errors
    /// When the stream is closed.
    pub async fn send(&self, message: v1::publish_request::Message) -> Result<(), Status> {
        let outbox = self.outbox.as_ref().ok_or_else(|| Status::internal("half-closed"))?;
        let request = v1::PublishRequest { message: Some(message) };
        outbox.send(request).await.map_err(|_| Status::unavailable("the stream is closed"))
    }

    /// Says that the camera lives: a stream on which nothing comes is ended.
    ///
    /// # Errors
    /// When the stream is closed.
    pub async fn says_live(&self) -> Result<(), Status> {
        let status = v1::CameraStatus { state: v1::CameraState::Live as i32, ..Default::default() };
        self.send(v1::publish_request::Message::Status(status)).await
    }

    /// Sends a frame captured now that lives for `ttl`; returns its number.
    ///
    /// # Errors
    /// When the stream is closed.
    pub async fn send_frame(&mut self, jpeg: Bytes, size: PictureSize, ttl: Duration) -> Result<u64, Status> {
        let number = self.next_number;
        self.next_number += 1;
        self.send(v1::publish_request::Message::Frame(frame(number, jpeg, size, ttl))).await?;
        Ok(number)
    }
}

/// A frame captured now that lives for `ttl`.
pub fn frame(number: u64, jpeg: Bytes, size: PictureSize, ttl: Duration) -> v1::Frame {
    v1::Frame {
        number,
        age_us: 0,
        remaining_us: ttl.as_micros() as u64,
        captured_unix_us: 0,
        width_px: size.width_px,
        height_px: size.height_px,
        traceparent: String::new(),
        jpeg,
    }
}

/// What a [`pump`] saw.
#[derive(Debug, Default)]
pub struct Pumped {
    /// Frames sent.
    pub sent: u64,
    /// Outcomes, by their number in the protocol.
    pub outcomes: [u64; 7],
    /// Time from sending to the outcome, of analysed frames.
    pub latencies: Vec<Duration>,
    /// Lowest rate the server asked for, frames per second.
    pub lowest_pace: Option<f32>,
}

impl Pumped {
    /// Frames with an outcome.
    pub fn answered(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Frames with that outcome.
    pub fn count(&self, outcome: v1::Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }
}

/// Sends `pictures` in turn as fast as credits allow until `end`, then waits
/// for the last answers and closes.
///
/// # Errors
/// The status that ended the stream early.
pub async fn pump(
    camera: RawCamera,
    pictures: &[(Bytes, PictureSize)],
    ttl: Duration,
    end: Instant,
) -> Result<Pumped, Status> {
    pump_while(camera, pictures, ttl, |_| Instant::now() < end).await
}

/// As [`pump`], for as long as `goes_on` says so of what was seen.
///
/// # Errors
/// As [`pump`].
pub async fn pump_while(
    mut camera: RawCamera,
    pictures: &[(Bytes, PictureSize)],
    ttl: Duration,
    goes_on: impl Fn(&Pumped) -> bool,
) -> Result<Pumped, Status> {
    let mut seen = Pumped::default();
    let mut credits = 0u32;
    let mut sent_at = std::collections::VecDeque::new();
    loop {
        while credits > 0 && goes_on(&seen) {
            credits -= 1;
            let (jpeg, size) = &pictures[seen.sent as usize % pictures.len()];
            let number = camera.send_frame(jpeg.clone(), *size, ttl).await?;
            sent_at.push_back((number, Instant::now()));
            seen.sent += 1;
        }
        if sent_at.is_empty() && !goes_on(&seen) {
            return Ok(seen);
        }
        match camera.next().await? {
            Some(v1::publish_response::Message::Credit(credit)) => credits += credit.frames,
            Some(v1::publish_response::Message::Pace(pace)) if pace.max_fps > 0.0 => {
                seen.lowest_pace = Some(seen.lowest_pace.unwrap_or(f32::INFINITY).min(pace.max_fps));
            }
            Some(v1::publish_response::Message::Outcome(outcome)) => {
                seen.outcomes[outcome.outcome as usize] += 1;
                if let Some(place) = sent_at.iter().position(|(number, _)| *number == outcome.number)
                    && let Some((_, at)) = sent_at.remove(place)
                    && outcome.outcome == v1::Outcome::Analyzed as i32
                {
                    seen.latencies.push(at.elapsed());
                }
            }
            Some(_) => {}
            None => return Err(Status::unavailable("the server ended the stream")),
        }
    }
}
