//! Where a source's pictures become frames: each gets a number, a time and a
//! ticket, passes the rate gate, and waits in the raw slot. Never blocks the
//! source, never looks into the picture.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flatframe_shared::clock;
use flatframe_shared::frame::{CameraId, CameraState, FrameNumber};
use flatframe_shared::ledger::IngestLedger;
use flatframe_shared::memory_watch::MemoryWatch;
use flatframe_shared::outcome::DropReason;
use flatframe_shared::telemetry::FRAME_TARGET;
use tracing::field::Empty;

use crate::frame::{Birth, CapturedFrame, Picture, Purpose};
use crate::plan::CameraPlan;
use crate::prepare::RawSlot;
use crate::prepare::pace::RateGate;
use crate::source::jpeg_framing::{Framed, JpegFramer};
use crate::source::status::StatusCell;
use crate::terms::TermsCell;

/// A wall clock before this (2020-01-01) was never set: a Pi without network
/// starts in 1970 or at the time of its image.
const CLOCK_IS_SET_UNIX_S: u64 = 1_577_836_800;
/// Most frames per second that a camera takes while memory is short.
const SHORT_MEMORY_FPS: f32 = 1.0;

/// Which pictures a recording wants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecordedAt {
    /// Most in a second.
    pub fps: f32,
    /// Only while no server takes frames.
    pub only_in_outages: bool,
}

/// Takes the pictures of one camera.
#[derive(Debug)]
pub struct Capture {
    camera: CameraId,
    ledger: IngestLedger,
    pub(super) status: StatusCell,
    /// Where the frames go.
    slot: Arc<RawSlot>,
    /// What the server takes.
    terms: TermsCell,
    /// Says when memory is short.
    memory: Arc<MemoryWatch>,
    /// The configured rate, for sources that cannot be asked for one.
    own_fps: Option<f32>,
    /// Age at which a frame is worthless.
    ttl: Duration,
    gate: RateGate,
    /// What the recording wants, and its gate; `None`: nothing is recorded.
    recording: Option<(RecordedAt, RateGate)>,
    /// Number of the last frame.
    last_number: u64,
    /// Whole pictures so far.
    whole: u64,
}

impl Capture {
    /// Takes the pictures of the camera of `plan`, from the first on.
    pub fn new(
        plan: &CameraPlan,
        ledger: IngestLedger,
        status: StatusCell,
        slot: Arc<RawSlot>,
        terms: TermsCell,
        memory: Arc<MemoryWatch>,
    ) -> Self {
        let (camera, own_fps, ttl, gate) = (plan.id.clone(), plan.gate_fps(), plan.ttl, RateGate::default());
        let recording = None;
        Self { camera, ledger, status, slot, terms, memory, own_fps, ttl, gate, recording, last_number: 0, whole: 0 }
    }

    /// Takes pictures for a recording too, whatever the server asks for.
    pub fn recorded_at(self, recorded: Option<RecordedAt>) -> Self {
        Self { recording: recorded.map(|recorded| (recorded, RateGate::default())), ..self }
    }

    /// The device answered; the no-picture limit runs from now on.
    pub fn opened(&self) {
        self.status.opened(clock::now());
    }

    /// A whole JPEG came.
    pub fn jpeg(&mut self, jpeg: Bytes) {
        self.picture(Picture::Jpeg(jpeg));
    }

    /// A whole picture came.
    pub fn picture(&mut self, picture: Picture) {
        let now = clock::now();
        let before = self.status.picture(now);
        if before != CameraState::Live {
            tracing::info!(before = before.as_str(), "camera is live");
        }
        let ticket = self.ledger.capture();
        self.last_number += 1;
        self.whole += 1;
        let terms = self.terms.get();
        let server_fps = terms.and_then(|terms| terms.max_fps);
        let short_fps = self.memory.is_pressed().then_some(SHORT_MEMORY_FPS);
        let fps = [self.own_fps, server_fps, short_fps].into_iter().flatten().reduce(f32::min);
        let unsent = if !self.gate.wants(now, fps) {
            Some(DropReason::Paced)
        } else {
            terms.is_none().then_some(DropReason::Offline)
        };
        let is_of_outage = terms.is_none();
        let is_recorded = self.recording.as_mut().is_some_and(|(recorded, gate)| {
            let slowest = short_fps.map_or(recorded.fps, |short_fps| recorded.fps.min(short_fps));
            (is_of_outage || !recorded.only_in_outages) && gate.wants(now, Some(slowest))
        });
        if let Some(reason) = unsent
            && !is_recorded
        {
            ticket.drop_as(reason);
        } else {
            let number = FrameNumber(self.last_number);
            let span = tracing::trace_span!(
                target: FRAME_TARGET, "frame", camera = %self.camera, number = number.0, outcome = Empty
            );
            let birth =
                Birth { number, captured: now, captured_unix_us: unix_us(SystemTime::now()), ttl: self.ttl, span };
            let purpose = Purpose { is_recorded, unsent, is_of_outage };
            self.slot.put(CapturedFrame { birth, ticket, picture, purpose });
        }
    }

    /// A picture began, but cannot be had.
    pub fn broken(&mut self, reason: DropReason) {
        self.last_number += 1;
        self.ledger.capture().drop_as(reason);
        tracing::trace!(%reason, "picture cannot be had");
    }

    /// Bytes came; what is whole in them is taken.
    pub fn bytes(&mut self, framer: &mut JpegFramer, mut chunk: &[u8]) {
        while let Some(framed) = framer.next(&mut chunk) {
            self.framed(framed);
        }
    }

    /// The stream of bytes ended.
    pub fn end_of_bytes(&mut self, framer: &mut JpegFramer) {
        if let Some(framed) = framer.finish() {
            self.framed(framed);
        }
    }

    /// Whole pictures so far.
    pub fn whole(&self) -> u64 {
        self.whole
    }

    /// Takes what a framer found.
    pub fn framed(&mut self, framed: Framed) {
        match framed {
            Framed::Picture(jpeg) => self.jpeg(jpeg),
            Framed::Broken(reason) => self.broken(reason),
        }
    }
}

/// Microseconds since the Unix epoch; 0 when the clock was never set.
fn unix_us(clock: SystemTime) -> i64 {
    let since_epoch = clock.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since_epoch.as_secs() < CLOCK_IS_SET_UNIX_S {
        return 0;
    }
    i64::try_from(since_epoch.as_micros()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use flatframe_shared::frame::PictureSize;

    use super::*;
    use crate::config::{CameraConfig, LimitsConfig};
    use crate::terms::Terms;

    fn capture(own_fps: Option<f32>) -> Capture {
        let plan = CameraPlan::new(&CameraConfig::new("a", "pattern"), &LimitsConfig::default()).expect("valid");
        let terms = TermsCell::default();
        let (ledger, memory) = (IngestLedger::new(), Arc::new(MemoryWatch::unlimited()));
        Capture { own_fps, ..Capture::new(&plan, ledger, StatusCell::new(), Arc::default(), terms, memory) }
    }

    fn terms(max_fps: Option<f32>) -> Option<Terms> {
        Some(Terms { max_fps, max_size: PictureSize::new(640, 480), max_frame_bytes: 1000 })
    }

    #[tokio::test(start_paused = true)]
    async fn paced_then_offline_then_slot() {
        let mut capture = capture(None);
        let picture = Bytes::from_static(b"picture");
        capture.jpeg(picture.clone());
        capture.terms.set(terms(Some(2.0)));
        for _ in 0..10 {
            capture.jpeg(picture.clone());
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        capture.broken(DropReason::Corrupt);
        let counts = capture.ledger.counts();
        let dropped = |reason| counts.dropped(reason);
        assert_eq!(counts.captured, 12);
        assert_eq!((dropped(DropReason::Offline), dropped(DropReason::Corrupt)), (1, 1));
        assert!((7..=8).contains(&dropped(DropReason::Paced)), "{counts:?}");
        assert_eq!((counts.waiting, counts.balance()), (1, 0));
        capture.slot.close();
        assert_eq!(capture.ledger.counts().dropped(DropReason::Shutdown), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lower_rate_counts() {
        for (own, server, passed) in [(Some(5.0), None, 10), (Some(5.0), Some(2.0), 4), (Some(2.0), Some(5.0), 4)] {
            let mut capture = capture(own);
            capture.terms.set(terms(server));
            for _ in 0..40 {
                capture.jpeg(Bytes::from_static(b"x"));
                tokio::time::advance(Duration::from_millis(50)).await;
            }
            let got = 40 - capture.ledger.counts().dropped(DropReason::Paced);
            assert!(got.abs_diff(passed) <= 1, "{own:?} {server:?}: {got}");
            capture.slot.close();
        }
    }

    /// The recording has a rate of its own: it goes on while the server wants
    /// less, or is away.
    #[tokio::test(start_paused = true)]
    async fn recorded_whatever_the_server_wants() {
        for (server, sent) in [(None, 0), (terms(Some(1.0)), 2), (terms(None), 40)] {
            let every = RecordedAt { fps: 5.0, only_in_outages: false };
            let mut capture = capture(None).recorded_at(Some(every));
            capture.terms.set(server);
            let (mut to_send, mut to_record) = (0, 0);
            for _ in 0..40 {
                capture.jpeg(Bytes::from_static(b"x"));
                if capture.slot.live() > 0 {
                    let frame = capture.slot.take().expect("open");
                    to_send += u32::from(frame.purpose.unsent.is_none());
                    to_record += u32::from(frame.purpose.is_recorded);
                    frame.ticket.drop_as(frame.purpose.unsent.unwrap_or(DropReason::Superseded));
                }
                tokio::time::advance(Duration::from_millis(50)).await;
            }
            assert!(to_record.abs_diff(10) <= 1 && to_send.abs_diff(sent) <= 1, "{server:?}: {to_record}, {to_send}");
            assert_eq!((capture.ledger.counts().balance(), capture.ledger.counts().waiting), (0, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_outages_are_recorded_where_that_is_asked() {
        let outages = RecordedAt { fps: 100.0, only_in_outages: true };
        let mut capture = capture(None).recorded_at(Some(outages));
        let mut recorded = Vec::new();
        for server in [None, terms(None), None] {
            capture.terms.set(server);
            for _ in 0..5 {
                capture.jpeg(Bytes::from_static(b"x"));
                let live = capture.slot.live() > 0;
                let frame = live.then(|| capture.slot.take().expect("open"));
                let purpose = frame.as_ref().map(|frame| frame.purpose).unwrap_or_default();
                recorded.push((purpose.is_recorded, purpose.is_of_outage));
                frame.into_iter().for_each(|frame| frame.ticket.drop_as(DropReason::Offline));
                tokio::time::advance(Duration::from_millis(50)).await;
            }
        }
        let of = |is| [(is, is); 5];
        assert_eq!(recorded, [of(true), of(false), of(true)].concat());
    }

    #[test]
    fn an_unset_clock_is_zero() {
        assert_eq!(unix_us(UNIX_EPOCH + Duration::from_secs(5)), 0);
        assert_eq!(unix_us(UNIX_EPOCH - Duration::from_secs(5)), 0);
        assert_eq!(unix_us(UNIX_EPOCH + Duration::from_secs(1_700_000_000)), 1_700_000_000_000_000);
    }
}
