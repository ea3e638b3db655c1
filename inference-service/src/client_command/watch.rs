//! `inference-service watch`: live results, one line each. A connection that is
//! lost is made anew, and goes on where it was.

use std::io::Write;
use std::time::Duration;

use flatframe_shared::backoff::Backoff;
use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::Elsewhere;
use flatframe_shared::r#gen::v1::result_service_client::ResultServiceClient;
use flatframe_shared::r#gen::v1::watch_response::Message;
use serde_json::json;

use super::{Failure, ServerArgs, faces_json, people, time};
use crate::table::printable;
use crate::words;

/// First and longest pause before a lost connection is made anew.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// What to watch.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Only this camera; may be repeated.
    #[arg(long, value_name = "ID")]
    camera: Vec<String>,
}

/// Where a watch stands.
#[derive(Debug, Default)]
struct Place {
    position: Option<u64>,
    epoch: Option<u64>,
}

pub(super) async fn run(args: &WatchArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let (mut place, mut backoff) = (Place::default(), Backoff::new(RETRY[0], RETRY[1]));
    // A server that was never reached is more likely misspelt than away.
    let mut was_reached = false;
    loop {
        let ended = match watch(args, &mut place, &mut was_reached, &mut backoff, out).await {
            Err(failure) if !was_reached || !failure.may_pass() => return Err(failure),
            Err(failure) => failure.to_string(),
            Ok(()) => "the server ended the stream".to_owned(),
        };
        let delay = backoff.next_delay();
        eprintln!("inference-service: {ended}; trying again in {:.1} s", delay.as_secs_f64());
        tokio::time::sleep(delay).await;
    }
}

/// One connection, to its end.
async fn watch(
    args: &WatchArgs,
    place: &mut Place,
    was_reached: &mut bool,
    backoff: &mut Backoff,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut client = ResultServiceClient::new(args.server.connect().await?);
    let request = v1::WatchRequest {
        camera_ids: args.camera.clone(),
        after_position: place.position,
        after_server_epoch: place.epoch,
    };
    let mut stream = client.watch(request).await?.into_inner();
    *was_reached = true;
    while let Some(response) = stream.message().await? {
        backoff.reset();
        match response.message {
            Some(Message::Result(result)) => {
                if args.server.json {
                    writeln!(out, "{}", as_json(&result))?;
                } else {
                    writeln!(out, "{}", as_line(&result))?;
                }
                (place.position, place.epoch) = (Some(result.position), Some(result.server_epoch));
            }
            Some(Message::Gap(gap)) => {
                if args.server.json {
                    writeln!(out, "{}", json!({ "missed": gap.missed }))?;
                } else {
                    writeln!(out, "missed {} results", gap.missed)?;
                }
                place.position = Some(gap.last_missed_position);
            }
            Some(Message::Elsewhere(elsewhere)) => {
                let Elsewhere { is_heard, detail } = elsewhere;
                if args.server.json {
                    writeln!(out, "{}", json!({ "other_replicas_heard": is_heard, "detail": detail }))?;
                } else if is_heard {
                    writeln!(out, "the other replicas are heard again")?;
                } else {
                    writeln!(out, "the other replicas are not heard: {}", printable(&detail))?;
                }
            }
            // Of a newer server.
            None => {}
        }
        out.flush()?;
    }
    Ok(())
}

fn as_line(result: &v1::FrameResult) -> String {
    let now = result.counts.as_ref().and_then(|counts| counts.now.as_ref());
    let visits = result.counts.as_ref().and_then(|counts| counts.visits.as_ref());
    let faces = if result.faces_withheld { "withheld".to_owned() } else { result.faces.len().to_string() };
    format!(
        "{}  {}  faces {faces}  now {}  visits {}  {} ms",
        time(result.observed_unix_us / 1000),
        printable(&result.camera_id),
        people(now),
        people(visits),
        result.latency_us / 1000
    )
}

fn as_json(result: &v1::FrameResult) -> serde_json::Value {
    let counts = result.counts.as_ref();
    json!({
        "camera": result.camera_id,
        "time": time(result.observed_unix_us / 1000),
        "observed_unix_us": result.observed_unix_us,
        "position": result.position,
        "server_epoch": result.server_epoch.to_string(),
        "frame_number": result.frame_number,
        "latency_us": result.latency_us,
        "width_px": result.width_px,
        "height_px": result.height_px,
        "faces": if result.faces_withheld { serde_json::Value::Null } else { faces_json(&result.faces) },
        "now": words::people(counts.and_then(|counts| counts.now.as_ref())),
        "visits": words::people(counts.and_then(|counts| counts.visits.as_ref())),
    })
}
