//! The same replicas behind one address: haproxy and nginx as they are packaged,
//! with the settings that docs/operating.md names. What a proxy hides (which
//! servers there are) the cameras cannot act on; what must hold all the same:
//! streams work, a drain loses nothing, a dead replica costs what was on its way.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use e2e::metrics::Metrics;
use e2e::program::{connect, free_address};
use flatframe_shared::outcome::Outcome;
use serde_json::json;

use crate::crowd::{Crowd, Habit};
use crate::replicas::{Engine, Replica, port};
use crate::{Args, Report};

/// One ingest-service.
const CAMERAS: usize = 60;
const REPLICAS: u8 = 3;
const START: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_secs(60);
/// A proxy needs its time to notice that a replica is back.
const NOTICE: Duration = Duration::from_secs(3);
/// Every camera is served again within this.
const SERVED_AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
enum Proxy {
    Haproxy,
    Nginx,
}

/// A running proxy.
struct Running {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM: nginx's master ends its workers. If it is gone already, all is well.
        // SAFETY: kill takes two integers; the id is our child's, not reaped before `wait`.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

/// Runs each proxy that is installed; one that is missing is an error.
///
/// # Errors
/// When something cannot be started, or a camera is never served again.
pub async fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    for proxy in [Proxy::Haproxy, Proxy::Nginx] {
        through(proxy, args, report).await?;
    }
    Ok(())
}

async fn through(proxy: Proxy, args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let name = format!("{proxy:?}").to_lowercase();
    let port = port()?;
    let mut replicas = Vec::new();
    for number in 1..=REPLICAS {
        let mut replica = Replica::new(number, port, CAMERAS, Engine::Stub, None, None)?;
        replica.start().await?;
        replicas.push(replica);
    }
    let front = free_address()?;
    let running = start(proxy, front, &replicas)?;
    connect(&front.to_string(), START).await?;
    let habit = Habit { server: format!("http://{front}"), fps: args.fps, return_s: args.return_s, ttl_ms: 2000 };
    let crowd = Crowd::start(CAMERAS, &habit).await?;
    let started = crowd.served(NEVER).await?;
    let spread = streams(&replicas).await?;

    // In order, one after the other.
    let before = crowd.totals();
    for replica in &mut replicas {
        replica.stop().await?;
        crowd.served(NEVER).await?;
        replica.start().await?;
        tokio::time::sleep(NOTICE).await;
    }
    crowd.served(NEVER).await?;
    let drained = crowd.totals();

    let killed = Instant::now();
    replicas[0].signal(libc::SIGKILL).await?;
    crowd.served(NEVER).await?;
    let served = killed.elapsed();
    let after = crowd.totals();
    replicas[0].start().await?;
    report.tell(
        &name,
        json!({
            "cameras": CAMERAS, "served_after_s": started.as_secs_f64(), "streams": spread,
            "rolling_restart_lost": drained.lost - before.lost,
            "rolling_restart_draining": drained.answered(Outcome::Draining) - before.answered(Outcome::Draining),
            "killed_served_again_s": served.as_secs_f64(), "killed_lost": after.lost - drained.lost,
        }),
    );
    report.expect(drained.lost == before.lost, format!("{name}: no frame lost by a rolling restart"));
    report.expect(served <= SERVED_AGAIN, format!("{name}: all served within {SERVED_AGAIN:?}: {served:?}"));
    let counts = crowd.stop().await?;
    report.expect(counts.balance() == 0, format!("{name}: the cameras' ledgers balance"));
    drop(running);
    for replica in &mut replicas {
        replica.stop().await?;
    }
    Ok(())
}

/// Open streams of each replica.
async fn streams(replicas: &[Replica]) -> anyhow::Result<Vec<i64>> {
    let mut all = Vec::new();
    for replica in replicas {
        let metrics = Metrics::read(replica.admin).await?;
        all.push(metrics.count("flatframe_inference_place_live{place=\"streams\"}")?);
    }
    Ok(all)
}

fn start(proxy: Proxy, front: SocketAddr, replicas: &[Replica]) -> anyhow::Result<Running> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("proxy.conf");
    let config = match proxy {
        Proxy::Haproxy => haproxy(front, replicas),
        Proxy::Nginx => nginx(front, replicas, folder.path()),
    };
    std::fs::File::create(&path)?.write_all(config.as_bytes())?;
    let mut command = match proxy {
        Proxy::Haproxy => {
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(&path);
            command
        }
        Proxy::Nginx => {
            let mut command = Command::new("nginx");
            command.arg("-p").arg(folder.path()).arg("-c").arg(&path);
            command
        }
    };
    let log = || if std::env::var_os("FLATFRAME_TEST_LOG").is_some() { Stdio::inherit() } else { Stdio::null() };
    let child = command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn();
    let mut child = child.with_context(|| format!("start {proxy:?}: apt-get install haproxy nginx-light"))?;
    // A configuration that it does not take ends it at once; whoever connects finds out otherwise.
    if let Some(status) = child.try_wait()? {
        bail!("{proxy:?} ended with {status}");
    }
    Ok(Running { child, _folder: folder })
}

fn haproxy(front: SocketAddr, replicas: &[Replica]) -> String {
    let servers: String = replicas
        .iter()
        .enumerate()
        .map(|(number, replica)| {
            format!(
                "  server r{number} {} proto h2 check check-proto h1 inter 500ms fall 2 rise 1 addr {} port {} on-marked-down shutdown-sessions\n",
                replica.address,
                replica.admin.ip(),
                replica.admin.port()
            )
        })
        .collect();
    format!(
        "global\n  maxconn 2000\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n\
         \x20 option redispatch 1\n  retries 3\n  retry-on conn-failure\n  http-reuse never\n\
         frontend cameras\n  bind {front} proto h2\n  default_backend inference\n\
         backend inference\n  balance leastconn\n  option httpchk GET /readyz\n{servers}"
    )
}

fn nginx(front: SocketAddr, replicas: &[Replica], folder: &std::path::Path) -> String {
    let servers: String =
        replicas.iter().map(|replica| format!("    server {} max_fails=0;\n", replica.address)).collect();
    let folder = folder.display();
    format!(
        "daemon off;\npid {folder}/nginx.pid;\nerror_log stderr warn;\nevents {{ worker_connections 2048; }}\nhttp {{\n  access_log off;\n\
         \x20 client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n  fastcgi_temp_path {folder}/fastcgi;\n\
         \x20 uwsgi_temp_path {folder}/uwsgi;\n  scgi_temp_path {folder}/scgi;\n\
         \x20 upstream inference {{\n    least_conn;\n{servers}  }}\n\
         \x20 server {{\n    listen {front} http2;\n    client_max_body_size 0;\n    client_body_timeout 60s;\n\
         \x20   grpc_read_timeout 60s;\n    grpc_send_timeout 60s;\n    grpc_connect_timeout 1s;\n    grpc_next_upstream error timeout;\n\
         \x20   location / {{ grpc_pass grpc://inference; }}\n  }}\n}}\n"
    )
}
