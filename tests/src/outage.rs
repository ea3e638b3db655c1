//! What an outage with store-and-forward leaves behind, for those who check it:
//! what was kept on the camera's disk, what the history has of it, and whether
//! the two are the same.

use std::collections::BTreeMap;
use std::path::Path;

use flatframe_shared::frame::CameraId;
use flatframe_shared::r#gen::v1::{self, result_service_client::ResultServiceClient};
use ingest_service::record::catalog::{Frames, TimeRange};
use tonic::transport::Channel;

/// Most results that are asked for.
const MAX_RESULTS: u32 = 100_000;
/// An hour on both sides of any test.
const HOUR_US: i64 = 3_600_000_000;

/// Capture times of the frames of `camera` that were kept to be sent late, in
/// the recording in `dir`, microseconds.
///
/// # Errors
/// When it cannot be read.
pub fn kept(dir: &Path, camera: &str) -> anyhow::Result<Vec<i64>> {
    let mut frames = Frames::of(dir, &CameraId::parse(camera)?, TimeRange::default())?;
    let mut kept = Vec::new();
    while let Some(found) = frames.next(None)? {
        if found.header.is_late {
            kept.extend(found.header.captured_unix_us);
        }
    }
    Ok(kept)
}

/// All results of `camera` around those capture times, late ones and live ones.
///
/// # Errors
/// As the call's.
pub async fn results(channel: Channel, camera: &str, kept: &[i64]) -> anyhow::Result<Vec<v1::FrameResult>> {
    let (Some(first), Some(last)) = (kept.iter().min(), kept.iter().max()) else { return Ok(Vec::new()) };
    let mut client = ResultServiceClient::new(channel);
    let request = v1::QueryResultsRequest {
        camera_id: camera.into(),
        from_unix_ms: (first - HOUR_US) / 1000,
        to_unix_ms: (last + HOUR_US) / 1000,
        max_results: MAX_RESULTS,
        page_token: String::new(),
    };
    let mut pages = client.query_results(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(page) = pages.message().await? {
        all.extend(page.results);
    }
    Ok(all)
}

/// How what was kept and what the history has compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Comparison {
    /// Frames that were kept.
    pub kept: u64,
    /// Of them, those with a late result.
    pub analyzed: u64,
    /// Results beyond the first of a frame.
    pub duplicates: u64,
    /// Late results of no frame that was kept.
    pub foreign: u64,
    /// Frames without a result.
    pub missing: u64,
    /// Live results.
    pub live: u64,
}

impl Comparison {
    /// Compares capture times of kept frames with results.
    pub fn of(kept: &[i64], results: &[v1::FrameResult]) -> Self {
        let mut found: BTreeMap<i64, u64> = kept.iter().map(|captured_us| (*captured_us, 0)).collect();
        let mut compared = Self { kept: kept.len() as u64, ..Self::default() };
        for result in results {
            match found.get_mut(&result.captured_unix_us).filter(|_| result.late) {
                Some(times) => *times += 1,
                None if result.late => compared.foreign += 1,
                None => compared.live += 1,
            }
        }
        for times in found.into_values() {
            compared.analyzed += u64::from(times > 0);
            compared.missing += u64::from(times == 0);
            compared.duplicates += u64::saturating_sub(times, 1);
        }
        compared
    }
}
