//! Pictures as JPEG holds them: one plane of luma and two of colours, each with
//! a size of its own. Buffers are kept to reuse their allocation. Knows nothing
//! of files.

use crate::frame::PictureSize;

/// One channel of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plane {
    pixels: Vec<u8>,
    stride: usize,
    size: PictureSize,
}

/// A picture in YCbCr, full range. A grey one has colours of size 0x0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Planes {
    /// Luma, then blue and red difference.
    pub channels: [Plane; 3],
}

/// Part of a channel, to read.
#[derive(Debug, Clone, Copy)]
pub struct PlaneView<'a> {
    /// From its first pixel on.
    pub pixels: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Its columns and rows.
    pub size: PictureSize,
}

/// Columns and rows of a part of a plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// First column.
    pub left_px: u32,
    /// First row.
    pub top_px: u32,
    /// Columns and rows.
    pub size: PictureSize,
}

impl Default for Plane {
    fn default() -> Self {
        Self { pixels: Vec::new(), stride: 0, size: PictureSize::new(0, 0) }
    }
}

impl Rect {
    /// All of a plane of `size`.
    pub fn all(size: PictureSize) -> Self {
        Self { left_px: 0, top_px: 0, size }
    }
}

impl Plane {
    /// Makes room for `size`, in rows of `stride` bytes and `rows` of them,
    /// both at least the size's. What the pixels are is not defined.
    pub fn reshape(&mut self, size: PictureSize, stride: usize, rows: usize) {
        debug_assert!(stride >= size.width_px as usize && rows >= size.height_px as usize);
        self.pixels.resize(stride * rows, 0);
        (self.stride, self.size) = (stride, size);
    }

    /// Makes room for exactly `size`.
    pub fn fit(&mut self, size: PictureSize) {
        self.reshape(size, size.width_px as usize, size.height_px as usize);
    }

    /// Columns and rows.
    pub fn size(&self) -> PictureSize {
        self.size
    }

    /// Bytes from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// All rows, with what lies between them.
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    /// The pixels of one row.
    pub fn row_mut(&mut self, row: usize) -> &mut [u8] {
        let from = row * self.stride;
        &mut self.pixels[from..from + self.size.width_px as usize]
    }

    /// All of it, to read.
    pub fn view(&self) -> PlaneView<'_> {
        PlaneView { pixels: &self.pixels, stride: self.stride, size: self.size }
    }

    /// Sets the pixels of `rect`, as far as it lies inside, to `value`.
    pub fn fill(&mut self, rect: Rect, value: u8) {
        let right = rect.left_px.saturating_add(rect.size.width_px).min(self.size.width_px) as usize;
        let bottom = rect.top_px.saturating_add(rect.size.height_px).min(self.size.height_px) as usize;
        let left = (rect.left_px as usize).min(right);
        for row in rect.top_px as usize..bottom {
            self.row_mut(row)[left..right].fill(value);
        }
    }
}

impl<'a> PlaneView<'a> {
    /// The part of it that `rect` names.
    ///
    /// # Panics
    /// When `rect` does not lie inside.
    pub fn part(self, rect: Rect) -> Self {
        let inside = rect.left_px + rect.size.width_px <= self.size.width_px
            && rect.top_px + rect.size.height_px <= self.size.height_px;
        assert!(inside, "the part lies inside");
        let from = (rect.top_px as usize * self.stride + rect.left_px as usize).min(self.pixels.len());
        Self { pixels: &self.pixels[from..], size: rect.size, ..self }
    }

    /// The pixels of one row.
    pub fn row(self, row: usize) -> &'a [u8] {
        let from = row * self.stride;
        &self.pixels[from..from + self.size.width_px as usize]
    }

    /// All rows, from the top.
    pub fn rows(self) -> impl Iterator<Item = &'a [u8]> {
        (0..self.size.height_px as usize).map(move |row| self.row(row))
    }
}

impl Planes {
    /// Whether there are no colours.
    pub fn is_grey(&self) -> bool {
        self.channels[1].size.pixels() == 0
    }

    /// Columns and rows of the picture.
    pub fn size(&self) -> PictureSize {
        self.channels[0].size
    }

    /// Bytes that the buffers hold.
    pub fn held_bytes(&self) -> usize {
        self.channels.iter().map(|plane| plane.pixels.capacity()).sum()
    }
}

/// Size of colours at half the resolution of luma in both directions.
pub fn halved(size: PictureSize) -> PictureSize {
    PictureSize::new(size.width_px.div_ceil(2), size.height_px.div_ceil(2))
}
