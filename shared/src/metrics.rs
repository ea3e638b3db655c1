//! What both services show Prometheus in the same words: single values, and
//! the process's memory beside its bound.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::budget::{Budget, Place};
use crate::process;

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

/// Adds what the process holds beside what it may hold: memory, files,
/// threads, the budget with its parts, and every bounded place.
///
/// # Errors
/// As the encoder's own.
pub fn memory(encoder: &mut DescriptorEncoder<'_>, budget: &Budget, places: &[Place]) -> fmt::Result {
    let used = process::current_use();
    let bytes = Some(&Unit::Bytes);
    // What cannot be read is left out: unknown is not zero.
    for (name, help, unit, value) in [
        ("rss", "Resident memory", bytes, used.rss_bytes),
        ("rss_peak", "Highest resident memory so far", bytes, used.rss_peak_bytes),
        ("swap", "Memory swapped out", bytes, used.swap_bytes),
        ("open_files", "Open files", None, used.open_files),
        ("threads", "Threads", None, used.threads),
    ] {
        if let Some(value) = value {
            gauge(encoder, name, help, unit, value)?;
        }
    }
    gauge(encoder, "budget", "Computed bound of resident memory", bytes, budget.total_bytes())?;
    let help = "Computed bound of resident memory, by part";
    let mut family = encoder.encode_descriptor("budget_part", help, bytes, MetricType::Gauge)?;
    for part in budget.parts() {
        ConstGauge::new(part.bytes).encode(family.encode_family(&[("part", part.name)])?)?;
    }
    for (name, help, value) in [
        ("place_live", "Items that wait, by place", Place::live as fn(&Place) -> u64),
        ("place_cap", "Most items that may wait, by place", |place| place.cap),
    ] {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for place in places {
            ConstGauge::new(value(place)).encode(family.encode_family(&[("place", place.name.as_str())])?)?;
        }
    }
    Ok(())
}
