//! What the other replicas are told of a camera, and what is taken over from
//! them. Without a result bus all of it does nothing.

use std::sync::Arc;
use std::time::Duration;

use flatframe_shared::clock;
use flatframe_shared::frame::CameraHello;
use flatframe_shared::r#gen::v1;
use prost::Message;

use super::archive::Archive;
use crate::cameras::{Camera, CameraView};
use crate::people::incidents::Incident;
use crate::replicas::Replicas;
use crate::replicas::handover::TakenOver;

/// A camera of which no frame came here for so long is another replica's when
/// that one tells of it.
const ABANDONED_AFTER: Duration = Duration::from_secs(2);

impl Archive {
    /// Whether another replica has `camera` now.
    pub fn is_elsewhere(&self, camera: &Camera) -> bool {
        self.replicas.as_ref().is_some_and(|replicas| is_elsewhere(replicas, camera, &camera.view()))
    }

    /// Tells of `camera`, once a second, unless another replica has it. Never
    /// waits.
    pub fn tell<'a>(&self, camera: &Camera, incidents: impl IntoIterator<Item = &'a Incident>) {
        let Some(replicas) = &self.replicas else { return };
        let view = camera.view();
        if is_elsewhere(replicas, camera, &view) {
            return;
        }
        let people = camera.stream().is_some().then(|| camera.carry(clock::now()));
        replicas.tell(&camera.id, self.told(replicas, &view, incidents), people.as_ref());
    }

    /// The stream of `camera` has ended: tells who was there, for the replica
    /// that serves it next. Bounded.
    pub async fn hand_over(&self, camera: &Arc<Camera>) {
        let Some(replicas) = &self.replicas else { return };
        let view = camera.view();
        // The sender came back, here or elsewhere: there is nothing to hand over.
        if camera.stream().is_some() || is_elsewhere(replicas, camera, &view) {
            return;
        }
        let people = camera.carry(clock::now());
        if !replicas.hand_over(&camera.id, self.told(replicas, &view, []), &people).await {
            tracing::warn!(camera = %camera.id, "a camera was not handed over: the result bus did not take it");
        }
    }

    /// What another replica left behind of the camera of `hello`, whose stream
    /// opens here. Bounded.
    pub async fn take_over(&self, hello: &CameraHello) -> TakenOver {
        let Some(replicas) = &self.replicas else { return TakenOver::Nothing };
        let taken = replicas.take_over(&hello.camera).await;
        match &taken {
            TakenOver::Nothing => {}
            TakenOver::People { gap, is_certain, .. } => {
                tracing::info!(camera = %hello.camera, gap_ms = gap.as_millis() as u64, is_certain, "camera taken over");
            }
            TakenOver::Unknown(why) => {
                tracing::warn!(camera = %hello.camera, why, "it is not known who served a camera before");
            }
        }
        taken
    }

    fn told<'a>(
        &self,
        replicas: &Replicas,
        view: &CameraView,
        incidents: impl IntoIterator<Item = &'a Incident>,
    ) -> Vec<u8> {
        let mut info = self.wire.camera(view, incidents);
        info.replica.clone_from(&replicas.settings.replica);
        info.encode_to_vec()
    }
}

/// Whether another replica has it: that one told of it since its stream ended
/// here, or has a stream of it while nothing comes here.
fn is_elsewhere(replicas: &Replicas, camera: &Camera, view: &CameraView) -> bool {
    let Some(told) = replicas.directory.get(&camera.id) else { return false };
    if told.silent_for(clock::now()).is_some() {
        return false;
    }
    let has_stream = || {
        let info = v1::CameraInfo::decode(&*told.info);
        info.is_ok_and(|info| info.state() != v1::CameraState::Offline)
    };
    let is_abandoned = || view.last_frame_age.is_none_or(|age| age > ABANDONED_AFTER);
    camera.offline_since().is_some_and(|since| told.heard > since) || is_abandoned() && has_stream()
}
