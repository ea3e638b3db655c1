//! A synthetic camera: a moving test card with one to four faces and a known
//! answer, for the demo, for tests, and to try a server without a camera. The
//! face is a NASA portrait in the public domain (assets/README.md). Reads no
//! device.

mod card;

use std::time::Duration;

use bytes::Bytes;
use flatframe_shared::config::ConfigError;
use flatframe_shared::frame::PictureSize;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::{CameraConfig, LimitsConfig};
use crate::plan::CameraPlan;
use crate::source::capture::Capture;
use crate::source::pattern::card::Card;
use crate::source::{BoxFuture, Source, SourceError};

/// Most faces on a card.
pub const MAX_FACES: u8 = 4;
/// Smallest card: faces on a smaller one are too small to be found.
pub const MIN_SIZE: PictureSize = PictureSize::new(160, 120);

/// What is to be seen on every picture of a pattern camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownAnswer {
    /// Faces.
    pub faces: u32,
    /// Of them, women.
    pub female: u32,
    /// Of them, men.
    pub male: u32,
}

/// The known answer of a pattern camera: all its faces show the same woman.
pub fn known_answer(camera: &CameraConfig) -> KnownAnswer {
    let faces = u32::from(camera.faces);
    KnownAnswer { faces, female: faces, male: 0 }
}

/// The first `count` pictures of a pattern camera, JPEG, for who wants them
/// without a camera's time.
///
/// # Errors
/// When the camera's configuration is not valid.
pub fn pictures(camera: &CameraConfig, count: usize) -> Result<Vec<Bytes>, ConfigError> {
    let mut card = Card::new(&CameraPlan::new(camera, &LimitsConfig::default())?);
    Ok((0..count).map(|_| card.next_jpeg()).collect())
}

/// The synthetic camera.
#[derive(Debug)]
pub struct PatternSource {
    /// `None` only while a picture is drawn on another thread.
    card: Option<Box<Card>>,
    period: Duration,
    plan: CameraPlan,
}

impl PatternSource {
    /// A card of the plan's size, rate, faces and seed.
    pub fn new(plan: &CameraPlan) -> Self {
        Self { card: None, period: plan.period(), plan: plan.clone() }
    }

    async fn draw(&mut self, capture: &mut Capture) -> Result<(), SourceError> {
        let mut ticks = tokio::time::interval(self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        capture.opened();
        loop {
            ticks.tick().await;
            let card = self.card.take();
            let plan = self.plan.clone();
            // Encoding takes milliseconds: not on a thread that serves sockets.
            let drawn = tokio::task::spawn_blocking(move || {
                let mut card = card.unwrap_or_else(|| Box::new(Card::new(&plan)));
                let jpeg = card.next_jpeg();
                (card, jpeg)
            });
            let (card, jpeg) = drawn.await.map_err(|error| SourceError::Ended(error.to_string()))?;
            self.card = Some(card);
            capture.jpeg(jpeg);
        }
    }
}

impl Source for PatternSource {
    fn run_once<'a>(
        &'a mut self,
        capture: &'a mut Capture,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async { stop.run_until_cancelled(self.draw(capture)).await.unwrap_or(Ok(())) })
    }
}
