//! Handing a camera over: the replica that served it says who is in front of
//! it, every second and with a last word when its stream ends; the one that
//! serves it next asks before it follows the first frame. So nobody who is in
//! the picture while the stream moves becomes a second visit.
//!
//! After a crash there is no last word: what was told up to a second before is
//! gone on with, and the counts say that they are uncertain.

use std::time::Duration;

use async_nats::jetstream::stream::DirectGetErrorKind;
use bytes::Bytes;
use flatframe_shared::clock;
use flatframe_shared::frame::CameraId;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Replicas;
use super::board::{MAX_PEOPLE_BYTES, Post};
use super::directory::SILENCE;
use super::streams::Topic;
use crate::people::CarriedPeople;

/// Version of what is told; another one is not understood.
const VERSION: u32 = 1;
/// A stream that opens waits so long for what others know of its camera.
pub const TAKE_OVER_DEADLINE: Duration = Duration::from_millis(500);
/// A stream that ends waits so long for its last word to be on the bus.
pub const HAND_OVER_DEADLINE: Duration = Duration::from_millis(500);
/// A last word is waited for so long. In an orderly move it is on the bus before
/// the sender goes elsewhere; only one whose sender just vanished is still to
/// come, and after a crash there is none.
const LAST_WORD: Duration = Duration::from_millis(100);
/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(20);

/// What is told of the people of a camera.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Told {
    version: u32,
    run: String,
    told_unix_us: i64,
    is_last_word: bool,
    people: CarriedPeople,
}

/// What another replica left behind.
#[derive(Debug, Clone, PartialEq)]
pub enum TakenOver {
    /// No other replica served the camera lately: what is known here holds.
    Nothing,
    /// Another one did.
    People {
        /// Who was there.
        people: Box<CarriedPeople>,
        /// How long ago.
        gap: Duration,
        /// Whether it was its last word: without it more may have happened.
        is_certain: bool,
    },
    /// The bus did not say.
    Unknown(String),
}

impl Replicas {
    /// Tells of a camera that is served here. Never waits.
    pub fn tell(&self, camera: &CameraId, info: Vec<u8>, people: Option<&CarriedPeople>) {
        let people = people.and_then(|people| self.told(camera, people, false));
        if !self.board.put(camera, Post { info: Some(info.into()), people, done: None }) {
            self.warn_too_much(camera);
        }
    }

    /// Says the last word of a camera whose stream has ended here. Waits until
    /// the bus has it, at most [`HAND_OVER_DEADLINE`]; `false` when it has not.
    pub async fn hand_over(&self, camera: &CameraId, info: Vec<u8>, people: &CarriedPeople) -> bool {
        if self.away().is_some() {
            return false;
        }
        let Some(people) = self.told(camera, people, true) else { return false };
        let (done, told) = oneshot::channel();
        if !self.board.put(camera, Post { info: Some(info.into()), people: Some(people), done: Some(done) }) {
            self.warn_too_much(camera);
            return false;
        }
        matches!(tokio::time::timeout(HAND_OVER_DEADLINE, told).await, Ok(Ok(())))
    }

    /// What others know of `camera`, whose stream opens here. An answer is
    /// waited for at most [`TAKE_OVER_DEADLINE`], and a last word that may be
    /// about to come a part of that.
    pub async fn take_over(&self, camera: &CameraId) -> TakenOver {
        let start = tokio::time::Instant::now();
        let (deadline, last_word) = (start + TAKE_OVER_DEADLINE, start + LAST_WORD);
        if let Some(why) = self.away() {
            return TakenOver::Unknown(format!("the result bus is away: {why}"));
        }
        loop {
            let left = match tokio::time::timeout_at(deadline, self.left_behind(camera)).await {
                Ok(Ok(Some(left))) => left,
                Ok(Ok(None)) => return TakenOver::Nothing,
                Ok(Err(why)) => return TakenOver::Unknown(why),
                Err(_) => return TakenOver::Unknown("the result bus took too long".to_owned()),
            };
            if left.run == self.run_text {
                return TakenOver::Nothing;
            }
            let gap_us = clock::unix_us().saturating_sub(left.told_unix_us);
            let gap = Duration::from_micros(u64::try_from(gap_us).unwrap_or(0));
            // Who told it lives: its last word is on its way.
            let may_come = !left.is_last_word && gap < SILENCE;
            if !may_come || tokio::time::Instant::now() + LOOK >= last_word {
                return TakenOver::People { people: Box::new(left.people), gap, is_certain: left.is_last_word };
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn left_behind(&self, camera: &CameraId) -> Result<Option<Told>, String> {
        let stream = self.context.get_stream_no_info(&self.names.now).await.map_err(|error| error.to_string())?;
        let asked = stream.direct_get_last_for_subject(self.names.subject(Topic::People, camera)).await;
        let message = match asked {
            Ok(message) => message,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let told: Told = serde_json::from_slice(&message.payload)
            .map_err(|error| format!("what another replica told is not understood: {error}"))?;
        if told.version != VERSION {
            return Err(format!(
                "another replica tells version {} of it, this one understands {VERSION}",
                told.version
            ));
        }
        Ok(Some(told))
    }

    fn told(&self, camera: &CameraId, people: &CarriedPeople, is_last_word: bool) -> Option<Bytes> {
        let told = Told {
            version: VERSION,
            run: self.run_text.clone(),
            told_unix_us: clock::unix_us(),
            is_last_word,
            people: people.clone(),
        };
        let text = serde_json::to_vec(&told).ok().filter(|text| text.len() <= MAX_PEOPLE_BYTES);
        if text.is_none() {
            self.warn_too_much(camera);
        }
        text.map(Bytes::from)
    }

    fn warn_too_much(&self, camera: &CameraId) {
        if let Some(held_back) = self.too_much.allow(clock::now()) {
            tracing::warn!(%camera, held_back, "so many are in front of cameras that the others cannot be told of this \
                one: it cannot be handed over (people.max_tracks)");
        }
    }
}
