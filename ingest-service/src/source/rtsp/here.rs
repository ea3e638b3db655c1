//! Decodes H.264 in this process, by openh264. Its time is that of a thread for
//! blocking work, its pictures are pixels.

use bytes::{Bytes, BytesMut};
use flatframe_shared::frame::PictureSize;
use flatframe_shared::outcome::DropReason;
use openh264::decoder::{DecodedYUV, Decoder};
use openh264::formats::YUVSource;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::frame::{Picture, PixelLayout, RawPicture};
use crate::source::SourceError;
use crate::source::capture::Capture;
use crate::source::rtsp::pictures::{Coded, CodedPictures};

/// Decodes until the camera ends, or `stop`.
///
/// # Errors
/// How it ended.
pub async fn decode(
    mut pictures: CodedPictures,
    capture: &mut Capture,
    stop: &CancellationToken,
) -> Result<(), SourceError> {
    let ended = |error: &dyn std::fmt::Display| SourceError::Ended(format!("openh264: {error}"));
    let mut decoder = Decoder::new().map_err(|error| ended(&error))?;
    while let Some(next) = stop.run_until_cancelled(pictures.next()).await {
        match next? {
            Coded::Whole(coded) => {
                let decoding = spawn_blocking(move || {
                    let decoded = decoder.decode(&coded).map(|decoded| decoded.map(|yuv| pixels(&yuv)));
                    (decoder, decoded)
                });
                let (back, decoded) = decoding.await.map_err(|error| ended(&error))?;
                decoder = back;
                match decoded {
                    Ok(Some(Some(raw))) => capture.picture(Picture::Raw(raw)),
                    Ok(Some(None)) | Err(_) => capture.broken(DropReason::Corrupt),
                    // The decoder holds it until more has come.
                    Ok(None) => {}
                }
            }
            Coded::Damaged => capture.broken(DropReason::Corrupt),
            Coded::NotWanted => {}
        }
    }
    Ok(())
}

/// A copy of what the decoder shows, without the padding of its rows; `None`
/// for pictures with an odd side.
fn pixels(yuv: &DecodedYUV<'_>) -> Option<RawPicture> {
    let ((width, height), strides) = (yuv.dimensions(), yuv.strides());
    if width % 2 != 0 || height % 2 != 0 || width == 0 || height == 0 {
        return None;
    }
    let mut bytes = BytesMut::with_capacity(width * height * 3 / 2);
    let planes = [(yuv.y(), strides.0, width, height), (yuv.u(), strides.1, width / 2, height / 2)];
    for (plane, stride, row, rows) in planes.into_iter().chain([(yuv.v(), strides.2, width / 2, height / 2)]) {
        plane.chunks(stride).take(rows).for_each(|one| bytes.extend_from_slice(&one[..row]));
    }
    let size = PictureSize::new(u32::try_from(width).ok()?, u32::try_from(height).ok()?);
    Some(RawPicture { layout: PixelLayout::I420, size, stride: width, bytes: Bytes::from(bytes) })
}
