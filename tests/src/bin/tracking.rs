//! How well faces are followed and visits are counted, on scenes of which the
//! truth is known. Ends with exit code 1 when the count of visits is off by
//! more than 5 % in the median of the scenes with crossings and occlusions at 5
//! frames a second and more. The other scenes are harder; they are shown.

use std::process::ExitCode;

use clap::Parser;
use e2e::arguments;
use e2e::tracking::measure;
use e2e::tracking::scene::{Recipe, Scenario, Scene};
use e2e::tracking::table::Table;
use inference_service::people::track::TrackSettings;
use serde_json::json;

/// Most that the count may be off, as a share.
const MAX_COUNT_ERROR: f64 = 0.05;

/// Measures how well faces are followed.
#[derive(Parser)]
struct Args {
    /// Scenes of each kind.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// Seed of the first.
    #[arg(long, default_value_t = 1000)]
    first_seed: u64,
    /// People in each scene.
    #[arg(long, default_value_t = 50)]
    people: usize,
    /// Frames per second; may be given more than once.
    #[arg(long, default_values_t = [2.0, 5.0, 10.0, 15.0])]
    fps: Vec<f64>,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args: Args = arguments::parse();
    let mut table = Table::default();
    for scenario in Scenario::ALL {
        for &fps in &args.fps {
            for seed in args.first_seed..args.first_seed + args.seeds {
                let scene = Scene::new(&Recipe { scenario, seed, fps, people: args.people });
                table.add(scenario, fps, measure(&scene, TrackSettings::default()));
            }
        }
    }
    print!("{}", table.text());
    let (median, worst) = table.count_errors();
    println!(
        "visits of crossings and occlusions at 5 frames/s and more: off by {:.1} % in the median, {:.1} % at worst",
        median * 100.0,
        worst * 100.0
    );
    if args.json {
        let report = json!({
            "seeds": args.seeds, "first_seed": args.first_seed, "people": args.people,
            "count_error_median": median, "count_error_worst": worst, "rows": table.json(),
        });
        println!("{report}");
    }
    if median <= MAX_COUNT_ERROR { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
