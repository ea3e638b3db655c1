//! AdminService: what the process holds beside what it may hold. The same for
//! both services; each gives its budget, its places, its stages and its balance.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::{Request, Response, Status};

use crate::allocator;
use crate::budget::{Budget, Place};
use crate::r#gen::v1;
use crate::histogram::Snapshot;
use crate::memory_watch::MemoryWatch;
use crate::process;
use crate::restarts;

/// The memory contract of a service: what it may hold, and what watches over it.
#[derive(Debug)]
pub struct Resources {
    /// When it started.
    pub started: Instant,
    /// How often a supervisor started it again; `None`: nobody counts.
    pub restarts: Option<u64>,
    /// The computed bound.
    pub budget: Budget,
    /// Where data can wait.
    pub places: Vec<Place>,
    /// Trend and pressure.
    pub memory: Arc<MemoryWatch>,
}

impl Resources {
    /// The contract of a service that starts now: `memory_bytes` and
    /// `soft_memory_bytes` as configured, 0 for "not set".
    pub fn new(budget: Budget, places: Vec<Place>, memory_bytes: u64, soft_memory_bytes: u64) -> Self {
        let (started, cgroup) = (Instant::now(), process::cgroup_limit_bytes());
        let limit = if memory_bytes == 0 { cgroup } else { Some(memory_bytes) };
        let memory = MemoryWatch::new(started, soft_memory_bytes, limit, cgroup, budget.total_bytes());
        Self { started, restarts: restarts::count_start(), budget, places, memory: Arc::new(memory) }
    }
}

/// Serves [`Resources`].
#[derive(Clone)]
pub struct ResourceApi {
    /// What is shown.
    pub resources: Arc<Resources>,
    /// What is read of the service itself.
    pub readings: Arc<Readings>,
}

/// What only the service knows, read live.
pub struct Readings {
    /// Imbalance of its ledger.
    pub balance: Box<dyn Fn() -> i64 + Send + Sync>,
    /// Its stages by name.
    pub stages: Box<dyn Fn() -> Vec<StageTime> + Send + Sync>,
}

/// Time of frames in one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageTime {
    /// Name of the stage.
    pub name: &'static str,
    frames: u64,
    p50: Duration,
    p99: Duration,
}

impl StageTime {
    /// What `times` says of the stage `name`; `None` before the first frame.
    pub fn of(name: &'static str, times: &Snapshot) -> Option<Self> {
        let (p50, p99) = (times.quantile(0.5)?, times.quantile(0.99)?);
        Some(Self { name, frames: times.count(), p50, p99 })
    }
}

#[tonic::async_trait]
impl v1::admin_service_server::AdminService for ResourceApi {
    async fn get_resources(
        &self,
        _request: Request<v1::GetResourcesRequest>,
    ) -> Result<Response<v1::GetResourcesResponse>, Status> {
        let (used, cgroup) = (process::current_use(), process::cgroup_memory());
        let resources = &*self.resources;
        let budget = resources.budget.parts().iter().map(|part| v1::BudgetPart {
            name: part.name.into(),
            formula: part.formula.clone(),
            bound_bytes: part.bytes,
        });
        let places = resources.places.iter().map(|place| v1::BoundedPlace {
            name: place.name.clone(),
            live: place.live(),
            cap: place.cap,
        });
        let allocator = allocator::current_use().map(|used| v1::AllocatorUse {
            held_bytes: used.held_bytes,
            in_use_bytes: used.in_use_bytes,
            mapped_bytes: used.mapped_bytes,
        });
        let stages = (self.readings.stages)().into_iter().map(|stage| v1::StageTime {
            name: stage.name.into(),
            frames: stage.frames,
            p50_us: micros(stage.p50),
            p99_us: micros(stage.p99),
        });
        Ok(Response::new(v1::GetResourcesResponse {
            software: crate::SOFTWARE.into(),
            uptime_s: resources.started.elapsed().as_secs(),
            rss_bytes: used.rss_bytes,
            rss_peak_bytes: used.rss_peak_bytes,
            swap_bytes: used.swap_bytes,
            open_files: used.open_files,
            threads: used.threads,
            children: used.children,
            restarts: resources.restarts,
            budget_bytes: resources.budget.total_bytes(),
            budget: budget.collect(),
            cgroup_limit_bytes: cgroup.map(|group| group.limit_bytes),
            cgroup_used_bytes: cgroup.and_then(|group| group.used_bytes),
            places: places.collect(),
            ledger_balance: (self.readings.balance)(),
            allocator,
            trend: Some(trend(&resources.memory)),
            pressure: Some(pressure(&resources.memory)),
            stages: stages.collect(),
        }))
    }
}

fn trend(memory: &MemoryWatch) -> v1::MemoryTrend {
    const HOUR_S: f64 = 3600.0;
    let (samples, slope) = memory.trend();
    v1::MemoryTrend {
        samples: samples
            .iter()
            .map(|sample| v1::MemorySample { uptime_s: sample.x as u64, rss_bytes: sample.y as u64 })
            .collect(),
        slope_bytes_per_hour: slope.map(|slope| slope.per_x * HOUR_S),
        slope_ci_bytes_per_hour: slope.map(|slope| slope.ci95 * HOUR_S),
    }
}

fn pressure(memory: &MemoryWatch) -> v1::MemoryPressure {
    let view = memory.pressure(Instant::now());
    v1::MemoryPressure {
        lasts_ms: view.lasts.map(|lasts| lasts.as_millis() as u64),
        times: view.times,
        soft_limit_bytes: memory.soft_rss_bytes(),
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
