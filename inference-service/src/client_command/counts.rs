//! `inference-service counts`: people counted over a time, from the history.

use std::io::Write;
use std::time::{Duration, SystemTime};

use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::result_service_client::ResultServiceClient;
use serde_json::json;

use super::{Failure, ServerArgs, asking, people, time, write_incomplete};
use crate::table::write_table;
use crate::words;

/// What to count.
#[derive(Debug, clap::Args)]
pub struct CountsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Only this camera; may be repeated.
    #[arg(long, value_name = "ID")]
    camera: Vec<String>,
    /// The time up to now, such as 90m, 24h or 7days.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
    last: Duration,
    /// From this time instead, in UTC, such as 2026-11-20T06:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339_weak, conflicts_with = "last")]
    from: Option<SystemTime>,
    /// Up to this time; now if not given.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339_weak, requires = "from")]
    to: Option<SystemTime>,
    /// Length of one bucket, 1s to 1day.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    bucket: Duration,
    /// Each camera for itself, not all summed.
    #[arg(long)]
    per_camera: bool,
}

impl CountsArgs {
    /// What is asked for, from the begin of a bucket to the end of one.
    fn request(&self, now: SystemTime) -> Result<v1::QueryCountsRequest, Failure> {
        let bucket_s = i64::try_from(self.bucket.as_secs()).unwrap_or(i64::MAX);
        if !(1..=86_400).contains(&bucket_s) {
            return Err(Failure::Wrong(format!("--bucket {:?}: use 1s to 1day", self.bucket)));
        }
        let seconds =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let to = seconds(self.to.unwrap_or(now));
        let from = match self.from {
            Some(from) => seconds(from),
            None => to.saturating_sub(i64::try_from(self.last.as_secs()).unwrap_or(i64::MAX)).max(0),
        };
        Ok(v1::QueryCountsRequest {
            camera_ids: self.camera.clone(),
            from_unix_s: from.div_euclid(bucket_s) * bucket_s,
            to_unix_s: (to.div_euclid(bucket_s) + i64::from(to.rem_euclid(bucket_s) > 0)) * bucket_s,
            bucket_s: bucket_s as u32,
            per_camera: self.per_camera,
        })
    }
}

pub(super) async fn run(args: &CountsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let request = args.request(SystemTime::now())?;
    let bucket_s = request.bucket_s;
    let mut client = ResultServiceClient::new(args.server.connect().await?);
    let v1::QueryCountsResponse { series, incomplete } = client.query_counts(asking(request)).await?.into_inner();
    if args.server.json {
        for one in &series {
            for bucket in &one.buckets {
                writeln!(out, "{}", as_json(one, bucket))?;
            }
        }
        write_incomplete(&incomplete, true, out)?;
        return Ok(());
    }
    let mut rows = vec![["FROM", "CAMERA", "WATCHED", "VISITS", "CROSSINGS"].map(String::from)];
    for one in &series {
        let camera = if one.camera_id.is_empty() { format!("{} cameras", one.cameras) } else { one.camera_id.clone() };
        rows.extend(one.buckets.iter().map(|bucket| row(&camera, one.cameras, bucket_s, bucket)));
    }
    write_table(&rows, out)?;
    write_incomplete(&incomplete, false, out)?;
    Ok(())
}

fn row(camera: &str, cameras: u32, bucket_s: u32, bucket: &v1::CountBucket) -> [String; 5] {
    let whole = u64::from(cameras) * u64::from(bucket_s);
    let watched = format!("{:.0} %", 100.0 * f64::from(bucket.covered_seconds) / whole.max(1) as f64);
    let visits = match (bucket.withheld, people(bucket.visits.as_ref())) {
        (true, _) => "withheld".to_owned(),
        (false, visits) if bucket.uncertain => format!("{visits} (some maybe twice)"),
        (false, visits) => visits,
    };
    let crossing = |one: &v1::CrossingCounts| {
        format!("{}: in {}, out {}", one.name, people(one.entered.as_ref()), people(one.left.as_ref()))
    };
    let crossings = bucket.crossings.iter().map(crossing).collect::<Vec<_>>().join("; ");
    [time(bucket.start_unix_s.saturating_mul(1000)), camera.to_owned(), watched, visits, crossings]
}

fn as_json(series: &v1::CountSeries, bucket: &v1::CountBucket) -> serde_json::Value {
    let crossings = bucket.crossings.iter().map(|one| {
        json!({ "name": one.name, "entered": words::people(one.entered.as_ref()), "left": words::people(one.left.as_ref()) })
    });
    json!({
        "camera": (!series.camera_id.is_empty()).then_some(&series.camera_id),
        "cameras": series.cameras,
        "from": time(bucket.start_unix_s.saturating_mul(1000)),
        "covered_seconds": bucket.covered_seconds,
        "withheld": bucket.withheld,
        "uncertain": bucket.uncertain,
        "visits": words::people(bucket.visits.as_ref()),
        "crossings": crossings.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: CountsArgs,
    }

    fn asked(line: &[&str]) -> Result<[i64; 3], String> {
        let line = Line::try_parse_from([&["counts"], line].concat()).map_err(|error| error.to_string())?;
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_123);
        let request = line.args.request(now).map_err(|failure| failure.to_string())?;
        Ok([request.from_unix_s, request.to_unix_s, i64::from(request.bucket_s)])
    }

    #[test]
    fn whole_buckets_are_asked_for() {
        assert_eq!(asked(&["--last", "2m", "--bucket", "1m"]), Ok([1_699_999_980, 1_700_000_160, 60]));
        let both = ["--from", "2023-11-14T00:00:00Z", "--to", "2023-11-15T00:00:00Z", "--bucket", "1day"];
        assert_eq!(asked(&both), Ok([1_699_920_000, 1_700_006_400, 86_400]));
        assert_eq!(asked(&["--last", "9999999days"]).map(|asked| asked[0]), Ok(0));
    }

    #[test]
    fn what_cannot_be_asked_is_named() {
        for (line, word) in [
            (&["--bucket", "2days"][..], "--bucket"),
            (&["--bucket", "0s"], "--bucket"),
            (&["--last", "soon"], "soon"),
            (&["--from", "yesterday"], "yesterday"),
            (&["--to", "2023-11-15T00:00:00Z"], "--from"),
        ] {
            let error = asked(line).expect_err(word);
            assert!(error.contains(word), "{error}");
        }
    }
}
