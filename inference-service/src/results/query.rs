//! What clients ask of the history: counts in buckets, and what its questions
//! have in common. Reading blocks, and so happens on threads for that, as many
//! at once as there are slots for these calls; every count has a deadline.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flatframe_shared::clock;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::frame::CameraId;
use flatframe_shared::r#gen::v1;
use tonic::Status;

use super::archive::Archive;
use super::service::{camera_id, stopping, too_many_cameras};
use super::wire;
use crate::history::{Bucket, Count, CountAnswer, CountQuery, History, QueryError};
use crate::intake::admission::CallSlot;
use crate::people::count::{ByGender, UNCERTAIN, VISITS};

/// Most buckets of an answer, all series together, and most lines and zones in
/// them.
const MAX_BUCKETS: usize = 10_000;
const MAX_CROSSINGS: usize = 10_000;
/// Shortest bucket where few are withheld, in seconds.
const COARSE_BUCKET_S: i64 = 900;
/// Longest bucket, in seconds: a day.
const MAX_BUCKET_S: u32 = 86_400;
/// When to try again for an answer.
const RETRY: Duration = Duration::from_secs(1);

/// Memory of one query at work, in bytes: what the history hands out and what
/// goes out.
pub const QUERY_BYTES: u64 = 8 << 20;

/// The history that is asked.
///
/// # Errors
/// FAILED_PRECONDITION: none is kept.
pub fn history(archive: &Archive) -> Result<History, Status> {
    archive
        .history
        .clone()
        .ok_or_else(|| ErrorKind::Precondition.status("no history is kept: set history.file in the configuration"))
}

/// How counts are answered.
#[derive(Debug, Clone)]
pub struct CountRules {
    /// Counts of fewer visits than this are withheld, but for none; `None`:
    /// none is, and buckets may be as short as they please.
    pub withheld_below: Option<i64>,
    /// When the answer is worthless.
    pub deadline: Instant,
    /// The call's slot, kept by the thread that works for it.
    pub slot: Option<CallSlot>,
}

/// Counts in buckets, as `request` asks.
///
/// # Errors
/// As the call's.
pub async fn counts(
    history: History,
    request: v1::QueryCountsRequest,
    rules: CountRules,
) -> Result<Vec<v1::CountSeries>, Status> {
    let CountRules { withheld_below, deadline, slot } = rules;
    if !(1..=MAX_BUCKET_S).contains(&request.bucket_s) {
        let message = format!("bucket_s = {}: use 1 to {MAX_BUCKET_S} seconds", request.bucket_s);
        return Err(ErrorKind::Invalid.status(message));
    }
    let (from_unix_s, to_unix_s) = (request.from_unix_s, request.to_unix_s);
    if from_unix_s < 0 || to_unix_s <= from_unix_s {
        let message = format!(
            "from_unix_s = {from_unix_s} and to_unix_s = {to_unix_s} are no span of time: \
             use seconds since 1970, from below to"
        );
        return Err(ErrorKind::Invalid.status(message));
    }
    if withheld_below.is_some() {
        check_coarse(&request)?;
    }
    if request.camera_ids.len() > super::service::MAX_WATCHED {
        return Err(too_many_cameras(request.camera_ids.len()));
    }
    let mut cameras = request.camera_ids.iter().map(|id| camera_id(id)).collect::<Result<Vec<_>, _>>()?;
    cameras.sort();
    cameras.dedup();
    blocking(move || {
        let _slot = slot;
        if cameras.is_empty() {
            let known = history.cameras(deadline).map_err(refused)?;
            cameras = known.iter().map(|id| camera_id(id)).collect::<Result<_, _>>()?;
        } else {
            cameras.iter().try_for_each(|camera| known(&history, camera, deadline))?;
        }
        let series: Vec<&[CameraId]> =
            if request.per_camera { cameras.chunks(1).collect() } else { vec![&cameras[..]] };
        let buckets = (to_unix_s - from_unix_s - 1) as u64 / u64::from(request.bucket_s) + 1;
        let all = buckets.saturating_mul(series.len() as u64);
        if all > MAX_BUCKETS as u64 {
            let message = format!(
                "{all} buckets ({buckets} for each of {} series) are too many: at most {MAX_BUCKETS}; \
                 ask for a shorter time, longer buckets or fewer cameras",
                series.len()
            );
            return Err(ErrorKind::Invalid.status(message));
        }
        let mut crossings = 0;
        let mut out = Vec::new();
        for cameras in series {
            let query =
                CountQuery { cameras, counters: &[], from_unix_s, to_unix_s, bucket_s: request.bucket_s.into() };
            let CountAnswer { buckets, .. } = history.query_counts(&query, deadline).map_err(refused)?;
            let of_crossings = buckets.iter().flat_map(|bucket| &bucket.counts).filter(|(name, _)| name.contains('/'));
            crossings += of_crossings.count();
            if crossings > MAX_CROSSINGS {
                let message = format!(
                    "more than {MAX_CROSSINGS} counts of lines and zones: ask for a shorter time, longer buckets \
                     or fewer cameras"
                );
                return Err(ErrorKind::Invalid.status(message));
            }
            out.push(v1::CountSeries {
                camera_id: if request.per_camera { cameras[0].to_string() } else { String::new() },
                cameras: cameras.len() as u32,
                buckets: buckets.into_iter().map(|bucket| self::bucket(bucket, withheld_below.unwrap_or(0))).collect(),
            });
        }
        Ok(out)
    })
    .await
}

/// Where few are withheld, buckets must not tell more than they do: none that
/// is short, or still runs, and none that differs from another by less than a
/// bucket.
fn check_coarse(request: &v1::QueryCountsRequest) -> Result<(), Status> {
    let bucket_s = i64::from(request.bucket_s);
    let (from_s, to_s) = (request.from_unix_s, request.to_unix_s);
    let is_coarse = bucket_s % COARSE_BUCKET_S == 0 && from_s % bucket_s == 0 && to_s % bucket_s == 0;
    if is_coarse && to_s <= clock::unix_us().div_euclid(1_000_000) {
        return Ok(());
    }
    let message = format!(
        "bucket_s = {bucket_s} from {from_s} to {to_s}: with privacy.mode = \"counts_only\" use a multiple of \
         {COARSE_BUCKET_S} s, from and to that are multiples of it, and to not in the future"
    );
    Err(ErrorKind::Invalid.status(message))
}

/// One bucket: no counts where nothing was watched.
fn bucket(bucket: Bucket, withheld_below: i64) -> v1::CountBucket {
    let Bucket { start_unix_s, covered_s, counts } = bucket;
    let mut visits = ByGender::default();
    let mut crossings = BTreeMap::<&str, v1::CrossingCounts>::new();
    let mut uncertain = false;
    for (counter, count) in &counts {
        if **counter == *UNCERTAIN {
            uncertain = true;
            continue;
        }
        let count = by_gender(*count);
        if **counter == *VISITS {
            visits = count;
            continue;
        }
        let Some((name, direction)) = counter.rsplit_once('/') else { continue };
        let one = crossings
            .entry(name)
            .or_insert_with(|| v1::CrossingCounts { name: name.to_owned(), ..v1::CrossingCounts::default() });
        match direction {
            "entered" => one.entered = Some(wire::people(count)),
            _ => one.left = Some(wire::people(count)),
        }
    }
    let is_small = |count: i64| count > 0 && count < withheld_below;
    let withheld = is_small(visits.all())
        || crossings
            .values()
            .flat_map(|one| [&one.entered, &one.left])
            .flatten()
            .any(|counts| is_small(counts.faces.into()));
    let is_known = covered_s > 0 || !counts.is_empty();
    v1::CountBucket {
        start_unix_s,
        covered_seconds: u32::try_from(covered_s).unwrap_or(u32::MAX),
        visits: (is_known && !withheld).then(|| wire::people(visits)),
        crossings: if withheld { Vec::new() } else { crossings.into_values().collect() },
        withheld,
        uncertain,
    }
}

fn by_gender(count: Count) -> ByGender {
    ByGender { female: count.female, male: count.male, unknown: count.unknown }
}

/// NOT_FOUND when the history knows nothing of `camera`.
pub(super) fn known(history: &History, camera: &CameraId, deadline: Instant) -> Result<(), Status> {
    if history.cameras(deadline).map_err(refused)?.iter().any(|known| known == camera.as_str()) {
        return Ok(());
    }
    Err(ErrorKind::NotFound.status(format!("the history knows no camera {camera}")))
}

pub(super) fn refused(error: QueryError) -> Status {
    let text = error.to_string();
    match error {
        QueryError::Busy => ErrorKind::Exhausted { retry_after: RETRY }.status(text),
        QueryError::Deadline => ErrorKind::DeadlineExceeded.status(text),
        QueryError::Invalid(_) | QueryError::TooLarge(_) => ErrorKind::Invalid.status(text),
        QueryError::Damaged(_) | QueryError::Failed(_) => ErrorKind::Internal.status(text),
        QueryError::Closed => stopping(),
    }
}

/// Runs `work` on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    // Only a runtime that stops gives no answer.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(stopping()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn counted(counts: &[(&str, i64)], covered_s: u64, withheld_below: i64) -> v1::CountBucket {
        let count = |female: i64| Count { female, ..Count::default() };
        let counts = counts.iter().map(|(name, people)| (Arc::from(*name), count(*people))).collect();
        bucket(Bucket { start_unix_s: 60, covered_s, counts }, withheld_below)
    }

    #[test]
    fn what_was_not_watched_is_not_zero() {
        let dark = counted(&[], 0, 0);
        assert_eq!((dark.visits, dark.covered_seconds), (None, 0));
        let empty = counted(&[], 60, 0);
        assert_eq!(empty.visits.map(|visits| visits.faces), Some(0));
    }

    #[test]
    fn few_are_withheld_and_none_is_not() {
        for (visits, entered, withheld) in [(0, 0, false), (4, 0, true), (5, 0, false), (9, 2, true), (9, 5, false)] {
            let found = counted(&[("visits", visits), ("door/entered", 9), ("door/left", entered)], 60, 5);
            assert_eq!((found.withheld, found.visits.is_none()), (withheld, withheld), "{visits} {entered}");
            assert_eq!(found.crossings.is_empty(), withheld, "the smaller direction counts too");
        }
    }

    #[test]
    fn directions_of_one_line_come_together() {
        let found = counted(&[("visits", 3), ("a/b/entered", 2), ("a/b/left", 1)], 60, 0);
        let [line] = found.crossings.as_slice() else { panic!("{found:?}") };
        let people = |counts: &Option<v1::FaceCounts>| counts.as_ref().map(|counts| counts.faces);
        assert_eq!((line.name.as_str(), people(&line.entered), people(&line.left)), ("a/b", Some(2), Some(1)));
    }
}
