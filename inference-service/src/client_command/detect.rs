//! `inference-service detect PICTURE`: the faces in one picture.

use std::io::{Read, Write};
use std::path::PathBuf;

use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::detect_service_client::DetectServiceClient;
use serde_json::json;

use super::{Failure, ServerArgs, asking, faces_json};
use crate::table::{printable, write_table};
use crate::words;

/// No service takes a larger picture, in bytes (limits.max_detect_bytes).
const MAX_BYTES: u64 = 64 << 20;

/// Which picture.
#[derive(Debug, clap::Args)]
pub struct DetectArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// A JPEG file.
    picture: PathBuf,
    /// Clockwise rotation that makes it upright, in degrees: 0, 90, 180 or 270.
    #[arg(long, value_name = "DEGREES", default_value_t = 0)]
    rotation: u32,
}

pub(super) async fn run(args: &DetectArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let name = args.picture.display();
    let mut jpeg = Vec::new();
    let read = std::fs::File::open(&args.picture).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut jpeg));
    read.map_err(|error| Failure::Wrong(format!("{name}: {error}")))?;
    if jpeg.len() as u64 > MAX_BYTES {
        return Err(Failure::Wrong(format!("{name} is larger than {MAX_BYTES} bytes, which no service takes")));
    }
    let request = v1::DetectRequest { jpeg: jpeg.into(), rotation_degrees: args.rotation };
    let mut client = DetectServiceClient::new(args.server.connect().await?);
    let found = client.detect(asking(request)).await?.into_inner();
    if args.server.json {
        let line = json!({
            "width_px": found.width_px, "height_px": found.height_px, "truncated": found.truncated,
            "detector": found.detector, "gender_model": found.gender_model,
            "analysis_us": found.analysis_us, "faces": faces_json(&found.faces),
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    let mut rows = vec![["X", "Y", "WIDTH", "HEIGHT", "SCORE", "GENDER", "P(FEMALE)"].map(String::from)];
    rows.extend(found.faces.iter().map(row));
    if !found.faces.is_empty() {
        write_table(&rows, out)?;
    }
    let more = if found.truncated { ", and more that are not reported" } else { "" };
    writeln!(
        out,
        "{} faces{more} in {} x {} pixels, {:.1} ms ({})",
        found.faces.len(),
        found.width_px,
        found.height_px,
        found.analysis_us as f64 / 1000.0,
        printable(&found.detector)
    )?;
    Ok(())
}

fn row(face: &v1::Face) -> [String; 7] {
    let bounds = face.r#box.unwrap_or_default();
    let px = |value: f32| format!("{value:.0}");
    [
        px(bounds.x_px),
        px(bounds.y_px),
        px(bounds.width_px),
        px(bounds.height_px),
        format!("{:.2}", face.score),
        words::gender(face.gender()).to_owned(),
        face.female_probability.map_or("-".to_owned(), |probability| format!("{probability:.2}")),
    ]
}
