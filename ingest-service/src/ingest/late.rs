//! Starts what sends the late frames of cameras. Does none of its work.

use std::sync::Arc;
use std::time::Duration;

use flatframe_shared::frame::{CameraHello, SessionId};
use flatframe_shared::outcome::DropReason;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::camera::{CameraView, hello, join};
use crate::late::LateView;
use crate::late::backlog::Backlog;
use crate::plan::CameraPlan;
use crate::record::Recording;
use crate::record::name::camera_folder;
use crate::send::route::Route;
use crate::send::servers::Servers;
use crate::send::uplink::Deadlines;
use crate::send::uplink::late::{LateUplink, Progress};

/// Cameras of one process that open a stream of late frames at once; beside
/// those that open a live one, which are never to wait for these.
const MAX_OPENING: usize = 1;
/// At shutdown a disk that hangs is waited for so long, beside the last answers.
const DISK_GRACE: Duration = Duration::from_secs(1);

/// The task that sends the late frames of one camera, with its view.
#[derive(Debug)]
pub(super) struct LateSender {
    pub(super) view: LateView,
    task: JoinHandle<()>,
}

impl LateSender {
    /// Starts one for each of `cameras` whose frames are sent late.
    pub(super) fn start_all<'a>(
        cameras: impl Iterator<Item = (&'a CameraPlan, &'a CameraView)>,
        recording: &Recording,
        servers: &Servers,
        finish: &CancellationToken,
    ) -> Vec<Self> {
        let opening = Arc::new(Semaphore::new(MAX_OPENING));
        let start = |(plan, camera): (&'a CameraPlan, &'a CameraView)| {
            Self::start(plan, camera, recording, servers.clone(), &opening, finish.clone())
        };
        cameras.filter_map(start).collect()
    }

    /// Starts it for the camera of `plan`; `None`: its frames are not sent late.
    fn start(
        plan: &CameraPlan,
        camera: &CameraView,
        recording: &Recording,
        servers: Servers,
        opening: &Arc<Semaphore>,
        finish: CancellationToken,
    ) -> Option<Self> {
        let settings = recording.settings();
        let late = settings.late?;
        let written = recording.written_late(&plan.id)?;
        let folder = settings.dir.join(camera_folder(&plan.id)?);
        let view = LateView::new(plan.id.clone());
        let backlog = Backlog::new(folder, plan.rotation, late.max_age, settings.sync_every, view.clone());
        let live = camera.clone();
        let live_losses = move || {
            let counts = live.counts();
            counts.dropped(DropReason::Superseded) + counts.dropped(DropReason::Expired)
        };
        let uplink = LateUplink {
            server: Box::new(Route::new(servers, plan.id.clone(), plan.fps, camera.terms().clone())),
            hello: CameraHello { late: true, ..hello(plan, SessionId(fastrand::u64(..))) },
            backlog: Some(backlog),
            view: view.clone(),
            written: Box::new(written),
            live_losses: Box::new(live_losses),
            opening: opening.clone(),
            progress: Progress::default(),
            terms: camera.terms().clone(),
            fps: late.fps,
            bytes_per_s: plan.late_bytes_per_s,
            deadlines: Deadlines::default(),
        };
        let span = tracing::info_span!("late", camera = %plan.id);
        Some(Self { view, task: tokio::spawn(uplink.run(finish).instrument(span)) })
    }

    /// Until when all of them end that are told to finish now: each waits as
    /// long as live ones do for its last answer and for the end of its stream.
    pub(super) fn patience() -> Instant {
        let deadlines = Deadlines::default();
        Instant::now() + deadlines.last_answers + deadlines.close + DISK_GRACE
    }

    /// Waits for its end, at most until `patience`.
    pub(super) async fn join(mut self, patience: Instant) {
        if timeout_at(patience, join(&mut self.task)).await.is_err() {
            // It waits for a thread that the disk holds.
            tracing::warn!(camera = %self.view.camera, "the disk of the recording hangs: late frames are left alone");
            self.task.abort();
        }
    }
}
