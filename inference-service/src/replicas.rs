//! The result bus: what several replicas of this service tell each other over
//! NATS JetStream, so that any of them answers for any camera.
//!
//! In reading order: what an operator sets ([`config`]), what is on the bus
//! ([`streams`]), results that wait for it ([`outbox`]) and who publishes them
//! ([`publisher`]), what is told of cameras ([`board`]), who listens
//! ([`follow`]) and what is known by it ([`directory`]), questions
//! ([`lookup`]), and how a camera moves ([`handover`]). Only this module names
//! NATS.
//!
//! Nothing that a frame waits for waits for the bus, and no picture goes on it.

pub mod board;
pub mod config;
pub mod directory;
pub mod follow;
pub mod handover;
pub mod lookup;
pub mod outbox;
pub mod publisher;
pub mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, ConnectOptions, Event};
use bytes::Bytes;
use flatframe_shared::clock;
use flatframe_shared::frame::{CameraId, FrameNumber, SessionId};
use flatframe_shared::rate_log::RateLog;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::board::Board;
use self::config::{BusSettings, Login};
use self::directory::Directory;
use self::follow::Listener;
use self::outbox::{Message, Outbox};
use self::streams::{Names, Topic};

/// Headers of every message: the replica that tells, for people, and its run.
const HEADER_REPLICA: &str = "Flatframe-Replica";
const HEADER_RUN: &str = "Flatframe-Run";
/// A question to the bus is answered within this.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// A connection is made within this.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Silence after which the server is asked whether it lives; the third
/// question without an answer ends the connection.
const PING: Duration = Duration::from_secs(3);
/// Longest pause before a connection is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// Commands that wait for the connection.
const COMMANDS: usize = 2 * publisher::BATCH;
/// Messages that wait in one subscription.
const SUBSCRIPTION: usize = 128;

/// Bound of the memory of the bus, in bytes, with results of at most
/// `result_bytes` of `own_cameras`.
pub fn max_bytes(settings: &config::BusConfig, result_bytes: u64, own_cameras: u64) -> u64 {
    // A batch, and what the connection holds of it.
    let publishing = settings.queue_bytes + 4 * publisher::BATCH_BYTES as u64;
    // Three listeners and as many questions as there may be, each with one pull; a message keeps
    // the buffer that it was read into.
    let readers = 3 + MAX_QUESTIONS;
    let listening = readers * follow::PULL as u64 * 2 * result_bytes;
    let known = settings.max_cameras as u64 * (directory::MAX_INFO_BYTES + KNOWN_CAMERA_BYTES) as u64;
    publishing + listening + known + max_told_bytes(own_cameras)
}

/// Questions to the bus that read results, at once: as many as there are slots.
const MAX_QUESTIONS: u64 = crate::server::slots::MAX_QUERIES as u64;
/// State of a camera of another replica besides what it told.
const KNOWN_CAMERA_BYTES: usize = 512;
/// What waits to be told takes at most so much for each camera: a crowd in front
/// of one takes more, of which the board has room for one at least.
const TOLD_CAMERA_BYTES: u64 = 16 << 10;

/// Bound of what waits to be told of `own_cameras`, in bytes.
fn max_told_bytes(own_cameras: u64) -> u64 {
    let largest = board::MAX_PEOPLE_BYTES + directory::MAX_INFO_BYTES;
    (own_cameras * TOLD_CAMERA_BYTES).max(largest as u64)
}

/// Why there is no bus.
#[derive(Debug, thiserror::Error)]
#[error("the result bus cannot be used: {0}; check bus.nats, bus.credentials and bus.ca")]
pub struct BusError(String);

/// What became of messages since start.
#[derive(Debug, Default)]
pub struct BusCounts {
    /// Acknowledged.
    pub published: AtomicU64,
    /// Acknowledged, and known to the bus already.
    pub duplicates: AtomicU64,
    /// Larger than the bus takes.
    pub refused: AtomicU64,
    /// Batches that failed and were sent again.
    pub failed: AtomicU64,
    /// Connections made.
    pub connected: AtomicU64,
}

/// This replica on the bus.
pub struct Replicas {
    /// What the operator set.
    pub settings: BusSettings,
    /// What waits to be published.
    pub outbox: Outbox,
    /// What became of it.
    pub counts: Arc<BusCounts>,
    /// What is told of cameras that are served here.
    pub board: Board,
    /// The cameras of others.
    pub directory: Directory,
    names: Names,
    /// Id of this run, as in headers.
    run_text: String,
    client: Client,
    context: Context,
    connected: Arc<watch::Sender<bool>>,
    absence: Arc<watch::Sender<Absence>>,
    /// Holds back warnings of cameras in front of which there are too many.
    too_much: RateLog,
}

/// What of the bus does not work, and why.
#[derive(Debug, Clone, Default)]
pub struct Absence {
    /// It is away as a whole; `None`: it is there.
    away: Option<Arc<str>>,
    /// What of the others is not heard though it is there, such as their
    /// results.
    unheard: BTreeMap<&'static str, Arc<str>>,
}

impl Absence {
    /// Why others are not heard, for a person; `None`: they are.
    pub fn why(&self) -> Option<String> {
        if let Some(why) = &self.away {
            return Some(format!("the result bus is away: {why}"));
        }
        self.unheard.iter().next().map(|(what, why)| format!("{what} of other replicas are not heard: {why}"))
    }
}

impl std::fmt::Debug for Replicas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replicas").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Replicas {
    /// Joins the bus as the run `run` of this replica, which serves at most
    /// `own_cameras`. Does not wait for it: a bus that is away is tried again and
    /// again.
    ///
    /// # Errors
    /// [`BusError`]: no attempt could be made at all.
    pub async fn join(settings: BusSettings, run: u64, own_cameras: usize) -> Result<Arc<Self>, BusError> {
        let (connected, counts) = (Arc::new(watch::Sender::new(false)), Arc::new(BusCounts::default()));
        let away = Some("it was not reached yet".into());
        let absence = Arc::new(watch::Sender::new(Absence { away, ..Absence::default() }));
        let options = options(&settings, connected.clone(), absence.clone(), counts.clone());
        if let Some(server) = settings.in_clear() {
            tracing::warn!(
                server,
                "the result bus is on another machine and in clear: results, hand-overs and bus.credentials can be \
                 read and forged on the way; use tls:// in bus.nats, or a network of its own (docs/security.md)"
            );
        }
        let client = options.connect(settings.servers.join(",")).await;
        let client = client.map_err(|error| BusError(error.to_string()))?;
        let context = ContextBuilder::new()
            .timeout(ANSWER_DEADLINE)
            .ack_timeout(ANSWER_DEADLINE)
            .max_ack_inflight(2 * publisher::BATCH)
            .backpressure_on_inflight(true)
            .build(client.clone());
        Ok(Arc::new(Self {
            outbox: Outbox::new(settings.queue_bytes, settings.late),
            counts,
            board: Board::new(max_told_bytes(own_cameras as u64) as usize),
            directory: Directory::new(settings.max_cameras),
            names: Names::new(&settings.name),
            run_text: format!("{run:016x}"),
            client,
            context,
            connected,
            absence,
            too_much: RateLog::default(),
            settings,
        }))
    }

    /// Publishes and listens until the outbox is closed and empty, or `stop`.
    /// Results of others, of at most `max_result_bytes`, go to `listener`.
    pub async fn run(self: Arc<Self>, listener: Arc<dyn Listener>, max_result_bytes: usize, stop: CancellationToken) {
        let publishing = async {
            publisher::run(&self, &stop).await;
            stop.cancel();
        };
        tokio::join!(
            publishing,
            board::run(&self, &stop),
            follow::results(&self, &*listener, max_result_bytes, &stop),
            follow::incidents(&self, &*listener, &stop),
            follow::cameras(&self, &stop),
        );
    }

    /// Offers a result to the bus. Never waits.
    pub fn offer_result(&self, camera: &CameraId, session: SessionId, number: FrameNumber, body: Bytes) {
        self.outbox.offer(Message {
            subject: self.names.subject(Topic::Result, camera),
            id: format!("{camera}/{:x}/{}", session.0, number.0),
            body,
            at: clock::now(),
            lasts: false,
        });
    }

    /// Offers an incident that opened, or is over, to the bus. Never waits.
    pub fn offer_incident(&self, id: u64, is_over: bool, body: Bytes) {
        self.outbox.offer(Message {
            subject: self.names.incident.clone(),
            id: format!("incident/{}/{id}/{is_over}", self.run_text),
            body,
            at: clock::now(),
            lasts: true,
        });
    }

    /// What of the bus does not work, as it changes.
    pub fn watch_absence(&self) -> watch::Receiver<Absence> {
        self.absence.subscribe()
    }

    /// Why the bus is away; `None` while it is there.
    pub fn away(&self) -> Option<Arc<str>> {
        self.absence.borrow().away.clone()
    }

    /// Why others are not heard, for a person; `None`: they are.
    pub fn unheard(&self) -> Option<String> {
        self.absence.borrow().why()
    }

    fn is_reachable(&self) -> bool {
        self.absence.borrow().away.is_none()
    }

    fn set_reachable(&self) {
        let changed = self.absence.send_if_modified(|absence| absence.away.take().is_some());
        // The connection may have been lost meanwhile, and its event been told before this.
        if !*self.connected.borrow() {
            self.set_away(LOST);
        } else if changed {
            tracing::info!(bus = self.settings.name, replica = self.settings.replica, "on the result bus");
        }
    }

    fn set_away(&self, why: &str) {
        self.absence.send_modify(|absence| absence.away = Some(why.into()));
    }

    /// What of the others is not heard, and why; `None`: it is.
    fn set_unheard(&self, what: &'static str, why: Option<&str>) {
        self.absence.send_if_modified(|absence| match why {
            Some(why) => absence.unheard.insert(what, why.into()).is_none(),
            None => absence.unheard.remove(what).is_some(),
        });
    }
}

const LOST: &str = "its connection is lost";

fn options(
    settings: &BusSettings,
    connected: Arc<watch::Sender<bool>>,
    absence: Arc<watch::Sender<Absence>>,
    counts: Arc<BusCounts>,
) -> ConnectOptions {
    let options = ConnectOptions::new()
        .name(format!("flatframe {}", settings.replica))
        .retry_on_initial_connect()
        .connection_timeout(CONNECT_DEADLINE)
        .request_timeout(Some(ANSWER_DEADLINE))
        .ping_interval(PING)
        .client_capacity(COMMANDS)
        .subscription_capacity(SUBSCRIPTION)
        .reconnect_delay_callback(|attempt| {
            let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
            (Duration::from_millis(50) * 2u32.pow(doublings)).min(LONGEST_RETRY)
        })
        .event_callback(move |event| {
            match &event {
                Event::Connected => {
                    counts.connected.fetch_add(1, Relaxed);
                    tracing::info!("connected to the result bus");
                    connected.send_replace(true);
                }
                Event::Disconnected | Event::Closed => {
                    let was_connected = connected.send_replace(false);
                    absence.send_modify(|absence| absence.away = Some(LOST.into()));
                    if was_connected {
                        tracing::warn!("the result bus is gone: results wait for it (bus.queue_bytes)");
                    }
                }
                other => tracing::warn!(event = %other, "the result bus says"),
            }
            async {}
        });
    let options = match settings.login.clone() {
        Login::None => options,
        Login::User(user, password) => options.user_and_password(user, password),
        Login::Token(token) => options.token(token),
    };
    match settings.ca.clone() {
        None => options,
        Some(ca) => options.add_root_certificates(ca),
    }
}
