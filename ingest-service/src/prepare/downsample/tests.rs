//! Sizes, bytes, what may be seen, and what is refused.

use flatframe_shared::jpeg;

use super::*;
use crate::frame::{PixelLayout, RawPicture};

const LIMIT: PictureSize = PictureSize::new(800, 600);
const WANTED: Wanted = Wanted { max_size: PictureSize::new(160, 120), max_bytes: 64 * 1024, quality: 80 };

fn picture(size: PictureSize, noise: bool) -> Bytes {
    let mut random = fastrand::Rng::with_seed(1);
    let rgb: Vec<u8> = (0..size.pixels() * 3)
        .map(|i| if noise { random.u8(..) } else { (i / 3 % u64::from(size.width_px)) as u8 })
        .collect();
    let mut jpeg = Vec::new();
    jpeg::encode_rgb(&rgb, size, 90, &mut jpeg).expect("encode");
    jpeg.into()
}

#[test]
fn a_picture_that_fits_is_untouched() {
    let jpeg = picture(PictureSize::new(160, 120), false);
    let before = jpeg.as_ptr();
    let fitted = Downsampler::new(LIMIT).fit(jpeg.clone(), &WANTED).expect("fits");
    assert_eq!((fitted.jpeg.as_ptr(), fitted.jpeg), (before, jpeg));
}

#[test]
fn a_large_picture_is_brought_to_size() {
    let mut downsampler = Downsampler::new(LIMIT);
    for (from, to) in [((640, 480), (160, 120)), ((640, 360), (160, 90)), ((100, 400), (30, 120))] {
        let jpeg = picture(PictureSize::new(from.0, from.1), false);
        let fitted = downsampler.fit(jpeg, &WANTED).expect("decodes");
        assert_eq!(fitted.size, PictureSize::new(to.0, to.1));
        assert_eq!(jpeg::read_size(&fitted.jpeg), Ok(fitted.size), "the JPEG has the size it is said to have");
    }
}

#[test]
fn the_byte_limit_is_kept_by_quality_then_size() {
    let mut downsampler = Downsampler::new(LIMIT);
    let noise = picture(PictureSize::new(160, 120), true);
    let mut sizes = Vec::new();
    for max_bytes in [12_000, 6_000, 3_000] {
        let fitted = downsampler.fit(noise.clone(), &Wanted { max_bytes, ..WANTED }).expect("fits");
        assert!(fitted.jpeg.len() <= max_bytes);
        sizes.push(fitted.size.pixels());
    }
    assert_eq!(sizes[0], 160 * 120, "quality first");
    assert!(sizes[2] < sizes[0], "then size: {sizes:?}");
    assert_eq!(downsampler.fit(noise, &Wanted { max_bytes: 100, ..WANTED }), Err(DropReason::TooLarge));
}

#[test]
fn broken_and_huge_pictures_are_refused_and_the_next_is_served() {
    let mut downsampler = Downsampler::new(LIMIT);
    let good = picture(PictureSize::new(640, 480), false);
    let cut = good.slice(..good.len() / 2);
    let mut bomb = picture(PictureSize::new(32, 32), false).to_vec();
    let header = bomb.windows(2).position(|w| w == [0xFF, 0xC0]).expect("SOF0");
    bomb[header + 5..header + 9].copy_from_slice(&[0xFF; 4]);
    for (bad, why) in [
        (Bytes::new(), DropReason::Corrupt),
        (Bytes::from_static(b"not a picture"), DropReason::Corrupt),
        (cut, DropReason::Corrupt),
        (bomb.into(), DropReason::TooLarge),
        (picture(PictureSize::new(801, 10), false), DropReason::TooLarge),
    ] {
        assert_eq!(downsampler.fit(bad, &WANTED), Err(why));
        assert!(downsampler.fit(good.clone(), &WANTED).is_ok());
    }
}

#[test]
fn scratch_is_kept() {
    let mut downsampler = Downsampler::new(LIMIT);
    let jpeg = picture(PictureSize::new(640, 480), false);
    downsampler.fit(jpeg.clone(), &WANTED).expect("fits");
    let held = |d: &Downsampler| {
        [d.planes.channels[0].view().pixels.as_ptr(), d.sized[0].view().pixels.as_ptr(), d.encoded.as_ptr()]
    };
    let before = held(&downsampler);
    for _ in 0..5 {
        downsampler.fit(jpeg.clone(), &WANTED).expect("fits");
    }
    assert_eq!(held(&downsampler), before);
}

#[test]
fn raw_pictures_become_jpegs() {
    let size = PictureSize::new(640, 480);
    let bytes = Bytes::from(vec![128; 640 * 480 * 3 / 2]);
    let raw = RawPicture { layout: PixelLayout::Nv12, size, stride: 640, bytes };
    let mut downsampler = Downsampler::new(LIMIT);
    for max_size in [PictureSize::new(160, 120), PictureSize::new(500, 500), size] {
        let wanted = Wanted { max_size, ..WANTED };
        let fitted = downsampler.fit_picture(Picture::Raw(raw.clone()), &wanted, 0, None).expect("fits");
        let mut rgb = Vec::new();
        assert_eq!(fitted.size, size.fitted(max_size));
        assert_eq!(jpeg::decode_rgb(&fitted.jpeg, LIMIT, &mut rgb), Ok(fitted.size));
        // (128 - 16) x 255 / 219.
        assert!(rgb.iter().all(|&value| value.abs_diff(130) <= 2), "{:?}", &rgb[..3]);
    }
    let cut = RawPicture { bytes: raw.bytes.slice(1..), ..raw };
    let result = downsampler.fit_picture(Picture::Raw(cut), &WANTED, 0, None);
    assert_eq!(result, Err(DropReason::Corrupt));
}

/// A white picture with a black square in its middle, cut to the square.
#[test]
fn a_region_is_cut_before_anything_else() {
    let size = PictureSize::new(640, 480);
    let inside = |x: u32, y: u32| (160..480).contains(&x) && (120..360).contains(&y);
    let rgb: Vec<u8> =
        (0..480).flat_map(|y| (0..640).flat_map(move |x| [if inside(x, y) { 0 } else { 255 }; 3])).collect();
    let mut encoded = Vec::new();
    jpeg::encode_rgb(&rgb, size, 90, &mut encoded).expect("encode");
    let view = View::new([0.25, 0.25, 0.5, 0.5], Vec::new());
    for max in [640, 320, 160, 100] {
        let wanted = Wanted { max_size: PictureSize::new(max, max), ..WANTED };
        let mut downsampler = Downsampler::with_view(LIMIT, view.clone());
        let fitted = downsampler.fit(encoded.clone().into(), &wanted).expect("fits");
        assert_eq!(fitted.size, PictureSize::new(320, 240).fitted(wanted.max_size));
        let mut rgb = Vec::new();
        jpeg::decode_rgb(&fitted.jpeg, LIMIT, &mut rgb).expect("decodes");
        let dark = rgb.iter().filter(|&&value| value < 40).count();
        assert!(dark as f32 > 0.97 * rgb.len() as f32, "{max}: {dark} of {}", rgb.len());
    }
}

/// Of a picture that is white only under its mask, no light may be sent.
#[test]
fn nothing_shows_through_a_mask() {
    let size = PictureSize::new(640, 480);
    let under = |x: u32, y: u32| (201..330).contains(&x) && (99..203).contains(&y);
    let rgb: Vec<u8> =
        (0..480).flat_map(|y| (0..640).flat_map(move |x| [if under(x, y) { 255 } else { 16 }; 3])).collect();
    let mut encoded = Vec::new();
    jpeg::encode_rgb(&rgb, size, 100, &mut encoded).expect("encode");
    let mask = [201.0 / 640.0, 99.0 / 480.0, 129.0 / 640.0, 104.0 / 480.0];
    for region in [crate::prepare::view::WHOLE, [0.2, 0.1, 0.5, 0.7]] {
        for max in [640, 500, 320, 160, 100, 60] {
            let wanted = Wanted { max_size: PictureSize::new(max, max), ..WANTED };
            let mut downsampler = Downsampler::with_view(LIMIT, View::new(region, vec![mask]));
            let fitted = downsampler.fit(encoded.clone().into(), &wanted).expect("fits");
            let mut rgb = Vec::new();
            jpeg::decode_rgb(&fitted.jpeg, LIMIT, &mut rgb).expect("decodes");
            let brightest = rgb.iter().max();
            assert!(brightest < Some(&48), "{region:?} {max}: {brightest:?}");
        }
    }
}

#[test]
fn the_watcher_sees_every_picture_and_may_refuse_it() {
    let mut downsampler = Downsampler::new(LIMIT);
    for side in [160, 640] {
        let jpeg = picture(PictureSize::new(side, side * 3 / 4), false);
        for wants in [true, false] {
            let mut seen = None;
            let mut watcher = |luma: PlaneView<'_>| {
                seen = Some(luma.size);
                wants
            };
            let fitted = downsampler.fit_picture(Picture::Jpeg(jpeg.clone()), &WANTED, 0, Some(&mut watcher));
            assert_eq!(fitted.map(|fitted| fitted.size).ok(), wants.then_some(WANTED.max_size));
            assert_eq!(seen, Some(if side == 160 { PictureSize::new(20, 15) } else { WANTED.max_size }));
        }
    }
}

#[test]
fn a_later_step_is_smaller_from_the_start() {
    let mut downsampler = Downsampler::new(LIMIT);
    let jpeg = picture(PictureSize::new(640, 480), true);
    let mut fit = |step| {
        let fitted = downsampler.fit_picture(Picture::Jpeg(jpeg.clone()), &WANTED, step, None).expect("fits");
        (fitted.step, fitted.jpeg.len())
    };
    let bytes: Vec<usize> = (0..STEPS.len())
        .map(|step| {
            let (took, bytes) = fit(step);
            assert_eq!(took, step);
            bytes
        })
        .collect();
    assert!(bytes.windows(2).all(|pair| pair[1] < pair[0]), "{bytes:?}");
    assert_eq!(fit(99).0, STEPS.len() - 1);
}
