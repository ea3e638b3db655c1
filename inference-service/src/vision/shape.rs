//! The engine's input as a picture: the engine counts rows and columns and knows
//! no pictures.

use flatframe_engine::InputShape;
use flatframe_shared::frame::PictureSize;

/// The input for pictures of `size` in `channels`.
pub const fn input_shape(channels: usize, size: PictureSize) -> InputShape {
    InputShape { channels, height: size.height_px as usize, width: size.width_px as usize }
}

/// The size of the pictures that an input takes.
pub const fn picture_size(shape: InputShape) -> PictureSize {
    PictureSize::new(shape.width as u32, shape.height as u32)
}
