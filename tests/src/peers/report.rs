//! From rounds to figures: medians, ratios taken within a round, a table for
//! people and an object for machines. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::load::Measured;
use super::side::Side;

/// Sides that ours is compared with, and the name of the ratio.
const RATIOS: [(Side, &str); 3] = [
    (Side::BareLoop, "ratio_to_bare_loop"),
    (Side::PythonGrpc, "ratio_to_python_grpc"),
    (Side::Flask, "ratio_to_flask"),
];

/// What was asked of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// So many cameras that wait for their answers.
    Cameras(usize),
    /// Ten times what it can do.
    Overload,
}

/// One side under one load in one round.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Figures {
    /// Frames per second of wall time; at overload, goodput.
    pub fps: f64,
    /// Frames per second of processor time, the server's processes together:
    /// what one core does that does nothing else.
    pub fps_per_core: f64,
    /// Frames per second of wall time and core that the server may use.
    pub fps_per_pinned_core: f64,
    /// Processor time of a frame, in milliseconds.
    pub cpu_ms_per_frame: f64,
    /// Median time to the answer, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 answers took no longer, in milliseconds.
    pub p99_ms: f64,
    /// Peak of the processes' resident memory, bytes.
    pub rss_peak_bytes: f64,
    /// At overload: frames per second that were offered.
    pub offered_fps: f64,
    /// At overload: goodput as a share of what the same process did right
    /// before, when it was never without work and no frame was late.
    pub share_of_saturated: f64,
}

/// Where one figure lies.
type Field = fn(&mut Figures) -> &mut f64;

impl Figures {
    /// Figures of what was measured on `cores` cores.
    pub fn of(measured: &Measured, cores: usize, rss_peak_bytes: u64) -> Self {
        let frames = measured.frames as f64;
        let fps = frames / measured.wall.as_secs_f64();
        let mut latencies = measured.latencies.clone();
        latencies.sort_unstable();
        let at = |share: f64| {
            let place = ((latencies.len() as f64 * share).ceil() as usize).saturating_sub(1);
            latencies.get(place).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
        };
        Self {
            fps,
            fps_per_core: frames / measured.cpu.max(Duration::from_millis(1)).as_secs_f64(),
            fps_per_pinned_core: fps / cores.max(1) as f64,
            cpu_ms_per_frame: measured.cpu.as_secs_f64() * 1e3 / frames,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            rss_peak_bytes: rss_peak_bytes as f64,
            offered_fps: f64::NAN,
            share_of_saturated: f64::NAN,
        }
    }

    const FIELDS: [(&str, Field); 9] = [
        ("fps", |f| &mut f.fps),
        ("fps_per_core", |f| &mut f.fps_per_core),
        ("fps_per_pinned_core", |f| &mut f.fps_per_pinned_core),
        ("cpu_ms_per_frame", |f| &mut f.cpu_ms_per_frame),
        ("p50_ms", |f| &mut f.p50_ms),
        ("p99_ms", |f| &mut f.p99_ms),
        ("rss_peak_bytes", |f| &mut f.rss_peak_bytes),
        ("offered_fps", |f| &mut f.offered_fps),
        ("share_of_saturated", |f| &mut f.share_of_saturated),
    ];

    /// Each figure's median.
    fn median_of(rounds: &[Self]) -> Self {
        let mut medians = Self::default();
        for (_, field) in Self::FIELDS {
            *field(&mut medians) = median(rounds.iter().map(|round| *field(&mut round.clone())));
        }
        medians
    }

    /// What is not a number (no frame was answered) is null.
    fn json(mut self) -> Map<String, Value> {
        Self::FIELDS.iter().map(|(name, field)| (name.to_string(), json!(*field(&mut self)))).collect()
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub struct Report {
    rounds: BTreeMap<(Load, Side), Vec<Figures>>,
}

impl Report {
    /// Takes the figures of one round; every side of a load once a round.
    pub fn add(&mut self, load: Load, side: Side, figures: Figures) {
        self.rounds.entry((load, side)).or_default().push(figures);
    }

    /// The medians of a side.
    fn median(&self, load: Load, side: Side) -> Option<Figures> {
        self.rounds.get(&(load, side)).map(|rounds| Figures::median_of(rounds))
    }

    /// The median over rounds of how many times as much `a` does as `b`.
    pub fn ratio(&self, load: Load, a: Side, b: Side, of: fn(&Figures) -> f64) -> f64 {
        let rounds = |side| self.rounds.get(&(load, side)).map(Vec::as_slice).unwrap_or_default();
        median(rounds(a).iter().zip(rounds(b)).map(|(a, b)| of(a) / of(b)))
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| load | side | frames/s | per core | CPU ms | p50 ms | p99 ms | RSS peak MiB | of saturated |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        for &(load, side) in self.rounds.keys() {
            let Some(figures) = self.median(load, side) else { continue };
            let (place, share) = match load {
                Load::Cameras(1) => ("1 camera".to_owned(), String::new()),
                Load::Cameras(cameras) => (format!("{cameras} cameras"), String::new()),
                Load::Overload => (
                    format!("{:.0}/s offered", figures.offered_fps),
                    format!("{:.0} %", figures.share_of_saturated * 100.0),
                ),
            };
            let columns = [
                (figures.fps, 1),
                (figures.fps_per_core, 1),
                (figures.cpu_ms_per_frame, 2),
                (figures.p50_ms, 1),
                (figures.p99_ms, 1),
                (figures.rss_peak_bytes / f64::from(1 << 20), 1),
            ];
            let columns: Vec<String> = columns.into_iter().map(|(value, digits)| number(value, digits)).collect();
            table += &format!("| {place} | {} | {} | {share} |\n", side.name(), columns.join(" | "));
        }
        table
    }

    /// The object for machines: what was measured with `cameras` cameras under
    /// names of its own, and every load in full.
    pub fn json(&self, cameras: usize) -> Map<String, Value> {
        let load = Load::Cameras(cameras);
        let mut object = Map::new();
        object.insert("cameras".into(), json!(cameras));
        for side in Side::CLOSED {
            if let Some(figures) = self.median(load, side) {
                object.insert(format!("{}_fps_per_core", side.key()), json!(figures.fps_per_core));
                object.insert(format!("{}_rss_peak_bytes", side.key()), json!(figures.rss_peak_bytes));
            }
        }
        for (other, name) in RATIOS {
            object.insert(name.into(), json!(self.ratio(load, Side::Ours, other, |f| f.fps_per_core)));
            let unary = self.ratio(load, Side::OursUnary, other, |f| f.fps_per_core);
            object.insert(format!("unary_{name}"), json!(unary));
            let rss = self.ratio(load, Side::Ours, other, |f| f.rss_peak_bytes);
            object.insert(format!("rss_{name}"), json!(rss));
        }
        let rows = self.rounds.keys().filter_map(|&(load, side)| {
            let mut row = self.median(load, side)?.json();
            row.insert("side".into(), json!(side.key()));
            match load {
                Load::Cameras(cameras) => row.insert("cameras".into(), json!(cameras)),
                Load::Overload => row.insert("overload".into(), json!(true)),
            };
            Some(Value::Object(row))
        });
        object.insert("loads".into(), rows.collect());
        object
    }
}

/// A figure for people; a dash where there is none.
fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "-".into() }
}

/// The middle one, of an even number the mean of both; what is not a number
/// goes last; NaN when there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (count, middle) if count % 2 == 1 => values[middle],
        (_, middle) => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(frames: u64, wall_ms: u64, cpu_ms: u64) -> Measured {
        let latencies = (1..=frames).rev().map(Duration::from_millis).collect();
        let (wall, cpu) = (Duration::from_millis(wall_ms), Duration::from_millis(cpu_ms));
        Measured { frames, wall, cpu, latencies }
    }

    #[test]
    fn figures_of_a_round() {
        let figures = Figures::of(&measured(200, 2000, 500), 2, 1 << 20);
        assert_eq!((figures.fps, figures.fps_per_pinned_core, figures.fps_per_core), (100.0, 50.0, 400.0));
        assert_eq!((figures.cpu_ms_per_frame, figures.p50_ms, figures.p99_ms), (2.5, 100.0, 198.0));
        let nothing = Figures::of(&measured(0, 1000, 900), 1, 1);
        assert_eq!(nothing.fps, 0.0);
        assert!(nothing.json()["p50_ms"].is_null() && nothing.json()["cpu_ms_per_frame"].is_null());
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut report = Report::default();
        let load = Load::Cameras(4);
        // A machine that is twice as slow in the second round, and a round
        // that went wrong for one side.
        for (ours, python, bare) in [(300, 150, 310), (150, 75, 160), (290, 290, 300)] {
            for (side, frames) in [(Side::Ours, ours), (Side::PythonGrpc, python), (Side::BareLoop, bare)] {
                report.add(load, side, Figures::of(&measured(frames, 1000, 1000), 1, 50 << 20));
            }
        }
        report.add(Load::Overload, Side::Ours, Figures { offered_fps: 3000.0, ..Figures::default() });
        let object = report.json(4);
        assert_eq!(object["ratio_to_python_grpc"], json!(2.0));
        assert_eq!(object["ours_fps_per_core"], json!(290.0));
        assert_eq!(object["python_grpc_fps_per_core"], json!(150.0));
        assert_eq!(object["bare_loop_fps_per_core"], json!(300.0));
        assert_eq!(object["ours_rss_peak_bytes"], json!(f64::from(50 << 20)));
        assert!(object["ratio_to_flask"].is_null(), "it was not measured");
        let rows = object["loads"].as_array().expect("rows");
        assert_eq!(rows.len(), 4);
        assert_eq!((&rows[3]["overload"], &rows[3]["offered_fps"]), (&json!(true), &json!(3000.0)));
        let table = report.table();
        assert_eq!(table.lines().count(), 2 + 4, "{table}");
        assert!(table.contains("| 4 cameras | ours, camera streams | 290.0 |"), "{table}");
        let silent = Figures::of(&measured(0, 1000, 1000), 1, 1);
        report.add(Load::Overload, Side::Flask, silent);
        assert!(report.table().contains("| Flask, base64 JSON | 0.0 | 0.0 | - | - | - | 0.0 |"), "{}", report.table());
    }
}
