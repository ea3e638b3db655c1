//! Counts and states of cameras on an MQTT broker, for homes: one retained
//! message per camera, replaced when it changes, and what Home Assistant needs
//! to find it. Tells what the privacy mode lets every client see, from the same
//! place; sends no picture and no single face.
//!
//! Nothing waits for the broker: what is told is always the state of now, a
//! state that could not be sent is replaced by the next one. Each service has
//! topics of its own: two under the same `mqtt.topic` would contradict each
//! other, but for one run of a service that takes over from another.

pub mod config;
mod discovery;
mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flatframe_shared::backoff::Backoff;
use flatframe_shared::clock;
use flatframe_shared::frame::{CameraId, MAX_CAMERA_ID_BYTES};
use flatframe_shared::rate_log::RateLog;
use rumqttc::{AsyncClient, Event, EventLoop, Incoming, LastWill, MqttOptions, Publish, QoS};
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
/// What the status topic says.
const ONLINE: &str = "online";
const OFFLINE: &str = "offline";
/// Words of a greeting: two subscriptions and the status.
const GREETING: usize = 3;
/// Most cameras of runs before that the broker is believed to keep.
const MAX_FOUND: usize = 1024;
/// The last words are sent within this.
const GOODBYE: Duration = Duration::from_secs(2);

/// Bound of the memory of a publisher for `max_cameras`, in bytes.
pub fn max_bytes(max_cameras: usize) -> u64 {
    let waiting = 2 * u64::from(QUEUE) * message::MAX_BYTES as u64;
    let found = MAX_FOUND * 2 * (size_of::<CameraId>() + MAX_CAMERA_ID_BYTES);
    waiting + (found + 4 * MAX_MESSAGE_BYTES) as u64 + max_cameras as u64 * 2 * message::MAX_BYTES as u64
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
    let heard = Mutex::new(Heard::default());
    let (client, events) = AsyncClient::new(options(&broker), usize::from(QUEUE));
    let mut connection = std::pin::pin!(drive(events, &broker, &heard, &counts));
    let told = BTreeMap::new();
    let mut publisher = Publisher { broker: &broker, sources, client, counts: &counts, told, next: None, to_say: 0 };
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            () = &mut connection => return,
            _ = looks.tick() => {
                let heard = lock(&heard).take();
                publisher.look(heard);
            }
        }
    }
    publisher.say_goodbye();
    // Ends when the broker has taken the goodbye.
    let _ = tokio::time::timeout(GOODBYE, connection).await;
}

fn options(broker: &Broker) -> MqttOptions {
    let mut options = MqttOptions::new(&broker.client_id, &broker.host, broker.port);
    options.set_keep_alive(KEEP_ALIVE);
    options.set_inflight(QUEUE);
    options.set_max_packet_size(MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES);
    options.set_last_will(LastWill::new(broker.status_topic(), OFFLINE, QoS::AtLeastOnce, true));
    if let Some((user, password)) = &broker.login {
        options.set_credentials(user, password);
    }
    options
}

/// What the connection has to tell the publisher.
#[derive(Debug, Default)]
struct Heard {
    is_connected: bool,
    /// The connection was made since: the broker may have forgotten everything.
    is_new: bool,
    /// Someone said that this service is not there: another run of it that
    /// ended later than this one began, or its last will.
    is_denied: bool,
    /// Cameras of which the broker keeps a state.
    found: BTreeSet<CameraId>,
}

impl Heard {
    fn take(&mut self) -> Self {
        let is_connected = self.is_connected;
        std::mem::replace(self, Self { is_connected, ..Self::default() })
    }

    fn message(&mut self, broker: &Broker, message: &Publish) {
        if message.topic == broker.status_topic() {
            self.is_denied |= message.payload != ONLINE;
        } else if message.retain
            && self.found.len() < MAX_FOUND
            && let Some(id) = broker.camera_of(&message.topic)
        {
            self.found.insert(id);
        }
    }
}

/// Keeps a connection to the broker. Returns when the broker has closed it after
/// the goodbye.
async fn drive(mut events: EventLoop, broker: &Broker, heard: &Mutex<Heard>, counts: &MqttCounts) {
    let (mut backoff, failures) = (Backoff::new(RETRY[0], RETRY[1]), RateLog::default());
    let mut is_leaving = false;
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                backoff.reset();
                counts.connected.fetch_add(1, Relaxed);
                tracing::info!("connected to the mqtt broker");
                *lock(heard) = Heard { is_connected: true, is_new: true, ..Heard::default() };
            }
            Ok(Event::Incoming(Incoming::Publish(message))) => lock(heard).message(broker, &message),
            // Closed from here now, with something unread, the goodbye could be lost on its way.
            Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => is_leaving = true,
            Ok(_) => {}
            Err(_) if is_leaving => return,
            Err(error) => {
                if std::mem::take(&mut lock(heard).is_connected) {
                    tracing::warn!(%error, "the mqtt broker is gone");
                } else if let Some(held_back) = failures.allow(clock::now()) {
                    tracing::warn!(%error, held_back, "cannot connect to the mqtt broker (mqtt.broker)");
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

struct Publisher<'a> {
    broker: &'a Broker,
    sources: Arc<Sources>,
    client: AsyncClient,
    counts: &'a MqttCounts,
    /// What the broker was told of each camera.
    told: BTreeMap<CameraId, Told>,
    /// Where a round that found no more room goes on.
    next: Option<CameraId>,
    /// How many of [`Publisher::greet`]'s words are left to say.
    to_say: usize,
}

#[derive(Default, PartialEq)]
struct Told {
    discovery: String,
    state: String,
}

impl Publisher<'_> {
    /// Tells what changed, as far as there is room. While the broker is away
    /// nothing is queued for it: it would be old by then.
    fn look(&mut self, heard: Heard) {
        if heard.is_new {
            self.told.values_mut().for_each(|told| *told = Told::default());
            self.to_say = GREETING;
        }
        if heard.is_denied {
            self.to_say = self.to_say.max(1);
        }
        if !heard.is_connected || !self.greet() {
            return;
        }
        let mut cameras = self.sources.cameras.all();
        let is_here = |id: &CameraId| cameras.binary_search_by(|camera| camera.id.cmp(id)).is_ok();
        // Of a run before: it may come back, but what is kept of it is not known any more.
        for id in heard.found.iter().filter(|id| !is_here(id) && !self.told.contains_key(*id)) {
            self.publish(&self.broker.state_topic(id), &message::unseen());
        }
        let gone: Vec<_> = self.told.keys().filter(|id| !is_here(id)).cloned().collect();
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
        let incidents = self.sources.incidents.open_by_camera();
        for camera in cameras {
            let open = incidents.get(&camera.id).into_iter().flatten();
            let view = self.sources.archive.wire.camera(&camera.view(), open.map(|one| &**one));
            let state = message::state(&view);
            let discovery = discovery::message(self.broker, &camera.id, &view);
            if !self.tell(&camera.id, Told { discovery, state }) {
                self.next = Some(camera.id.clone());
                return;
            }
        }
    }

    /// Listens for what others say, and says that this service is there;
    /// `false` when there is no room.
    fn greet(&mut self) -> bool {
        while self.to_say > 0 {
            let is_said = match self.to_say {
                1 => self.publish(&self.broker.status_topic(), ONLINE),
                2 => self.client.try_subscribe(self.broker.status_topic(), QoS::AtMostOnce).is_ok(),
                _ => self.client.try_subscribe(self.broker.all_cameras(), QoS::AtMostOnce).is_ok(),
            };
            if !is_said {
                return false;
            }
            self.to_say -= 1;
        }
        true
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
        let is_said = self.publish(&self.broker.status_topic(), OFFLINE);
        if !is_said || self.client.try_disconnect().is_err() {
            tracing::info!("left the mqtt broker without a word: its queue is full");
        }
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
