//! How long frames spend in each stage: counted for quantiles, and shown to
//! Prometheus with the trace of a frame in each bucket (an exemplar), where
//! frames are traced.

use std::time::{Duration, SystemTime};

use flatframe_shared::histogram::{Histogram, SHOWN_S};
use flatframe_shared::resources::StageTime;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;

/// What an exemplar says: the id of a trace.
type Labels = [(&'static str, String); 1];

/// One stage.
#[derive(Debug)]
pub struct Stage {
    times: Histogram,
    shown: HistogramWithExemplars<Labels>,
}

impl Default for Stage {
    fn default() -> Self {
        Self { times: Histogram::default(), shown: HistogramWithExemplars::new(SHOWN_S.into_iter()) }
    }
}

impl Stage {
    /// Counts the time of a frame, whose trace is `trace_id` if it has one.
    pub fn record(&self, took: Duration, trace_id: Option<&str>) {
        self.times.record(took);
        let labels = trace_id.map(|id| [("trace_id", id.to_owned())]);
        let now = labels.is_some().then(SystemTime::now);
        self.shown.observe(took.as_secs_f64(), labels, now);
    }

    /// As Prometheus sees it.
    pub fn shown(&self) -> &HistogramWithExemplars<Labels> {
        &self.shown
    }
}

/// All stages.
#[derive(Debug, Default)]
pub struct Stages {
    /// From arrival to a worker.
    pub queued: Stage,
    /// JPEG to pixels.
    pub decode: Stage,
    /// Detector with what is before and after it.
    pub detect: Stage,
    /// Gender classifier, all faces of a frame.
    pub gender: Stage,
}

impl Stages {
    /// All, by name, along the frame's path.
    pub fn all(&self) -> [(&'static str, &Stage); 4] {
        [("queued", &self.queued), ("decode", &self.decode), ("detect", &self.detect), ("gender", &self.gender)]
    }

    /// What each took so far.
    pub fn times(&self) -> Vec<StageTime> {
        self.all().into_iter().filter_map(|(name, stage)| StageTime::of(name, &stage.times.snapshot())).collect()
    }
}
