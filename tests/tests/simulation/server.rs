//! The server's host: the real intake, schedule, pacing and gRPC service;
//! workers are tasks that take simulated time for a job. Wired and stopped in
//! the order of `inference_service::server`, whose own start needs threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flatframe_shared::budget::Budget;
use flatframe_shared::clock;
use flatframe_shared::frame::{Pace, PictureSize};
use flatframe_shared::r#gen::v1::frame_service_server::FrameServiceServer;
use flatframe_shared::ledger::{ServerCounts, ServerLedger};
use flatframe_shared::memory_watch::MemoryWatch;
use flatframe_shared::rate_log::RateLog;
use flatframe_shared::resources::Resources;
use flatframe_shared::serve::{ConnectionCounts, Protocol, serve};
use inference_service::access::guard::guarded;
use inference_service::budget::connection_limits;
use inference_service::cameras::Cameras;
use inference_service::config::Config;
use inference_service::intake::admission::Admitted;
use inference_service::intake::dispatch::Dispatch;
use inference_service::intake::job::{Answer, Job};
use inference_service::intake::late::Late;
use inference_service::intake::link::{DRAIN_DEADLINE, Intake, MAX_OPENINGS};
use inference_service::intake::openings::Openings;
use inference_service::intake::pacing::Pacing;
use inference_service::intake::stream::FrameApi;
use inference_service::metrics::Sources;
use inference_service::people::config::PeopleConfig;
use inference_service::people::incidents::Incidents;
use inference_service::people::incidents::config::IncidentConfig;
use inference_service::people::track::TrackSettings;
use inference_service::pulse;
use inference_service::results::archive::Archive;
use inference_service::results::bus::{Bus, BusLimits};
use inference_service::results::incident_pictures::IncidentPictures;
use inference_service::results::wire::Wire;
use inference_service::server::security::Security;
use inference_service::server::{ASSUMED_SERVICE, CONNECTION_GRACE, LAST_JOB_DEADLINE};
use inference_service::vision::{Analysis, Timings};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::server::health_reporter;

use crate::network::SimListener;
use crate::scenario::{SLOW_FACTOR, ServerDraw};
use crate::sender::SenderSite;

/// The server through all its runs.
pub struct ServerSite {
    draw: ServerDraw,
    runs: Mutex<Vec<Arc<ServerRun>>>,
    /// While set, no worker takes a job.
    pub stalled: AtomicBool,
}

/// One run of the server, from start to stop or crash.
pub struct ServerRun {
    /// The real one.
    pub intake: Arc<Intake>,
    /// Its connections.
    pub connections: Arc<ConnectionCounts>,
    /// Cancelled to stop it.
    pub stop: CancellationToken,
    /// It stopped as told.
    pub ended: AtomicBool,
    /// It was killed.
    pub crashed: AtomicBool,
    /// Jobs that a worker got after their deadline.
    pub begun_late: AtomicU64,
}

impl ServerSite {
    /// Not yet started.
    pub fn new(draw: ServerDraw) -> Arc<Self> {
        Arc::new(Self { draw, runs: Mutex::default(), stalled: AtomicBool::new(false) })
    }

    /// The run that was started last.
    pub fn current(&self) -> Option<Arc<ServerRun>> {
        self.runs.lock().expect("no panic").last().cloned()
    }

    /// Counts of a camera, all runs together.
    pub fn counts(&self, camera: &str) -> ServerCounts {
        let mut counts = ServerCounts::default();
        for run in self.runs.lock().expect("no panic").iter() {
            let all = run.intake.cameras.all();
            all.iter().filter(|known| known.id.as_str() == camera).for_each(|known| counts += known.ledger.counts());
        }
        counts
    }

    /// Number of the newest frame of the sender's current session that has a
    /// result.
    pub fn newest(&self, sender: &SenderSite) -> Option<u64> {
        let (server, sender_run) = (self.current()?, sender.current()?);
        let cameras = server.intake.cameras.all();
        let camera = cameras.into_iter().find(|camera| camera.id.as_str() == sender.name)?;
        let latest = camera.view().latest.filter(|latest| latest.session == sender_run.session)?;
        Some(latest.number.0)
    }

    /// One run: serves until told to stop.
    pub async fn run(self: Arc<Self>) -> turmoil::Result {
        let config = config(&self.draw);
        let run = Arc::new(ServerRun::new(&config, &self.draw));
        self.runs.lock().expect("no panic").push(run.clone());
        let intake = run.intake.clone();
        let frames = FrameServiceServer::new(FrameApi(intake.clone()))
            .max_decoding_message_size(config.limits.max_message_bytes());
        let security = Security::load(&config)?;
        let (health, health_service) = health_reporter();
        health.set_serving::<FrameServiceServer<FrameApi>>().await;
        let frames = Admitted::new(frames, config.limits.call_deadline());
        let serving = tokio::spawn(serve(
            SimListener::bind().await?,
            Protocol::Grpc,
            guarded(Routes::new(frames).add_service(health_service), security.authority.clone()),
            connection_limits(&config),
            run.connections.clone(),
            run.stop.clone(),
            CONNECTION_GRACE,
        ));
        let pacing = Pacing::new(config.pace_size(), config.pace.min_fps);
        let pacing = tokio::spawn(pulse::run(pacing, intake.clone(), run.sources(security), run.stop.clone()));
        let mut workers = JoinSet::new();
        for _ in 0..self.draw.workers {
            workers.spawn(self.clone().work(run.clone()));
        }

        run.stop.cancelled().await;
        health.set_not_serving::<FrameServiceServer<FrameApi>>().await;
        intake.dispatch.close();
        let mut joined = std::pin::pin!(workers.join_all());
        if timeout(DRAIN_DEADLINE, joined.as_mut()).await.is_err() {
            intake.dispatch.flush();
            timeout(LAST_JOB_DEADLINE, joined).await?;
        }
        intake.tasks.close();
        serving.await?;
        pacing.await?;
        intake.tasks.wait().await;
        run.ended.store(true, Relaxed);
        Ok(())
    }

    /// A worker: one job at a time, in simulated time.
    async fn work(self: Arc<Self>, run: Arc<ServerRun>) {
        loop {
            let stalled = self.stalled.load(Relaxed);
            match (!stalled).then(|| run.intake.dispatch.try_take()).flatten() {
                Some(job) => self.analyze(&run, job).await,
                None if !stalled && run.stop.is_cancelled() => return,
                // As a thread that hangs, it ends with the flush at the latest.
                None if run.stop.is_cancelled() && run.intake.dispatch.waiting() == 0 => return,
                None => sleep(self.draw.look).await,
            }
        }
    }

    async fn analyze(&self, run: &ServerRun, job: Job) {
        let begun = clock::now();
        if begun >= job.deadline {
            run.begun_late.fetch_add(1, Relaxed);
        }
        let ServerDraw { service, slow_every, fail_every, .. } = &self.draw;
        let micros = fastrand::u64(service.start.as_micros() as u64..=service.end.as_micros() as u64);
        let factor = if fastrand::u32(..*slow_every) == 0 { SLOW_FACTOR } else { 1 };
        sleep(Duration::from_micros(micros) * factor).await;
        run.intake.dispatch.record(clock::now().duration_since(begun), false);
        let answer = if fastrand::u32(..*fail_every) == 0 {
            Answer::Failed("simulated".into())
        } else {
            let size = PictureSize::new(64, 48);
            Answer::Analyzed(Analysis {
                size,
                faces: Vec::new(),
                truncated: false,
                timings: Timings::default(),
                look: None,
            })
        };
        job.reply.answer(answer);
    }
}

impl ServerRun {
    fn new(config: &Config, draw: &ServerDraw) -> Self {
        let (limits, stop) = (config.limits.clone(), CancellationToken::new());
        let bus = BusLimits {
            max_subscribers: limits.max_subscribers,
            queue: limits.subscriber_queue,
            ring: limits.result_ring,
            stall: Duration::from_secs(limits.subscriber_stall_s),
        };
        let intake = Intake {
            max_size: config.vision.max_picture.0,
            dispatch: Arc::new(Dispatch::new(draw.workers, ASSUMED_SERVICE)),
            // What this process really holds must not steer a simulation.
            memory: Arc::new(MemoryWatch::unlimited()),
            cameras: Arc::new(Cameras::new(limits.max_cameras, PeopleConfig::default(), TrackSettings::default())),
            archive: Archive { history: None, replicas: None, wire: Wire { server_epoch: 1, withholds_faces: false } },
            keeps_pictures: false,
            bus: Arc::new(Bus::new(bus)),
            detector: "simulated".into(),
            gender_model: None,
            late: Late::new(0),
            openings: Openings::new(MAX_OPENINGS),
            slots: Arc::new(Semaphore::new(limits.max_streams)),
            warnings: RateLog::default(),
            first_pace: Mutex::new(Pace { max_fps: None, max_size: config.pace_size() }),
            shutdown: stop.clone(),
            tasks: TaskTracker::new(),
            limits,
        };
        Self {
            intake: Arc::new(intake),
            connections: Arc::default(),
            stop,
            ended: AtomicBool::new(false),
            crashed: AtomicBool::new(false),
            begun_late: AtomicU64::new(0),
        }
    }

    /// Whether it serves, or stops.
    pub fn is_alive(&self) -> bool {
        !self.crashed.load(Relaxed)
    }

    /// What the pacing reads.
    fn sources(&self, security: Security) -> Arc<Sources> {
        Arc::new(Sources {
            cameras: self.intake.cameras.clone(),
            detect_ledger: ServerLedger::new(),
            late: self.intake.late.clone(),
            dispatch: self.intake.dispatch.clone(),
            bus: self.intake.bus.clone(),
            connections: self.connections.clone(),
            page_connections: Arc::default(),
            mqtt: Arc::default(),
            incidents: Arc::new(Incidents::new(IncidentConfig::default(), 1)),
            incident_pictures: Arc::new(IncidentPictures::new(0, 0)),
            archive: self.intake.archive.clone(),
            stages: Arc::default(),
            security,
            resources: Arc::new(Resources {
                started: clock::now(),
                restarts: None,
                budget: Budget::default(),
                places: Vec::new(),
                memory: self.intake.memory.clone(),
            }),
        })
    }
}

fn config(draw: &ServerDraw) -> Config {
    let mut config = Config::default();
    config.limits.window = draw.window;
    config.limits.max_streams = draw.max_streams;
    config.limits.max_cameras = draw.max_cameras;
    config.limits.result_ring = 16;
    config
}
