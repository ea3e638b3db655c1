//! Sends the late frames of one camera, while a server takes its live ones: a
//! stream of its own, one frame at a time, the position on disk before the next.
//! A frame whose answer did not come waits again; the server knows whether it
//! has its result. Without a server that takes late frames they stay where they
//! are.

mod progress;
mod session;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flatframe_shared::clock::now;
use flatframe_shared::convert;
use flatframe_shared::frame::{CameraHello, FrameNumber, WireFrame};
use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::publish_request::Message as Up;
use flatframe_shared::outcome::Outcome;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Code;

pub use self::progress::Progress;
use self::session::{Heard, Session};
use super::{Deadlines, LONGEST_RETRY_AFTER, Opened, UplinkError, connect, is_news, open};
use crate::late::LateView;
use crate::late::backlog::{Backlog, LateFrame};
use crate::late::ledger::LateDrop;
use crate::record::Surroundings;
use crate::send::dial::{Dial, Parting, Retry};
use crate::send::servers::Turn;
use crate::terms::TermsCell;

/// Between two looks at whether there is something to send and a server to send
/// it to.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// The server gives a frame that finds no time back after 10 s.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// After a failure it is tried again so much later.
const RETRY: Duration = Duration::from_secs(5);
/// And so much later with a server that takes no late frames.
const REFUSED_RETRY: Duration = Duration::from_secs(60);
/// For so long after the start a clock that is behind what was captured is not
/// believed: without a battery it is until the network has set it.
const CLOCK_PATIENCE: Duration = Duration::from_secs(600);
/// Messages that may wait to be written: hello or status, and one frame.
const ROOM: usize = 3;

/// Sends the late frames of one camera.
pub struct LateUplink {
    /// Where to.
    pub server: Box<dyn Dial>,
    /// What is said first; the rotation is that of the frames.
    pub hello: CameraHello,
    /// What there is; `None` while a thread has it.
    pub backlog: Option<Backlog>,
    /// What can be seen of it.
    pub view: LateView,
    /// Late frames that the recording has written so far.
    pub written: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Live frames that were `superseded` or `expired` so far.
    pub live_losses: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Whose turn it is to open a stream of late frames.
    pub opening: Arc<Semaphore>,
    /// How far it is.
    pub progress: Progress,
    /// Whether a server takes live frames.
    pub terms: TermsCell,
    /// Most frames in a second.
    pub fps: f32,
    /// Most bytes in a second, if there is a cap.
    pub bytes_per_s: Option<u64>,
    /// How long to wait for what.
    pub deadlines: Deadlines,
}

/// Why a stream is left, if it did not break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// All that was found is sent.
    Empty,
    /// The next frame is turned another way: it needs a stream of its own.
    Turned,
    /// No live frames are taken any more.
    Outage,
    /// The server is going away.
    Drained,
    /// This service stops.
    Finished,
}

impl LateUplink {
    /// Sends until `finish`. What is not sent then stays on disk.
    pub async fn run(mut self, finish: CancellationToken) {
        let (mut seen, mut hand, mut reported) = (None, None, None);
        let mut retry_at = now();
        let clock_set_by = now() + CLOCK_PATIENCE;
        while finish.run_until_cancelled(tokio::time::sleep(LOOK_PERIOD)).await.is_some() {
            let mut step = self.look(&finish, &mut seen).await;
            if step.is_ok() && now() >= retry_at {
                step = match self.waits_for_clock(clock_set_by) {
                    true => Err(LateError::Clock),
                    false => self.send_all(&finish, &mut hand, &mut reported).await,
                };
            }
            if let Err(error) = step {
                let delay = self.leave_after(&error);
                report(&error, delay, &mut reported);
                retry_at = now() + delay;
            }
        }
        // Who starts next reads how far it came; a power cut costs no more than
        // offering some again.
        let _ = self.disk(|backlog| backlog.sync(now())).await;
    }

    /// Looks for what the recording wrote since the last look.
    async fn look(&mut self, finish: &CancellationToken, seen: &mut Option<u64>) -> Result<(), LateError> {
        let written = (self.written)();
        if *seen != Some(written) {
            let stop = finish.clone();
            self.disk(move |backlog| backlog.look(&stop)).await?;
            *seen = Some(written);
        }
        Ok(())
    }

    /// Leaves the server after a failure: when to try again, there or elsewhere.
    fn leave_after(&self, error: &LateError) -> Duration {
        let delay = match error {
            _ if error.is_refusal() => REFUSED_RETRY,
            LateError::Stream(UplinkError::Status { retry_after: Some(asked), .. }) => {
                RETRY.max((*asked).min(LONGEST_RETRY_AFTER))
            }
            _ => RETRY,
        };
        if let LateError::Disk(_) | LateError::NoThread | LateError::Clock = error {
            return delay;
        }
        // Whether that server is there is for live streams to say.
        match self.server.ended(Parting::Refused(delay)) {
            // It has none of these frames. One that broke off, or still ends a
            // stream, may have stored what another would store again.
            Retry::Elsewhere if error.is_refusal() => LOOK_PERIOD,
            _ => delay,
        }
    }

    /// Whether frames that a server would take are of a time to come, and the
    /// clock may yet be set.
    fn waits_for_clock(&self, clock_set_by: Instant) -> bool {
        if self.terms.get().is_none() || now() >= clock_set_by {
            return false;
        }
        let unix_us = (Surroundings::default().now_unix_us)();
        unix_us.zip(self.backlog.as_ref()).is_some_and(|(now_us, backlog)| backlog.is_ahead_of(now_us))
    }

    /// Sends what was found, if a server takes live frames.
    async fn send_all(
        &mut self,
        finish: &CancellationToken,
        hand: &mut Option<LateFrame>,
        reported: &mut Option<String>,
    ) -> Result<(), LateError> {
        let Some(terms) = self.terms.get().filter(|_| !finish.is_cancelled()) else { return Ok(()) };
        if hand.is_none() {
            *hand = self.next(terms.max_frame_bytes).await?;
        }
        if hand.is_none() {
            return self.disk(|backlog| backlog.sync(now())).await;
        }
        let before = self.view.counts();
        tracing::info!(waiting = before.waiting, "late frames are sent");
        let left = self.run_once(finish, hand, reported).await?;
        let counts = self.view.counts();
        let (sent, waiting) = (counts.sent - before.sent, counts.waiting);
        tracing::info!(sent, waiting, why = ?left, "late frames rest");
        Ok(())
    }

    async fn run_once(
        &mut self,
        finish: &CancellationToken,
        hand: &mut Option<LateFrame>,
        reported: &mut Option<String>,
    ) -> Result<Left, LateError> {
        let rotation = hand.as_ref().map_or(self.hello.rotation, |frame| frame.rotation);
        let hello = CameraHello { rotation, ..self.hello.clone() };
        let opening = self.open(&hello);
        let Some(opened) = finish.run_until_cancelled(opening).await else { return Ok(Left::Finished) };
        let mut session = Session::new(opened?);
        let Some(late_after_us) = session.welcome.late_after_unix_us else { return Err(LateError::NotTaken) };
        *reported = None;
        let left = loop {
            let Some(frame) = hand.as_ref() else {
                match self.next(session.welcome.max_frame_bytes as usize).await? {
                    None => break Left::Empty,
                    next => *hand = next,
                }
                continue;
            };
            if frame.rotation != rotation {
                break Left::Turned;
            }
            let limits = &session.welcome;
            let fits = frame.jpeg.len() <= limits.max_frame_bytes as usize && frame.size.fits(limits.max_size);
            let unsent = if frame.captured_unix_us <= late_after_us {
                Some(LateDrop::Known)
            } else {
                (!fits).then_some(LateDrop::TooLarge)
            };
            if let Some(reason) = unsent {
                self.view.ledger.drop_as(reason, 1);
                self.settle(hand).await?;
                continue;
            }
            if let Some(left) = self.wait_for_turn(&mut session, finish).await? {
                break left;
            }
            match self.send(&mut session, frame, finish).await? {
                Outcome::Draining => break Left::Drained,
                Outcome::Shed => {}
                _ => self.settle(hand).await?,
            }
        };
        session.close(self.deadlines.close).await;
        Ok(left)
    }

    /// Has a turn of its own: live cameras wait for none of these.
    async fn open(&self, hello: &CameraHello) -> Result<Opened, UplinkError> {
        // Never closed.
        let _turn = self.opening.acquire().await;
        let channel = connect(&*self.server, &self.deadlines).await?;
        open(&*self.server, &self.deadlines, hello, ROOM, Some((channel, Turn::default()))).await
    }

    /// Waits for a credit and for the rate, as long as it takes: the server
    /// gives a credit when it has time. `Some`: the stream is left before.
    async fn wait_for_turn(
        &mut self,
        session: &mut Session,
        finish: &CancellationToken,
    ) -> Result<Option<Left>, UplinkError> {
        loop {
            if session.drains {
                return Ok(Some(Left::Drained));
            }
            if self.terms.get().is_none() {
                return Ok(Some(Left::Outage));
            }
            let now = now();
            let rest_until = self.progress.rest_until((self.live_losses)(), now);
            let next_at = rest_until.map_or(session.next_at, |until| until.max(session.next_at));
            if session.has_credit && now >= next_at {
                return Ok(None);
            }
            let look = now + LOOK_PERIOD;
            let until = if session.has_credit { look.min(next_at) } else { look };
            match session.hear(until, finish).await? {
                Heard::Finish => return Ok(Some(Left::Finished)),
                Heard::Outcome(outcome) => return Err(not_on_its_way(&outcome)),
                Heard::Credit | Heard::Drain | Heard::Due => {}
            }
        }
    }

    /// Sends one frame and waits for its outcome, and after `shed` as long as
    /// the server asks.
    async fn send(
        &mut self,
        session: &mut Session,
        frame: &LateFrame,
        finish: &CancellationToken,
    ) -> Result<Outcome, UplinkError> {
        let number = self.progress.send((self.live_losses)());
        session.has_credit = false;
        let by_bytes = self.bytes_per_s.map(|rate| frame.jpeg.len() as f64 / rate.max(1) as f64);
        let interval_s = by_bytes.unwrap_or(0.0).max(1.0 / f64::from(self.fps));
        session.next_at = now() + Duration::from_secs_f64(interval_s);
        let wire = WireFrame {
            number: FrameNumber(number),
            age: Duration::ZERO,
            remaining: Duration::ZERO,
            captured_unix_us: frame.captured_unix_us,
            size: frame.size,
            traceparent: String::new(),
            jpeg: frame.jpeg.clone(),
        };
        let ticket = self.view.ledger.send();
        let answered = self.answer_to(session, wire, finish).await;
        let answered = answered.and_then(|answer| Ok((convert::outcome_from_wire(answer.outcome)?, answer)));
        let (outcome, answer) = match answered {
            Ok((outcome, answer)) => {
                ticket.answer(outcome);
                (outcome, answer)
            }
            Err(error) => {
                ticket.lose();
                return Err(error);
            }
        };
        if outcome != Outcome::Analyzed {
            tracing::debug!(%outcome, detail = convert::short(answer.detail), "late frame not analyzed");
        }
        if outcome == Outcome::Shed {
            let asked = Duration::from_millis(u64::from(answer.retry_after_ms)).min(LONGEST_RETRY_AFTER);
            session.next_at = now() + asked;
        }
        Ok(outcome)
    }

    async fn answer_to(
        &self,
        session: &mut Session,
        wire: WireFrame,
        finish: &CancellationToken,
    ) -> Result<v1::FrameOutcome, UplinkError> {
        let number = wire.number.0;
        session.put(Up::Frame(convert::frame_to_wire(wire)))?;
        let mut deadline = now() + ANSWER_DEADLINE;
        let mut patience = finish.clone();
        loop {
            match session.hear(deadline, &patience).await? {
                Heard::Outcome(outcome) if outcome.number == number => return Ok(outcome),
                Heard::Outcome(outcome) => return Err(not_on_its_way(&outcome)),
                Heard::Due => return Err(UplinkError::AnswerLate),
                Heard::Finish => {
                    patience = CancellationToken::new();
                    deadline = deadline.min(now() + self.deadlines.last_answers);
                }
                Heard::Credit | Heard::Drain => {}
            }
        }
    }

    async fn next(&mut self, max_jpeg_bytes: usize) -> Result<Option<LateFrame>, LateError> {
        let unix_us = Surroundings::default().now_unix_us;
        self.disk(move |backlog| backlog.next(unix_us(), max_jpeg_bytes)).await
    }

    /// The outcome of the frame in hand is known: writes that down.
    async fn settle(&mut self, hand: &mut Option<LateFrame>) -> Result<(), LateError> {
        let Some(frame) = hand.take() else { return Ok(()) };
        self.disk(move |backlog| backlog.settle(&frame, now())).await
    }

    /// Works on the disk, on a thread that may block.
    async fn disk<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Backlog) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, LateError> {
        let Some(mut backlog) = self.backlog.take() else { return Err(LateError::NoThread) };
        let worked = tokio::task::spawn_blocking(move || {
            let done = work(&mut backlog);
            (backlog, done)
        });
        // Only a runtime that stops gives nothing back.
        let (backlog, done) = worked.await.map_err(|_| LateError::NoThread)?;
        self.backlog = Some(backlog);
        done.map_err(LateError::Disk)
    }
}

/// Why late frames wait.
#[derive(Debug, thiserror::Error)]
enum LateError {
    #[error(transparent)]
    Stream(#[from] UplinkError),
    #[error("the server is too old to take late frames: update it")]
    NotTaken,
    #[error("frames are of a time to come: they wait until the clock is set")]
    Clock,
    #[error("the recording cannot be read, or how far it is sent not written: {0}")]
    Disk(std::io::Error),
    #[error("the system gives no thread")]
    NoThread,
}

impl LateError {
    /// Whether that server takes no late frames, whoever sends them.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::NotTaken | Self::Stream(UplinkError::Status { code: Code::FailedPrecondition, .. }))
    }
}

fn not_on_its_way(outcome: &v1::FrameOutcome) -> UplinkError {
    UplinkError::Protocol(format!("an answer to late frame {}, which is not on its way", outcome.number))
}

/// Logs a failure once, until it changes or a stream is opened.
fn report(error: &LateError, delay: Duration, reported: &mut Option<String>) {
    let retry_ms = delay.as_millis() as u64;
    if !is_news(error, reported) {
        tracing::debug!(%error, retry_ms, "late frames still wait");
        return;
    }
    tracing::warn!(%error, retry_ms, "late frames wait: they stay in the recording");
}
