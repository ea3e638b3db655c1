//! Rows whose fault is the machine: wall clocks that jump, a full file system,
//! a log that nobody reads any more.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use flatframe_shared::r#gen::v1::{GetLatestRequest, result_service_client::ResultServiceClient};
use tonic::transport::Channel;

use crate::layout::{BESIDE, HIT, Layout, file_camera};
use crate::network::run;
use crate::rows::Bench;
use crate::service;
use crate::table::Measured;
use crate::trial::Trial;

const HOUR_S: i64 = 3600;
/// Between two jumps.
const BETWEEN: Duration = Duration::from_secs(4);
/// What a clock may differ from an hour and count as that, in seconds.
const TOLERANCE_S: i64 = 60;
const FULL: Duration = Duration::from_secs(8);
/// Something to log all the time: what HTTP/2 does.
const WORDY: &str = "[telemetry]\nlog = 'info,h2=debug'\n";

/// The library that shifts a process's wall clock, where Debian puts it.
pub fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|library| library.is_file())
}

/// A wall clock that can be shifted while its process runs.
struct Clock(PathBuf);

impl Clock {
    fn new(bench: &Bench, row: &str) -> anyhow::Result<Self> {
        let clock = Self(bench.folder().join(format!("{row}.clock")));
        clock.shift(0)?;
        Ok(clock)
    }

    /// By so many seconds from the true time.
    fn shift(&self, seconds: i64) -> anyhow::Result<()> {
        // Renamed, so that nobody reads half of it.
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n"))?;
        std::fs::rename(new, &self.0).context("set the clock")
    }

    fn starter(&self) -> anyhow::Result<Vec<String>> {
        let library = faketime().context("libfaketime")?;
        Ok(vec![
            "env".into(),
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.0.display()),
            "FAKETIME_CACHE_DURATION=1".into(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
        ])
    }
}

/// Two jumps with the rates meanwhile, then back. `seen` tells by how many
/// seconds the process's clock is off, as others see it.
async fn jump(
    trial: &mut Trial,
    clock: &Clock,
    seen: impl AsyncFn(&Trial) -> anyhow::Result<i64>,
) -> anyhow::Result<String> {
    let begin = trial.begin().await?;
    let mut offsets = Vec::new();
    for shift in [HOUR_S, -HOUR_S] {
        clock.shift(shift)?;
        tokio::time::sleep(BETWEEN).await;
        let offset = seen(trial).await?;
        ensure!((offset - shift).abs() < TOLERANCE_S, "the clock was set {shift} s off, but is {offset} s off");
        offsets.push(format!("{offset:+} s"));
    }
    trial.end(&begin).await?;
    clock.shift(0)?;
    trial.recover().await;
    Ok(format!("seen from outside: {}", offsets.join(", ")))
}

fn unix_s(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

pub async fn clock_sender(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let clock = Clock::new(bench, row)?;
    let mut layout = Layout::local(row, file_camera(HIT, bench) + &file_camera(BESIDE, bench));
    layout.sender.by = clock.starter()?;
    let mut trial = Trial::start(bench, layout).await?;
    // The time of capture in the newest result.
    let seen = async |trial: &Trial| {
        let channel = Channel::from_shared(trial.server_url()?)?.connect().await?;
        let request = GetLatestRequest { camera_id: HIT.into() };
        let latest = ResultServiceClient::new(channel).get_latest(request).await?.into_inner();
        let captured = latest.result.context("a result")?.captured_unix_us;
        anyhow::Ok(captured / 1_000_000 - unix_s(SystemTime::now()))
    };
    let note = jump(&mut trial, &clock, seen).await?;
    trial.finish(note).await
}

pub async fn clock_server(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let clock = Clock::new(bench, row)?;
    let mut layout = Layout::local(row, file_camera(HIT, bench) + &file_camera(BESIDE, bench));
    layout.server_by = clock.starter()?;
    layout.server_toml = WORDY.into();
    let log = service::log_file(bench.folder(), row, "server");
    let mut trial = Trial::start(bench, layout).await?;
    // The time in front of the newest line of the log.
    let seen = async |_: &Trial| {
        let line = service::last_lines(&log, 1);
        let time = line.split(['.', ' ']).next().unwrap_or_default();
        Ok(rfc3339_unix_s(time).with_context(|| format!("a time in {line:?}"))? - unix_s(SystemTime::now()))
    };
    let note = jump(&mut trial, &clock, seen).await?;
    trial.finish(note).await
}

/// Seconds since the Unix epoch of `YYYY-MM-DDTHH:MM:SS` (UTC).
fn rfc3339_unix_s(text: &str) -> Option<i64> {
    let numbers: Vec<i64> =
        text.split(['-', 'T', ':', 'Z']).filter(|part| !part.is_empty()).map_while(|part| part.parse().ok()).collect();
    let [year, month, day, hour, minute, second] = numbers[..] else { return None };
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
    // days_from_civil, for years after 0.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// A file system of 256 KiB; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir(at)?;
        run(&format!("mount -t tmpfs -o size=256k faults-disk {}", at.display()))?;
        Ok(Self(at.into()))
    }

    /// Takes all the room there is.
    fn fill(&self) -> anyhow::Result<PathBuf> {
        use std::io::Write;
        let filler = self.0.join("filler");
        let mut file = std::fs::File::create(&filler)?;
        // Ends with "no space left on device".
        while file.write_all(&[0; 512]).is_ok() {}
        Ok(filler)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: programs that are being ended may still hold their logs.
        if let Err(error) = run(&format!("umount -l {}", self.0.display())) {
            eprintln!("faults: a small file system stays: {error:#}");
        }
    }
}

pub async fn disk_full(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let disk = SmallDisk::mount(&bench.folder().join(row))?;
    let mut layout = Layout::local(row, file_camera(HIT, bench) + &file_camera(BESIDE, bench));
    let log = |name: &str| disk.0.join(name);
    let temporary = vec!["env".to_owned(), format!("TMPDIR={}", disk.0.display())];
    (layout.server_by, layout.sender.by) = (temporary.clone(), temporary);
    layout.server_log = Some(service::log_to(&log("server.log")));
    layout.sender.log = Some(service::log_to(&log("sender.log")));
    // Something to write all the time.
    layout.server_toml = WORDY.into();
    layout.sender.toml.insert_str(0, WORDY);
    // They fill the disk themselves, if they write enough before the fault.
    let mut trial = Trial::start(bench, layout).await?;
    let filler = disk.fill()?;
    trial.hold(FULL).await?;
    std::fs::remove_file(filler)?;
    // Room for what comes next.
    for name in ["server.log", "sender.log"] {
        std::fs::OpenOptions::new().write(true).open(log(name))?.set_len(0)?;
    }
    trial.recover().await;
    let written = ["server.log", "sender.log"].map(|name| std::fs::metadata(log(name)).map_or(0, |file| file.len()));
    ensure!(written.iter().all(|bytes| *bytes > 0), "after the fault nothing is logged: {written:?} bytes");
    trial.finish("both log again afterwards".into()).await
}

/// Both logs go to `cat`, which dies.
pub async fn log_reader_gone(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let mut layout = Layout::local(row, file_camera(HIT, bench) + &file_camera(BESIDE, bench));
    let mut readers = Vec::new();
    let mut pipe = |name: &str| -> anyhow::Result<String> {
        let path = bench.folder().join(format!("{row}.{name}.pipe"));
        run(&format!("mkfifo {}", path.display()))?;
        let mut cat = tokio::process::Command::new("cat");
        readers.push(cat.arg(&path).stdout(std::process::Stdio::null()).kill_on_drop(true).spawn()?);
        Ok(format!(">'{}' 2>&1", path.display()))
    };
    layout.server_log = Some(pipe("server")?);
    layout.sender.log = Some(pipe("sender")?);
    layout.server_toml = WORDY.into();
    layout.sender.toml.insert_str(0, WORDY);
    let mut trial = Trial::start(bench, layout).await?;
    for reader in &mut readers {
        reader.kill().await?;
    }
    trial.hold(FULL).await?;
    trial.recover().await;
    trial.finish(String::new()).await
}
