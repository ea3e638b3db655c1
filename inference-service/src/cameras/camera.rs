//! One camera: who is connected, what it last said, its ledger, who is in front
//! of it, its newest result.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flatframe_shared::clock;
use flatframe_shared::frame::{CameraHello, CameraId, CameraState, FrameNumber, Pace, Rotation, SessionId};
use flatframe_shared::ledger::{IngestCounts, ServerCounts, ServerLedger};

use super::rate::Rate;
use super::{OpenError, lock};
use crate::intake::link::{Outbound, StreamLink};
use crate::intake::order::{Order, Place, Places};
use crate::intake::reply::Finished;
use crate::intake::schedule::QueueId;
use crate::people::count::{Counts, Moment};
use crate::people::incidents::IncidentKind;
use crate::people::picture::PictureState;
use crate::people::{CarriedPeople, People, Seen};
use crate::replicas::directory::SILENCE;
use crate::replicas::handover::TakenOver;
use crate::results::record::ResultRecord;
use crate::vision::Analysis;

/// One camera. Lives on while its stream is closed.
#[derive(Debug)]
pub struct Camera {
    /// Its id.
    pub id: CameraId,
    /// Its queue in the schedule.
    pub queue: QueueId,
    /// What became of its frames.
    pub ledger: ServerLedger,
    places: Places,
    order: Mutex<Order<Finished>>,
    scene: Mutex<Scene>,
    state: Mutex<CameraRecord>,
}

/// What is in front of the camera.
#[derive(Debug)]
struct Scene {
    people: People,
    picture: PictureState,
}

/// The newest picture of a camera.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// As it came.
    pub jpeg: Vec<u8>,
    /// What makes it upright.
    pub rotation: Rotation,
    /// What was found in it.
    pub record: Arc<ResultRecord>,
}

#[derive(Debug)]
struct CameraRecord {
    hello: CameraHello,
    stream: Option<Arc<StreamLink>>,
    offline_since: Instant,
    pace: Pace,
    reported: Option<Reported>,
    last_frame: Option<Instant>,
    analyzed: Rate,
    latest: Option<Arc<ResultRecord>>,
    /// The picture of `latest`; the allocation is kept. Empty when pictures
    /// are not kept.
    latest_jpeg: Vec<u8>,
    /// What makes it upright: the camera may be turned before it sends again.
    latest_rotation: Rotation,
}

impl CameraRecord {
    /// Its state, and what is wrong.
    fn state(&self) -> (CameraState, &str) {
        match (&self.stream, &self.reported) {
            (None, _) => (CameraState::Offline, "its stream is closed"),
            (Some(_), None) => (CameraState::Connecting, "it has not reported yet"),
            (Some(_), Some(reported)) => (reported.state, &reported.detail),
        }
    }
}

/// What a camera's sender last said of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    /// State of its source.
    pub state: CameraState,
    /// What is wrong; empty when live.
    pub detail: String,
    /// The sender's counters.
    pub counts: IngestCounts,
}

/// A camera at one instant.
#[derive(Debug, Clone)]
pub struct CameraView {
    /// What it said when it connected last.
    pub hello: CameraHello,
    /// Its state: what the sender says, or offline.
    pub state: CameraState,
    /// What is wrong; empty when live.
    pub detail: String,
    /// Time since the last frame arrived.
    pub last_frame_age: Option<Duration>,
    /// Frames analysed per second, lately.
    pub analyzed_fps: f32,
    /// What it was asked for.
    pub pace: Pace,
    /// What became of its frames here.
    pub counts: ServerCounts,
    /// The sender's counters, as last reported.
    pub ingest_counts: Option<IngestCounts>,
    /// Its newest result.
    pub latest: Option<Arc<ResultRecord>>,
    /// People counted so far.
    pub people: Counts,
    /// Whether who is there now is known.
    pub is_watching: bool,
}

impl Camera {
    /// A camera that has no stream yet.
    pub(super) fn new(hello: &CameraHello, queue: QueueId, pace: Pace, people: People) -> Self {
        Self {
            id: hello.camera.clone(),
            queue,
            ledger: ServerLedger::new(),
            places: Places::default(),
            order: Mutex::default(),
            scene: Mutex::new(Scene { people, picture: PictureState::default() }),
            state: Mutex::new(CameraRecord {
                hello: hello.clone(),
                stream: None,
                offline_since: clock::now(),
                pace,
                reported: None,
                last_frame: None,
                analyzed: Rate::default(),
                latest: None,
                latest_jpeg: Vec::new(),
                latest_rotation: hello.rotation,
            }),
        }
    }

    /// Opens its stream. One of the same session that still stands is ended.
    ///
    /// # Errors
    /// [`OpenError::InUse`].
    pub(super) fn open(
        self: &Arc<Self>,
        hello: &CameraHello,
        pace: Pace,
        link: impl FnOnce(Arc<Self>) -> (Arc<StreamLink>, Outbound),
    ) -> Result<(Arc<StreamLink>, Outbound), OpenError> {
        let mut record = lock(&self.state);
        if let Some(old) = &record.stream {
            if record.hello.session != hello.session {
                return Err(OpenError::InUse(hello.camera.clone()));
            }
            old.end();
        }
        let (stream, outbound) = link(self.clone());
        record.stream = Some(stream.clone());
        record.hello = hello.clone();
        record.pace = pace;
        record.reported = None;
        lock(&self.scene).picture.forget();
        Ok((stream, outbound))
    }

    /// Ends the stream that `session` still has; `false` when it has none.
    pub(super) fn end_stream_of(&self, session: SessionId) -> bool {
        let record = lock(&self.state);
        let previous = record.stream.as_ref().filter(|_| record.hello.session == session);
        previous.inspect(|stream| stream.end()).is_some()
    }

    /// Since when it has no stream; `None` while it has one.
    pub fn offline_since(&self) -> Option<Instant> {
        let record = lock(&self.state);
        record.stream.is_none().then_some(record.offline_since)
    }

    /// A frame goes to a worker: its place in the camera's order.
    pub fn begin(&self) -> Place {
        self.places.begin()
    }

    /// A frame is done: calls `settle` for it and for those that waited for
    /// it, in order. The order is held meanwhile, so that two workers cannot
    /// overtake each other: `settle` must not wait.
    pub fn finish(&self, place: Place, finished: Finished, settle: impl Fn(Finished)) {
        let mut order = lock(&self.order);
        order.finish(place, finished).into_iter().for_each(settle);
    }

    /// The stream `link` has ended; does nothing when another took its place.
    pub fn close(&self, link: &Arc<StreamLink>) {
        let mut record = lock(&self.state);
        if record.stream.as_ref().is_some_and(|stream| Arc::ptr_eq(stream, link)) {
            record.stream = None;
            record.offline_since = clock::now();
            lock(&self.scene).picture.forget();
        }
    }

    /// Its stream, while it has one.
    pub fn stream(&self) -> Option<Arc<StreamLink>> {
        lock(&self.state).stream.clone()
    }

    /// A frame arrived.
    pub fn frame_arrived(&self, at: Instant) {
        lock(&self.state).last_frame = Some(at);
    }

    /// The sender reported.
    pub fn report(&self, reported: Reported) {
        lock(&self.state).reported = Some(reported);
    }

    /// It is asked for `pace` from now on; `false`, and nothing changes, when
    /// `link` is no longer its stream.
    pub fn set_pace(&self, pace: Pace, link: &Arc<StreamLink>) -> bool {
        let mut record = lock(&self.state);
        let is_current = record.stream.as_ref().is_some_and(|stream| Arc::ptr_eq(stream, link));
        if is_current {
            record.pace = pace;
        }
        is_current
    }

    /// What it is asked for, and the rate it would like.
    pub fn pace(&self) -> (Pace, f32) {
        let record = lock(&self.state);
        (record.pace, record.hello.wanted_fps)
    }

    /// A frame was analysed: who is on it, and what the picture looks like.
    /// Frames come in order.
    pub fn follow(&self, moment: Moment, now: Instant, analysis: &mut Analysis) -> Seen {
        let mut scene = lock(&self.scene);
        if let Some(look) = analysis.look.take() {
            scene.picture.frame(moment.at, *look);
        }
        scene.people.frame(moment, now, analysis.size, &analysis.faces)
    }

    /// Ends the tracks that were lost by `now`.
    pub fn expire(&self, now: Instant) {
        lock(&self.scene).people.expire(now);
    }

    /// Who is there and what was counted, for another replica.
    pub fn carry(&self, now: Instant) -> CarriedPeople {
        lock(&self.scene).people.carry(now)
    }

    /// Goes on with what another replica left behind; to be called before the
    /// first frame of a stream. `was_just_here`: this one served it until now.
    pub fn take_over(&self, taken: &TakenOver, was_just_here: bool) {
        let people = &mut lock(&self.scene).people;
        match taken {
            TakenOver::People { people: left, gap, is_certain } => {
                people.adopt(left, *gap, clock::now(), *is_certain);
            }
            TakenOver::Unknown(_) if !was_just_here => people.doubt(),
            TakenOver::Nothing | TakenOver::Unknown(_) => {}
        }
    }

    /// Whether the sender of `session` streamed here until shortly before.
    pub fn was_just_here(&self, session: SessionId) -> bool {
        let record = lock(&self.state);
        record.hello.session == session && record.last_frame.is_some_and(|at| clock::now().duration_since(at) < SILENCE)
    }

    /// Sets the occupancy of a line; `false` when it has none of that name.
    pub fn set_occupancy(&self, line: &str, occupancy: i64) -> bool {
        lock(&self.scene).people.set_occupancy(line, occupancy)
    }

    /// Tracks now.
    pub fn tracks(&self) -> usize {
        lock(&self.scene).people.tracks()
    }

    /// A result was published, and `jpeg` is its picture, made upright by
    /// `rotation`, if pictures are kept. Results come in order.
    pub fn set_latest(&self, latest: Arc<ResultRecord>, jpeg: Option<&[u8]>, rotation: Rotation, now: Instant) {
        let mut record = lock(&self.state);
        record.analyzed.count(now);
        record.latest = Some(latest);
        if let Some(jpeg) = jpeg {
            record.latest_jpeg.clear();
            record.latest_jpeg.reserve_exact(jpeg.len());
            record.latest_jpeg.extend_from_slice(jpeg);
            record.latest_rotation = rotation;
        }
    }

    /// Which picture is its newest; `None` when there is none yet, or none is
    /// kept.
    pub fn newest(&self) -> Option<(SessionId, FrameNumber)> {
        let record = lock(&self.state);
        let latest = record.latest.as_ref().filter(|_| !record.latest_jpeg.is_empty())?;
        Some((latest.session, latest.number))
    }

    /// Its newest picture; `None` when there is none yet, or none is kept.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let record = lock(&self.state);
        let latest = record.latest.clone().filter(|_| !record.latest_jpeg.is_empty())?;
        Some(Snapshot { jpeg: record.latest_jpeg.clone(), rotation: record.latest_rotation, record: latest })
    }

    /// States of it that may be incidents, with their kind, for how long they
    /// last, and a text for people.
    pub fn conditions(&self, now: Instant) -> Vec<(IncidentKind, Duration, String)> {
        let mut found = Vec::new();
        let is_live = {
            let record = lock(&self.state);
            let source = record.reported.as_ref().filter(|reported| reported.state != CameraState::Live);
            match (&record.stream, source) {
                (None, _) => {
                    let since = now.saturating_duration_since(record.offline_since);
                    found.push((IncidentKind::Offline, since, "the camera's stream is closed".to_owned()));
                }
                (Some(_), Some(reported)) => {
                    let detail = format!("its source is {}: {}", reported.state.as_str(), reported.detail);
                    found.push((IncidentKind::Stalled, Duration::ZERO, detail));
                }
                (Some(_), None) => {}
            }
            record.stream.is_some() && source.is_none()
        };
        // An old picture says nothing of what is now.
        if !is_live {
            return found;
        }
        let scene = lock(&self.scene);
        if let Some(since) = scene.picture.frozen_for(now) {
            found.push((IncidentKind::Frozen, since, "the picture does not change at all".into()));
        }
        if let Some(since) = scene.picture.dark_for(now) {
            found.push((IncidentKind::Dark, since, "the picture is black".into()));
        }
        found
    }

    /// Everything a client may know of it.
    pub fn view(&self) -> CameraView {
        let counts = self.ledger.counts();
        let now = clock::now();
        let (people, is_watching) = lock(&self.scene).people.counts(now);
        let mut record = lock(&self.state);
        let (state, detail) = record.state();
        let detail = detail.to_owned();
        CameraView {
            hello: record.hello.clone(),
            state,
            detail,
            last_frame_age: record.last_frame.map(|at| now.duration_since(at)),
            analyzed_fps: record.analyzed.per_second(now),
            pace: record.pace,
            counts,
            ingest_counts: record.reported.as_ref().map(|reported| reported.counts),
            latest: record.latest.clone(),
            people,
            is_watching,
        }
    }

    /// Its state: what the sender says, or offline.
    pub fn state(&self) -> CameraState {
        lock(&self.state).state().0
    }

    /// The session that streams, or streamed last.
    pub fn session(&self) -> SessionId {
        lock(&self.state).hello.session
    }
}
