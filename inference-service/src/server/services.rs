//! What is offered on which port: to cameras and clients over gRPC, to
//! browsers the page and what it asks for.

use std::sync::Arc;
use std::time::Duration;

use flatframe_shared::r#gen::DESCRIPTORS;
use flatframe_shared::r#gen::v1::admin_service_server::AdminServiceServer;
use flatframe_shared::r#gen::v1::detect_service_server::DetectServiceServer;
use flatframe_shared::r#gen::v1::frame_service_server::FrameServiceServer;
use flatframe_shared::r#gen::v1::result_service_server::ResultServiceServer;
use flatframe_shared::resources::{Readings, ResourceApi};
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::StartError;
use super::slots::{CallSlots, MAX_HEALTH_CHECKS, MAX_HEALTH_REQUEST_BYTES, MAX_REQUEST_BYTES};
use crate::access::authority::Authority;
use crate::access::guard::guarded;
use crate::config::Config;
use crate::dashboard::{self, Audience};
use crate::intake::admission::Admitted;
use crate::intake::link::Intake;
use crate::intake::stream::FrameApi;
use crate::metrics::Sources;
use crate::results::detect::DetectApi;
use crate::results::service::ResultApi;
use crate::results::studio::Studio;

/// A health check that takes longer holds its slot in vain: a probe waits for
/// one second.
const HEALTH_DEADLINE: Duration = Duration::from_secs(2);
/// Longest life of a call that asks what the services are: tools take
/// milliseconds.
const REFLECTION_LIFETIME: Duration = Duration::from_secs(30);

/// The services, not yet on a port.
pub(super) struct Services {
    frames: FrameServiceServer<FrameApi>,
    detect: DetectServiceServer<DetectApi>,
    results: ResultServiceServer<ResultApi>,
    resources: AdminServiceServer<ResourceApi>,
    deadline: Duration,
}

impl Services {
    pub(super) fn new(config: &Config, intake: &Arc<Intake>, sources: &Arc<Sources>) -> Self {
        let limits = &config.limits;
        let deadline = limits.call_deadline();
        let detect = DetectApi {
            dispatch: intake.dispatch.clone(),
            ledger: sources.detect_ledger.clone(),
            max_calls: limits.max_detect_calls,
            max_bytes: limits.max_detect_bytes,
            detector: intake.detector.clone(),
            gender_model: intake.gender_model.clone(),
            errors: Arc::default(),
        };
        let results = ResultApi {
            cameras: intake.cameras.clone(),
            bus: intake.bus.clone(),
            archive: intake.archive.clone(),
            incidents: sources.incidents.clone(),
            incident_pictures: sources.incident_pictures.clone(),
            privacy: config.privacy.clone(),
            studio: Arc::new(Studio::new(config.vision.max_picture.0, limits.max_frame_bytes as usize)),
            call_deadline: deadline,
            shutdown: intake.shutdown.clone(),
        };
        let readings = Readings {
            balance: Box::new({
                let sources = sources.clone();
                move || sources.totals().balance()
            }),
            stages: Box::new({
                let sources = sources.clone();
                move || sources.stages.times()
            }),
        };
        let resources = ResourceApi { resources: sources.resources.clone(), readings: Arc::new(readings) };
        let max_picture_bytes = limits.max_detect_bytes as usize + MAX_REQUEST_BYTES;
        Self {
            frames: FrameServiceServer::new(FrameApi(intake.clone()))
                .max_decoding_message_size(limits.max_message_bytes()),
            detect: DetectServiceServer::new(detect).max_decoding_message_size(max_picture_bytes),
            results: ResultServiceServer::new(results).max_decoding_message_size(MAX_REQUEST_BYTES),
            resources: AdminServiceServer::new(resources).max_decoding_message_size(MAX_REQUEST_BYTES),
            deadline,
        }
    }

    /// For cameras and clients.
    ///
    /// # Errors
    /// [`StartError::Reflection`].
    pub(super) fn grpc(
        &self,
        slots: &CallSlots,
        authority: &Arc<Authority>,
        health: HealthServer<impl Health>,
    ) -> Result<Routes, StartError> {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let health = health.max_decoding_message_size(MAX_HEALTH_REQUEST_BYTES);
        let health = Admitted::new(health, self.deadline.min(HEALTH_DEADLINE))
            // A check needs no token, and one that is never sent to its end holds its slot until the deadline.
            .with_slots(slots.health_checks.clone().with_share(MAX_HEALTH_CHECKS / 4))
            .with_slots_of("/grpc.health.v1.Health/Watch", slots.health_watches.clone());
        let reflection = Admitted::new(reflection.max_decoding_message_size(MAX_REQUEST_BYTES), self.deadline)
            .with_slots(slots.clients.clone())
            .with_lifetime(REFLECTION_LIFETIME);
        let detect = Admitted::new(self.detect.clone(), self.deadline).with_slots(slots.detect.clone());
        let routes = Routes::new(Admitted::new(self.frames.clone(), self.deadline))
            .add_service(detect)
            .add_service(self.results(slots))
            .add_service(self.resources(slots))
            .add_service(health)
            .add_service(reflection);
        Ok(guarded(routes, authority.clone()))
    }

    /// For browsers: the page, and over gRPC-Web what it asks for.
    pub(super) fn page(&self, slots: &CallSlots, authority: &Arc<Authority>, audience: Audience) -> Routes {
        let calls = Routes::new(self.results(slots)).add_service(self.resources(slots));
        // The files of the page need no token: it is the page that asks for one.
        dashboard::routes(guarded(calls, authority.clone()), audience)
    }

    fn results(&self, slots: &CallSlots) -> Admitted<ResultServiceServer<ResultApi>> {
        Admitted::new(self.results.clone(), self.deadline)
            .with_slots(slots.clients.clone())
            .with_slots_of("/flatframe.v1.ResultService/QueryResults", slots.queries.clone())
            .with_slots_of("/flatframe.v1.ResultService/QueryCounts", slots.queries.clone())
            .with_slots_of("/flatframe.v1.ResultService/WatchIncidents", slots.incident_watches.clone())
            .with_slots_of("/flatframe.v1.ResultService/WatchSnapshots", slots.viewers.clone())
            .with_slots_of("/flatframe.v1.ResultService/GetSnapshot", slots.snapshots.clone())
    }

    fn resources(&self, slots: &CallSlots) -> Admitted<AdminServiceServer<ResourceApi>> {
        Admitted::new(self.resources.clone(), self.deadline).with_slots(slots.clients.clone())
    }
}
