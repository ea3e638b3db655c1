//! Questions to the bus: the newest result of a camera, and its results of a
//! time. Every question has a deadline; what the bus cannot answer is an error,
//! never an empty answer.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::DirectGetErrorKind;
use bytes::Bytes;
use flatframe_shared::clock;
use flatframe_shared::frame::CameraId;
use futures_util::StreamExt;

use super::follow::{PULL, pending, reader, teller, text, within};
use super::streams::Topic;
use super::{HEADER_REPLICA, Replicas};

/// Why the bus gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// It is away.
    #[error("the result bus is away: {0}")]
    Away(String),
    /// The deadline of the question passed.
    #[error("the result bus took too long")]
    Late,
}

/// One result on the bus.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its place on the bus.
    pub sequence: u64,
    /// When the bus got it, by its clock, in milliseconds since the Unix epoch.
    pub published_unix_ms: i64,
    /// The replica that told it.
    pub replica: Arc<str>,
    /// What it told.
    pub body: Bytes,
    /// Results of the same camera that came after it.
    pub newer: u64,
}

/// From where on results are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The oldest that there is.
    Oldest,
    /// What the bus got from then on, in milliseconds since the Unix epoch.
    Time(i64),
    /// What comes after that place.
    After(u64),
}

impl Replicas {
    /// The newest result of `camera` on the bus; `None`: it has none.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn newest(&self, camera: &CameraId) -> Result<Option<Stored>, Unanswered> {
        self.check()?;
        let stream = self.context.get_stream_no_info(&self.names.results).await.map_err(gone)?;
        let asked = stream.direct_get_last_for_subject(self.names.subject(Topic::Result, camera));
        match within(asked).await.map_err(gone)? {
            Ok(message) => Ok(Some(Stored {
                sequence: message.sequence,
                published_unix_ms: unix_ms(message.time.unix_timestamp_nanos()),
                replica: message.headers.get(HEADER_REPLICA).map_or("unknown", |name| name.as_str()).into(),
                body: Bytes::copy_from_slice(&message.payload),
                newer: 0,
            })),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(gone(error)),
        }
    }

    /// Since when the bus has every result of `camera` that was published, in
    /// milliseconds since the Unix epoch; `None`: it has none.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn complete_since(&self, camera: &CameraId, deadline: Instant) -> Result<Option<i64>, Unanswered> {
        let mut oldest = None;
        let first = self.read(camera, From::Oldest, deadline, |stored| {
            oldest = Some((stored.published_unix_ms, stored.newer + 1));
            ControlFlow::Break(())
        });
        first.await?;
        let Some((oldest_ms, held)) = oldest else { return Ok(None) };
        if held >= self.settings.max_messages_per_camera {
            return Ok(Some(oldest_ms));
        }
        // Whatever else goes, goes from the front of the whole stream.
        let stream = within(self.context.get_stream(&self.names.results)).await.map_err(gone)?.map_err(gone)?;
        let info = stream.cached_info();
        let whole = if info.state.first_sequence <= 1 { info.created } else { info.state.first_timestamp };
        Ok(Some(unix_ms(whole.unix_timestamp_nanos()).min(oldest_ms)))
    }

    /// Hands the results of `camera` from `from` on to `take`, in the order in
    /// which the bus got them, until there are no more (`Ok(false)`) or `take`
    /// has enough (`Ok(true)`).
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn read(
        &self,
        camera: &CameraId,
        from: From,
        deadline: Instant,
        mut take: impl FnMut(Stored) -> ControlFlow<()>,
    ) -> Result<bool, Unanswered> {
        self.check()?;
        let policy = match from {
            From::Oldest => DeliverPolicy::All,
            From::Time(unix_ms) => {
                let seconds = unix_ms.max(0).div_euclid(1000);
                let time = async_nats::datetime::DateTime::from_unix_timestamp(seconds);
                DeliverPolicy::ByStartTime { start_time: time.map_err(gone)? }
            }
            From::After(sequence) => DeliverPolicy::ByStartSequence { start_sequence: sequence.saturating_add(1) },
        };
        let stream = self.context.get_stream_no_info(&self.names.results).await.map_err(gone)?;
        let wanted = reader(policy, self.names.subject(Topic::Result, camera));
        let consumer = within(stream.create_consumer(wanted)).await.map_err(gone)?.map_err(gone)?;
        let mut left = pending(&consumer);
        let enough = 'reading: loop {
            if left == 0 {
                break false;
            }
            if clock::now() >= deadline {
                return Err(Unanswered::Late);
            }
            let asked = consumer.fetch().max_messages(PULL.min(left as usize)).messages();
            let mut batch = within(asked).await.map_err(gone)?.map_err(gone)?;
            let before = left;
            while let Some(message) = within(batch.next()).await.map_err(gone)? {
                let message = message.map_err(gone)?;
                let info = message.info().map_err(gone)?;
                left = info.pending;
                let stored = Stored {
                    sequence: info.stream_sequence,
                    published_unix_ms: unix_ms(info.published.unix_timestamp_nanos()),
                    replica: teller(&message),
                    body: message.payload.clone(),
                    newer: info.pending,
                };
                if take(stored).is_break() {
                    break 'reading true;
                }
            }
            if left == before {
                // It had them, and gave none: gone meanwhile.
                break false;
            }
        };
        // Not left to be forgotten by itself: there may be many questions.
        let _ = within(stream.delete_consumer(&consumer.cached_info().name)).await;
        Ok(enough)
    }

    fn check(&self) -> Result<(), Unanswered> {
        self.away().map_or(Ok(()), |why| Err(Unanswered::Away(why.to_string())))
    }
}

fn unix_ms(unix_ns: i128) -> i64 {
    i64::try_from(unix_ns / 1_000_000).unwrap_or(i64::MAX)
}

fn gone(error: impl std::fmt::Display) -> Unanswered {
    Unanswered::Away(text(error))
}
