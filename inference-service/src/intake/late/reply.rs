//! The way back for one late frame: its result into the history, its outcome to
//! the ledger and the sender. Publishes nothing.

use std::sync::Arc;
use std::time::Instant;

use flatframe_shared::clock;
use flatframe_shared::convert;
use flatframe_shared::frame::FrameNumber;
use flatframe_shared::r#gen::v1;
use flatframe_shared::ledger::QueuedTicket;
use flatframe_shared::outcome::Outcome;

use super::stream::LateLink;
use crate::history::DropReason;
use crate::intake::job::{Answer, Reply};
use crate::results::record::FaceCounts;

/// The way back for one frame.
pub struct LateReply {
    /// Its stream.
    pub link: Arc<LateLink>,
    /// Which frame.
    pub number: FrameNumber,
    /// When it was captured by its sender's clock, microseconds.
    pub captured_unix_us: i64,
    /// When it arrived.
    pub arrived: Instant,
    /// Its ticket in the ledger.
    pub ticket: QueuedTicket,
    /// Whether it came with the stream's credit.
    pub had_credit: bool,
}

impl Reply for LateReply {
    fn is_abandoned(&self) -> bool {
        self.link.is_over()
    }

    fn is_late(&self) -> bool {
        true
    }

    fn answer(self: Box<Self>, answer: Answer) {
        self.settle(answer);
    }
}

impl LateReply {
    /// Stores the result, counts the outcome and answers the sender.
    pub fn settle(self, answer: Answer) {
        let mut message = v1::FrameOutcome {
            number: self.number.0,
            detail: convert::short(answer.detail().to_owned()),
            ..Default::default()
        };
        let outcome = match answer {
            Answer::Analyzed(analysis) => {
                let counts = FaceCounts::of(&analysis);
                let result = self.link.late_result(self.number, self.captured_unix_us, analysis);
                match self.link.intake.archive.keep_late(result) {
                    Ok(()) => {
                        message.counts = Some(crate::results::wire::face_counts(counts));
                        Outcome::Analyzed
                    }
                    // Given back it would come for ever, and hold up all behind it.
                    Err(DropReason::Invalid) => {
                        message.detail = "the history can never keep its result".into();
                        Outcome::Failed
                    }
                    Err(_) => {
                        // It may come again when there is room.
                        message.detail = "the history takes nothing now".into();
                        message.retry_after_ms = convert::millis_u32(super::stream::RETRY);
                        Outcome::Shed
                    }
                }
            }
            Answer::Shed { retry_after } => {
                message.retry_after_ms = convert::millis_u32(retry_after).max(1);
                Outcome::Shed
            }
            Answer::Failed(why) => {
                if let Some(held_back) = self.link.intake.warnings.allow(clock::now()) {
                    let camera = &self.link.hello.camera;
                    tracing::error!(%camera, frame = self.number.0, why, held_back, "the engine failed on a frame");
                }
                Outcome::Failed
            }
            other => other.outcome(),
        };
        message.outcome = convert::outcome_to_wire(outcome) as i32;
        message.server_us = convert::micros_u64(clock::now().duration_since(self.arrived));
        self.ticket.answer(outcome);
        self.link.answer(message, self.captured_unix_us, outcome, self.had_credit);
    }
}
