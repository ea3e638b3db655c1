//! What Prometheus sees. Reads the live counters of every camera when it is
//! scraped; keeps none of its own.

use std::fmt;
use std::sync::Arc;

use flatframe_shared::frame::CameraState;
use flatframe_shared::histogram::Histogram;
use flatframe_shared::ledger::IngestCounts;
use flatframe_shared::metrics::{self, counter, gauge};
use flatframe_shared::outcome::{DropReason, Outcome};
use flatframe_shared::resources::{Readings, Resources, StageTime};
use flatframe_shared::tls::ClientTls;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::board::{Board, Strain};
use crate::camera::CameraView;
use crate::late::LateView;
use crate::late::ledger::{LateCounts, LateDrop};
use crate::prepare::look::PictureCondition;
use crate::record::Recording;
use crate::record::state::{CameraRecording, NotRecorded, Pause};
use crate::send::servers::{MoveReason, Servers};

/// The states a camera's source can be in.
const STATES: [CameraState; 4] = [CameraState::Connecting, CameraState::Live, CameraState::Stalled, CameraState::Down];

/// Everything that is shown.
#[derive(Debug)]
pub struct Sources {
    /// The cameras.
    pub cameras: Vec<CameraView>,
    /// The servers.
    pub servers: Servers,
    /// What is recorded, if anything is.
    pub recording: Option<Recording>,
    /// What became of late frames, where they are sent.
    pub late: Vec<LateView>,
    /// This service's side of TLS, if it has one.
    pub tls: Option<Arc<ClientTls>>,
    /// Memory, and what may wait.
    pub resources: Arc<Resources>,
    /// The machine.
    pub board: Board,
}

impl Sources {
    /// Counts of all cameras together.
    pub fn totals(&self) -> IngestCounts {
        let mut totals = IngestCounts::default();
        for camera in &self.cameras {
            totals += camera.counts();
        }
        totals
    }

    /// Counts of the late frames of all cameras together.
    pub fn late_totals(&self) -> LateCounts {
        let mut totals = LateCounts::default();
        for late in &self.late {
            totals += late.counts();
        }
        totals
    }

    /// Imbalance of all ledgers; 0 unless a frame has no outcome.
    pub fn balance(&self) -> i64 {
        self.totals().balance().saturating_add(self.late_totals().balance())
    }

    /// How the cameras are, in one line for a person.
    pub fn status_line(&self) -> String {
        let count = |is: fn(&CameraView) -> bool| self.cameras.iter().filter(|camera| is(camera)).count();
        let (live, connected) =
            (count(|camera| camera.status().state == CameraState::Live), count(CameraView::connected));
        format!("of {} cameras {live} live, {connected} with a stream to the server", self.cameras.len())
    }

    /// `Ok` when every camera is live and its frames are taken; else which is
    /// not, for a person.
    pub fn ready(&self) -> Result<(), String> {
        let mut not: Vec<String> = Vec::new();
        for camera in &self.cameras {
            let status = camera.status();
            if status.state != CameraState::Live {
                not.push(format!("camera {} is {}: {}", camera.id(), status.state.as_str(), status.detail));
            } else if !camera.connected() {
                not.push(format!("camera {} has no stream to the server", camera.id()));
            }
        }
        if not.is_empty() { Ok(()) } else { Err(not.join("; ")) }
    }
}

/// A registry that shows `sources`.
pub fn registry(sources: Arc<Sources>) -> Registry {
    let mut registry = Registry::with_prefix("flatframe_ingest");
    registry.register_collector(Box::new(sources));
    registry
}

/// What `GetResources` reads of `sources`.
pub fn readings(sources: &Arc<Sources>) -> Readings {
    let (balance, latency) = (sources.clone(), sources.clone());
    Readings {
        balance: Box::new(move || balance.balance()),
        stages: Box::new(move || {
            let mut all = Histogram::default().snapshot();
            for camera in &latency.cameras {
                all.merge(&camera.latency().snapshot());
            }
            StageTime::of("capture_to_answer", &all).into_iter().collect()
        }),
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_frames(&mut encoder)?;
        self.encode_cameras(&mut encoder)?;
        encode_servers(&mut encoder, &self.servers)?;
        self.encode_board(&mut encoder)?;
        if let Some(recording) = &self.recording {
            encode_recording(&mut encoder, recording)?;
        }
        if !self.late.is_empty() {
            encode_late(&mut encoder, &self.late)?;
        }
        if let Some(tls) = &self.tls {
            metrics::expiries(&mut encoder, &tls.expiries())?;
            let (renewed, failed) = tls.renewals();
            counter(&mut encoder, "renewals", "Times that changed certificates were read anew", renewed)?;
            counter(&mut encoder, "renewals_failed", "Times that changed certificates could not be used", failed)?;
        }
        metrics::memory(&mut encoder, &self.resources)
    }
}

impl Sources {
    fn encode_frames(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Frames with an outcome: dropped here, answered by the server, or lost between";
        let mut family = encoder.encode_descriptor("frames", help, None, MetricType::Counter)?;
        for camera in &self.cameras {
            let counts = camera.counts();
            let dropped = DropReason::ALL.iter().map(|&reason| ("dropped", reason.as_str(), counts.dropped(reason)));
            let answered = Outcome::ALL.iter().map(|&fate| ("answered", fate.as_str(), counts.answered(fate)));
            for (side, outcome, frames) in dropped.chain(answered).chain([("lost", "lost", counts.lost)]) {
                let labels = [("camera", camera.id().as_str()), ("side", side), ("outcome", outcome)];
                ConstCounter::new(frames).encode(family.encode_family(&labels)?)?;
            }
        }
        type Count = fn(&IngestCounts) -> u64;
        for (name, help, kind, count) in [
            ("frames_captured", "Pictures taken from the source", MetricType::Counter, (|c| c.captured) as Count),
            ("frames_sent", "Frames handed to the stream", MetricType::Counter, |c| c.sent),
            ("frames_waiting", "Frames between capture and sending", MetricType::Gauge, |c| c.waiting),
            ("frames_in_flight", "Frames sent and not yet answered", MetricType::Gauge, |c| c.in_flight),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for camera in &self.cameras {
                let labels = [("camera", camera.id().as_str())];
                let (metric, value) = (family.encode_family(&labels)?, count(&camera.counts()));
                match kind {
                    MetricType::Counter => ConstCounter::new(value).encode(metric)?,
                    _ => ConstGauge::new(value).encode(metric)?,
                }
            }
        }
        gauge(encoder, "ledger_balance", "Imbalance of the ledgers; must read 0", None, self.balance())
    }

    fn encode_cameras(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let seconds = Some(&Unit::Seconds);
        let mut family =
            encoder.encode_descriptor("camera_state", "1 for the state of the source", None, MetricType::Gauge)?;
        for camera in &self.cameras {
            for state in STATES {
                let labels = [("camera", camera.id().as_str()), ("state", state.as_str())];
                let is = i64::from(camera.status().state == state);
                ConstGauge::new(is).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "1 for what the picture looks like";
        let mut family = encoder.encode_descriptor("picture_condition", help, None, MetricType::Gauge)?;
        for camera in &self.cameras {
            for condition in PictureCondition::ALL {
                let labels = [("camera", camera.id().as_str()), ("condition", condition.as_str())];
                let is = i64::from(camera.condition() == condition);
                ConstGauge::new(is).encode(family.encode_family(&labels)?)?;
            }
        }
        type Read = fn(&CameraView) -> Option<f64>;
        for (name, help, unit, read) in [
            (
                "last_picture_age",
                "Time since the last whole picture; absent before the first",
                seconds,
                (|camera| camera.status().last_picture_age.map(|age| age.as_secs_f64())) as Read,
            ),
            ("source_fps", "Pictures per second over 5 s", None, |camera| Some(f64::from(camera.status().fps))),
            ("connected", "1 while the server takes frames", None, |camera| {
                Some(f64::from(u8::from(camera.connected())))
            }),
        ] {
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for camera in &self.cameras {
                if let Some(value) = read(camera) {
                    ConstGauge::new(value).encode(family.encode_family(&[("camera", camera.id().as_str())])?)?;
                }
            }
        }
        let help = "Times the source was opened again";
        let mut family = encoder.encode_descriptor("source_restarts", help, None, MetricType::Counter)?;
        for camera in &self.cameras {
            let labels = [("camera", camera.id().as_str())];
            ConstCounter::new(camera.status().restarts).encode(family.encode_family(&labels)?)?;
        }
        let help = "From capture to the answer that the frame was analyzed";
        let mut family = encoder.encode_descriptor("latency", help, seconds, MetricType::Histogram)?;
        for camera in &self.cameras {
            camera.latency().encode(family.encode_family(&[("camera", camera.id().as_str())])?)?;
        }
        Ok(())
    }

    fn encode_board(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let fitness = self.board.fitness();
        if let Some(celsius) = fitness.temperature_celsius {
            let unit = Some(&Unit::Celsius);
            gauge(encoder, "board_temperature", "Of the processor", unit, celsius)?;
        }
        let help = "1 while it slows the machine down; absent where the machine does not tell";
        let mut family = encoder.encode_descriptor("board_strain", help, None, MetricType::Gauge)?;
        for (strain, is) in Strain::ALL.iter().zip(fitness.strains) {
            if let Some(is) = is {
                ConstGauge::new(i64::from(is)).encode(family.encode_family(&[("strain", strain.as_str())])?)?;
            }
        }
        Ok(())
    }
}

fn encode_servers(encoder: &mut DescriptorEncoder<'_>, servers: &Servers) -> fmt::Result {
    let known = servers.known();
    let absent = known.iter().filter(|(_, is_absent)| *is_absent).count();
    gauge(encoder, "servers", "Servers that cameras are spread over", None, known.len() as i64)?;
    gauge(encoder, "servers_absent", "Of them, those that were not there lately", None, absent as i64)?;
    let help = "Addresses beyond the 64 that are used";
    gauge(encoder, "servers_over_cap", help, None, servers.over_cap() as i64)?;
    // At most as many as cameras.
    let mut family = encoder.encode_descriptor("server_streams", "Open streams, by server", None, MetricType::Gauge)?;
    for (server, streams) in servers.streams() {
        let server = server.to_string();
        ConstGauge::new(streams).encode(family.encode_family(&[("server", server.as_str())])?)?;
    }
    let help = "Changes of server: away from one that is gone or full, back, or away from a busy one";
    let mut family = encoder.encode_descriptor("server_moves", help, None, MetricType::Counter)?;
    for reason in MoveReason::ALL {
        let moves = servers.moves(reason);
        ConstCounter::new(moves).encode(family.encode_family(&[("reason", reason.as_str())])?)?;
    }
    let help = "Look-ups of servers' names, by how they ended";
    let mut family = encoder.encode_descriptor("server_lookups", help, None, MetricType::Counter)?;
    for (ended, count) in servers.look_ups() {
        ConstCounter::new(count).encode(family.encode_family(&[("ended", ended)])?)?;
    }
    Ok(())
}

fn encode_late(encoder: &mut DescriptorEncoder<'_>, late: &[LateView]) -> fmt::Result {
    let help = "Late frames with an outcome: dropped here, answered by the server, or lost between";
    let mut family = encoder.encode_descriptor("late_frames", help, None, MetricType::Counter)?;
    for view in late {
        let counts = view.counts();
        let dropped = LateDrop::ALL.iter().map(|&reason| ("dropped", reason.as_str(), counts.dropped(reason)));
        let answered = Outcome::ALL.iter().map(|&fate| ("answered", fate.as_str(), counts.answered(fate)));
        for (side, outcome, frames) in dropped.chain(answered).chain([("lost", "lost", counts.lost)]) {
            let labels = [("camera", view.camera.as_str()), ("side", side), ("outcome", outcome)];
            ConstCounter::new(frames).encode(family.encode_family(&labels)?)?;
        }
    }
    let (counter, gauge) = (MetricType::Counter, MetricType::Gauge);
    type Count = fn(&LateCounts) -> u64;
    for (name, help, kind, count) in [
        ("late_frames_found", "Frames of an outage found on disk", counter, (|c| c.found) as Count),
        ("late_frames_again", "Late frames sent in vain, which wait again", counter, |c| c.again),
        ("late_frames_sent", "Late frames handed to a stream", counter, |c| c.sent),
        ("late_frames_waiting", "Late frames on disk that are not sent", gauge, |c| c.waiting),
        ("late_frames_in_flight", "Late frames sent and not yet answered", gauge, |c| c.in_flight),
    ] {
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for view in late {
            let labels = [("camera", view.camera.as_str())];
            let metric = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => ConstCounter::new(count(&view.counts())).encode(metric)?,
                _ => ConstGauge::new(count(&view.counts())).encode(metric)?,
            }
        }
    }
    Ok(())
}

fn encode_recording(encoder: &mut DescriptorEncoder<'_>, recording: &Recording) -> fmt::Result {
    let help = "Frames that were meant to be recorded and are not";
    let mut family = encoder.encode_descriptor("frames_not_recorded", help, None, MetricType::Counter)?;
    for (camera, of) in recording.cameras() {
        for reason in NotRecorded::ALL {
            let labels = [("camera", camera.as_str()), ("reason", reason.as_str())];
            ConstCounter::new(of.not_recorded[reason as usize]).encode(family.encode_family(&labels)?)?;
        }
    }
    let (counter, bytes) = (MetricType::Counter, Some(&Unit::Bytes));
    type Read = fn(CameraRecording) -> u64;
    for (name, help, unit, kind, read) in [
        ("recorded_frames", "Frames written to disk", None, counter, (|of| of.recorded) as Read),
        ("recorded_written", "Written to disk, headers included", bytes, counter, |of| of.written_bytes),
        ("recording_segments_removed", "Files removed for age or room", None, counter, |of| of.removed_segments),
        ("recording", "What the recording takes of the disk", bytes, MetricType::Gauge, |of| of.disk_bytes),
        ("recording_segments", "Files of the recording", None, MetricType::Gauge, |of| of.segments),
    ] {
        let mut family = encoder.encode_descriptor(name, help, unit, kind)?;
        for (camera, of) in recording.cameras() {
            let labels = [("camera", camera.as_str())];
            let metric = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => ConstCounter::new(read(of)).encode(metric)?,
                _ => ConstGauge::new(read(of)).encode(metric)?,
            }
        }
    }
    let cap = recording.settings().bounds.max_bytes;
    gauge(encoder, "recording_cap", "Most that the recording of one camera may take of the disk", bytes, cap)?;
    if let Some(free) = recording.free_bytes() {
        gauge(encoder, "recording_disk_free", "Free on the disk of the recording", bytes, free)?;
    }
    let help = "1 while nothing is recorded, by reason";
    let mut family = encoder.encode_descriptor("recording_paused", help, None, MetricType::Gauge)?;
    let paused = recording.paused();
    for reason in Pause::WORDS {
        let is = i64::from(paused.as_ref().is_some_and(|pause| pause.as_str() == reason));
        ConstGauge::new(is).encode(family.encode_family(&[("reason", reason)])?)?;
    }
    Ok(())
}
