//! One picture to analyse and the way back for its answer. The schedule and
//! the workers see only this, not where a job came from.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::frame::Rotation;
use flatframe_shared::outcome::Outcome;
use tracing::Span;

use crate::vision::Analysis;

/// A picture to analyse.
pub struct Job {
    /// The picture as it came.
    pub jpeg: Bytes,
    /// What makes it upright.
    pub rotation: Rotation,
    /// When it arrived.
    pub arrived: Instant,
    /// When it is worthless.
    pub deadline: Instant,
    /// Its place in its queue: jobs go in the order of this. The deadline, but
    /// for a frame never before that of the camera's frame before it.
    pub urgency: Instant,
    /// The trace it belongs to; disabled when not traced.
    pub span: Span,
    /// Where the answer goes.
    pub reply: Box<dyn Reply>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("jpeg_bytes", &self.jpeg.len()).finish_non_exhaustive()
    }
}

/// What became of a job.
#[derive(Debug)]
pub enum Answer {
    /// Faces were looked for.
    Analyzed(Analysis),
    /// Its deadline passed, or nobody waits for it, before the work began.
    Expired,
    /// Overload.
    Shed {
        /// When trying again has a chance.
        retry_after: Duration,
    },
    /// Not a picture that can be analysed; why.
    Invalid(String),
    /// The engine failed; how.
    Failed(String),
    /// The service is stopping.
    Draining,
}

impl Answer {
    /// The outcome that the ledger counts.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Analyzed(_) => Outcome::Analyzed,
            Self::Expired => Outcome::Expired,
            Self::Shed { .. } => Outcome::Shed,
            Self::Invalid(_) => Outcome::Invalid,
            Self::Failed(_) => Outcome::Failed,
            Self::Draining => Outcome::Draining,
        }
    }

    /// Why it is not analysed, for a person; empty when it is.
    pub fn detail(&self) -> &str {
        match self {
            Self::Analyzed(_) => "",
            Self::Expired => "the deadline passed before the work began",
            Self::Shed { .. } => "overloaded",
            Self::Invalid(why) | Self::Failed(why) => why,
            Self::Draining => "the service is stopping",
        }
    }
}

/// The way back for the answer of one job. Must not block: workers call it.
pub trait Reply: Send {
    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool {
        false
    }

    /// Whether the job waits only for time that nobody else wants.
    fn is_late(&self) -> bool {
        false
    }

    /// A worker is about to take the job. Called in the order in which jobs
    /// leave the schedule.
    fn begin(&mut self) {}

    /// Delivers the answer.
    fn answer(self: Box<Self>, answer: Answer);
}
