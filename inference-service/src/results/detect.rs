//! One picture in, faces out. The deadline of the call is honoured all the
//! way: a call that is late or abandoned is answered without being computed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flatframe_shared::clock;
use flatframe_shared::convert::micros_u64;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::frame::Rotation;
use flatframe_shared::r#gen::v1;
use flatframe_shared::ledger::{QueuedTicket, ServerLedger};
use flatframe_shared::rate_log::RateLog;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use tracing::Span;

use super::wire;
use crate::cameras::DETECT_QUEUE;
use crate::intake::admission::{CallDeadline, CallSlot};
use crate::intake::dispatch::Dispatch;
use crate::intake::job::{Answer, Job, Reply};

/// The service of single pictures.
#[derive(Clone)]
pub struct DetectApi {
    /// Where jobs go.
    pub dispatch: Arc<Dispatch>,
    /// The ledger of single calls.
    pub ledger: ServerLedger,
    /// Most calls that wait.
    pub max_calls: usize,
    /// Largest JPEG accepted, bytes.
    pub max_bytes: u32,
    /// Name of the detector.
    pub detector: Arc<str>,
    /// Name of the gender classifier; `None` when switched off.
    pub gender_model: Option<Arc<str>>,
    /// Holds back errors of the engine.
    pub errors: Arc<RateLog>,
}

#[tonic::async_trait]
impl v1::detect_service_server::DetectService for DetectApi {
    async fn detect(&self, request: Request<v1::DetectRequest>) -> Result<Response<v1::DetectResponse>, Status> {
        let arrived = clock::now();
        let deadline = request.extensions().get::<CallDeadline>().copied();
        let CallDeadline(deadline) =
            deadline.ok_or_else(|| ErrorKind::Internal.status("the call's deadline is not known"))?;
        let slot = request.extensions().get::<CallSlot>().cloned();
        let request = request.into_inner();
        if request.jpeg.len() > self.max_bytes as usize {
            let message = format!("picture of {} bytes: at most {} are accepted", request.jpeg.len(), self.max_bytes);
            return Err(ErrorKind::Invalid.status(message));
        }
        let rotation = Rotation::from_degrees(request.rotation_degrees)
            .map_err(|error| ErrorKind::Invalid.status(format!("rotation_degrees: {error}")))?;
        let (sender, answer) = oneshot::channel();
        let reply = CallReply { ticket: self.ledger.receive(), sender, _slot: slot };
        let job = Job {
            jpeg: request.jpeg,
            rotation,
            arrived,
            deadline,
            urgency: deadline,
            span: Span::none(),
            reply: Box::new(reply),
        };
        self.dispatch.submit(DETECT_QUEUE, self.max_calls, job);
        let (answer, answered) =
            answer.await.map_err(|_| ErrorKind::Internal.status("the call was dropped; this is a defect"))?;
        self.respond(answer, answered.duration_since(arrived))
    }
}

impl DetectApi {
    fn respond(&self, answer: Answer, took: Duration) -> Result<Response<v1::DetectResponse>, Status> {
        let analysis = match answer {
            Answer::Analyzed(analysis) => analysis,
            Answer::Shed { retry_after } => {
                return Err(ErrorKind::Exhausted { retry_after }
                    .status("the call cannot be served before its deadline: the service is overloaded"));
            }
            Answer::Expired => {
                return Err(ErrorKind::DeadlineExceeded.status("the deadline passed before the work began"));
            }
            Answer::Invalid(why) => return Err(ErrorKind::Invalid.status(why)),
            Answer::Failed(why) => {
                if let Some(held_back) = self.errors.allow(clock::now()) {
                    tracing::error!(why, held_back, "the engine failed on a call");
                }
                return Err(ErrorKind::Internal.status(why));
            }
            Answer::Draining => return Err(ErrorKind::Unavailable.status("the service is stopping")),
        };
        let timings = analysis.timings;
        let worked = timings.decode + timings.detect + timings.gender;
        Ok(Response::new(v1::DetectResponse {
            width_px: analysis.size.width_px,
            height_px: analysis.size.height_px,
            faces: analysis.faces.iter().map(wire::face).collect(),
            truncated: analysis.truncated,
            detector: self.detector.to_string(),
            gender_model: self.gender_model.as_deref().unwrap_or_default().to_owned(),
            queued_us: micros_u64(took.saturating_sub(worked)),
            analysis_us: micros_u64(worked),
        }))
    }
}

/// The way back for one call.
struct CallReply {
    ticket: QueuedTicket,
    sender: oneshot::Sender<(Answer, Instant)>,
    /// Held as long as the picture is, also when the client is gone.
    _slot: Option<CallSlot>,
}

impl Reply for CallReply {
    fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    fn answer(self: Box<Self>, answer: Answer) {
        self.ticket.answer(answer.outcome());
        // Fails when the client is gone: the outcome is counted all the same.
        let _ = self.sender.send((answer, clock::now()));
    }
}
