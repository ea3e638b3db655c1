//! One open stream of late frames: what is said on it and what is heard. Decides
//! nothing about frames.

use std::time::{Duration, Instant};

use flatframe_shared::clock::now;
use flatframe_shared::convert;
use flatframe_shared::frame::{CameraState, ServerWelcome};
use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::publish_request::Message as Up;
use flatframe_shared::r#gen::v1::publish_response::Message as Down;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::send::uplink::{Opened, UplinkError};

/// The sender says so often that it lives.
const STATUS_PERIOD: Duration = Duration::from_secs(4);

/// One open stream.
pub(super) struct Session {
    messages: mpsc::Sender<v1::PublishRequest>,
    inbound: Streaming<v1::PublishResponse>,
    pub(super) welcome: ServerWelcome,
    pub(super) has_credit: bool,
    pub(super) drains: bool,
    status_due: Instant,
    /// Not before, to keep to the rate.
    pub(super) next_at: Instant,
}

/// What ended a wait.
#[derive(Debug)]
pub(super) enum Heard {
    Credit,
    Outcome(v1::FrameOutcome),
    Drain,
    /// The time is over.
    Due,
    /// This service stops.
    Finish,
}

impl Session {
    /// A stream that is welcome.
    pub(super) fn new((messages, inbound, welcome): Opened) -> Self {
        let (status_due, next_at) = (now() + STATUS_PERIOD, now());
        Self { messages, inbound, welcome, has_credit: false, drains: false, status_due, next_at }
    }

    /// Waits for the next message of the server, at most until `until`; says
    /// meanwhile that the sender lives.
    pub(super) async fn hear(&mut self, until: Instant, finish: &CancellationToken) -> Result<Heard, UplinkError> {
        loop {
            if now() >= self.status_due {
                self.status_due = now() + STATUS_PERIOD;
                let state = convert::state_to_wire(CameraState::Live) as i32;
                self.put(Up::Status(v1::CameraStatus { state, ..Default::default() }))?;
            }
            let wake = until.min(self.status_due);
            let message = tokio::select! {
                biased;
                () = finish.cancelled() => return Ok(Heard::Finish),
                message = self.inbound.message() => message?.ok_or(UplinkError::Closed)?,
                () = tokio::time::sleep_until(wake.into()) => {
                    if now() >= until {
                        return Ok(Heard::Due);
                    }
                    continue;
                }
            };
            match message.message {
                Some(Down::Credit(_)) => {
                    self.has_credit = true;
                    return Ok(Heard::Credit);
                }
                Some(Down::Outcome(outcome)) => return Ok(Heard::Outcome(outcome)),
                Some(Down::Drain(_)) => {
                    self.drains = true;
                    return Ok(Heard::Drain);
                }
                Some(Down::Welcome(_)) => return Err(UplinkError::Protocol("a second welcome".into())),
                // A late stream has no pace; others are of a later version.
                Some(Down::Pace(_)) | None => {}
            }
        }
    }

    pub(super) fn put(&self, message: Up) -> Result<(), UplinkError> {
        self.messages.try_send(v1::PublishRequest { message: Some(message) }).map_err(|_| UplinkError::Closed)
    }

    /// Ends our half and waits a little for the server's.
    pub(super) async fn close(self, patience: Duration) {
        let Self { messages, mut inbound, .. } = self;
        drop(messages);
        let ending = async { while let Ok(Some(_)) = inbound.message().await {} };
        if tokio::time::timeout(patience, ending).await.is_err() {
            tracing::debug!("the server did not end the late stream in time");
        }
    }
}
