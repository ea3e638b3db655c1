//! What both services show Prometheus in the same words: single values, and
//! the process's memory beside its bound.

use std::fmt;
use std::time::Instant;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::allocator;
use crate::budget::Place;
use crate::process;
use crate::resources::Resources;
use crate::tls::Expiry;

/// Adds one gauge without labels.
///
/// # Errors
/// As the encoder's own.
pub fn gauge<N>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: N,
) -> fmt::Result
where
    ConstGauge<N>: EncodeMetric,
{
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)
}

/// Adds one counter without labels.
///
/// # Errors
/// As the encoder's own.
pub fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

/// Adds until when certificates are good, by the key that names them.
///
/// # Errors
/// As the encoder's own.
pub fn expiries(encoder: &mut DescriptorEncoder<'_>, expiries: &[Expiry]) -> fmt::Result {
    let (help, seconds) = ("When a certificate expires, since the Unix epoch", Some(&Unit::Seconds));
    let mut family = encoder.encode_descriptor("certificate_expiry", help, seconds, MetricType::Gauge)?;
    for expiry in expiries {
        ConstGauge::new(expiry.unix_s).encode(family.encode_family(&[("file", expiry.key)])?)?;
    }
    Ok(())
}

/// Adds what the process holds beside what it may hold: memory, files,
/// threads, the budget with its parts, every bounded place, trend and pressure.
///
/// # Errors
/// As the encoder's own.
pub fn memory(encoder: &mut DescriptorEncoder<'_>, resources: &Resources) -> fmt::Result {
    let (used, cgroup, allocator) = (process::current_use(), process::cgroup_memory(), allocator::current_use());
    let bytes = Some(&Unit::Bytes);
    // What cannot be read is left out: unknown is not zero.
    for (name, help, unit, value) in [
        ("rss", "Resident memory", bytes, used.rss_bytes),
        ("rss_peak", "Highest resident memory so far", bytes, used.rss_peak_bytes),
        ("swap", "Memory swapped out", bytes, used.swap_bytes),
        ("open_files", "Open files", None, used.open_files),
        ("threads", "Threads", None, used.threads),
        ("children", "Processes that it started and that have not ended", None, used.children),
        ("restarts", "Times a supervisor started it again", None, resources.restarts),
        ("cgroup_limit", "Memory limit of the cgroup", bytes, cgroup.map(|group| group.limit_bytes)),
        ("cgroup_used", "Memory that the cgroup cannot drop", bytes, cgroup.and_then(|group| group.used_bytes)),
        ("allocator_held", "Taken from the system by the allocator", bytes, allocator.and_then(|used| used.held_bytes)),
        ("allocator_in_use", "In blocks that the program uses", bytes, allocator.map(|used| used.in_use_bytes)),
    ] {
        if let Some(value) = value {
            gauge(encoder, name, help, unit, value)?;
        }
    }
    gauge(encoder, "uptime", "Time since start", Some(&Unit::Seconds), resources.started.elapsed().as_secs_f64())?;
    memory_watch(encoder, resources)?;
    gauge(encoder, "budget", "Computed bound of resident memory", bytes, resources.budget.total_bytes())?;
    let help = "Computed bound of resident memory, by part";
    let mut family = encoder.encode_descriptor("budget_part", help, bytes, MetricType::Gauge)?;
    for part in resources.budget.parts() {
        ConstGauge::new(part.bytes).encode(family.encode_family(&[("part", part.name)])?)?;
    }
    for (name, help, value) in [
        ("place_live", "Items that wait, by place", Place::live as fn(&Place) -> u64),
        ("place_cap", "Most items that may wait, by place", |place| place.cap),
    ] {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for place in &resources.places {
            ConstGauge::new(value(place)).encode(family.encode_family(&[("place", place.name.as_str())])?)?;
        }
    }
    Ok(())
}

fn memory_watch(encoder: &mut DescriptorEncoder<'_>, resources: &Resources) -> fmt::Result {
    let memory = &resources.memory;
    let pressure = memory.pressure(Instant::now());
    let bytes = Some(&Unit::Bytes);
    gauge(encoder, "memory_short", "1 while memory is near the limit", None, u64::from(pressure.lasts.is_some()))?;
    counter(encoder, "memory_shortages", "Times that memory came near the limit", pressure.times)?;
    gauge(encoder, "memory_soft_limit", "Resident memory that counts as short", bytes, memory.soft_rss_bytes())?;
    if let (_, Some(slope)) = memory.trend() {
        let help = "Slope of resident memory over the later half of the process's life, bytes per second";
        gauge(encoder, "rss_slope", help, None, slope.per_x)?;
        gauge(encoder, "rss_slope_ci", "Half width of the slope's 95 % confidence interval", None, slope.ci95)?;
    }
    Ok(())
}
