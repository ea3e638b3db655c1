//! The way back for one frame: publishes its result, counts its outcome,
//! answers its sender and gives its credit back, in the order of its camera.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::clock;
use flatframe_shared::convert;
use flatframe_shared::frame::FrameNumber;
use flatframe_shared::r#gen::v1;
use flatframe_shared::ledger::QueuedTicket;

use super::job::{Answer, Reply};
use super::link::StreamLink;
use super::order::Place;
use crate::people::Seen;
use crate::people::count::Moment;
use crate::results::record::{FaceCounts, Position, ResultRecord};
use crate::vision::Analysis;

/// The way back for one frame.
pub struct FrameReply {
    /// Its stream.
    pub link: Arc<StreamLink>,
    /// Which frame.
    pub number: FrameNumber,
    /// The sender's wall clock at capture.
    pub captured_unix_us: i64,
    /// The picture, if the newest one is kept for people to see.
    pub jpeg: Option<Bytes>,
    /// Age at arrival.
    pub age: Duration,
    /// When it arrived.
    pub arrived: Instant,
    /// Its ticket in the ledger.
    pub ticket: QueuedTicket,
    /// Whether it came with a credit, which is given back with the answer.
    pub had_credit: bool,
    /// Its place among the camera's frames that went to workers; set when it
    /// does.
    pub place: Option<Place>,
}

/// A frame whose answer waits for those of earlier frames.
pub struct Finished {
    reply: FrameReply,
    answer: Answer,
}

impl std::fmt::Debug for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "frame {}: {}", self.reply.number, self.answer.outcome())
    }
}

impl Reply for FrameReply {
    fn begin(&mut self) {
        self.place = Some(self.link.camera.begin());
    }

    fn answer(mut self: Box<Self>, answer: Answer) {
        let Some(place) = self.place.take() else { return self.settle(answer) };
        let camera = self.link.camera.clone();
        camera.finish(place, Finished { reply: *self, answer }, |finished| finished.reply.settle(finished.answer));
    }
}

impl FrameReply {
    /// Publishes the result, counts the outcome, answers the sender and gives
    /// the credit back.
    pub fn settle(self, answer: Answer) {
        let outcome = answer.outcome();
        let mut message = v1::FrameOutcome {
            number: self.number.0,
            outcome: convert::outcome_to_wire(outcome) as i32,
            detail: convert::short(answer.detail().to_owned()),
            ..Default::default()
        };
        match answer {
            Answer::Analyzed(analysis) => {
                message.counts = Some(crate::results::wire::face_counts(FaceCounts::of(&analysis)));
                self.publish(analysis);
            }
            Answer::Shed { retry_after } => message.retry_after_ms = convert::millis_u32(retry_after).max(1),
            Answer::Failed(why) => {
                if let Some(held_back) = self.link.intake.warnings.allow(clock::now()) {
                    let camera = &self.link.camera.id;
                    tracing::error!(%camera, frame = self.number.0, why, held_back, "the engine failed on a frame");
                }
            }
            Answer::Expired | Answer::Invalid(_) | Answer::Draining => {}
        }
        self.ticket.answer(outcome);
        message.server_us = convert::micros_u64(clock::now().duration_since(self.arrived));
        self.link.answer(message, self.had_credit);
    }

    fn publish(&self, mut analysis: Analysis) {
        let now = clock::now();
        let latency = self.age + now.duration_since(self.arrived);
        let (intake, camera) = (&self.link.intake, &self.link.camera);
        let captured = now.checked_sub(latency).unwrap_or(now);
        let latency_us = convert::micros_u64(latency);
        let observed_unix_us = clock::unix_us().saturating_sub_unsigned(latency_us);
        let Seen { tracks, counts, changes, covered } =
            camera.follow(Moment { at: captured, unix_us: observed_unix_us }, now, &mut analysis);
        let record = intake.bus.publish(ResultRecord {
            position: Position(0),
            camera: camera.id.clone(),
            session: self.link.hello.session,
            number: self.number,
            captured_unix_us: self.captured_unix_us,
            captured,
            observed_unix_us,
            latency,
            analysis,
            tracks,
            counts,
            detector: intake.detector.clone(),
            gender_model: intake.gender_model.clone(),
        });
        intake.archive.keep(&record, changes, covered);
        camera.set_latest(record, self.jpeg.as_deref(), self.link.hello.rotation, now);
    }
}
