//! The walk against every split point, damage, lies and garbage.

use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg;
use proptest::prelude::*;

use super::*;

const CAP: usize = 64 * 1024;

/// A real JPEG whose content depends on `seed`.
fn real(seed: u8) -> Vec<u8> {
    let size = PictureSize::new(40, 24);
    let rgb: Vec<u8> = (0..size.pixels() * 3).map(|i| (i as u8).wrapping_mul(seed | 1) ^ (i >> 5) as u8).collect();
    let mut out = Vec::new();
    jpeg::encode_rgb(&rgb, size, 90, &mut out).expect("encode");
    out
}

fn segment(code: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 2).expect("short payload").to_be_bytes();
    [&[0xFF, code][..], &length, payload].concat()
}

/// A picture made to confuse: a thumbnail, a line break, a boundary and an end
/// marker inside segments; fill bytes, stuffed FFs, restarts, line breaks and
/// a second scan with tables in the coded data.
fn tricky() -> Vec<u8> {
    let thumbnail = real(3);
    [
        &[0xFF, SOI][..],
        &segment(0xE1, &[b"Exif\0\0", thumbnail.as_slice()].concat()),
        &segment(0xFE, b"\r\n--boundary\r\nContent-Length: 3\r\n\r\n\xFF\xD9\xFF\xD8\xFF"),
        &segment(0xFE, b""),
        &[0xFF, 0xFF, 0xFF],
        &segment(0xDB, &[1; 65])[1..],
        &segment(SOS, &[1, 1, 0, 0, 63, 0]),
        b"coded\r\n--boundary\r\n\r\n\xFF\x00\x00\xFF\xD0more\xFF\x00\xD8\xFF\xD7\r\n",
        b"\xFF",
        &segment(0xC4, &[2; 30]),
        &segment(SOS, &[1, 1, 0, 0, 63, 0]),
        b"second\xFF\xFF\xFF\x00scan",
        &[0xFF, 0xFF, EOI],
    ]
    .concat()
}

fn frame_all<'a>(framer: &mut JpegFramer, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Framed> {
    let mut all = Vec::new();
    for mut chunk in chunks {
        while let Some(framed) = framer.next(&mut chunk) {
            all.push(framed);
        }
        assert!(framer.held_bytes() <= framer.cap_bytes, "the buffer outgrew its cap");
    }
    all
}

fn pictures(framed: &[Framed]) -> Vec<&[u8]> {
    framed
        .iter()
        .filter_map(|framed| match framed {
            Framed::Picture(jpeg) => Some(&jpeg[..]),
            Framed::Broken(_) => None,
        })
        .collect()
}

fn picture(jpeg: &[u8]) -> Framed {
    Framed::Picture(Bytes::copy_from_slice(jpeg))
}

const CORRUPT: Framed = Framed::Broken(DropReason::Corrupt);
const TOO_LARGE: Framed = Framed::Broken(DropReason::TooLarge);

#[test]
fn every_split_point() {
    let (a, b, c) = (real(5), tricky(), real(9));
    let stream = [b"preamble\r\n--boundary\r\n\r\n", &a[..], b"\r\n--boundary\r\n\r\n", &b, &[0; 64], &c].concat();
    let expected = [picture(&a), picture(&b), picture(&c)];
    for split in 0..=stream.len() {
        let (front, back) = stream.split_at(split);
        let framed = frame_all(&mut JpegFramer::new(CAP), [front, back]);
        assert_eq!(framed, expected, "split at {split}");
    }
    let bytewise = frame_all(&mut JpegFramer::new(CAP), stream.chunks(1));
    assert_eq!(bytewise, expected);
}

#[test]
fn garbage_then_a_good_picture() {
    let mut random = fastrand::Rng::with_seed(7);
    let good = real(1);
    let mut framer = JpegFramer::new(2 << 20);
    for kind in 0..4 {
        let mut chunk = vec![0; 64 * 1024];
        for _ in 0..11 * 16 {
            match kind {
                0 => random.fill(&mut chunk),
                1 => chunk.fill(0),
                2 => chunk.fill(0xFF),
                // An endless picture: it has a beginning, but no end.
                _ => {
                    chunk.fill(0x55);
                    chunk[..12].copy_from_slice(&[0xFF, 0xD8, 0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0]);
                }
            }
            frame_all(&mut framer, [&chunk[..]]);
        }
        let framed = frame_all(&mut framer, [&good[..], &good]);
        assert_eq!(pictures(&framed).last(), Some(&&good[..]), "kind {kind}: {framed:?}");
    }
}

#[test]
fn too_large_is_dropped_whole_and_counted_once() {
    let good = real(1);
    let cap = good.len();
    let large = [&good[..good.len() - 2], &vec![0x55; 3 * cap], &[0xFF, EOI]].concat();
    // A picture of exactly the cap passes; one byte more does not.
    let just_above = [&good[..good.len() - 2], &[0x55, 0xFF, EOI]].concat();
    let stream = [&good[..], &large, &good, &just_above, &good].concat();
    let expected = [picture(&good), TOO_LARGE, picture(&good), TOO_LARGE, picture(&good)];
    for step in [1, 7, 100, stream.len()] {
        let mut framer = JpegFramer::new(cap);
        assert_eq!(frame_all(&mut framer, stream.chunks(step)), expected, "chunks of {step}");
        assert_eq!(framer.held_bytes(), 0);
    }
}

#[test]
fn every_cut_is_corrupt_and_the_next_is_whole() {
    let (cut_off, good) = (tricky(), real(2));
    for cut in 3..cut_off.len() {
        let stream = [&cut_off[..cut], b"\r\n--boundary\r\n\r\n", &good, &good].concat();
        let mut framer = JpegFramer::new(CAP);
        let framed = frame_all(&mut framer, [&stream[..]]);
        // A cut inside a segment swallows what follows, up to the length that
        // the segment names; what is left of a good picture can complete it.
        for framed in framed {
            match framed {
                Framed::Picture(jpeg) => assert!(jpeg.ends_with(&good[good.len() / 2..]), "cut at {cut}"),
                broken => assert_eq!(broken, CORRUPT, "cut at {cut}"),
            }
        }
        // The walk must then be in step again.
        let swallowed = vec![0; usize::from(u16::MAX)];
        let framed = frame_all(&mut framer, [&swallowed[..], &good]);
        assert_eq!(framed.last(), Some(&picture(&good)), "cut at {cut}");
    }
    // Cut inside the coded data, where most of a picture is: nothing else suffers.
    let coded = cut_off.windows(5).position(|text| text == b"coded").expect("it is there");
    for cut in coded..coded + 40 {
        let stream = [&cut_off[..cut], b"\r\n--boundary\r\n\r\n", &good, &good].concat();
        let framed = frame_all(&mut JpegFramer::new(CAP), [&stream[..]]);
        assert_eq!(framed, [CORRUPT, picture(&good), picture(&good)], "cut at {cut}");
    }
}

#[test]
fn not_pictures() {
    for (name, stream) in [
        ("tables only", [&[0xFF, SOI][..], &segment(0xDB, &[1; 65]), &[0xFF, EOI]].concat()),
        ("no content", vec![0xFF, SOI, 0xFF, EOI]),
        ("length below 2", vec![0xFF, SOI, 0xFF, 0xE0, 0, 1]),
        ("restart before the scan", vec![0xFF, SOI, 0xFF, 0xD3]),
        ("no marker after a segment", vec![0xFF, SOI, 0xFF, 0xFE, 0, 2, 0x11]),
    ] {
        let framed = frame_all(&mut JpegFramer::new(CAP), [&stream[..], &real(4)]);
        assert_eq!(framed, [CORRUPT, picture(&real(4))], "{name}");
    }
}

#[test]
fn an_end_of_stream_inside_a_picture_is_corrupt() {
    let good = real(6);
    let mut framer = JpegFramer::new(CAP);
    frame_all(&mut framer, [&good[..good.len() - 1]]);
    assert_eq!(framer.finish(), Some(CORRUPT));
    assert_eq!(framer.finish(), None);
    assert_eq!(frame_all(&mut framer, [&good[..]]), [picture(&good)]);
    assert_eq!(framer.finish(), None);
}

proptest! {
    /// However a stream is cut into chunks, the same comes out.
    #[test]
    fn chunking_does_not_matter(
        parts in prop::collection::vec((0u8..4, any::<u8>(), 0usize..300), 1..8),
        sizes in prop::collection::vec(1usize..900, 1..20),
    ) {
        let mut stream = Vec::new();
        for (kind, seed, length) in parts {
            match kind {
                0 => stream.extend(real(seed)),
                1 => stream.extend(tricky()),
                2 => stream.extend((0..length).map(|i| seed.wrapping_mul(i as u8))),
                _ => { let whole = tricky(); stream.extend(&whole[..length.min(whole.len())]) }
            }
        }
        let at_once = frame_all(&mut JpegFramer::new(CAP), [&stream[..]]);
        let mut chunks = Vec::new();
        let mut rest = &stream[..];
        for size in sizes.iter().cycle() {
            if rest.is_empty() { break; }
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        prop_assert_eq!(frame_all(&mut JpegFramer::new(CAP), chunks), at_once);
    }

    /// Damage never panics, never outgrows the cap, never joins two pictures,
    /// and a good picture 64 KiB later is always found.
    #[test]
    fn damage_is_survived(
        flips in prop::collection::vec((any::<u16>(), any::<u8>()), 1..6),
        cap in 1000usize..20_000,
        step in 1usize..5000,
    ) {
        let mut stream = [real(1), tricky(), real(2), tricky(), real(3)].concat();
        for (at, value) in flips {
            let at = usize::from(at) % stream.len();
            stream[at] = value;
        }
        stream.extend(vec![0; usize::from(u16::MAX)]);
        let good = real(8);
        stream.extend(&good);
        let mut framer = JpegFramer::new(cap.max(good.len()));
        let framed = frame_all(&mut framer, stream.chunks(step));
        let pictures = pictures(&framed);
        prop_assert_eq!(pictures.last().copied(), Some(&good[..]));
        for picture in pictures {
            prop_assert!(picture.starts_with(&[0xFF, SOI, 0xFF]) && picture.ends_with(&[0xFF, EOI]));
        }
        prop_assert_eq!(framer.finish(), None);
    }
}
