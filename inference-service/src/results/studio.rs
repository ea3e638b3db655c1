//! Where pictures for people are made: one at a time, and never more than a
//! share of one core, however many are asked for. A picture that is wanted as
//! the camera gave it is passed on untouched.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use flatframe_shared::frame::{PictureSize, Rotation};
use tokio::sync::Mutex;
use tokio::task::JoinError;

use super::record::ResultRecord;
use super::snapshot::{PaintError, Painter, Style, Wanted};
use crate::cameras::Snapshot;
use crate::intake::admission::CallSlot;
use crate::vision::{Bounds, Gender};

/// After a picture was drawn no other is for so many times what it took: people
/// who look cost the analysis at most a quarter of one core.
const REST: u32 = 3;

/// Makes pictures.
#[derive(Debug)]
pub struct Studio {
    /// Held by the one whose picture is drawn. Those who wait get it in the
    /// order in which they came.
    easel: Arc<Mutex<Easel>>,
    /// Largest picture that was analysed.
    limit: PictureSize,
    /// Largest picture that is given, in bytes.
    max_bytes: usize,
}

#[derive(Debug)]
struct Easel {
    painter: Painter,
    rests_until: Instant,
}

/// How a picture is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// How it looks.
    pub style: Style,
    /// Most pixels across; `None`: as it came.
    pub max_width_px: Option<u32>,
}

impl Look {
    /// Whether `snapshot` is it already.
    fn is_of(self, snapshot: &Snapshot) -> bool {
        let is_narrow = self.max_width_px.is_none_or(|width| snapshot.record.analysis.size.width_px <= width);
        self.style == Style::Plain && snapshot.rotation == Rotation::None && is_narrow
    }
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum StudioError {
    /// The deadline passed before its turn came.
    #[error("other pictures were before this one")]
    Late,
    /// It could not be drawn.
    #[error(transparent)]
    Paint(#[from] PaintError),
    /// The service stops.
    #[error(transparent)]
    Stopped(#[from] JoinError),
}

impl Studio {
    /// Draws pictures up to `limit` into at most `max_bytes`.
    pub fn new(limit: PictureSize, max_bytes: usize) -> Self {
        let easel = Easel { painter: Painter::default(), rests_until: Instant::now() };
        Self { easel: Arc::new(Mutex::new(easel)), limit, max_bytes }
    }

    /// A picture, by `deadline` if there is one: that which is `newest` when its
    /// turn comes; `None`: there is none then. Who waits without a deadline keeps
    /// its place in the row. Keeps `slot` until the work is done, also when the
    /// client has gone.
    ///
    /// # Errors
    /// [`StudioError`].
    pub async fn picture(
        self: Arc<Self>,
        newest: impl Fn() -> Option<Snapshot>,
        look: Look,
        deadline: Option<Instant>,
        slot: Option<CallSlot>,
    ) -> Result<Option<(Arc<ResultRecord>, Bytes)>, StudioError> {
        let Some(snapshot) = newest() else { return Ok(None) };
        if look.is_of(&snapshot) {
            return Ok(Some((snapshot.record, snapshot.jpeg.into())));
        }
        drop(snapshot);
        let turn = async {
            let easel = self.easel.clone().lock_owned().await;
            tokio::time::sleep_until(easel.rests_until.into()).await;
            easel
        };
        let mut easel = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), turn).await.map_err(|_| StudioError::Late)?,
            None => turn.await,
        };
        let Some(snapshot) = newest() else { return Ok(None) };
        let (limit, max_bytes) = (self.limit, self.max_bytes);
        let drawn = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let begun = Instant::now();
            let jpeg = paint(&mut easel.painter, &snapshot, look, limit, max_bytes);
            easel.rests_until = Instant::now() + REST * begun.elapsed();
            jpeg.map(|jpeg| (snapshot.record, jpeg.into()))
        });
        Ok(Some(drawn.await??))
    }
}

/// Draws one picture.
fn paint(
    painter: &mut Painter,
    snapshot: &Snapshot,
    look: Look,
    limit: PictureSize,
    max_bytes: usize,
) -> Result<Vec<u8>, PaintError> {
    let record = &snapshot.record;
    let voted = |index: usize| record.tracks.get(index).copied().flatten().map(|track| track.gender);
    let faces = record.analysis.faces.iter().enumerate();
    let mut faces: Vec<_> = faces.map(|(index, face)| (face.bounds, voted(index).unwrap_or(Gender::Unknown))).collect();
    if look.style == Style::Blurred && record.analysis.truncated {
        // There are faces whose place is not known.
        let PictureSize { width_px, height_px } = record.analysis.size;
        let whole = Bounds { x: 0.0, y: 0.0, width: width_px as f32, height: height_px as f32 };
        faces.push((whole, Gender::Unknown));
    }
    let Look { style, max_width_px } = look;
    let wanted = Wanted { jpeg: &snapshot.jpeg, rotation: snapshot.rotation, faces: &faces, style, max_width_px };
    painter.paint(&wanted, limit, max_bytes)
}
