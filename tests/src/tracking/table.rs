//! Scores of many scenes as a table for people and an object for machines.
//! Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::scene::Scenario;
use super::score::{Score, median};

/// Scores by scenario and frame rate.
#[derive(Debug, Default)]
pub struct Table {
    /// Frame rates in thousandths, which have an order.
    rows: BTreeMap<(Scenario, u64), Vec<Score>>,
}

impl Table {
    /// Adds the score of one scene.
    pub fn add(&mut self, scenario: Scenario, fps: f64, score: Score) {
        self.rows.entry((scenario, (fps * 1e3).round() as u64)).or_default().push(score);
    }

    /// Scenes of crossings and occlusions at 5 frames a second and more: median
    /// and worst error of the count, as shares, whichever direction.
    pub fn count_errors(&self) -> (f64, f64) {
        let promised = [Scenario::Crossings, Scenario::Occlusions];
        let rows = self.rows.iter().filter(|((scene, milli_fps), _)| promised.contains(scene) && *milli_fps >= 5_000);
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
        for ((scenario, milli_fps), scores) in &self.rows {
            let m = Score::median_of(scores);
            let error = median(scores.iter().map(|score| score.count_error().abs()));
            let worst = scores.iter().map(Score::count_error).max_by(|a, b| a.abs().total_cmp(&b.abs()));
            let named = (m.gender_right + m.gender_wrong + m.gender_unknown).max(1.0) / 100.0;
            let of = |value: f64, ceiling: f64| format!("{value:.3} ({ceiling:.3})");
            text += &format!(
                "| {} | {} | {} | {} | {} | {:.1} % | {:+.1} % | {} | {} | {} | {} | {} | {} | {} | {:.0}/{:.0}/{:.0} % | {:.1} |\n",
                scenario.name(),
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
                m.gender_right / named,
                m.gender_wrong / named,
                m.gender_unknown / named,
                m.frame_us,
            );
        }
        text
    }

    /// Everything, one object for each row.
    pub fn json(&self) -> Vec<Value> {
        let row = |(&(scenario, milli_fps), scores): (&(Scenario, u64), &Vec<Score>)| {
            let mut row: Map<String, Value> = Score::median_of(scores).json();
            row.insert("scenario".into(), json!(scenario.name()));
            row.insert("fps".into(), json!(milli_fps as f64 / 1e3));
            row.insert("seeds".into(), json!(scores.len()));
            row.insert("count_error".into(), json!(median(scores.iter().map(|score| score.count_error().abs()))));
            row.insert("count_errors".into(), scores.iter().map(Score::count_error).collect());
            Value::Object(row)
        };
        self.rows.iter().map(row).collect()
    }
}
