//! Draws the test card: a still gradient, a bar that sweeps along the bottom,
//! and faces that drift, each in its own column. Same seed, same pictures.
//! Knows no time: each call draws the next picture.

use std::f64::consts::TAU;
use std::fmt;

use bytes::Bytes;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg;
use flatframe_shared::resize::RgbResizer;

use crate::plan::CameraPlan;

/// A face with some background, 160x200.
const FACE_JPEG: &[u8] = include_bytes!("../../../assets/astronaut_face.jpg");
const FACE_SIZE: PictureSize = PictureSize::new(160, 200);
/// The portrait's background: the card's middle, so that edges do not show.
const BACKGROUND: [u8; 3] = [192, 182, 178];
/// Share of the face picture's sides over which it fades into the card.
const FADE: f64 = 0.12;
/// Height of the bar at the bottom, as a share of the card.
const BAR_SHARE: f64 = 0.03;

/// The card and what is drawn on it.
pub struct Card {
    size: PictureSize,
    quality: u8,
    fps: f64,
    /// The still part, RGB.
    background: Vec<u8>,
    /// Kept to reuse the allocation.
    canvas: Vec<u8>,
    /// Kept to reuse the allocation.
    encoded: Vec<u8>,
    tile: Tile,
    drifts: Vec<Drift>,
    drawn: u64,
}

/// The face at the size it is drawn.
struct Tile {
    size: PictureSize,
    rgb: Vec<u8>,
    /// 0 (card) to 255 (face), one per pixel.
    alpha: Vec<u8>,
}

/// The way of one face: its middle place and how it swings around it.
struct Drift {
    middle_px: [f64; 2],
    swing_px: [f64; 2],
    period_s: [f64; 2],
    phase: [f64; 2],
}

impl Card {
    /// A card as the plan asks for it.
    pub fn new(plan: &CameraPlan) -> Self {
        let size = plan.asked_size();
        let (width, height) = (f64::from(size.width_px), f64::from(size.height_px));
        let column = width / f64::from(plan.faces);
        let scale =
            (0.94 * column / f64::from(FACE_SIZE.width_px)).min(0.8 * height / f64::from(FACE_SIZE.height_px)).min(1.0);
        let tile = Tile::new(scale);
        let mut random = fastrand::Rng::with_seed(plan.seed);
        let spare = |room: f64, used: u32| ((room - f64::from(used)) / 2.0).max(0.0);
        let swing_px =
            [spare(column, tile.size.width_px), 0.8 * spare(height * (1.0 - BAR_SHARE), tile.size.height_px)];
        let drifts = (0..plan.faces)
            .map(|face| Drift {
                middle_px: [column * (f64::from(face) + 0.5), height * (1.0 - BAR_SHARE) / 2.0],
                swing_px,
                period_s: [6.0 + 4.0 * random.f64(), 5.0 + 4.0 * random.f64()],
                phase: [random.f64(), random.f64()],
            })
            .collect();
        Self {
            size,
            quality: plan.quality,
            fps: f64::from(plan.fps),
            background: background(size),
            canvas: Vec::new(),
            encoded: Vec::new(),
            tile,
            drifts,
            drawn: 0,
        }
    }

    /// The next picture.
    pub fn next_jpeg(&mut self) -> Bytes {
        let time_s = self.drawn as f64 / self.fps;
        self.drawn += 1;
        self.canvas.clear();
        self.canvas.extend_from_slice(&self.background);
        self.draw_bar(time_s);
        for face in 0..self.drifts.len() {
            self.draw_face(face, time_s);
        }
        jpeg::encode_rgb(&self.canvas, self.size, self.quality, &mut self.encoded)
            .expect("the configuration bounds the size of a card");
        Bytes::copy_from_slice(&self.encoded)
    }

    /// A bar that crosses the card in 4 s.
    fn draw_bar(&mut self, time_s: f64) {
        let (width, height) = (self.size.width_px as usize, self.size.height_px as usize);
        let begin = ((time_s / 4.0).fract() * width as f64) as usize;
        let rows = (BAR_SHARE * height as f64).ceil() as usize;
        for row in height - rows..height {
            let end = (begin + width / 8).min(width);
            self.canvas[3 * (row * width + begin)..3 * (row * width + end)].fill(40);
        }
    }

    fn draw_face(&mut self, face: usize, time_s: f64) {
        let drift = &self.drifts[face];
        let middle = |axis: usize| {
            let turn = time_s / drift.period_s[axis] + drift.phase[axis];
            drift.middle_px[axis] + drift.swing_px[axis] * (TAU * turn).sin()
        };
        let room = |axis: usize, card_px: u32, tile_px: u32| {
            let begin = middle(axis) - f64::from(tile_px) / 2.0;
            begin.clamp(0.0, f64::from(card_px - tile_px)) as usize
        };
        let left = room(0, self.size.width_px, self.tile.size.width_px);
        let top = room(1, self.size.height_px, self.tile.size.height_px);
        let (card_width, tile_width) = (self.size.width_px as usize, self.tile.size.width_px as usize);
        for row in 0..self.tile.size.height_px as usize {
            let at = 3 * ((top + row) * card_width + left);
            let onto = &mut self.canvas[at..at + 3 * tile_width];
            let from = &self.tile.rgb[3 * row * tile_width..][..3 * tile_width];
            let alphas = &self.tile.alpha[row * tile_width..][..tile_width];
            for ((onto, from), &alpha) in onto.chunks_exact_mut(3).zip(from.chunks_exact(3)).zip(alphas) {
                for (onto, from) in onto.iter_mut().zip(from) {
                    *onto = mixed(*onto, *from, alpha);
                }
            }
        }
    }
}

impl Tile {
    fn new(scale: f64) -> Self {
        let mut full = Vec::new();
        let decoded = jpeg::decode_rgb(FACE_JPEG, FACE_SIZE, &mut full);
        assert_eq!(decoded, Ok(FACE_SIZE), "the built-in picture decodes");
        let side = |px: u32| ((f64::from(px) * scale) as u32).max(1);
        let size = PictureSize::new(side(FACE_SIZE.width_px), side(FACE_SIZE.height_px));
        let mut rgb = vec![0; 3 * size.pixels() as usize];
        RgbResizer::default().resize(&full, FACE_SIZE, &mut rgb, size);
        let fade = |at: u32, px: u32| {
            let to_edge = f64::from(at.min(px - 1 - at)) / (FADE * f64::from(px));
            let t = to_edge.min(1.0);
            t * t * (3.0 - 2.0 * t)
        };
        let alpha = (0..size.height_px)
            .flat_map(|y| (0..size.width_px).map(move |x| (x, y)))
            .map(|(x, y)| (255.0 * fade(x, size.width_px) * fade(y, size.height_px)) as u8)
            .collect();
        Self { size, rgb, alpha }
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Card {} with {} faces, {} drawn", self.size, self.drifts.len(), self.drawn)
    }
}

/// A gradient around the portrait's background.
fn background(size: PictureSize) -> Vec<u8> {
    let share = |at: u32, px: u32| f64::from(at) / f64::from(px) - 0.5;
    (0..size.height_px)
        .flat_map(|y| (0..size.width_px).map(move |x| (x, y)))
        .flat_map(|(x, y)| {
            let light = 24.0 * share(x, size.width_px) - 32.0 * share(y, size.height_px);
            BACKGROUND.map(|channel| (f64::from(channel) + light) as u8)
        })
        .collect()
}

fn mixed(under: u8, over: u8, alpha: u8) -> u8 {
    let (under, over, alpha) = (u16::from(under), u16::from(over), u16::from(alpha));
    ((under * (255 - alpha) + over * alpha) / 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CameraConfig;

    fn card(width_px: u32, height_px: u32, faces: u8) -> Card {
        let config = CameraConfig { width_px, height_px, faces, seed: 7, ..CameraConfig::new("a", "pattern") };
        Card::new(&CameraPlan::new(&config, &Default::default()).expect("valid"))
    }

    #[test]
    fn every_allowed_card_can_be_drawn_and_moves() {
        for (width, height) in [(160, 120), (640, 480), (1280, 720), (481, 641), (1920, 1080)] {
            for faces in [1, 4] {
                let mut card = card(width, height, faces);
                let (first, _, later) = (card.next_jpeg(), card.next_jpeg(), card.next_jpeg());
                assert_ne!(first, later);
                assert_eq!(jpeg::read_size(&first), Ok(PictureSize::new(width, height)));
            }
        }
    }

    #[test]
    fn same_seed_same_pictures() {
        let (mut a, mut b) = (card(320, 240, 2), card(320, 240, 2));
        assert!((0..5).all(|_| a.next_jpeg() == b.next_jpeg()));
    }

    #[test]
    fn faces_do_not_touch_each_other() {
        let mut card = card(640, 480, 4);
        for _ in 0..200 {
            card.next_jpeg();
        }
        let column = 640.0 / 4.0;
        for drift in &card.drifts {
            assert!(2.0 * drift.swing_px[0] + f64::from(card.tile.size.width_px) <= column + 1.0);
        }
    }
}
