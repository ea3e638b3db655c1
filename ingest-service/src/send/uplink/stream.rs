//! One open stream, from the welcome to its end: sends, listens, keeps the
//! deadlines. However it ends, every frame on its way has a fate.

use std::time::{Duration, Instant};

use flatframe_shared::clock::now;
use flatframe_shared::convert;
use flatframe_shared::frame::{FrameNumber, ServerWelcome, WireFrame};
use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::publish_request::Message as Up;
use flatframe_shared::r#gen::v1::publish_response::Message as Down;
use flatframe_shared::outcome::{DropReason, Outcome};
use flatframe_shared::telemetry::traceparent;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::send::flight::{Answer, Flight};
use crate::send::uplink::{End, Next, Uplink, UplinkError};

/// A status is sent at least so often.
const STATUS_PERIOD: Duration = Duration::from_secs(5);
/// A status that finds earlier messages unwritten is tried again after this.
const STATUS_RETRY: Duration = Duration::from_millis(250);
/// Longest drain that a server can ask for.
const LONGEST_DRAIN: Duration = Duration::from_secs(60);

/// An open stream.
pub(super) struct Stream<'a> {
    uplink: &'a Uplink,
    /// Never full: frames are bounded by the flight, and a status is sent only
    /// when nothing waits.
    messages: mpsc::Sender<v1::PublishRequest>,
    inbound: Streaming<v1::PublishResponse>,
    welcome: ServerWelcome,
    flight: Flight,
    status_due: Instant,
    /// Set once no more frames are sent: why, and when the wait for the last
    /// answers ends.
    closing: Option<(End, Instant)>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(
        uplink: &'a Uplink,
        messages: mpsc::Sender<v1::PublishRequest>,
        inbound: Streaming<v1::PublishResponse>,
        welcome: ServerWelcome,
    ) -> Self {
        let flight = Flight::new(welcome.window as usize, uplink.max_in_flight, uplink.deadlines.answer_slack);
        Self { uplink, messages, inbound, welcome, flight, status_due: now(), closing: None }
    }

    /// Until the stream ends. What is on its way then is lost. Ends it, all
    /// answers taken, when the camera had better be elsewhere, and leaves the
    /// connection to there in `next`.
    pub(super) async fn run(mut self, finish: &CancellationToken, next: &mut Next) -> Result<End, UplinkError> {
        let uplink = self.uplink;
        let (mut states, mut better) = (uplink.status.follow(), uplink.server.better());
        loop {
            let now = now();
            if let Some((end, _)) = self.closing.filter(|(_, until)| self.flight.frames() == 0 || now >= *until) {
                self.close().await;
                return Ok(end);
            }
            if self.flight.answer_by().is_some_and(|by| now >= by) {
                return Err(UplinkError::AnswerLate);
            }
            self.send_frames(now)?;
            if now >= self.status_due {
                self.send_status(now)?;
            }
            let wake = self.wake(now);
            let stopping = matches!(self.closing, Some((End::Finished, _)));
            tokio::select! {
                biased;
                () = finish.cancelled(), if !stopping => {
                    self.close_after(End::Finished, now + self.uplink.deadlines.last_answers);
                }
                message = self.inbound.message() => match message {
                    Ok(Some(message)) => self.take(message)?,
                    Ok(None) | Err(_) if self.closing.is_some() => {
                        return Ok(self.closing.map_or(End::Drained, |(end, _)| end));
                    }
                    Ok(None) => return Err(UplinkError::Closed),
                    Err(status) => return Err(status.into()),
                },
                elsewhere = &mut better, if self.closing.is_none() => {
                    *next = Some(elsewhere);
                    // Nothing is wrong here: every answer is waited for.
                    self.close_after(End::Moved, now + uplink.hello.ttl + uplink.deadlines.answer_slack);
                }
                () = self.uplink.outbox.filled() => {}
                changed = states.changed() => {
                    // The sender lives in `uplink.status`.
                    if changed.is_ok() { self.status_due = now; }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// When the next deadline passes.
    fn wake(&self, now: Instant) -> Instant {
        let closing = self.closing.map(|(_, until)| until);
        let others = [self.flight.answer_by(), self.flight.paused_until(now), closing];
        others.into_iter().flatten().fold(self.status_due, Instant::min)
    }

    fn send_frames(&mut self, now: Instant) -> Result<(), UplinkError> {
        if self.closing.is_some() {
            return Ok(());
        }
        while let Some(frame) = self.uplink.outbox.take(self.flight.may_send(now), now) {
            let age = frame.birth.age(now) + self.flight.transit(now);
            let remaining = frame.birth.ttl.saturating_sub(age);
            // What will be late when it arrives is late now. But a wrong
            // estimate must not stop all sending, since only an answer corrects
            // it: with nothing on its way, one goes that has no time left.
            if remaining.is_zero() && self.flight.frames() > 0 {
                frame.ticket.drop_as(DropReason::Expired);
                continue;
            }
            let wire = WireFrame {
                number: frame.birth.number,
                age,
                remaining,
                captured_unix_us: frame.birth.captured_unix_us,
                size: frame.size,
                traceparent: traceparent(&frame.birth.span),
                jpeg: frame.jpeg,
            };
            self.flight.sent(frame.birth, frame.ticket.send(), now);
            self.put(Up::Frame(convert::frame_to_wire(wire)))?;
        }
        Ok(())
    }

    fn send_status(&mut self, now: Instant) -> Result<(), UplinkError> {
        if self.messages.capacity() < self.messages.max_capacity() {
            self.status_due = now + STATUS_RETRY;
            return Ok(());
        }
        let status = self.uplink.status.read(now);
        self.status_due = now + STATUS_PERIOD;
        self.put(Up::Status(v1::CameraStatus {
            state: convert::state_to_wire(status.state) as i32,
            last_picture_age_ms: status.last_picture_age.map(convert::millis_u64),
            source_fps: status.fps,
            ledger: Some(convert::ingest_counts_to_wire(&self.uplink.ledger.counts())),
            detail: convert::short(status.detail),
            source_restarts: status.restarts,
        }))
    }

    fn put(&self, message: Up) -> Result<(), UplinkError> {
        self.messages.try_send(v1::PublishRequest { message: Some(message) }).map_err(|_| UplinkError::Closed)
    }

    fn take(&mut self, response: v1::PublishResponse) -> Result<(), UplinkError> {
        match response.message {
            Some(Down::Outcome(outcome)) => self.take_outcome(outcome)?,
            Some(Down::Credit(credit)) => self.flight.grant(credit.frames as usize),
            Some(Down::Pace(pace)) => {
                let pace = convert::pace_from_wire(pace)?;
                tracing::debug!(max_fps = pace.max_fps, max_size = %pace.max_size, "the server asks for another pace");
                if self.closing.is_none() {
                    self.uplink.take_terms(&self.welcome, pace);
                }
            }
            Some(Down::Drain(drain)) => {
                let wait = Duration::from_millis(u64::from(drain.deadline_ms)).min(LONGEST_DRAIN);
                tracing::info!(
                    reason = convert::short(drain.reason),
                    deadline_ms = drain.deadline_ms,
                    "the server drains"
                );
                if self.closing.is_none() {
                    self.close_after(End::Drained, now() + wait);
                }
            }
            Some(Down::Welcome(_)) => return Err(UplinkError::Protocol("a second welcome".into())),
            // A message of a later version.
            None => {}
        }
        Ok(())
    }

    fn take_outcome(&mut self, outcome: v1::FrameOutcome) -> Result<(), UplinkError> {
        let answer = Answer {
            number: FrameNumber(outcome.number),
            outcome: convert::outcome_from_wire(outcome.outcome)?,
            retry_after: Duration::from_millis(u64::from(outcome.retry_after_ms)),
            at_server: Duration::from_micros(outcome.server_us),
        };
        let Some(latency) = self.flight.answer(answer, now()) else {
            return Err(UplinkError::Protocol(format!(
                "an answer to frame {}, which is not on its way",
                answer.number
            )));
        };
        if answer.outcome == Outcome::Analyzed {
            self.uplink.latency.record(latency);
        } else {
            tracing::trace!(
                number = %answer.number, outcome = %answer.outcome,
                retry_after_ms = outcome.retry_after_ms, detail = convert::short(outcome.detail), "frame not analyzed"
            );
        }
        Ok(())
    }

    /// No more frames; the stream ends when all are answered, or at `until`.
    fn close_after(&mut self, end: End, until: Instant) {
        let why = match end {
            End::Finished => Some(DropReason::Shutdown),
            End::Drained => Some(DropReason::Offline),
            // What waits goes to the next server.
            End::Moved => None,
        };
        if let Some(why) = why {
            self.uplink.terms.set(None);
            self.uplink.outbox.clear(why);
        }
        self.closing = Some((end, until));
    }

    /// Ends our half and waits a little for the server's.
    async fn close(self) {
        let Self { uplink, messages, mut inbound, mut flight, .. } = self;
        drop(messages);
        // Answers that still come count; then whatever is left is lost.
        let ending = async {
            while let Ok(Some(response)) = inbound.message().await {
                if let Some(Down::Outcome(outcome)) = response.message
                    && let Ok(fate) = convert::outcome_from_wire(outcome.outcome)
                {
                    let number = FrameNumber(outcome.number);
                    let (retry_after, at_server) = (Duration::ZERO, Duration::ZERO);
                    flight.answer(Answer { number, outcome: fate, retry_after, at_server }, now());
                }
            }
        };
        if tokio::time::timeout(uplink.deadlines.close, ending).await.is_err() {
            tracing::debug!("the server did not end the stream in time");
        }
    }
}
