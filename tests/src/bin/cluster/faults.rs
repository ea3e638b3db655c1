//! Three replicas, one name, one bus, hundreds of cameras; what fails, and what
//! it costs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use flatframe_shared::outcome::Outcome;
use ingest_service::send::servers::MoveReason;
use serde_json::{Value, json};

use crate::bus::Bus;
use crate::crowd::{Crowd, Habit};
use crate::replicas::{Engine, NAME, Replica, port, replica_name, resolve_to};
use crate::{Args, Report};

const REPLICAS: u8 = 3;
/// Every camera is served again within this.
const SERVED_AGAIN: Duration = Duration::from_secs(5);
/// A camera without its server has another within this.
const FAILOVER: Duration = Duration::from_secs(2);
/// How long anything here may take before it counts as never.
const NEVER: Duration = Duration::from_secs(90);
/// Before a fault everything is calm for so long.
const CALM: Duration = Duration::from_secs(2);

struct Site {
    replicas: Vec<Replica>,
    bus: Bus,
    crowd: Crowd,
    home: BTreeMap<SocketAddr, u64>,
}

/// Runs all faults.
///
/// # Errors
/// When something cannot be started, or a camera is never served again.
pub async fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let port = port()?;
    let mut bus = Bus::start().await?;
    let mut replicas = Vec::new();
    for number in 1..=REPLICAS {
        // Two must have room for all.
        let mut replica = Replica::new(number, port, args.cameras, Engine::Stub, None, Some(&bus.url()))?;
        replica.start().await?;
        replicas.push(replica);
    }
    bus.joined(replicas.iter().map(|replica| replica.admin)).await?;
    let addresses: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
    resolve_to(&args.hosts, &addresses)?;
    let habit = Habit { server: format!("http://{NAME}:{port}"), fps: args.fps, return_s: args.return_s, ttl_ms: 2000 };
    let start = Instant::now();
    let crowd = Crowd::start(args.cameras, &habit).await?;
    crowd.served(NEVER).await?;
    let started = start.elapsed();
    let home = crowd.streams();
    report.tell(
        "start",
        json!({
            "cameras": args.cameras, "fps_of_each": args.fps, "served_after_s": started.as_secs_f64(),
            "streams": home.values().collect::<Vec<_>>(),
        }),
    );
    let mut site = Site { replicas, bus, crowd, home };
    site.hit(args, report, "killed", libc::SIGKILL).await?;
    site.hit(args, report, "frozen", libc::SIGSTOP).await?;
    site.rolling_restart(args, report).await?;
    site.scale(args, report, &addresses).await?;

    let Site { mut replicas, bus, crowd, .. } = site;
    let mut within = true;
    let mut rows = Vec::new();
    for replica in &replicas {
        let memory = replica.memory().await?;
        within &= memory.peak_bytes <= memory.budget_bytes;
        rows.push(json!({ "rss_peak_bytes": memory.peak_bytes, "budget_bytes": memory.budget_bytes }));
    }
    report.tell("memory", Value::Array(rows));
    report.expect(within, "memory is within the budget of every replica");
    let counts = crowd.stop().await?;
    report.expect(counts.balance() == 0, "the cameras' ledgers balance");
    let on_the_bus: u64 = bus.results(replicas[0].address, args.cameras).await?.values().sum();
    report.tell("results", json!({ "analyzed": counts.answered(Outcome::Analyzed), "on_the_bus": on_the_bus }));
    for replica in &mut replicas {
        replica.stop().await?;
    }
    Ok(())
}

impl Site {
    /// The first replica gets `signal`; then it is brought back.
    async fn hit(&mut self, args: &Args, report: &mut Report, name: &str, signal: i32) -> anyhow::Result<()> {
        self.calm().await?;
        let Self { replicas, bus, crowd, home } = self;
        let hit = replicas[0].address;
        let acknowledged = Bus::acknowledged(replicas[0].admin).await?;
        let (before, failovers, start) = (crowd.totals(), crowd.moves(MoveReason::Failover), Instant::now());
        replicas[0].signal(signal).await?;
        let noticed = crowd.streams_are(NEVER, |streams| !streams.contains_key(&hit)).await?;
        let cameras: u64 = home.values().sum();
        crowd.streams_are(NEVER, |streams| streams.values().sum::<u64>() == cameras).await?;
        let failed_over = start.elapsed();
        crowd.served(NEVER).await?;
        let served = start.elapsed();
        let after = crowd.totals();
        let mut memory = Vec::new();
        for replica in &replicas[1..] {
            let of = replica.memory().await?;
            report.expect(of.peak_bytes <= of.budget_bytes, format!("{name}: the others stay within their budgets"));
            memory.push(of.peak_bytes);
        }
        let other = replicas[1].address;
        let kept = bus.results(other, args.cameras).await?.remove(&replica_name(1)).unwrap_or_default();
        let visits = bus.visits(other, args.cameras).await?;
        if signal == libc::SIGSTOP {
            replicas[0].signal(libc::SIGCONT).await?;
        } else {
            replicas[0].start().await?;
        }
        let back = crowd.streams_are(NEVER, |streams| streams == home).await?;
        let returned = crowd.totals();
        let lost_returning = returned.lost - after.lost;
        report.tell(
            name,
            json!({
                "its_cameras": home.get(&hit), "noticed_by_all_s": noticed.as_secs_f64(),
                "failed_over_s": failed_over.as_secs_f64(), "all_served_again_s": served.as_secs_f64(),
                "lost": after.lost - before.lost, "moved": crowd.moves(MoveReason::Failover) - failovers,
                "others_rss_peak_bytes": memory, "home_again_s": back.as_secs_f64(), "return_s": args.return_s,
                "lost_returning": lost_returning, "acknowledged_before": acknowledged, "of_it_on_the_bus": kept,
                "visits": visits.visits, "uncertain": visits.uncertain,
            }),
        );
        if signal == libc::SIGKILL {
            let what = format!("{name}: {kept} of {acknowledged} acknowledged results are there");
            report.expect(kept >= acknowledged, what);
        }
        report.expect(
            visits.visits == args.cameras as u64,
            format!("{name}: {} visits of {} people", visits.visits, args.cameras),
        );
        report.expect(failed_over <= FAILOVER, format!("{name}: another server within {FAILOVER:?}: {failed_over:?}"));
        report.expect(served <= SERVED_AGAIN, format!("{name}: all served within {SERVED_AGAIN:?}: {served:?}"));
        report.expect(lost_returning == 0, format!("{name}: {lost_returning} frames lost on the way home"));
        Ok(())
    }

    /// Every replica is stopped in order and started again.
    async fn rolling_restart(&mut self, args: &Args, report: &mut Report) -> anyhow::Result<()> {
        self.calm().await?;
        let Self { replicas, bus, crowd, home } = self;
        let (before, start) = (crowd.totals(), Instant::now());
        let mut longest = Duration::ZERO;
        for replica in replicas.iter_mut() {
            let told = Instant::now();
            replica.stop().await?;
            replica.start().await?;
            crowd.served(NEVER).await?;
            longest = longest.max(told.elapsed());
        }
        let restarted = start.elapsed();
        let back = crowd.streams_are(NEVER, |streams| streams == home).await?;
        let after = crowd.totals();
        let lost = after.lost - before.lost;
        let visits = bus.visits(replicas[0].address, args.cameras).await?;
        report.tell(
            "rolling_restart",
            json!({
                "took_s": restarted.as_secs_f64(), "longest_of_one_s": longest.as_secs_f64(), "lost": lost,
                "draining": after.answered(Outcome::Draining) - before.answered(Outcome::Draining),
                "sent": after.sent - before.sent, "home_again_s": back.as_secs_f64(), "return_s": args.return_s,
                "visits": visits.visits, "uncertain": visits.uncertain,
            }),
        );
        report.expect(
            visits.visits == args.cameras as u64,
            format!("rolling restart: {} visits of {} people", visits.visits, args.cameras),
        );
        report.expect(lost == 0, format!("rolling restart: {lost} frames lost"));
        Ok(())
    }

    /// The last replica leaves the name and stops; then it comes back.
    async fn scale(&mut self, args: &Args, report: &mut Report, addresses: &[SocketAddr]) -> anyhow::Result<()> {
        self.calm().await?;
        let Self { replicas, crowd, home, .. } = self;
        let before = crowd.totals();
        let Some((last, others)) = addresses.split_last() else { return Ok(()) };
        resolve_to(&args.hosts, others)?;
        let Some(replica) = replicas.last_mut() else { return Ok(()) };
        replica.stop().await?;
        let down = Instant::now();
        crowd.streams_are(NEVER, |streams| !streams.contains_key(last)).await?;
        crowd.served(NEVER).await?;
        let served = down.elapsed();
        replica.start().await?;
        resolve_to(&args.hosts, addresses)?;
        let share = crowd.streams_are(NEVER, |streams| streams == home).await?;
        let lost = crowd.totals().lost - before.lost;
        report.tell(
            "scaled_in_and_out",
            json!({
                "its_cameras": home.get(last), "served_after_stop_s": served.as_secs_f64(),
                "share_again_s": share.as_secs_f64(), "return_s": args.return_s, "lost": lost,
            }),
        );
        report.expect(lost == 0, format!("scaling in and out: {lost} frames lost"));
        Ok(())
    }

    /// All are served, at home and undisturbed for a while.
    async fn calm(&self) -> anyhow::Result<()> {
        self.crowd.streams_are(NEVER, |streams| *streams == self.home).await?;
        self.crowd.served(NEVER).await?;
        tokio::time::sleep(CALM).await;
        Ok(())
    }
}
