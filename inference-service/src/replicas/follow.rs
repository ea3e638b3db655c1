//! Listens to the other replicas: every result and incident of theirs goes to
//! the clients that watch here, what they tell of their cameras into the directory. What
//! this replica told itself is passed over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::{Message, consumer};
use flatframe_shared::backoff::Backoff;
use flatframe_shared::clock;
use flatframe_shared::rate_log::RateLog;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::directory::{Elsewhere, MAX_INFO_BYTES};
use super::streams::{Names, Topic};
use super::{ANSWER_DEADLINE, HEADER_REPLICA, HEADER_RUN, Replicas};

/// Most messages asked for at once; all of them fit into a subscription.
pub const PULL: usize = 64;
/// How long the bus waits for messages to come before it says that none did.
const PULL_WAIT: Duration = Duration::from_secs(1);
/// The bus forgets a listener that asked for nothing for so long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// After an absence so many results are made up for; what is older is told as
/// missed: nobody waits for old results.
const CATCH_UP: u64 = 512;
/// First and longest pause before the bus is asked anew.
const RETRY: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

/// A result of another replica.
pub struct Told {
    /// What the replica calls itself.
    pub replica: Arc<str>,
    /// The message's subject says of which camera it is.
    pub camera: flatframe_shared::frame::CameraId,
    /// What it told.
    pub body: bytes::Bytes,
}

/// Where results of others go. Must not wait.
pub trait Listener: Send + Sync {
    /// A result came.
    fn result(&self, told: Told);
    /// So many results of others will never come.
    fn missed(&self, results: u64);
    /// An incident of `replica` opened, or is over.
    fn incident(&self, replica: Arc<str>, body: &[u8]);
    /// So many of these will never come.
    fn missed_incidents(&self, changes: u64);
}

/// Hands results of other replicas to `listener` until `stop`.
pub async fn results(replicas: &Replicas, listener: &dyn Listener, max_bytes: usize, stop: &CancellationToken) {
    keep_on(replicas, Hearing::Results { listener, max_bytes, last: None }, stop).await;
}

/// Hands incidents of other replicas to `listener` until `stop`, first those
/// that the bus keeps.
pub async fn incidents(replicas: &Replicas, listener: &dyn Listener, stop: &CancellationToken) {
    keep_on(replicas, Hearing::Incidents { listener, last: 0, made_unix_ns: None }, stop).await;
}

/// Keeps the directory until `stop`.
pub async fn cameras(replicas: &Replicas, stop: &CancellationToken) {
    keep_on(replicas, Hearing::Cameras, stop).await;
}

const RESULTS: &str = "results";
const INCIDENTS: &str = "incidents";
const CAMERAS: &str = "cameras";

/// What is listened to.
enum Hearing<'a> {
    Results {
        listener: &'a dyn Listener,
        max_bytes: usize,
        /// Place on the bus of the newest one heard.
        last: Option<u64>,
    },
    Incidents {
        listener: &'a dyn Listener,
        /// Place on the bus of the newest one heard, and when its stream was made.
        last: u64,
        made_unix_ns: Option<i128>,
    },
    Cameras,
}

impl Hearing<'_> {
    fn word(&self) -> &'static str {
        match self {
            Self::Results { .. } => RESULTS,
            Self::Incidents { .. } => INCIDENTS,
            Self::Cameras => CAMERAS,
        }
    }

    async fn hear(&mut self, replicas: &Replicas) -> Result<(), String> {
        match self {
            Self::Results { listener, max_bytes, last } => hear_results(replicas, *listener, *max_bytes, last).await,
            Self::Incidents { listener, last, made_unix_ns } => {
                hear_incidents(replicas, *listener, last, made_unix_ns).await
            }
            Self::Cameras => hear_cameras(replicas).await,
        }
    }
}

/// Listens again and again while the bus is there.
async fn keep_on(replicas: &Replicas, mut hearing: Hearing<'_>, stop: &CancellationToken) {
    let (mut backoff, failures) = (Backoff::new(RETRY[0], RETRY[1]), RateLog::default());
    let (mut absence, what) = (replicas.absence.subscribe(), hearing.word());
    loop {
        // The sender lives as long as `replicas`.
        tokio::select! {
            () = stop.cancelled() => return,
            _ = absence.wait_for(|absence| absence.away.is_none()) => {}
        }
        let begun = clock::now();
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            _ = absence.wait_for(|absence| absence.away.is_some()) => Ok(()),
            heard = hearing.hear(replicas) => heard,
        };
        if clock::now().duration_since(begun) > RETRY[1] {
            backoff.reset();
        }
        if let Err(error) = heard {
            replicas.set_unheard(what, Some(&error));
            if let Some(held_back) = failures.allow(clock::now()) {
                tracing::warn!(what, error, held_back, "cannot hear the other replicas on the result bus");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }
}

async fn hear_results(
    replicas: &Replicas,
    listener: &dyn Listener,
    max_bytes: usize,
    last: &mut Option<u64>,
) -> Result<(), String> {
    let stream = replicas.context.get_stream(&replicas.names.results).await.map_err(text)?;
    let newest = stream.cached_info().state.last_sequence;
    let from = match *last {
        None => newest,
        Some(last) if last > newest => {
            // The bus began anew; how much was lost with it is not known.
            listener.missed(1);
            newest
        }
        Some(last) => {
            let first = last.max(newest.saturating_sub(CATCH_UP));
            if first > last {
                listener.missed(first - last);
            }
            first
        }
    };
    *last = Some(from);
    let policy = DeliverPolicy::ByStartSequence { start_sequence: from + 1 };
    let consumer = stream.create_consumer(reader(policy, replicas.names.all(Topic::Result))).await.map_err(text)?;
    let each = |message: &Message, info: &async_nats::jetstream::message::Info<'_>| {
        let expected = last.map_or(info.stream_sequence, |last| last + 1);
        if info.stream_sequence > expected {
            listener.missed(info.stream_sequence - expected);
        }
        *last = Some(info.stream_sequence);
        if is_own(replicas, message) {
            return;
        }
        match Names::camera(&message.subject) {
            Some(camera) if message.payload.len() <= max_bytes => {
                // A copy: a message would keep the whole buffer that it was read into.
                let body = bytes::Bytes::copy_from_slice(&message.payload);
                listener.result(Told { replica: teller(message), camera, body });
            }
            _ => listener.missed(1),
        }
    };
    pull_for_ever(&consumer, each, || replicas.set_unheard(RESULTS, None)).await
}

async fn hear_incidents(
    replicas: &Replicas,
    listener: &dyn Listener,
    last: &mut u64,
    made_unix_ns: &mut Option<i128>,
) -> Result<(), String> {
    let stream = replicas.context.get_stream(&replicas.names.incidents).await.map_err(text)?;
    let info = stream.cached_info();
    let (made, state) = (info.created.unix_timestamp_nanos(), &info.state);
    if made_unix_ns.replace(made).is_some_and(|before| before != made) && *last > 0 {
        // The bus began anew; how much was lost with it is not known.
        listener.missed_incidents(1);
        *last = 0;
    }
    if *last > 0 && state.first_sequence > *last + 1 {
        listener.missed_incidents(state.first_sequence - *last - 1);
        *last = state.first_sequence - 1;
    }
    let policy = DeliverPolicy::ByStartSequence { start_sequence: *last + 1 };
    let consumer = stream.create_consumer(reader(policy, replicas.names.incident.clone())).await.map_err(text)?;
    let each = |message: &Message, info: &async_nats::jetstream::message::Info<'_>| {
        if *last > 0 && info.stream_sequence > *last + 1 {
            listener.missed_incidents(info.stream_sequence - *last - 1);
        }
        *last = info.stream_sequence;
        let replica = teller(message);
        // Also of an earlier run of this one, whose incidents are over.
        if *replica != *replicas.settings.replica {
            listener.incident(replica, &message.payload);
        }
    };
    pull_for_ever(&consumer, each, || replicas.set_unheard(INCIDENTS, None)).await
}

async fn hear_cameras(replicas: &Replicas) -> Result<(), String> {
    let stream = replicas.context.get_stream_no_info(&replicas.names.now).await.map_err(text)?;
    let wanted = reader(DeliverPolicy::LastPerSubject, replicas.names.all(Topic::Camera));
    let consumer = stream.create_consumer(wanted).await.map_err(text)?;
    let each = |message: &Message, info: &async_nats::jetstream::message::Info<'_>| {
        let now = clock::now();
        let Some(camera) = Names::camera(&message.subject) else { return };
        if is_own(replicas, message) || message.payload.len() > MAX_INFO_BYTES {
            return;
        }
        let heard = heard(info.published.unix_timestamp_nanos(), now);
        let info = bytes::Bytes::copy_from_slice(&message.payload);
        replicas.directory.put(Elsewhere { camera, replica: teller(message), heard, info }, now);
    };
    pull_for_ever(&consumer, each, || replicas.set_unheard(CAMERAS, None)).await
}

/// When a message of that time was published, by this machine's clock.
fn heard(published_unix_ns: i128, now: Instant) -> Instant {
    let ago_us = i128::from(clock::unix_us()) - published_unix_ns / 1000;
    // A clock that is behind makes it younger than it is, never of the future.
    let ago = Duration::from_micros(u64::try_from(ago_us).unwrap_or(0));
    now.checked_sub(ago).unwrap_or(now)
}

/// A reader that the bus forgets by itself and that acknowledges nothing.
pub(super) fn reader(deliver_policy: DeliverPolicy, filter_subject: String) -> pull::Config {
    pull::Config {
        deliver_policy,
        filter_subject,
        ack_policy: AckPolicy::None,
        inactive_threshold: FORGOTTEN_AFTER,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    }
}

/// Takes messages until something fails; says after each pull that they are
/// heard.
async fn pull_for_ever(
    consumer: &PullConsumer,
    mut each: impl FnMut(&Message, &async_nats::jetstream::message::Info<'_>),
    heard: impl Fn(),
) -> Result<(), String> {
    loop {
        let asked = consumer.batch().max_messages(PULL).expires(PULL_WAIT).messages();
        let mut batch = within(asked).await?.map_err(text)?;
        while let Some(message) = within_of(PULL_WAIT + ANSWER_DEADLINE, batch.next()).await? {
            let message = message.map_err(text)?;
            let info = message.info().map_err(text)?;
            each(&message, &info);
        }
        heard();
    }
}

/// An answer within the deadline of all questions to the bus.
pub(super) async fn within<T>(answer: impl IntoFuture<Output = T>) -> Result<T, String> {
    within_of(ANSWER_DEADLINE, answer.into_future()).await
}

async fn within_of<T>(limit: Duration, answer: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(limit, answer).await.map_err(|_| format!("no answer within {} s", limit.as_secs()))
}

pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn is_own(replicas: &Replicas, message: &Message) -> bool {
    header(message, HEADER_RUN) == Some(replicas.run_text.as_str())
}

/// The replica that told `message`.
pub(super) fn teller(message: &Message) -> Arc<str> {
    header(message, HEADER_REPLICA).unwrap_or("unknown").into()
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    Some(message.headers.as_ref()?.get(name)?.as_str())
}

/// What the bus knows of a reader.
pub(super) fn pending(consumer: &consumer::Consumer<pull::Config>) -> u64 {
    consumer.cached_info().num_pending
}
