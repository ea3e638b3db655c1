//! Coded pictures as an RTSP camera sends them, and which of them can be
//! decoded: after a loss none can until the next key frame. Decodes nothing.

use flatframe_shared::frame::PictureSize;
use retina::client::{Demuxed, Stream};
use retina::codec::{CodecItem, ParametersRef, VideoFrame};
use tokio_stream::StreamExt;

use crate::plan::CameraPlan;
use crate::source::{SourceError, spec};

/// What the pictures are coded in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// One JPEG each.
    Jpeg,
    /// H.264, with start codes (Annex B) and parameters before key frames.
    H264,
}

/// The next of a camera's pictures.
#[derive(Debug)]
pub enum Coded {
    /// Can be decoded.
    Whole(Vec<u8>),
    /// Something of it, or of one that it is made from, was lost.
    Damaged,
    /// Came before the first key frame, or is no key frame where only those are
    /// wanted.
    NotWanted,
}

/// What the next picture can be made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    All,
    Lost,
}

/// The pictures of one stream.
pub struct CodedPictures {
    demuxed: Demuxed,
    stream: usize,
    coding: Coding,
    keyframes_only: bool,
    limit: PictureSize,
    before: Before,
}

/// The stream with pictures that can be read.
///
/// # Errors
/// What the camera offers in place of it, and what to do.
pub fn choose(streams: &[Stream]) -> Result<(usize, Coding), String> {
    let coding = |stream: &Stream| match (stream.media(), stream.encoding_name()) {
        ("video" | "image", "jpeg") => Some(Coding::Jpeg),
        ("video", "h264") => Some(Coding::H264),
        _ => None,
    };
    let found = streams.iter().enumerate().find_map(|(at, stream)| Some((at, coding(stream)?)));
    found.ok_or_else(|| {
        let offered: Vec<_> = streams.iter().map(|stream| stream.encoding_name().to_owned()).collect();
        let offered = if offered.is_empty() { "nothing".into() } else { offered.join(", ") };
        format!("it sends {offered}, not H.264 or JPEG: set H.264 in the camera, or use source = \"ffmpeg:rtsp://...\"")
    })
}

impl CodedPictures {
    /// The pictures of `stream`.
    pub fn new(demuxed: Demuxed, stream: usize, coding: Coding, plan: &CameraPlan) -> Self {
        let (keyframes_only, limit) = (plan.keyframes_only, plan.prepare.source_size);
        Self { demuxed, stream, coding, keyframes_only, limit, before: Before::Nothing }
    }

    /// What they are coded in.
    pub fn coding(&self) -> Coding {
        self.coding
    }

    /// Waits for the next. May be dropped while it waits.
    ///
    /// # Errors
    /// When the camera sends no more.
    pub async fn next(&mut self) -> Result<Coded, SourceError> {
        loop {
            match self.demuxed.next().await {
                Some(Ok(CodecItem::VideoFrame(frame))) => return self.judge(frame),
                // Sender reports, and whatever else comes beside pictures.
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let text = error.to_string();
                    let line: String = text.lines().next().unwrap_or_default().chars().take(160).collect();
                    return Err(SourceError::Ended(spec::redacted(&line)));
                }
                None => return Err(SourceError::Ended("the camera ended the stream".into())),
            }
        }
    }

    fn judge(&mut self, frame: VideoFrame) -> Result<Coded, SourceError> {
        if frame.has_new_parameters() || self.before == Before::Nothing {
            self.check_size()?;
        }
        if self.coding == Coding::Jpeg {
            self.before = Before::All;
            return Ok(Coded::Whole(frame.into_data()));
        }
        let is_key = frame.is_random_access_point();
        self.before = after(self.before, frame.loss() > 0, is_key);
        Ok(match self.before {
            Before::Nothing => Coded::NotWanted,
            Before::Lost => Coded::Damaged,
            Before::All if self.keyframes_only && !is_key => Coded::NotWanted,
            Before::All => Coded::Whole(frame.into_data()),
        })
    }

    /// Refuses pictures for which no memory is planned, before they are decoded.
    fn check_size(&self) -> Result<(), SourceError> {
        let parameters = self.demuxed.streams().get(self.stream).and_then(Stream::parameters);
        let Some(ParametersRef::Video(video)) = parameters else { return Ok(()) };
        let (width, height) = video.coded_pixel_dimensions();
        let (size, limit) = (PictureSize::new(width, height), self.limit);
        // Coded in blocks of 16: 1080 rows are coded as 1088.
        if size.fits(PictureSize::new(limit.width_px.next_multiple_of(16), limit.height_px.next_multiple_of(16))) {
            return Ok(());
        }
        Err(SourceError::NotOpened(format!(
            "its pictures are {width}x{height}: set a smaller stream in the camera, or raise \
             limits.max_source_width_px and limits.max_source_height_px"
        )))
    }
}

/// A loss spoils what follows up to the next key frame, which needs no other.
fn after(before: Before, lost: bool, is_key: bool) -> Before {
    match (before, is_key) {
        // A loss before a key frame hit others; within one, the camera's
        // fragments do not fit and none comes out.
        (_, true) => Before::All,
        (Before::All, false) if lost => Before::Lost,
        (before, false) => before,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_decoded() {
        // Each picture: lost something, is a key frame; then what comes of it.
        let mut before = Before::Nothing;
        for (lost, is_key, expected) in [
            (false, false, Before::Nothing),
            (true, false, Before::Nothing),
            (false, true, Before::All),
            (false, false, Before::All),
            (true, false, Before::Lost),
            (false, false, Before::Lost),
            (true, true, Before::All),
            (false, false, Before::All),
        ] {
            before = after(before, lost, is_key);
            assert_eq!(before, expected);
        }
    }
}
