//! JPEG in and out: dimensions are checked before memory is taken, a cut-off
//! picture is an error and never a half-grey picture, and buffers are the
//! caller's, kept to reuse their allocation.
//!
//! Pure Rust (zune-jpeg, jpeg-encoder), so that the default build needs no
//! cmake and no nasm, and hostile input meets no C. What libjpeg-turbo would
//! gain is in docs/design/001-jpeg-codec.md.

mod bits;
mod fdct;
mod headers;
mod huffman;
mod idct;
pub mod planes;
pub mod read;
pub mod scaled;
mod standard;
pub mod write;

use jpeg_encoder::{ColorType, SamplingFactor};
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::frame::PictureSize;

/// Most scans of a progressive JPEG; each costs a pass over the picture, so a
/// small hostile file could otherwise cost seconds.
const MAX_SCANS: usize = 32;

/// Why a JPEG could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JpegError {
    /// Not a JPEG, or damaged.
    #[error("not a whole JPEG: {0}")]
    Corrupt(String),
    /// Larger than the limit.
    #[error("picture of {size} is larger than the limit of {limit}")]
    TooLarge {
        /// Size that the header names.
        size: PictureSize,
        /// Largest size allowed.
        limit: PictureSize,
    },
    /// The encoder cannot write a picture of this size.
    #[error("picture of {0} cannot be written as JPEG: sides must be 1 to 65535 pixels")]
    Unwritable(PictureSize),
}

/// Size of the picture that the header names. Reads headers only.
pub fn read_size(jpeg: &[u8]) -> Result<PictureSize, JpegError> {
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options(ColorSpace::RGB));
    header_size(&mut decoder)
}

/// Decodes to interleaved RGB, 8 bits a channel, row by row from the top.
///
/// `rgb` is resized to `3 * width * height`; its allocation is reused and never
/// grows beyond `3 * limit` pixels. Fails with [`JpegError::TooLarge`] before
/// any picture memory is taken when the header names more than `limit`.
pub fn decode_rgb(jpeg: &[u8], limit: PictureSize, rgb: &mut Vec<u8>) -> Result<PictureSize, JpegError> {
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options(ColorSpace::RGB));
    let size = header_size(&mut decoder)?;
    if !size.fits(limit) {
        return Err(JpegError::TooLarge { size, limit });
    }
    // The decoder fills up what the data does not give with grey; a picture
    // that ends before its end marker is not one.
    if !ends_with_eoi(jpeg) {
        return Err(JpegError::Corrupt("the end marker (FF D9) is missing".into()));
    }
    rgb.resize(3 * size.width_px as usize * size.height_px as usize, 0);
    decoder.decode_into(rgb).map_err(corrupt)?;
    Ok(size)
}

/// Encodes interleaved RGB (`3 * width * height` bytes) at `quality` (1 to 100)
/// with halved colour resolution. `jpeg` is cleared first; its allocation is
/// reused.
pub fn encode_rgb(rgb: &[u8], size: PictureSize, quality: u8, jpeg: &mut Vec<u8>) -> Result<(), JpegError> {
    let (Ok(width), Ok(height)) = (u16::try_from(size.width_px), u16::try_from(size.height_px)) else {
        return Err(JpegError::Unwritable(size));
    };
    jpeg.clear();
    let mut encoder = jpeg_encoder::Encoder::new(jpeg, quality.clamp(1, 100));
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.encode(rgb, width, height, ColorType::Rgb).map_err(|_| JpegError::Unwritable(size))
}

fn options(out: ColorSpace) -> DecoderOptions {
    DecoderOptions::default()
        .set_strict_mode(true)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(out)
        // Limits are ours, with a message that names both sizes.
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
}

fn header_size(decoder: &mut JpegDecoder<ZCursor<&[u8]>>) -> Result<PictureSize, JpegError> {
    decoder.decode_headers().map_err(corrupt)?;
    let info = decoder.info().ok_or_else(|| JpegError::Corrupt("no picture header".into()))?;
    Ok(PictureSize::new(u32::from(info.width), u32::from(info.height)))
}

/// Whether the data ends with the end marker, padding of zeros and line breaks
/// aside (cameras pad to a multiple of their DMA block).
fn ends_with_eoi(jpeg: &[u8]) -> bool {
    let end = jpeg.iter().rposition(|byte| !matches!(byte, 0 | b'\r' | b'\n')).map_or(0, |last| last + 1);
    jpeg[..end].ends_with(&[0xFF, 0xD9])
}

fn corrupt(error: DecodeErrors) -> JpegError {
    let mut text = format!("{error:?}");
    // The decoder may quote its input; keep the message short.
    if text.len() > 160 {
        let cut = (0..=160).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(cut);
    }
    JpegError::Corrupt(text)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod rgb_tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: PictureSize = PictureSize::new(1920, 1080);

    fn picture(size: PictureSize) -> Vec<u8> {
        (0..size.height_px)
            .flat_map(|y| (0..size.width_px).flat_map(move |x| [(x * 3) as u8, (y * 5) as u8, (x ^ y) as u8]))
            .collect()
    }

    fn jpeg(size: PictureSize) -> Vec<u8> {
        let mut out = Vec::new();
        encode_rgb(&picture(size), size, 90, &mut out).expect("encode");
        out
    }

    #[test]
    fn comes_back_nearly_the_same() {
        let size = PictureSize::new(97, 61);
        let smooth: Vec<u8> =
            (0..61u32).flat_map(|y| (0..97u32).flat_map(move |x| [(x * 2) as u8, (y * 4) as u8, 128])).collect();
        let (mut encoded, mut rgb) = (Vec::new(), Vec::new());
        encode_rgb(&smooth, size, 95, &mut encoded).expect("encode");
        assert_eq!(read_size(&encoded), Ok(size));
        assert_eq!(decode_rgb(&encoded, LIMIT, &mut rgb), Ok(size));
        let worst = smooth.iter().zip(&rgb).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst < Some(16), "{worst:?}");
    }

    #[test]
    fn dimensions_are_refused_before_memory_is_taken() {
        let mut bomb = jpeg(PictureSize::new(32, 32));
        let frame = bomb.windows(2).position(|w| w == [0xFF, 0xC0]).expect("SOF0");
        bomb[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF]);
        let mut rgb = Vec::new();
        let size = PictureSize::new(65535, 65535);
        assert_eq!(decode_rgb(&bomb, LIMIT, &mut rgb), Err(JpegError::TooLarge { size, limit: LIMIT }));
        assert_eq!(rgb.capacity(), 0);
    }

    #[test]
    fn every_cut_is_an_error() {
        let whole = jpeg(PictureSize::new(48, 32));
        let mut rgb = Vec::new();
        for cut in 0..whole.len() {
            let result = decode_rgb(&whole[..cut], LIMIT, &mut rgb);
            assert!(matches!(result, Err(JpegError::Corrupt(_))), "cut at {cut}: {result:?}");
        }
        // A cut that someone closed again with an end marker has too few rows.
        let mut closed = whole[..whole.len() / 2].to_vec();
        closed.extend([0xFF, 0xD9]);
        let result = decode_rgb(&closed, LIMIT, &mut rgb);
        assert!(matches!(result, Err(JpegError::Corrupt(_))), "{result:?}");
    }

    #[test]
    fn padding_after_the_end_is_fine() {
        let mut padded = jpeg(PictureSize::new(48, 32));
        padded.extend([0; 511]);
        assert!(decode_rgb(&padded, LIMIT, &mut Vec::new()).is_ok());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut data in prop::collection::vec(any::<u8>(), 0..600), flip in any::<(u16, u8)>()) {
            let mut rgb = Vec::new();
            let _ = decode_rgb(&data, LIMIT, &mut rgb);
            let mut damaged = jpeg(PictureSize::new(40, 24));
            let at = usize::from(flip.0) % damaged.len();
            damaged[at] = flip.1;
            let _ = decode_rgb(&damaged, LIMIT, &mut rgb);
            data.splice(0..0, [0xFF, 0xD8]);
            data.extend([0xFF, 0xD9]);
            let _ = decode_rgb(&data, LIMIT, &mut rgb);
        }
    }
}
