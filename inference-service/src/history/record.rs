//! What can be written into the history, and what is refused before it waits
//! anywhere.

use bytes::Bytes;
use flatframe_shared::frame::CameraId;

use super::key::END_MS;

/// Largest encoded result, bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// Longest name of a counter, bytes.
pub const MAX_COUNTER_BYTES: usize = 96;
/// Longest kind of an incident, bytes.
pub const MAX_KIND_BYTES: usize = 64;
/// Longest detail of an incident, bytes; more is cut off.
pub const MAX_DETAIL_BYTES: usize = 512;
/// Late results are of times after this (2017), us since the Unix epoch: no
/// frame was ever kept before.
pub const OLDEST_LATE_US: i64 = 1_500_000_000_000_000;
/// Longest covered span of one record, seconds.
pub const MAX_COVERED_S: i64 = 3_600;

/// Something to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// What was found on one frame.
    Result {
        /// Whose.
        camera: CameraId,
        /// When it was taken by this server's clock, ms since the Unix epoch.
        at_unix_ms: i64,
        /// Its position in the live stream of results.
        position: u64,
        /// Of a late frame, when it was captured, us since the Unix epoch: it
        /// must be newer than all late results of the camera so far. `None`: a
        /// live one.
        late_us: Option<i64>,
        /// The encoded result, at most [`MAX_BODY_BYTES`]; the store does not look into it.
        body: Bytes,
    },
    /// A change of one counter within one second.
    Count {
        /// Whose.
        camera: CameraId,
        /// Seconds since the Unix epoch.
        at_unix_s: i64,
        /// "visits", "line/door/in", ...: 1 to [`MAX_COUNTER_BYTES`] bytes
        /// without control characters.
        counter: String,
        /// What is added.
        change: Change,
    },
    /// Seconds in which the camera was analysed.
    Covered {
        /// Whose.
        camera: CameraId,
        /// The first second, since the Unix epoch.
        from_unix_s: i64,
        /// The first second that does not belong to it; at most [`MAX_COVERED_S`] later.
        to_unix_s: i64,
    },
    /// An incident opened or resolved: the same id again replaces detail and
    /// resolution.
    Incident(Incident),
}

/// What is added to a counter; negative where an earlier count is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// Of women.
    pub female: i32,
    /// Of men.
    pub male: i32,
    /// Of people whose gender is not known.
    pub unknown: i32,
}

/// A state that a person should know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// Chosen by the caller: [`next_incident_id`](super::History::next_incident_id) and up.
    pub id: u64,
    /// Of this camera; `None`: of the server.
    pub camera: Option<CameraId>,
    /// "stalled", "disk", ...: 1 to [`MAX_KIND_BYTES`] bytes.
    pub kind: String,
    /// For a person; cut to [`MAX_DETAIL_BYTES`].
    pub detail: String,
    /// Its begin, ms since the Unix epoch.
    pub opened_unix_ms: i64,
    /// Its end; `None` while it lasts.
    pub resolved_unix_ms: Option<i64>,
}

/// The kinds of records, for counting them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// [`Record::Result`].
    Result,
    /// [`Record::Count`].
    Count,
    /// [`Record::Covered`].
    Covered,
    /// [`Record::Incident`].
    Incident,
}

impl RecordKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Result, Self::Count, Self::Covered, Self::Incident];

    /// In one word, as used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Count => "count",
            Self::Covered => "covered",
            Self::Incident => "incident",
        }
    }
}

impl Record {
    /// Its kind.
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::Result { .. } => RecordKind::Result,
            Self::Count { .. } => RecordKind::Count,
            Self::Covered { .. } => RecordKind::Covered,
            Self::Incident(_) => RecordKind::Incident,
        }
    }

    /// Memory that it holds while it waits, bytes.
    pub fn held_bytes(&self) -> usize {
        let text = match self {
            Self::Result { body, .. } => body.len(),
            Self::Count { counter, .. } => counter.capacity(),
            Self::Covered { .. } => 0,
            Self::Incident(incident) => incident.kind.capacity() + incident.detail.capacity(),
        };
        size_of::<Self>() + text
    }

    /// Brings it into the form that is stored; `None` when it can never be.
    pub fn checked(mut self) -> Option<Self> {
        let fits = |at_ms: i64| (0..END_MS).contains(&at_ms);
        let fits_s = |at_s: i64| at_s.checked_mul(1000).is_some_and(fits);
        let name = |text: &str, max| !text.is_empty() && text.len() <= max && !text.chars().any(char::is_control);
        let good = match &mut self {
            Self::Result { at_unix_ms, position, late_us, body, .. } => {
                late_us.is_none_or(|late_us| late_us > OLDEST_LATE_US && fits(late_us / 1000))
                    && fits(*at_unix_ms)
                    && body.len() <= MAX_BODY_BYTES
                    && i64::try_from(*position).is_ok()
            }
            Self::Count { at_unix_s, counter, .. } => {
                counter.shrink_to_fit();
                fits_s(*at_unix_s) && name(counter, MAX_COUNTER_BYTES)
            }
            Self::Covered { from_unix_s, to_unix_s, .. } => {
                fits_s(*from_unix_s)
                    && fits_s(*to_unix_s)
                    && (1..=MAX_COVERED_S).contains(&to_unix_s.saturating_sub(*from_unix_s))
            }
            Self::Incident(incident) => {
                let end = (0..=MAX_DETAIL_BYTES).rev().find(|&end| incident.detail.is_char_boundary(end));
                incident.detail.truncate(end.unwrap_or_default());
                incident.detail.shrink_to_fit();
                incident.kind.shrink_to_fit();
                i64::try_from(incident.id).is_ok()
                    && name(&incident.kind, MAX_KIND_BYTES)
                    && fits(incident.opened_unix_ms)
                    && incident.resolved_unix_ms.is_none_or(fits)
            }
        };
        good.then_some(self)
    }
}
