//! One trial: the programs of a row, warm; the fault; and what is measured
//! before, during and after it. Knows no fault itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::metrics::Metrics;
use e2e::wait::try_answered;
use flatframe_shared::process::ProcessUse;

use crate::layout::{BESIDE, FPS, HIT, Layout, Sender};
use crate::rows::Bench;
use crate::service::{self, Plan, Service};
use crate::table::{Growth, LEAST_SHARE, Measured};

/// Longest start, on a busy machine.
const START: Duration = Duration::from_secs(30);
/// Frames of each camera analysed before anything is measured.
const WARM_FRAMES: i64 = 100;
/// The rates before the fault are taken over this.
const BEFORE: Duration = Duration::from_secs(2);
/// A camera has recovered when it had its rate for so long.
const RECOVERED: Duration = Duration::from_secs(1);
/// Longest watch for a recovery; longer than what is promised, to tell late
/// from never.
const RECOVERY_WATCH: Duration = Duration::from_secs(30);
/// Longest time in which files and threads may come back to what they were:
/// what stalls is cut within 10 s.
const SETTLED: Duration = Duration::from_secs(12);
const LOOK: Duration = Duration::from_millis(100);

/// Counters of one camera at one instant, by its sender.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    captured: i64,
    analyzed: i64,
}

/// Counters of the cameras watched at one instant.
pub struct Sample {
    at: Instant,
    hit: Counts,
    beside: Counts,
}

/// Rates, in frames per second.
#[derive(Debug, Clone, Copy, Default)]
struct Rates {
    captured: f64,
    hit: f64,
    beside: f64,
}

/// What a program used before the fault.
#[derive(Debug, Clone, Copy)]
struct Use {
    process: ProcessUse,
    /// Threads that its runtime may still start.
    spare_threads: i64,
}

impl Use {
    fn of(service: &Service) -> Self {
        let spare = service.most_runtime_threads() - service.runtime_threads();
        Self { process: service.used(), spare_threads: spare.max(0) }
    }
}

/// Running programs and what was measured so far.
pub struct Trial {
    /// The inference-service.
    pub server: Service,
    /// The service with the camera that is hit.
    pub sender: Service,
    /// The service with the camera beside, if that is another.
    pub sender_beside: Option<Service>,
    has_beside: bool,
    before: Rates,
    uses: Vec<Use>,
    meanwhile: Rates,
    recovery_s: Option<f64>,
}

impl Trial {
    /// Starts the programs, waits until both cameras were analysed for a
    /// while, and measures what there is before the fault.
    ///
    /// # Errors
    /// When a program does not start or a camera is not analysed.
    pub async fn start(bench: &Bench, layout: Layout) -> anyhow::Result<Self> {
        let Layout { row, server_host, server_by, server_log, server_toml, engine_us, sender, sender_beside } = layout;
        let (grpc, admin) = (service::free_port()?, service::free_port()?);
        let log = |name: &str, log: Option<String>| {
            log.unwrap_or_else(|| service::log_to(&service::log_file(bench.folder(), row, name)))
        };
        let at = server_host.listens_at();
        let toml = format!(
            "{server_toml}\n[listen]\ngrpc = '{at}:{grpc}'\nadmin = '{at}:{admin}'\npage = ''\n\
             [vision.stub_engine]\ntime_us = {engine_us}\nwait = 'sleep'\nface = true\n"
        );
        let server = Service::start(Plan {
            program: "inference-service",
            name: "server",
            host: server_host,
            by: server_by,
            log: log("server", server_log),
            toml,
            admin_port: admin,
        })?;
        let start_sender = |name: &'static str, sender: Sender| {
            let admin = service::free_port()?;
            let toml = format!(
                "[server]\naddress = 'http://{}:{grpc}'\n[admin]\nlisten = '{}:{admin}'\n{}",
                sender.server,
                sender.host.listens_at(),
                sender.toml
            );
            let (host, by, log) = (sender.host, sender.by, log(name, sender.log));
            Service::start(Plan { program: "ingest-service", name, host, by, log, toml, admin_port: admin })
        };
        let has_beside = sender_beside.is_some() || sender.toml.contains(&format!("id = '{BESIDE}'"));
        let sender = start_sender("sender", sender)?;
        let sender_beside = sender_beside.map(|sender| start_sender("sender beside", sender)).transpose()?;
        let (before, meanwhile, uses) = (Rates::default(), Rates::default(), Vec::new());
        let mut trial = Self { server, sender, sender_beside, has_beside, before, uses, meanwhile, recovery_s: None };
        let warm = async || {
            let sample = trial.sample().await.ok()?;
            let least =
                if trial.has_beside { sample.hit.analyzed.min(sample.beside.analyzed) } else { sample.hit.analyzed };
            (least >= WARM_FRAMES).then_some(())
        };
        try_answered("both cameras are analysed", START, warm).await?;
        let sample = trial.sample().await?;
        tokio::time::sleep(BEFORE).await;
        trial.before = trial.rates_since(&sample).await?;
        // After a pause of a busy machine frames come in a burst.
        let before = &mut trial.before;
        for rate in [&mut before.captured, &mut before.hit, &mut before.beside] {
            *rate = rate.min(FPS);
        }
        ensure!(trial.before.hit > 0.0, "the camera is not analysed before the fault");
        trial.uses = trial.services().map(Use::of).collect();
        Ok(trial)
    }

    /// Where clients reach the server.
    ///
    /// # Errors
    /// When its configuration names no port.
    pub fn server_url(&self) -> anyhow::Result<String> {
        let line = self.server.plan.toml.lines().find_map(|line| line.strip_prefix("grpc = '"));
        let port = line.and_then(|line| line.trim_end_matches('\'').rsplit_once(':')).context("a port")?.1;
        Ok(format!("http://{}:{port}", self.server.plan.host.reached_at()))
    }

    fn services(&self) -> impl Iterator<Item = &Service> {
        [&self.server, &self.sender].into_iter().chain(&self.sender_beside)
    }

    async fn sample(&self) -> anyhow::Result<Sample> {
        let at = Instant::now();
        let metrics = self.sender.metrics().await?;
        let hit = counts(&metrics, HIT)?;
        let beside = match &self.sender_beside {
            _ if !self.has_beside => Counts::default(),
            None => counts(&metrics, BESIDE)?,
            Some(sender) => counts(&sender.metrics().await?, BESIDE)?,
        };
        Ok(Sample { at, hit, beside })
    }

    async fn rates_since(&self, before: &Sample) -> anyhow::Result<Rates> {
        let now = self.sample().await?;
        let seconds = (now.at - before.at).as_secs_f64();
        let rate = |now: i64, before: i64| (now - before) as f64 / seconds;
        Ok(Rates {
            captured: rate(now.hit.captured, before.hit.captured),
            hit: rate(now.hit.analyzed, before.hit.analyzed),
            beside: rate(now.beside.analyzed, before.beside.analyzed),
        })
    }

    /// The fault lasts: measures the rates meanwhile.
    ///
    /// # Errors
    /// When a sender does not answer.
    pub async fn hold(&mut self, time: Duration) -> anyhow::Result<()> {
        let begin = self.begin().await?;
        tokio::time::sleep(time).await;
        self.end(&begin).await
    }

    /// From now on the rates count for [`Trial::end`].
    ///
    /// # Errors
    /// When a sender does not answer.
    pub async fn begin(&self) -> anyhow::Result<Sample> {
        self.sample().await
    }

    /// The fault lasted from `begin` until now.
    ///
    /// # Errors
    /// When a sender does not answer.
    pub async fn end(&mut self, begin: &Sample) -> anyhow::Result<()> {
        self.meanwhile = self.rates_since(begin).await?;
        Ok(())
    }

    /// As [`Trial::hold`], while the service with the camera that is hit is
    /// not there: measures the camera beside alone.
    ///
    /// # Errors
    /// When the sender beside does not answer.
    pub async fn hold_beside(&mut self, time: Duration) -> anyhow::Result<()> {
        let sender = self.sender_beside.as_ref().context("a sender beside")?;
        let (before, start) = (counts(&sender.metrics().await?, BESIDE)?, Instant::now());
        tokio::time::sleep(time).await;
        let after = counts(&sender.metrics().await?, BESIDE)?;
        self.meanwhile.beside = (after.analyzed - before.analyzed) as f64 / start.elapsed().as_secs_f64();
        Ok(())
    }

    /// What is used now is what counts as "before".
    pub fn count_from_here(&mut self) {
        self.uses = self.services().map(Use::of).collect();
    }

    /// Share of its former rate at which the camera was analysed meanwhile.
    pub fn hit_share(&self) -> f64 {
        self.meanwhile.hit / self.before.hit
    }

    /// Proof that the fault bites: the camera was analysed at less than
    /// `share` of its former rate.
    ///
    /// # Errors
    /// When it was not: then the row shows nothing.
    pub fn bites(&self, share: f64) -> anyhow::Result<()> {
        let was = self.hit_share();
        ensure!(was < share, "the fault had no effect: the camera had {:.0} % of its rate meanwhile", was * 100.0);
        Ok(())
    }

    /// The fault is over: waits until the camera that was hit has its former
    /// rate again.
    pub async fn recover(&mut self) {
        let ended = Instant::now();
        let mut looks: VecDeque<(Instant, i64)> = VecDeque::new();
        while ended.elapsed() < RECOVERY_WATCH {
            // A service that starts does not answer yet.
            if let Ok(metrics) = self.sender.metrics().await
                && let Ok(counts) = counts(&metrics, HIT)
            {
                let now = Instant::now();
                while looks.front().is_some_and(|(at, _)| now - *at > RECOVERED + 2 * LOOK) {
                    looks.pop_front();
                }
                looks.push_back((now, counts.analyzed));
                if let Some((at, analyzed)) = looks.front()
                    && now - *at >= RECOVERED
                    && (counts.analyzed - analyzed) as f64 >= LEAST_SHARE * self.before.hit * (now - *at).as_secs_f64()
                {
                    self.recovery_s = Some(ended.elapsed().as_secs_f64());
                    return;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until files and threads are as before, reads all, and ends the
    /// programs in order.
    ///
    /// # Errors
    /// When a program does not answer.
    pub async fn finish(mut self, note: String) -> anyhow::Result<Measured> {
        let is_settled = async || {
            let all = self.services().zip(&self.uses).all(|(service, before)| {
                let now = service.used();
                let before = before.process;
                now.open_files <= before.open_files && now.threads <= before.threads
            });
            all.then_some(())
        };
        // What is not settled shows in the table.
        let _ = try_answered("files and threads are as before", SETTLED, is_settled).await;
        let (mut growths, mut balances) = (Vec::new(), Vec::new());
        for (service, before) in self.services().zip(&self.uses) {
            let now = service.used();
            let metrics = service.metrics().await?;
            let prefix =
                if service.plan.program == "ingest-service" { "flatframe_ingest" } else { "flatframe_inference" };
            let name = service.plan.name.to_owned();
            balances.push((name.clone(), metrics.count(&format!("{prefix}_ledger_balance"))?));
            let grown = |value: fn(&ProcessUse) -> Option<u64>| -> anyhow::Result<i64> {
                let read = |used| value(used).context("/proc cannot be read");
                Ok(read(&now)? as i64 - read(&before.process)? as i64)
            };
            growths.push(Growth {
                name,
                rss_bytes: grown(|used| used.rss_bytes)?,
                rss_peak_bytes: now.rss_peak_bytes.context("/proc cannot be read")?,
                budget_bytes: metrics.count(&format!("{prefix}_budget_bytes"))? as u64,
                files: grown(|used| used.open_files)?,
                threads: grown(|used| used.threads)?,
                spare_threads: before.spare_threads,
            });
        }
        let mut bad_ends = Vec::new();
        bad_ends.extend(self.sender.end().await?);
        if let Some(sender) = &mut self.sender_beside {
            bad_ends.extend(sender.end().await?);
        }
        bad_ends.extend(self.server.end().await?);
        let share = |now: f64, before: f64| if before > 0.0 { now / before } else { 0.0 };
        Ok(Measured {
            balances,
            bad_ends,
            growths,
            beside: self.has_beside.then(|| share(self.meanwhile.beside, self.before.beside)),
            captured: share(self.meanwhile.captured, self.before.captured),
            hit: self.hit_share(),
            recovery_s: self.recovery_s,
            note,
        })
    }
}

fn counts(metrics: &Metrics, camera: &str) -> anyhow::Result<Counts> {
    let captured = metrics.count(&format!("flatframe_ingest_frames_captured_total{{camera=\"{camera}\"}}"))?;
    let analyzed = "side=\"answered\",outcome=\"analyzed\"";
    let analyzed = metrics.count(&format!("flatframe_ingest_frames_total{{camera=\"{camera}\",{analyzed}}}"))?;
    Ok(Counts { captured, analyzed })
}
