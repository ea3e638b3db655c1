//! What Prometheus sees. Reads the live counters of every part when it is
//! scraped; keeps none of its own but the histograms of [`stages`].

mod security;
pub mod stages;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use flatframe_shared::ledger::ServerCounts;
use flatframe_shared::metrics::{self, counter, gauge};
use flatframe_shared::outcome::Outcome;
use flatframe_shared::resources::Resources;
use flatframe_shared::serve::ConnectionCounts;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use self::stages::Stages;
use crate::cameras::Cameras;
use crate::history::{DropReason, RecordKind};
use crate::intake::dispatch::Dispatch;
use crate::intake::late::Late;
use crate::mqtt::MqttCounts;
use crate::people::count::ByGender;
use crate::people::incidents::Incidents;
use crate::results::archive::Archive;
use crate::results::bus::Bus;
use crate::results::incident_pictures::IncidentPictures;
use crate::server::security::Security;

/// Everything that is shown.
pub struct Sources {
    /// Cameras and their ledgers.
    pub cameras: Arc<Cameras>,
    /// The ledger of single calls.
    pub detect_ledger: flatframe_shared::ledger::ServerLedger,
    /// Late frames.
    pub late: Arc<Late>,
    /// Jobs and workers.
    pub dispatch: Arc<Dispatch>,
    /// Results and subscribers.
    pub bus: Arc<Bus>,
    /// Connections.
    pub connections: Arc<ConnectionCounts>,
    /// Connections of the page.
    pub page_connections: Arc<ConnectionCounts>,
    /// States that a person should know of.
    pub incidents: Arc<Incidents>,
    /// How it looked then.
    pub incident_pictures: Arc<IncidentPictures>,
    /// What is kept on disk.
    pub archive: Archive,
    /// Messages to a broker.
    pub mqtt: Arc<MqttCounts>,
    /// Stages.
    pub stages: Arc<Stages>,
    /// TLS, the authority, and what they refuse.
    pub security: Security,
    /// Memory, and what may wait.
    pub resources: Arc<Resources>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}

impl Sources {
    /// Counts of all cameras, late frames and single calls together.
    pub fn totals(&self) -> ServerCounts {
        let mut totals = self.live_totals();
        totals += self.late.ledger.counts();
        totals
    }

    /// Counts of live streams and single calls together.
    pub fn live_totals(&self) -> ServerCounts {
        let mut totals = self.cameras.retired();
        totals += self.detect_ledger.counts();
        for camera in self.cameras.all() {
            totals += camera.ledger.counts();
        }
        totals
    }
}

/// A registry that shows `sources`.
pub fn registry(sources: Arc<Sources>) -> Registry {
    let mut registry = Registry::with_prefix("flatframe_inference");
    registry.register_collector(Box::new(sources));
    registry
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_frames(&mut encoder)?;
        self.encode_load(&mut encoder)?;
        if !self.archive.wire.withholds_faces {
            self.encode_people(&mut encoder)?;
        }
        self.encode_incidents(&mut encoder)?;
        self.encode_history(&mut encoder)?;
        security::encode(&mut encoder, &self.security)?;
        self.encode_bus(&mut encoder)?;
        metrics::memory(&mut encoder, &self.resources)
    }
}

impl Sources {
    fn encode_frames(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let cameras = self.cameras.all();
        let mut family =
            encoder.encode_descriptor("frames", "Frames answered, by outcome", None, MetricType::Counter)?;
        let detect = ("".to_owned(), "detect", self.detect_ledger.counts());
        let late = ("".to_owned(), "late", self.late.ledger.counts());
        let retired = ("".to_owned(), "retired", self.cameras.retired());
        let streams = cameras.iter().map(|camera| (camera.id.to_string(), "stream", camera.ledger.counts()));
        for (camera, kind, counts) in streams.chain([detect, late, retired]) {
            for &outcome in Outcome::ALL {
                let labels = [("camera", camera.as_str()), ("kind", kind), ("outcome", outcome.as_str())];
                ConstCounter::new(counts.answered(outcome)).encode(family.encode_family(&labels)?)?;
            }
        }
        let totals = self.totals();
        gauge(encoder, "frames_queued", "Frames waiting or in work", None, totals.queued)?;
        gauge(encoder, "ledger_balance", "Imbalance of the ledger; must read 0", None, totals.balance())?;
        counter(encoder, "frames_received", "Frames that arrived", totals.received)?;
        counter(encoder, "results_published", "Results published", self.bus.published())?;
        counter(encoder, "results_missed", "Results that Watch clients missed", self.bus.missed())?;
        counter(encoder, "subscribers_cut", "Watch clients cut because they stalled", self.bus.cut())?;
        let mut family =
            encoder.encode_descriptor("camera_online", "1 while its stream is open", None, MetricType::Gauge)?;
        for camera in &cameras {
            let labels = [("camera", camera.id.as_str())];
            ConstGauge::new(i64::from(camera.stream().is_some())).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_people(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let views: Vec<_> = self.cameras.all().iter().map(|camera| (camera.id.to_string(), camera.view())).collect();
        let by_gender =
            |counts: ByGender| [("female", counts.female), ("male", counts.male), ("unknown", counts.unknown)];
        // A gauge: a visit may change its gender.
        let help = "Visits since start, by apparent gender";
        let mut family = encoder.encode_descriptor("visits", help, None, MetricType::Gauge)?;
        for (camera, view) in &views {
            for (gender, count) in by_gender(view.people.visits) {
                let labels = [("camera", camera.as_str()), ("gender", gender)];
                ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Visits in the picture now; absent while nobody is watching";
        let mut family = encoder.encode_descriptor("visits_now", help, None, MetricType::Gauge)?;
        for (camera, view) in views.iter().filter(|(_, view)| view.is_watching) {
            for (gender, count) in by_gender(view.people.now) {
                let labels = [("camera", camera.as_str()), ("gender", gender)];
                ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_incidents(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor("incidents_open", "Open incidents", None, MetricType::Gauge)?;
        for (kind, count) in self.incidents.open_by_kind() {
            ConstGauge::new(count as i64).encode(family.encode_family(&[("kind", kind.as_str())])?)?;
        }
        Ok(())
    }

    fn encode_history(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(history) = &self.archive.history else { return Ok(()) };
        let state = history.state();
        let bytes = Some(&Unit::Bytes);
        gauge(encoder, "history", "What the history takes on disk", bytes, state.bytes)?;
        gauge(encoder, "history_limit", "What it may take", bytes, state.max_bytes)?;
        gauge(encoder, "history_paused", "1 while it is not written", None, u64::from(state.paused.is_some()))?;
        gauge(encoder, "history_waiting", "Records that wait to be written", None, state.waiting_records)?;
        counter(encoder, "history_commits", "Commits", state.commits)?;
        counter(encoder, "history_commits_failed", "Commits that failed", state.failed_commits)?;
        let mut family =
            encoder.encode_descriptor("history_written", "Records written, by kind", None, MetricType::Counter)?;
        for (kind, written) in RecordKind::ALL.into_iter().zip(state.written) {
            ConstCounter::new(written).encode(family.encode_family(&[("kind", kind.as_str())])?)?;
        }
        let help = "Records that are not in the history, by kind and reason";
        let mut family = encoder.encode_descriptor("history_dropped", help, None, MetricType::Counter)?;
        for (kind, by_reason) in RecordKind::ALL.into_iter().zip(state.dropped) {
            for (reason, dropped) in DropReason::ALL.into_iter().zip(by_reason) {
                let labels = [("kind", kind.as_str()), ("reason", reason.as_str())];
                ConstCounter::new(dropped).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_bus(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(replicas) = &self.archive.replicas else { return Ok(()) };
        let (counts, outbox) = (&replicas.counts, &replicas.outbox.counts);
        gauge(encoder, "bus_away", "1 while the result bus is away", None, u64::from(replicas.away().is_some()))?;
        gauge(
            encoder,
            "bus_waiting",
            "What waits to be published",
            Some(&Unit::Bytes),
            replicas.outbox.bytes() as u64,
        )?;
        for (name, help, count) in [
            ("bus_offered", "Results and incidents offered to the bus", &outbox.offered),
            ("bus_published", "Of those, what the bus acknowledged", &counts.published),
            ("bus_duplicates", "Of those, what the bus had already", &counts.duplicates),
            ("bus_failed", "Batches that were sent again", &counts.failed),
            ("bus_connected", "Connections to the bus made", &counts.connected),
        ] {
            counter(encoder, name, help, count.load(Relaxed))?;
        }
        counter(encoder, "bus_heard", "Results of other replicas", self.bus.elsewhere())?;
        counter(encoder, "bus_unheard", "Results of other replicas that never came", self.bus.unheard())?;
        let help = "What was told of cameras for which there was no room (bus.max_cameras)";
        counter(encoder, "bus_cameras_refused", help, replicas.directory.refused())?;
        let help = "Of those, what is not on the bus, by reason";
        let mut family = encoder.encode_descriptor("bus_dropped", help, None, MetricType::Counter)?;
        for (reason, count) in
            [("full", &outbox.full), ("late", &outbox.late), ("shutdown", &outbox.left), ("too_large", &counts.refused)]
        {
            ConstCounter::new(count.load(Relaxed)).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        Ok(())
    }

    fn encode_load(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Time of one frame in a stage";
        let mut family = encoder.encode_descriptor("stage", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (name, stage) in self.stages.all() {
            stage.shown().encode(family.encode_family(&[("stage", name)])?)?;
        }
        let service_s = self.dispatch.service().as_secs_f64();
        gauge(encoder, "service", "Expected time of one frame on one worker", Some(&Unit::Seconds), service_s)?;
        gauge(encoder, "workers", "Worker threads", None, self.dispatch.workers() as u64)?;
        let help = "Late frames a second that there is time for";
        gauge(encoder, "late_fps", help, None, self.late.gate.fps())?;
        gauge(encoder, "late_streams", "Streams of late frames open", None, self.late.streams() as u64)?;
        let help = "Time that workers spent on frames";
        encoder
            .encode_descriptor("busy", help, Some(&Unit::Seconds), MetricType::Counter)
            .and_then(|metric| ConstCounter::new(self.dispatch.busy().as_secs_f64()).encode(metric))?;
        gauge(encoder, "connections", "Connections open", None, self.connections.open.load(Relaxed))?;
        gauge(
            encoder,
            "page_connections",
            "Connections of the page open",
            None,
            self.page_connections.open.load(Relaxed),
        )?;
        for (name, help, count) in [
            ("connections_accepted", "Connections accepted", &self.connections.accepted),
            ("tls_handshakes", "Handshakes of TLS that were done", &self.connections.secured),
            ("connections_refused", "Connections refused at the cap", &self.connections.refused),
            ("connections_gave_way", "Connections without a call closed at the cap", &self.connections.gave_way),
            ("connections_without_preface", "Connections that did not speak HTTP/2", &self.connections.no_preface),
            ("connections_idle", "Connections closed because no call came", &self.connections.idle),
            ("connections_cut", "Connections cut because the client did not read", &self.connections.cut),
            ("mqtt_published", "Messages handed to the connection to the broker", &self.mqtt.published),
            ("mqtt_deferred", "Messages that found the queue to the broker full", &self.mqtt.deferred),
            ("mqtt_connected", "Connections to the broker made", &self.mqtt.connected),
            ("page_connections_refused", "Connections of the page refused at the cap", &self.page_connections.refused),
            ("page_connections_cut", "Connections of the page cut because it did not read", &self.page_connections.cut),
        ] {
            counter(encoder, name, help, count.load(Relaxed))?;
        }
        Ok(())
    }
}
