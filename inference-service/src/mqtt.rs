//! Counts and states of cameras on an MQTT broker, for homes: one retained
//! message per camera, replaced when it changes, and what Home Assistant needs
//! to find it. Tells what the privacy mode lets every client see, from the same
//! place; sends no picture and no single face.
//!
//! Nothing waits for the broker: what is told is always the state of now, a
//! state that could not be sent is replaced by the next one.

pub mod config;
mod discovery;
mod message;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use flatframe_shared::backoff::Backoff;
use flatframe_shared::clock;
use flatframe_shared::frame::CameraId;
use flatframe_shared::rate_log::RateLog;
use rumqttc::{AsyncClient, Event, EventLoop, Incoming, LastWill, MqttOptions, QoS};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::config::Broker;
use crate::metrics::Sources;

/// Messages that wait for the connection, and as many that wait for the
/// broker's word.
const QUEUE: u16 = 64;
/// Largest message in either direction, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// Silence after which the broker is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// First and longest pause before a lost connection is made anew.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// Between two looks at the cameras.
const LOOK: Duration = Duration::from_secs(1);
/// The last words are sent within this.
const GOODBYE: Duration = Duration::from_secs(2);

/// Bound of the memory of a publisher for `max_cameras`, in bytes.
pub fn max_bytes(max_cameras: usize) -> u64 {
    let waiting = 2 * u64::from(QUEUE) * message::MAX_BYTES as u64;
    waiting + 4 * MAX_MESSAGE_BYTES as u64 + max_cameras as u64 * 2 * message::MAX_BYTES as u64
}

/// What became of messages since start.
#[derive(Debug, Default)]
pub struct MqttCounts {
    /// Handed to the connection.
    pub published: AtomicU64,
    /// Found the queue full; the next state takes their place.
    pub deferred: AtomicU64,
    /// Connections to the broker that were made.
    pub connected: AtomicU64,
}

/// Tells a broker about the cameras until `shutdown`.
pub async fn run(broker: Broker, sources: Arc<Sources>, counts: Arc<MqttCounts>, shutdown: CancellationToken) {
    let online = AtomicBool::new(false);
    let (client, events) = AsyncClient::new(options(&broker), usize::from(QUEUE));
    let mut publisher =
        Publisher { broker, sources, client, counts: counts.clone(), told: BTreeMap::new(), next: None, is_new: false };
    let mut connection = std::pin::pin!(drive(events, &online, &counts));
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            () = &mut connection => return,
            _ = looks.tick() => {
                // The broker may have forgotten everything since.
                if online.swap(false, Relaxed) {
                    publisher.begin();
                }
                publisher.look();
            }
        }
    }
    publisher.say_goodbye();
    // Ends when the broker has closed the connection.
    let _ = tokio::time::timeout(GOODBYE, connection).await;
}

fn options(broker: &Broker) -> MqttOptions {
    let mut options = MqttOptions::new(&broker.client_id, &broker.host, broker.port);
    options.set_keep_alive(KEEP_ALIVE);
    options.set_inflight(QUEUE);
    options.set_max_packet_size(MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES);
    options.set_last_will(LastWill::new(broker.status_topic(), "offline", QoS::AtLeastOnce, true));
    if let Some((user, password)) = &broker.login {
        options.set_credentials(user, password);
    }
    options
}

/// Keeps a connection to the broker; `online` is set each time it is made.
/// Returns when the goodbye was sent.
async fn drive(mut events: EventLoop, online: &AtomicBool, counts: &MqttCounts) {
    let (mut backoff, failures) = (Backoff::new(RETRY[0], RETRY[1]), RateLog::default());
    let mut is_connected = false;
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                backoff.reset();
                counts.connected.fetch_add(1, Relaxed);
                tracing::info!("connected to the mqtt broker");
                (is_connected, _) = (true, online.store(true, Relaxed));
            }
            Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
            Ok(_) => {}
            Err(error) => {
                if std::mem::take(&mut is_connected) {
                    tracing::warn!(%error, "the mqtt broker is gone");
                } else if let Some(held_back) = failures.allow(clock::now()) {
                    tracing::warn!(%error, held_back, "cannot connect to the mqtt broker (mqtt.broker)");
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

struct Publisher {
    broker: Broker,
    sources: Arc<Sources>,
    client: AsyncClient,
    counts: Arc<MqttCounts>,
    /// What the broker was told of each camera.
    told: BTreeMap<CameraId, Told>,
    /// Where a round that found no more room goes on.
    next: Option<CameraId>,
    /// Whether the broker knows that this service lives.
    is_new: bool,
}

#[derive(Default, PartialEq)]
struct Told {
    discovery: String,
    state: String,
}

impl Publisher {
    /// A connection was made: everything is to be told.
    fn begin(&mut self) {
        for told in self.told.values_mut() {
            *told = Told::default();
        }
        self.is_new = true;
    }

    /// Tells what changed, as far as there is room.
    fn look(&mut self) {
        if self.is_new && self.publish(&self.broker.status_topic(), "online") {
            self.is_new = false;
        }
        if self.counts.connected.load(Relaxed) == 0 {
            return;
        }
        let mut cameras = self.sources.cameras.all();
        let gone: Vec<_> =
            self.told.keys().filter(|id| !cameras.iter().any(|camera| camera.id == **id)).cloned().collect();
        for id in gone {
            // An empty retained message takes the old one away (MQTT 3.1.1, section 3.3.1.3).
            let topics = [self.broker.state_topic(&id), self.broker.discovery_topic(&id)];
            if !topics.iter().filter(|topic| !topic.is_empty()).all(|topic| self.publish(topic, "")) {
                return;
            }
            self.told.remove(&id);
        }
        let begin = self.next.take().map_or(0, |next| cameras.partition_point(|camera| camera.id < next));
        let begin = begin.min(cameras.len());
        cameras.rotate_left(begin);
        for camera in cameras {
            let incidents = self.sources.incidents.open_of(Some(&camera.id));
            let view = self.sources.archive.wire.camera(&camera.view(), incidents.iter().map(|one| &**one));
            let state = message::state(&view);
            let discovery = discovery::message(&self.broker, &camera.id, &view);
            if !self.tell(&camera.id, Told { discovery, state }) {
                self.next = Some(camera.id.clone());
                return;
            }
        }
    }

    /// Tells what is new of one camera; `false` when there is no room.
    fn tell(&mut self, id: &CameraId, now: Told) -> bool {
        let told = self.told.get(id).map_or(("", ""), |told| (&told.discovery, &told.state));
        let is_found = told.0 == now.discovery || self.publish(&self.broker.discovery_topic(id), &now.discovery);
        let is_told = is_found && (told.1 == now.state || self.publish(&self.broker.state_topic(id), &now.state));
        if is_told {
            self.told.insert(id.clone(), now);
        }
        is_told
    }

    fn publish(&self, topic: &str, text: &str) -> bool {
        let is_taken = self.client.try_publish(topic, QoS::AtLeastOnce, true, text).is_ok();
        let count = if is_taken { &self.counts.published } else { &self.counts.deferred };
        count.fetch_add(1, Relaxed);
        is_taken
    }

    /// The broker tells the last will only of those who leave without a word.
    fn say_goodbye(&self) {
        let is_said = self.publish(&self.broker.status_topic(), "offline");
        if !is_said || self.client.try_disconnect().is_err() {
            tracing::info!("left the mqtt broker without a word: its queue is full");
        }
    }
}
