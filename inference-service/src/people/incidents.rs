//! States of a camera, or of the server, that a person should know of. A state
//! becomes an incident when it lasted for a while, and ends at once. Knows the
//! states only as others tell them, once a second.

pub mod config;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flatframe_shared::frame::CameraId;
use tokio::sync::watch;

use self::config::IncidentConfig;

/// Changes kept for those who watch, and that a newcomer gets.
pub const RING: usize = 256;

/// Longest detail, in bytes: what a camera's sender may say of its source, and
/// a few words around it.
pub const MAX_DETAIL_BYTES: usize = 384;

/// What an incident is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IncidentKind {
    /// The camera's stream is closed.
    Offline,
    /// The stream is open, but its source gives no picture.
    Stalled,
    /// The picture does not change at all.
    Frozen,
    /// The picture is black.
    Dark,
    /// More frames come than can be analysed.
    Overloaded,
    /// The disk of the history is full or fails.
    Disk,
    /// Memory is short.
    Memory,
}

impl IncidentKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Offline, Self::Stalled, Self::Frozen, Self::Dark, Self::Overloaded, Self::Disk, Self::Memory];

    /// Its name, as logs and history have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Stalled => "stalled",
            Self::Frozen => "frozen",
            Self::Dark => "dark",
            Self::Overloaded => "overloaded",
            Self::Disk => "disk",
            Self::Memory => "memory",
        }
    }
}

/// One incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// Unique within this run of the server that saw it, and in its history.
    pub id: u64,
    /// The camera; `None`: the server as a whole.
    pub camera: Option<CameraId>,
    /// What it is.
    pub kind: IncidentKind,
    /// What was seen, for a person.
    pub detail: String,
    /// When the state began, in milliseconds since the Unix epoch.
    pub started_unix_ms: i64,
    /// When it ended; `None` while it lasts.
    pub ended_unix_ms: Option<i64>,
    /// The replica that saw it; `None`: this one.
    pub replica: Option<Arc<str>>,
}

/// A state as it is told: whose, what, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The camera; `None`: the server as a whole.
    pub camera: Option<CameraId>,
    /// What it is.
    pub kind: IncidentKind,
    /// For how long already when it is told for the first time.
    pub since: Duration,
    /// What is seen, for a person.
    pub detail: String,
}

type Key = (Option<CameraId>, IncidentKind);

/// All incidents: open ones, and the latest changes.
#[derive(Debug)]
pub struct Incidents {
    config: IncidentConfig,
    state: Mutex<State>,
    /// Number of the last change, for those who wait.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    lasting: HashMap<Key, Lasting>,
    ring: VecDeque<Arc<Incident>>,
    last_id: u64,
    changes: u64,
}

/// A state that lasts.
#[derive(Debug)]
struct Lasting {
    began: Instant,
    began_unix_ms: i64,
    detail: String,
    /// Set when it has become an incident.
    opened: Option<Arc<Incident>>,
}

/// What a watcher has not seen yet.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// An incident as it is now.
    Incident(Arc<Incident>),
    /// Changes that are gone.
    Gap(u64),
}

impl State {
    /// So many changes are not here: who has seen all is told of them, and gets
    /// what is left once more.
    fn skip(&mut self, changes: u64) {
        self.changes += changes + self.ring.len() as u64;
    }

    fn push(&mut self, incident: Arc<Incident>) {
        if self.ring.len() == RING {
            self.ring.pop_front();
        }
        self.ring.push_back(incident);
        self.changes += 1;
    }
}

impl Incidents {
    /// None yet; the first one gets the number `first_id`.
    pub fn new(config: IncidentConfig, first_id: u64) -> Self {
        let state = State { last_id: first_id.saturating_sub(1), ..State::default() };
        Self { config, state: Mutex::new(state), changed: watch::Sender::new(0) }
    }

    /// Most that may be open at once, with `max_cameras` cameras.
    pub fn cap(max_cameras: usize) -> usize {
        (max_cameras + 1) * IncidentKind::ALL.len()
    }

    /// Bound of the memory of all of them, in bytes: twice what is open, for
    /// states are told once a second, and the ring.
    pub fn max_bytes(max_cameras: usize) -> u64 {
        let one = size_of::<Incident>() + MAX_DETAIL_BYTES;
        let state = size_of::<(Key, Lasting)>() + size_of::<(Key, (Duration, String))>() + MAX_DETAIL_BYTES;
        (2 * Self::cap(max_cameras) * (one + state) + RING * one) as u64
    }

    /// Takes all states that there are at this instant; those told before and
    /// not now are over. Returns what opened or ended, for the log and the
    /// history.
    pub fn look(&self, conditions: Vec<Condition>, now: Instant, unix_ms: i64) -> Vec<Arc<Incident>> {
        let mut state = lock(&self.state);
        let mut changed = Vec::new();
        let mut told: HashMap<Key, (Duration, String)> =
            conditions.into_iter().map(|one| ((one.camera, one.kind), (one.since, one.detail))).collect();
        let mut lasting = std::mem::take(&mut state.lasting);
        lasting.retain(|key, lasting| match told.remove(key) {
            Some((_, detail)) => {
                lasting.detail = detail;
                true
            }
            None => {
                if let Some(incident) = lasting.opened.take() {
                    changed.push(Incident { ended_unix_ms: Some(unix_ms), ..Incident::clone(&incident) });
                }
                false
            }
        });
        for (key, (since, detail)) in told {
            let began = now.checked_sub(since).unwrap_or(now);
            let began_unix_ms = unix_ms - i64::try_from(since.as_millis()).unwrap_or(0);
            lasting.insert(key, Lasting { began, began_unix_ms, detail, opened: None });
        }
        let mut due: Vec<_> = lasting
            .iter_mut()
            .filter(|((_, kind), one)| {
                one.opened.is_none()
                    && now.saturating_duration_since(one.began) >= Duration::from_secs(self.config.seconds(*kind))
            })
            .collect();
        due.sort_by(|one, other| one.0.cmp(other.0));
        for ((camera, kind), one) in due {
            state.last_id += 1;
            let incident = Incident {
                id: state.last_id,
                camera: camera.clone(),
                kind: *kind,
                detail: one.detail.clone(),
                started_unix_ms: one.began_unix_ms,
                ended_unix_ms: None,
                replica: None,
            };
            one.opened = Some(Arc::new(incident.clone()));
            changed.push(incident);
        }
        state.lasting = lasting;
        let changed: Vec<_> = changed.into_iter().map(Arc::new).collect();
        changed.iter().for_each(|incident| state.push(incident.clone()));
        self.tell(&state);
        changed
    }

    /// Takes what another replica told: an incident that opened there, or ended.
    pub fn heard(&self, incident: Incident) {
        let mut state = lock(&self.state);
        state.push(Arc::new(incident));
        self.tell(&state);
    }

    /// So many changes that other replicas told will never come here: whoever
    /// watches has to ask anew, and what they told before may not be so any more.
    pub fn missed(&self, changes: u64) {
        let mut state = lock(&self.state);
        state.ring.retain(|incident| incident.replica.is_none());
        state.skip(changes);
        self.tell(&state);
    }

    /// A change that another replica told is not understood here.
    pub fn not_understood(&self) {
        let mut state = lock(&self.state);
        state.skip(1);
        self.tell(&state);
    }

    fn tell(&self, state: &State) {
        self.changed.send_if_modified(|last| std::mem::replace(last, state.changes) != state.changes);
    }

    /// The open ones of one camera, or of the server; those that began first
    /// come first.
    pub fn open_of(&self, camera: Option<&CameraId>) -> Vec<Arc<Incident>> {
        self.open(|whose| whose == camera)
    }

    /// The open ones of all cameras; those that began first come first.
    pub fn open_by_camera(&self) -> HashMap<CameraId, Vec<Arc<Incident>>> {
        let mut of: HashMap<_, Vec<_>> = HashMap::new();
        for incident in self.open(|whose| whose.is_some()) {
            if let Some(camera) = incident.camera.clone() {
                of.entry(camera).or_default().push(incident);
            }
        }
        of
    }

    /// Open incidents now, all together.
    pub fn live(&self) -> usize {
        lock(&self.state).lasting.values().filter(|lasting| lasting.opened.is_some()).count()
    }

    /// How many are open, by kind.
    pub fn open_by_kind(&self) -> [(IncidentKind, usize); IncidentKind::ALL.len()] {
        let state = lock(&self.state);
        let open: Vec<_> =
            state.lasting.iter().filter(|(_, one)| one.opened.is_some()).map(|((_, kind), _)| *kind).collect();
        IncidentKind::ALL.map(|kind| (kind, open.iter().filter(|of| **of == kind).count()))
    }

    /// Begins to watch: those open now and the latest that are over come
    /// first. Those of other replicas are as last told, and of the latest alone.
    pub fn watch(self: &Arc<Self>) -> IncidentWatch {
        let state = lock(&self.state);
        let is_over = |incident: &Incident| incident.ended_unix_ms.is_some();
        // What is open here is known better than from the ring. A replica has one
        // of each kind open for a camera: the last that it told of.
        let mut told = HashSet::new();
        let last_told = |one: &&Arc<Incident>| {
            let is_last = told.insert((one.replica.clone(), one.camera.clone(), one.kind));
            is_over(one) || one.replica.is_some() && is_last
        };
        let mut first: VecDeque<_> = state.ring.iter().rev().filter(last_told).cloned().collect();
        first.make_contiguous().reverse();
        let open = state.lasting.values().filter_map(|lasting| lasting.opened.clone());
        first.extend(open);
        first.make_contiguous().sort_by_key(|incident| (incident.started_unix_ms, incident.id));
        IncidentWatch { incidents: self.clone(), first, seen: state.changes, changed: self.changed.subscribe() }
    }

    fn open(&self, wanted: impl Fn(Option<&CameraId>) -> bool) -> Vec<Arc<Incident>> {
        let state = lock(&self.state);
        let of = state.lasting.iter().filter(|((camera, _), _)| wanted(camera.as_ref()));
        let mut open: Vec<_> = of.filter_map(|(_, lasting)| lasting.opened.clone()).collect();
        open.sort_by_key(|incident| incident.id);
        open
    }
}

/// One watcher: where it stands in the ring. Costs the same however far it is
/// behind.
#[derive(Debug)]
pub struct IncidentWatch {
    incidents: Arc<Incidents>,
    first: VecDeque<Arc<Incident>>,
    seen: u64,
    changed: watch::Receiver<u64>,
}

impl IncidentWatch {
    /// Waits for the next change.
    pub async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.take() {
                return change;
            }
            // The sender lives as long as `incidents`, which this holds.
            let _ = self.changed.changed().await;
        }
    }

    /// The next change that there is already; `None`: it has seen all.
    pub fn take(&mut self) -> Option<Change> {
        if let Some(incident) = self.first.pop_front() {
            return Some(Change::Incident(incident));
        }
        let state = lock(&self.incidents.state);
        let held_from = state.changes - state.ring.len() as u64;
        if self.seen < held_from {
            let missed = held_from - self.seen;
            self.seen = held_from;
            return Some(Change::Gap(missed));
        }
        let next = state.ring.get((self.seen - held_from) as usize)?.clone();
        self.seen += 1;
        Some(Change::Incident(next))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
