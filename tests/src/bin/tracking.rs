//! How well faces are followed and visits are counted, on scenes of which the
//! truth is known. Ends with exit code 1 when the count of visits is off by
//! more than 5 % in the median of the scenes with crossings and occlusions at 5
//! frames a second and more. The other scenes are harder; they are shown, and
//! so are clips of real people where their folder is named.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use e2e::arguments;
use e2e::tracking::clip::CLIPS;
use e2e::tracking::measure;
use e2e::tracking::scene::{Recipe, Scenario, Scene};
use e2e::tracking::table::Table;
use inference_service::people::track::TrackSettings;
use inference_service::vision::{Analyzer, VisionConfig};
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
    /// Folder with the clips, whose faces the models find.
    #[arg(long, value_name = "DIR")]
    clips: Option<PathBuf>,
    /// Folder with other models than the embedded ones.
    #[arg(long, value_name = "DIR", requires = "clips")]
    models: Option<PathBuf>,
    /// Detector for the clips.
    #[arg(long, requires = "clips")]
    detector: Option<String>,
    /// Classifier of gender for the clips.
    #[arg(long, requires = "clips")]
    gender: Option<String>,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args: Args = arguments::parse();
    let mut table = Table::default();
    if let Some(folder) = &args.clips
        && let Err(error) = add_clips(&args, folder, &mut table)
    {
        eprintln!("tracking: {error:#}");
        return ExitCode::FAILURE;
    }
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

fn add_clips(args: &Args, folder: &Path, table: &mut Table) -> anyhow::Result<()> {
    let mut vision = VisionConfig::default();
    let named = [(&mut vision.detector, &args.detector), (&mut vision.gender, &args.gender)];
    for (key, name) in named.into_iter().filter_map(|(key, name)| Some((key, name.as_ref()?))) {
        key.clone_from(name);
    }
    if let Some(models) = &args.models {
        vision.models_dir.clone_from(models);
    }
    let analyzer = Analyzer::load(&vision).context("load the models")?;
    let mut state = analyzer.spawn();
    for clip in CLIPS {
        let analyzed = clip.analyze(folder, &mut state)?;
        for fps in args.fps.iter().map(|fps| fps.min(clip.fps)) {
            table.add(clip, fps, measure(&analyzed.scene(fps)?, TrackSettings::default()));
        }
    }
    Ok(())
}
