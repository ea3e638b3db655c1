//! Weights of a dense convolution, laid out for a tile of output channels, and
//! the multiplication of such a tile: the core of every dense layer.

use super::floor;
use super::simd::{Kernel, Level, Simd};

/// Registers of pixels in a tile. With 8 output channels for 32 registers (4
/// for 16) the sums take three quarters of them, the pixels and one weight the
/// rest.
const TILE_REGISTERS: usize = 3;

/// Output channels of a tile.
const fn tile_channels(registers: usize) -> usize {
    if registers >= 32 { 8 } else { 4 }
}

/// Pixels of a tile.
pub const fn tile_px<S: Simd>() -> usize {
    TILE_REGISTERS * S::LANES
}

/// Weights and biases, packed for one [`Level`].
#[derive(Debug)]
pub struct DenseWeights {
    pub level: Level,
    /// Values under the kernel, of all input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// For each tile of output channels, for each input, one weight for each
    /// channel; zeros fill the last tile.
    tiles: Vec<f32>,
    biases: Vec<f32>,
    floor: f32,
}

impl DenseWeights {
    /// Packs `weights`, one row of `weights.len() / biases.len()` values for each
    /// output channel.
    pub fn new(level: Level, weights: &[f32], biases: &[f32], relu: bool) -> Self {
        let outputs = biases.len();
        let inputs = weights.len() / outputs;
        let mut channels = 0;
        level.run(AskTileChannels(&mut channels));
        let tiles = outputs.div_ceil(channels);

        let mut packed = vec![0.0; tiles * inputs * channels];
        for (output, row) in weights.chunks_exact(inputs).enumerate() {
            let tile = &mut packed[output / channels * inputs * channels..];
            for (input, weight) in row.iter().enumerate() {
                tile[input * channels + output % channels] = *weight;
            }
        }
        let mut padded = biases.to_vec();
        padded.resize(tiles * channels, 0.0);
        Self { level, inputs, outputs, tiles: packed, biases: padded, floor: floor(relu) }
    }
}

struct AskTileChannels<'a>(&'a mut usize);

impl Kernel for AskTileChannels<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        *self.0 = tile_channels(S::REGISTERS);
    }
}

/// Where the results of one tile of pixels go.
pub struct TileOutput<'a> {
    /// All output channels.
    pub to: &'a mut [f32],
    /// Pixels of one channel.
    pub plane: usize,
    /// The tile's first pixel.
    pub at: usize,
    /// Pixels of the tile that are wanted, at most [`tile_px`].
    pub count: usize,
}

/// Multiplies `weights` with a tile of pixels: `pixels` holds [`tile_px`] values
/// for each input, of which the last may be of no use.
///
/// A call of its own and not inlined into each gatherer: it is most of the code.
pub fn multiply(weights: &DenseWeights, pixels: &[f32], output: TileOutput<'_>) {
    weights.level.run(Multiply { weights, pixels, output });
}

struct Multiply<'a> {
    weights: &'a DenseWeights,
    pixels: &'a [f32],
    output: TileOutput<'a>,
}

impl Kernel for Multiply<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { weights, pixels, output } = self;
        if tile_channels(S::REGISTERS) == 8 {
            all_channels::<S, 8>(simd, weights, pixels, output);
        } else {
            all_channels::<S, 4>(simd, weights, pixels, output);
        }
    }
}

#[inline(always)]
fn all_channels<S: Simd, const CHANNELS: usize>(
    simd: S,
    weights: &DenseWeights,
    pixels: &[f32],
    output: TileOutput<'_>,
) {
    let tiles = weights.tiles.chunks_exact(CHANNELS * weights.inputs).zip(weights.biases.chunks_exact(CHANNELS));
    let TileOutput { to, plane, at, count } = output;
    for ((tile, biases), to) in tiles.zip(to.chunks_mut(CHANNELS * plane)) {
        let output = TileOutput { to, plane, at, count };
        match count.div_ceil(S::LANES) {
            1 => one_tile::<S, CHANNELS, 1>(simd, tile, biases, weights.floor, pixels, output),
            2 => one_tile::<S, CHANNELS, 2>(simd, tile, biases, weights.floor, pixels, output),
            _ => one_tile::<S, CHANNELS, TILE_REGISTERS>(simd, tile, biases, weights.floor, pixels, output),
        }
    }
}

#[inline(always)]
fn one_tile<S: Simd, const CHANNELS: usize, const REGISTERS: usize>(
    simd: S,
    weights: &[f32],
    biases: &[f32],
    floor: f32,
    pixels: &[f32],
    output: TileOutput<'_>,
) {
    let floor = simd.splat(floor);
    let mut sums = [[floor; REGISTERS]; CHANNELS];
    for (sums, bias) in sums.iter_mut().zip(biases) {
        *sums = [simd.splat(*bias); REGISTERS];
    }
    for (pixels, weights) in pixels.chunks_exact(tile_px::<S>()).zip(weights.chunks_exact(CHANNELS)) {
        let mut lanes = [floor; REGISTERS];
        for register in 0..REGISTERS {
            lanes[register] = simd.load(&pixels[register * S::LANES..]);
        }
        for channel in 0..CHANNELS {
            let weight = simd.splat(weights[channel]);
            for register in 0..REGISTERS {
                sums[channel][register] = simd.mul_add(lanes[register], weight, sums[channel][register]);
            }
        }
    }
    // The last tile may have fewer channels than sums.
    for (sums, to) in sums.iter().zip(output.to.chunks_exact_mut(output.plane)) {
        let to = &mut to[output.at..output.at + output.count];
        for (sum, to) in sums.iter().zip(to.chunks_mut(S::LANES)) {
            simd.store_up_to(simd.max(floor, *sum), to);
        }
    }
}
