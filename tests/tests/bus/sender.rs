//! A camera's sender as these tests need one: sends a frame after the other,
//! each with a credit, and reports while it waits. Knows nothing of the bus.

use e2e::camera::{PATIENCE, RawCamera, hello};
use e2e::media::textured_jpeg;
use e2e::pair::Inference;
use e2e::wait::answered;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::publish_response::Message;
use tonic::Code;
use tonic::transport::Channel;

use crate::replica::BUS_PATIENCE;

const SIZE: PictureSize = PictureSize::new(160, 120);
/// So many pictures come in turn.
const PICTURES: u32 = 32;

/// An open stream of one camera.
pub struct Sender {
    raw: RawCamera,
    credits: u32,
    sent: u32,
}

impl Sender {
    /// Opens a stream to `service`.
    pub async fn open(service: &Inference, camera: &str, session: u64) -> Self {
        Self::open_on(service.connect().await.expect("connects"), camera, session).await
    }

    /// As [`Sender::open`], over `channel`.
    pub async fn open_on(channel: Channel, camera: &str, session: u64) -> Self {
        let opened = async || match RawCamera::open(channel.clone(), hello(camera, session)).await {
            Ok((raw, _)) => Some(Self { raw, credits: 0, sent: 0 }),
            // The machine stood still for as long as a hello may take.
            Err(status) if status.code() == Code::DeadlineExceeded => None,
            Err(status) => panic!("{camera} is not welcome: {status}"),
        };
        answered("is welcome", BUS_PATIENCE, opened).await
    }

    /// Sends so many frames, each when the one before was analysed. Each differs
    /// from the one before: a picture that stands still becomes an incident.
    pub async fn send(&mut self, frames: u32) {
        for _ in 0..frames {
            while self.credits == 0 {
                self.message().await;
            }
            self.credits -= 1;
            self.sent += 1;
            let jpeg = textured_jpeg(SIZE, self.sent % PICTURES);
            let number = self.raw.send_frame(jpeg, SIZE, PATIENCE).await.expect("sends");
            let outcome = loop {
                if let Message::Outcome(outcome) = self.message().await {
                    break outcome;
                }
            };
            assert_eq!((outcome.number, outcome.outcome()), (number, v1::Outcome::Analyzed));
        }
    }

    /// Waits until `is_so`, at most as long as for the bus. Reports meanwhile,
    /// as senders do: a stream on which nothing comes for 9 s is ended.
    pub async fn wait_until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let looked = async || {
            let status = v1::CameraStatus { state: v1::CameraState::Live as i32, ..Default::default() };
            self.raw.send(v1::publish_request::Message::Status(status)).await.expect("sends");
            is_so().await.then_some(())
        };
        answered(what, BUS_PATIENCE, looked).await;
    }

    /// Waits until it is told that the stream is drained.
    pub async fn wait_for_drain(&mut self) {
        while !matches!(self.message().await, Message::Drain(_)) {}
    }

    /// Half-closes and waits for the end of the stream.
    pub async fn close(mut self) {
        self.raw.outbox = None;
        while let Ok(Some(_)) = self.raw.next().await {}
    }

    async fn message(&mut self) -> Message {
        let message = self.raw.next().await.expect("the stream lives").expect("the stream goes on");
        if let Message::Credit(credit) = &message {
            self.credits += credit.frames;
        }
        message
    }
}
