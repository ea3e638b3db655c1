//! The scaled decoder against the whole one, the writer against the reader,
//! and both against damage.

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use proptest::prelude::*;

use super::planes::{Planes, halved};
use super::read::{PlaneReader, frame_size};
use super::scaled::{Colours, Scale};
use super::write::PlaneWriter;
use super::*;

const LIMIT: PictureSize = PictureSize::new(640, 480);
const SCALES: [Scale; 4] = [Scale::Full, Scale::Half, Scale::Quarter, Scale::Eighth];
const SAMPLINGS: [SamplingFactor; 4] =
    [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_1_2, SamplingFactor::F_2_2];

/// Soft shapes with some grain: what a camera sees.
fn scene(size: PictureSize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let phase = random.f32() * 6.0;
    (0..size.height_px)
        .flat_map(|y| (0..size.width_px).map(move |x| (x as f32, y as f32)))
        .flat_map(|(x, y)| {
            let grain = random.f32() * 8.0;
            [(x / 17.0 + phase).sin(), (y / 23.0 - phase).cos(), ((x + y) / 31.0).sin()]
                .map(|wave| (128.0 + 80.0 * wave + grain) as u8)
        })
        .collect()
}

struct Kind {
    sampling: SamplingFactor,
    colours: ColorType,
    quality: u8,
    restart: u16,
    progressive: bool,
}

const USUAL: Kind =
    Kind { sampling: SamplingFactor::F_2_2, colours: ColorType::Rgb, quality: 85, restart: 0, progressive: false };

fn jpeg_of(size: PictureSize, seed: u64, kind: &Kind) -> Vec<u8> {
    let mut pixels = scene(size, seed);
    if kind.colours == ColorType::Luma {
        pixels = pixels.chunks_exact(3).map(|pixel| pixel[1]).collect();
    }
    let mut jpeg = Vec::new();
    let mut encoder = Encoder::new(&mut jpeg, kind.quality);
    encoder.set_sampling_factor(kind.sampling);
    encoder.set_progressive(kind.progressive);
    if kind.restart > 0 {
        encoder.set_restart_interval(kind.restart);
    }
    encoder.encode(&pixels, size.width_px as u16, size.height_px as u16, kind.colours).expect("encodes");
    jpeg
}

fn read(jpeg: &[u8], scale: Scale) -> Result<(Planes, Scale, u64), JpegError> {
    let (mut reader, mut planes) = (PlaneReader::default(), Planes::default());
    let came = reader.read(jpeg, LIMIT, scale, Colours::Kept, &mut planes)?;
    Ok((planes, came, reader.whole_frames()))
}

/// Mean difference of each channel from the means of what zune-jpeg decodes.
fn difference(jpeg: &[u8], planes: &Planes) -> [f64; 3] {
    let space = if planes.is_grey() { ColorSpace::Luma } else { ColorSpace::YCbCr };
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options(space));
    let whole = decoder.decode().expect("zune-jpeg decodes it");
    let size = header_size(&mut decoder).expect("a size");
    [0, 1, 2].map(|channel| {
        if channel >= space.num_components() {
            return 0.0;
        }
        let view = planes.channels[channel].view();
        let block = |small: u32, of: u32, at: u32| {
            let side = of.div_ceil(small).next_power_of_two();
            (at * side)..((at + 1) * side).min(of)
        };
        let mut sum = 0.0;
        for y in 0..view.size.height_px {
            for x in 0..view.size.width_px {
                let (rows, columns) =
                    (block(view.size.height_px, size.height_px, y), block(view.size.width_px, size.width_px, x));
                let under = rows.flat_map(|row| columns.clone().map(move |column| row * size.width_px + column));
                let (total, count) = under.fold((0u32, 0u32), |(total, count), at| {
                    (total + u32::from(whole[space.num_components() * at as usize + channel]), count + 1)
                });
                let found = view.row(y as usize)[x as usize];
                sum += (f64::from(total) / f64::from(count) - f64::from(found)).abs();
            }
        }
        sum / view.size.pixels().max(1) as f64
    })
}

#[test]
fn every_sampling_at_every_scale_is_the_picture_made_smaller() {
    for (sampling, seed) in SAMPLINGS.into_iter().zip(1..) {
        for (width, height) in [(160, 120), (97, 61), (8, 8), (1, 1), (33, 16)] {
            let size = PictureSize::new(width, height);
            let jpeg = jpeg_of(size, seed, &Kind { sampling, ..USUAL });
            assert_eq!(frame_size(&jpeg), Ok(size));
            for scale in SCALES {
                let (planes, came, whole) = read(&jpeg, scale).expect("decodes");
                assert_eq!((planes.size(), came, whole), (scale.of(size), scale, 0), "{sampling:?}");
                let differences = difference(&jpeg, &planes);
                // A few pixels at an edge weigh much in a tiny picture.
                let most = if size.pixels() < 1000 { 6.0 } else { 2.0 };
                assert!(differences.iter().all(|&by| by < most), "{sampling:?} {size} {scale:?}: {differences:?}");
            }
        }
    }
}

#[test]
fn grey_and_restart_intervals_and_high_quality() {
    let size = PictureSize::new(120, 88);
    for restart in [0, 1, 3, 100] {
        for quality in [30, 100] {
            for colours in [ColorType::Luma, ColorType::Rgb] {
                let jpeg = jpeg_of(size, 5, &Kind { restart, quality, colours, ..USUAL });
                for scale in SCALES {
                    let (planes, _, whole) = read(&jpeg, scale).expect("decodes");
                    assert_eq!((planes.is_grey(), whole), (colours == ColorType::Luma, 0));
                    let differences = difference(&jpeg, &planes);
                    assert!(differences.iter().all(|&by| by < 2.0), "{restart} {quality} {scale:?}: {differences:?}");
                }
            }
        }
    }
}

#[test]
fn tables_that_a_camera_leaves_out_are_those_of_the_standard() {
    let whole = jpeg_of(PictureSize::new(64, 48), 2, &USUAL);
    let mut bare = whole[..2].to_vec();
    let mut rest = &whole[2..];
    while rest[1] != 0xDA {
        let (segment, next) = rest.split_at(2 + usize::from(u16::from_be_bytes([rest[2], rest[3]])));
        if segment[1] != 0xC4 {
            bare.extend(segment);
        }
        rest = next;
    }
    bare.extend(rest);
    assert!(bare.len() < whole.len());
    let planes = |jpeg: &[u8]| read(jpeg, Scale::Half).expect("decodes").0;
    assert_eq!(planes(&bare), planes(&whole));
}

#[test]
fn what_is_not_baseline_is_decoded_whole() {
    let size = PictureSize::new(90, 50);
    let progressive = jpeg_of(size, 3, &Kind { progressive: true, ..USUAL });
    let cmyk = {
        let pixels = vec![90; size.pixels() as usize * 4];
        let mut jpeg = Vec::new();
        Encoder::new(&mut jpeg, 90).encode(&pixels, 90, 50, ColorType::Cmyk).expect("encodes");
        jpeg
    };
    let (planes, came, whole) = read(&progressive, Scale::Quarter).expect("decodes");
    assert_eq!((planes.size(), planes.channels[1].size(), came, whole), (size, halved(size), Scale::Full, 1));
    let differences = difference(&progressive, &planes);
    assert!(differences.iter().all(|&by| by < 3.0), "{differences:?}");
    let (planes, _, whole) = read(&cmyk, Scale::Quarter).expect("decodes");
    assert_eq!((planes.size(), whole), (size, 1));
    for cut in [progressive.len() / 3, progressive.len() - 1] {
        assert!(matches!(read(&progressive[..cut], Scale::Half), Err(JpegError::Corrupt(_))));
    }
}

#[test]
fn memory_is_taken_for_checked_sizes_only() {
    let mut bomb = jpeg_of(PictureSize::new(32, 32), 1, &USUAL);
    let header = bomb.windows(2).position(|w| w == [0xFF, 0xC0]).expect("SOF0");
    bomb[header + 5..header + 9].copy_from_slice(&[0xFF; 4]);
    let (mut reader, mut planes) = (PlaneReader::default(), Planes::default());
    let size = PictureSize::new(65535, 65535);
    let result = reader.read(&bomb, LIMIT, Scale::Full, Colours::Kept, &mut planes);
    assert_eq!(result, Err(JpegError::TooLarge { size, limit: LIMIT }));
    assert_eq!(planes.held_bytes(), 0);
}

#[test]
fn every_cut_is_an_error_when_scaled_too() {
    for restart in [0, 2] {
        let whole = jpeg_of(PictureSize::new(48, 32), 4, &Kind { restart, ..USUAL });
        for cut in 0..whole.len() {
            let result = read(&whole[..cut], Scale::Quarter);
            assert!(matches!(result, Err(JpegError::Corrupt(_))), "cut at {cut}: {result:?}");
        }
        let coded = whole.windows(2).position(|w| w == [0xFF, 0xDA]).expect("SOS") + 14;
        // Closed again, it still has too few rows.
        for cut in coded..whole.len() - 3 {
            let result = read(&[&whole[..cut], &[0xFF, 0xD9]].concat(), Scale::Eighth);
            assert!(matches!(result, Err(JpegError::Corrupt(_))), "closed at {cut}: {result:?}");
        }
    }
}

#[test]
fn a_lost_restart_interval_is_an_error() {
    let whole = jpeg_of(PictureSize::new(64, 64), 4, &Kind { restart: 2, ..USUAL });
    let markers: Vec<usize> =
        (0..whole.len() - 1).filter(|&at| whole[at] == 0xFF && whole[at + 1] & 0xF8 == 0xD0).collect();
    assert!(markers.len() > 3);
    let lost = [&whole[..markers[1]], &whole[markers[2]..]].concat();
    assert!(matches!(read(&lost, Scale::Full), Err(JpegError::Corrupt(_))));
}

#[test]
fn what_is_written_comes_back() {
    let mut writer = PlaneWriter::default();
    for (width, height) in [(160, 120), (97, 61), (8, 8), (1, 1), (17, 33)] {
        let size = PictureSize::new(width, height);
        for quality in [100, 90, 10] {
            for is_grey in [false, true] {
                let kind =
                    Kind { quality: 95, colours: if is_grey { ColorType::Luma } else { ColorType::Rgb }, ..USUAL };
                let (planes, ..) = read(&jpeg_of(size, 9, &kind), Scale::Full).expect("decodes");
                let [luma, blue, red] = planes.channels.each_ref().map(|plane| plane.view());
                let mut jpeg = Vec::new();
                writer.write(luma, (!is_grey).then_some([blue, red]), quality, &mut jpeg).expect("writes");
                assert_eq!(read_size(&jpeg), Ok(size));
                assert!((jpeg.len() as u64) < write::most_bytes(size));
                let (back, _, whole) = read(&jpeg, Scale::Full).expect("decodes");
                assert_eq!((back.is_grey(), whole), (is_grey, 0));
                let by = planes.channels.iter().zip(&back.channels).map(|(a, b)| {
                    let pairs = a.view().rows().flatten().zip(b.view().rows().flatten());
                    pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.size().pixels().max(1) as f64
                });
                let most = match quality {
                    100 => 1.0,
                    90 => 3.0,
                    _ => 16.0,
                };
                assert!(by.clone().all(|by| by < most), "{size} {quality}: {:?}", by.collect::<Vec<_>>());
                // And as another decoder sees it.
                let mut rgb = Vec::new();
                assert_eq!(decode_rgb(&jpeg, LIMIT, &mut rgb), Ok(size));
            }
        }
    }
    let nothing = planes::PlaneView { pixels: &[], stride: 0, size: PictureSize::new(0, 4) };
    assert!(matches!(writer.write(nothing, None, 50, &mut Vec::new()), Err(JpegError::Unwritable(_))));
}

#[test]
fn scales_by_table() {
    for (from, to, scale) in [
        ((1280, 720), (320, 180), Scale::Quarter),
        ((640, 480), (320, 240), Scale::Half),
        ((1920, 1080), (320, 180), Scale::Quarter),
        ((1920, 1080), (240, 135), Scale::Eighth),
        ((640, 480), (640, 480), Scale::Full),
        ((641, 480), (321, 240), Scale::Half),
        ((641, 480), (322, 240), Scale::Full),
    ] {
        let (from, to) = (PictureSize::new(from.0, from.1), PictureSize::new(to.0, to.1));
        assert_eq!(Scale::towards(from, to), scale, "{from} to {to}");
    }
}

proptest! {
    #[test]
    fn damage_never_panics(
        mut data in prop::collection::vec(any::<u8>(), 0..600),
        flips in prop::collection::vec(any::<(u16, u8)>(), 1..4),
        sampling in 0..4usize, restart in 0..4u16, scale in 0..4usize, quality in 1..=100u8,
    ) {
        let mut damaged =
            jpeg_of(PictureSize::new(40, 24), 7, &Kind { sampling: SAMPLINGS[sampling], restart, quality, ..USUAL });
        for (at, byte) in flips {
            let at = usize::from(at) % damaged.len();
            damaged[at] = byte;
        }
        let _ = frame_size(&damaged);
        let _ = read(&damaged, SCALES[scale]);
        // Behind good headers, any pixels.
        if let Some(coded) = damaged.windows(2).position(|w| w == [0xFF, 0xDA]) {
            damaged.truncate(coded + 14);
            data.splice(0..0, damaged);
            data.extend([0xFF, 0xD9]);
            let _ = read(&data, SCALES[scale]);
        }
    }
}
