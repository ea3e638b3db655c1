//! The one task that publishes: makes the streams when the bus is there, takes
//! what waits in batches, and holds a batch until the bus has acknowledged it.
//! A batch that fails is sent again: the bus knows its messages by their id.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::PublishErrorKind;
use flatframe_shared::backoff::Backoff;
use flatframe_shared::clock;
use flatframe_shared::rate_log::RateLog;
use tokio_util::sync::CancellationToken;

use super::outbox::Message;
use super::{HEADER_REPLICA, HEADER_RUN, Replicas, streams};

/// Most messages of a batch, and most bytes.
pub const BATCH: usize = 64;
/// Most bytes of a batch, but for a single larger message.
pub const BATCH_BYTES: usize = 512 << 10;
/// A batch is acknowledged within this, or it is sent again.
const ACK_DEADLINE: Duration = Duration::from_secs(2);
/// First and longest pause before the bus is tried again.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// What is with the bus. Each message is settled once: also of an attempt that
/// is broken off in the middle it is known what the bus has.
#[derive(Debug, Default)]
struct Batch(Vec<(Message, bool)>);

impl Batch {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn settle(&mut self, place: usize) {
        self.0[place].1 = true;
    }

    /// Leaves out what is settled.
    fn shrink(&mut self) {
        self.0.retain(|(_, is_settled)| !is_settled);
    }
}

/// Publishes until the outbox is closed and empty, or `stop`.
pub async fn run(replicas: &Replicas, stop: &CancellationToken) {
    let (mut backoff, failures) = (Backoff::new(RETRY[0], RETRY[1]), RateLog::default());
    let mut batch = Batch::default();
    let mut connected = replicas.connected.subscribe();
    while !(stop.is_cancelled() || batch.is_empty() && replicas.outbox.is_done()) {
        // At the end nobody waits for a bus that is away.
        if replicas.outbox.is_closed() && !replicas.is_reachable() {
            break;
        }
        if !*connected.borrow_and_update() {
            tokio::select! {
                () = stop.cancelled() => {}
                // Looks again whether it is worth waiting.
                () = replicas.outbox.closed() => {}
                _ = connected.changed() => {}
            }
            continue;
        }
        let attempt = tokio::select! {
            () = stop.cancelled() => break,
            attempt = publish(replicas, &mut batch, &mut connected) => attempt,
        };
        match attempt {
            Ok(()) => backoff.reset(),
            Err(error) => {
                replicas.counts.failed.fetch_add(1, Relaxed);
                replicas.set_away(&error);
                if let Some(held_back) = failures.allow(clock::now()) {
                    let waiting_bytes = replicas.outbox.bytes();
                    tracing::warn!(error, waiting_bytes, held_back, "cannot publish on the result bus (bus.nats)");
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
            }
        }
    }
    batch.shrink();
    let left = replicas.outbox.abandon(batch.0.len());
    if left > 0 {
        tracing::warn!(left, "the result bus is away at the end: these results are not on it");
    }
}

/// Makes the streams, then publishes until the connection is lost (a good end,
/// it is made anew), the outbox is done, or something fails.
async fn publish(
    replicas: &Replicas,
    batch: &mut Batch,
    connected: &mut tokio::sync::watch::Receiver<bool>,
) -> Result<(), String> {
    let made =
        tokio::time::timeout(ACK_DEADLINE, streams::ensure(&replicas.context, &replicas.settings, &replicas.names));
    made.await.map_err(|_| "the streams could not be made in time".to_owned())??;
    replicas.set_reachable();
    loop {
        if batch.is_empty() {
            tokio::select! {
                () = replicas.outbox.arrived() => {}
                // Also when it was made anew meanwhile: the streams may be gone.
                _ = connected.changed() => return Ok(()),
            }
            let taken = replicas.outbox.take(BATCH, BATCH_BYTES, clock::now());
            *batch = Batch(taken.into_iter().map(|message| (message, false)).collect());
            if batch.is_empty() && replicas.outbox.is_done() {
                return Ok(());
            }
        }
        batch.0.retain(|(message, _)| !replicas.outbox.drop_late(message, clock::now()));
        send(replicas, batch).await?;
    }
}

/// Sends a batch and waits for the word of the bus; leaves in it what is not
/// acknowledged.
async fn send(replicas: &Replicas, batch: &mut Batch) -> Result<(), String> {
    let sent = tokio::time::timeout(ACK_DEADLINE, async {
        let mut pending = Vec::with_capacity(batch.0.len());
        for place in 0..batch.0.len() {
            let message = &batch.0[place].0;
            let mut headers = HeaderMap::new();
            headers.insert(NATS_MESSAGE_ID, message.id.as_str());
            headers.insert(HEADER_REPLICA, replicas.settings.replica.as_str());
            headers.insert(HEADER_RUN, replicas.run_text.as_str());
            let published =
                replicas.context.publish_with_headers(message.subject.clone(), headers, message.body.clone());
            match published.await {
                Ok(ack) => pending.push((place, ack)),
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    // It would never be taken.
                    replicas.counts.refused.fetch_add(1, Relaxed);
                    batch.settle(place);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        for (place, ack) in pending {
            let ack = ack.await.map_err(|error| error.to_string())?;
            batch.settle(place);
            let count = if ack.duplicate { &replicas.counts.duplicates } else { &replicas.counts.published };
            count.fetch_add(1, Relaxed);
        }
        Ok(())
    });
    let sent = sent.await.unwrap_or_else(|_| Err(format!("no word of it within {} s", ACK_DEADLINE.as_secs())));
    batch.shrink();
    sent
}
