//! Scores of many scenes as a table for people and an object for machines.
//! Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::clip::Clip;
use super::scene::Scenario;
use super::score::{Score, median};

/// Where a scene comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// It was made up.
    Generated(Scenario),
    /// From a clip of this name.
    Clip(&'static str),
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Self::Generated(scenario) => scenario.name(),
            Self::Clip(name) => name,
        }
    }
}

impl From<Scenario> for Origin {
    fn from(scenario: Scenario) -> Self {
        Self::Generated(scenario)
    }
}

impl From<Clip> for Origin {
    fn from(clip: Clip) -> Self {
        Self::Clip(clip.name)
    }
}

/// Scores by origin and frame rate.
#[derive(Debug, Default)]
pub struct Table {
    /// Frame rates in thousandths, which have an order.
    rows: BTreeMap<(Origin, u64), Vec<Score>>,
}

impl Table {
    /// Adds the score of one scene.
    pub fn add(&mut self, origin: impl Into<Origin>, fps: f64, score: Score) {
        self.rows.entry((origin.into(), (fps * 1e3).round() as u64)).or_default().push(score);
    }

    /// Scenes of crossings and occlusions at 5 frames a second and more: median
    /// and worst error of the count, as shares, whichever direction.
    pub fn count_errors(&self) -> (f64, f64) {
        let promised = [Scenario::Crossings, Scenario::Occlusions].map(Origin::from);
        let rows = self.rows.iter().filter(|((origin, milli_fps), _)| promised.contains(origin) && *milli_fps >= 5_000);
        let errors: Vec<f64> = rows.flat_map(|(_, scores)| scores.iter().map(|s| s.count_error().abs())).collect();
        (median(errors.iter().copied()), errors.iter().copied().fold(0.0, f64::max))
    }

    /// Medians over seeds. In parentheses what is possible with these
    /// detections.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "| scenario | frames/s | visits | detected | counted | error | worst | missed | extra | IDF1 | HOTA | AssA | MOTA | switches | \
             gender right/wrong/unknown | µs/frame |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for ((origin, milli_fps), scores) in &self.rows {
            let m = Score::median_of(scores);
            let error = median(scores.iter().map(|score| score.count_error().abs()));
            let worst = scores.iter().map(Score::count_error).max_by(|a, b| a.abs().total_cmp(&b.abs()));
            let told = m.gender_right + m.gender_wrong + m.gender_unknown;
            let share = |count: f64| format!("{:.0}", 100.0 * count / told);
            let genders = [m.gender_right, m.gender_wrong, m.gender_unknown].map(share).join("/");
            let genders = if told > 0.0 { genders + " %" } else { "not told".into() };
            let of = |value: f64, ceiling: f64| format!("{value:.3} ({ceiling:.3})");
            text += &format!(
                "| {} | {} | {} | {} | {} | {:.1} % | {:+.1} % | {} | {} | {} | {} | {} | {} | {} | {genders} | {:.1} |\n",
                origin.name(),
                *milli_fps as f64 / 1e3,
                m.countable,
                m.detected,
                m.counted,
                error * 100.0,
                worst.unwrap_or_default() * 100.0,
                m.missed,
                m.extra,
                of(m.tracked.idf1, m.ceiling.idf1),
                of(m.tracked.hota, m.ceiling.hota),
                of(m.tracked.ass_a, m.ceiling.ass_a),
                of(m.tracked.mota, m.ceiling.mota),
                m.tracked.id_switches,
                m.frame_us,
            );
        }
        text
    }

    /// Everything, one object for each row.
    pub fn json(&self) -> Vec<Value> {
        let row = |(&(origin, milli_fps), scores): (&(Origin, u64), &Vec<Score>)| {
            let mut row: Map<String, Value> = Score::median_of(scores).json();
            row.insert("scenario".into(), json!(origin.name()));
            row.insert("fps".into(), json!(milli_fps as f64 / 1e3));
            row.insert("seeds".into(), json!(scores.len()));
            row.insert("count_error".into(), json!(median(scores.iter().map(|score| score.count_error().abs()))));
            row.insert("count_errors".into(), scores.iter().map(Score::count_error).collect());
            Value::Object(row)
        };
        self.rows.iter().map(row).collect()
    }
}
