//! What of a camera's picture may leave the device: one part of it, without the
//! masked parts. In shares of the picture as the camera gives it, before any
//! rotation. Decodes nothing.

use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg::planes::{Planes, Rect};
use flatframe_shared::jpeg::scaled::Scale;

/// Most masks of one camera.
pub const MAX_MASKS: usize = 16;
/// Least side of a part, as a share.
pub const MIN_SHARE: f32 = 0.01;

/// A part of a picture: x, y, width, height as shares of its sides, 0 to 1.
pub type Share = [f32; 4];

/// All of a picture.
pub const WHOLE: Share = [0.0, 0.0, 1.0, 1.0];

/// What may be seen of a camera's pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    region: Share,
    masks: Vec<Share>,
}

impl Default for View {
    fn default() -> Self {
        Self { region: WHOLE, masks: Vec::new() }
    }
}

/// Whether a part lies inside of a picture and is not too small.
pub fn is_inside([x, y, width, height]: Share) -> bool {
    // What adds up to 1 on paper may add up to a little more.
    let fits = |from: f32, length: f32| from >= 0.0 && length >= MIN_SHARE && from + length <= 1.0001;
    fits(x, width) && fits(y, height)
}

impl View {
    /// Shows `region` without `masks`. All lie inside (see [`is_inside`]).
    pub fn new(region: Share, masks: Vec<Share>) -> Self {
        Self { region, masks }
    }

    /// Whether pictures may leave as they are.
    pub fn is_all(&self) -> bool {
        self.region == WHOLE && self.masks.is_empty()
    }

    /// Size of the region in a picture of `size`.
    pub fn size_in(&self, size: PictureSize) -> PictureSize {
        self.region_in(size, 1).size
    }

    /// Blackens what is masked. `scale` says how the picture was decoded: a
    /// pixel of a small picture has something of all pixels of its block, so
    /// whole blocks are blackened, of 8 pixels in luma and 16 in colours, and
    /// one or two pixels of the small picture more.
    pub fn mask(&self, planes: &mut Planes, scale: Scale) {
        let block = scale.block_side() as u32;
        for mask in &self.masks {
            for (channel, plane) in planes.channels.iter_mut().enumerate() {
                let size = plane.size();
                let (left_px, right) = covered(mask[0], mask[2], size.width_px, block);
                let (top_px, bottom) = covered(mask[1], mask[3], size.height_px, block);
                let rect = Rect { left_px, top_px, size: PictureSize::new(right - left_px, bottom - top_px) };
                plane.fill(rect, if channel == 0 { 0 } else { 128 });
            }
        }
    }

    /// The region in a plane of `size`, from a column and row that `align`
    /// divides.
    pub fn region_in(&self, size: PictureSize, align: u32) -> Rect {
        let [x, y, width, height] = self.region;
        let part = |from: f32, length: f32, px: u32| {
            let at = |share: f64| (share * f64::from(px)).round() as u32;
            let first = at(from.into()).min(px.saturating_sub(1));
            let first = first - first % align;
            (first, at(f64::from(from) + f64::from(length)).clamp(first + 1, px.max(first + 1)) - first)
        };
        let ((left_px, width_px), (top_px, height_px)) =
            (part(x, width, size.width_px), part(y, height, size.height_px));
        Rect { left_px, top_px, size: PictureSize::new(width_px, height_px) }
    }
}

/// First and one after the last of `px` pixels that something of a mask can be
/// in.
fn covered(from: f32, length: f32, px: u32, block: u32) -> (u32, u32) {
    // A plane's sides are rounded, so a share of it may lie up to one and a half
    // pixels off.
    const SLACK_PX: f64 = 2.0;
    let at = |share: f64| share * f64::from(px);
    let first = (at(from.into()) - SLACK_PX).max(0.0) as u32;
    let end = (at(f64::from(from) + f64::from(length)) + SLACK_PX).ceil() as u32;
    let first = (first - first % block).min(px);
    (first, end.next_multiple_of(block).clamp(first, px))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_by_table() {
        for (part, inside) in [
            (WHOLE, true),
            ([0.5, 0.5, 0.5, 0.5], true),
            ([0.9, 0.0, 0.1, 1.0], true),
            ([0.5, 0.5, 0.6, 0.5], false),
            ([-0.1, 0.0, 0.5, 0.5], false),
            ([0.0, 0.0, 0.0, 1.0], false),
            ([f32::NAN, 0.0, 1.0, 1.0], false),
        ] {
            assert_eq!(is_inside(part), inside, "{part:?}");
        }
        let half = View::new([0.5, 0.25, 0.5, 0.5], Vec::new());
        assert_eq!(half.size_in(PictureSize::new(1280, 720)), PictureSize::new(640, 360));
        assert_eq!(View::default().size_in(PictureSize::new(1280, 720)), PictureSize::new(1280, 720));
    }

    proptest! {
        /// Wherever a mask lies and at whatever scale, every pixel under it is
        /// black, and with it all that share its block.
        #[test]
        fn every_masked_pixel_is_black(
            x in 0.0f32..0.9, y in 0.0f32..0.9, w in 0.01f32..1.0, h in 0.01f32..1.0,
            width_px in 16u32..100, height_px in 16u32..100, side in 0..4usize,
        ) {
            let mask = [x, y, w.min(1.0 - x), h.min(1.0 - y)];
            let scale = [Scale::Full, Scale::Half, Scale::Quarter, Scale::Eighth][side];
            let size = scale.of(PictureSize::new(width_px, height_px));
            let mut planes = Planes::default();
            planes.channels[0].fit(size);
            planes.channels[0].pixels_mut().fill(77);
            View::new(WHOLE, vec![mask]).mask(&mut planes, scale);
            let under = |at: u32, px: u32, from: f32, length: f32| {
                let share = (f64::from(at) + 0.5) / f64::from(px);
                share >= f64::from(from) && share <= f64::from(from) + f64::from(length)
            };
            for (row, pixels) in (0..).zip(planes.channels[0].view().rows()) {
                for (column, &pixel) in (0..).zip(pixels) {
                    if under(column, size.width_px, x, mask[2]) && under(row, size.height_px, y, mask[3]) {
                        prop_assert_eq!(pixel, 0, "{} {}", column, row);
                    }
                }
            }
        }

        #[test]
        fn a_region_lies_inside(
            x in 0.0f32..0.99, y in 0.0f32..0.99, w in 0.01f32..1.0, h in 0.01f32..1.0,
            width_px in 1u32..3000, height_px in 1u32..3000, align in 1u32..3,
        ) {
            let view = View::new([x, y, w.min(1.0 - x), h.min(1.0 - y)], Vec::new());
            let rect = view.region_in(PictureSize::new(width_px, height_px), align);
            prop_assert!(rect.size.pixels() > 0);
            prop_assert!(rect.left_px + rect.size.width_px <= width_px && rect.top_px + rect.size.height_px <= height_px);
            prop_assert_eq!(rect.left_px % align, 0);
        }
    }
}
