//! Rows of the copy: 6 bits a weight.
//!
//! A block of 256 columns takes three runs of 64 bytes. Byte j of run r holds u of column 64 r + j in its upper six
//! bits; the lower two bits of the three runs together hold u of column 192 + j:
//!
//! ```text
//! bits       7 .. 2            1 0
//! run 0, j   u of column j        bits 5 4 of u of column 192 + j
//! run 1, j   u of column 64 + j   bits 3 2
//! run 2, j   u of column 128 + j  bits 1 0
//! ```
//!
//! so that masking gives 4 u of three vectors of columns, and three shifts 4 u of the fourth. The shaders of the program
//! read the same rows, four columns in a word.

/// Columns of a block.
pub const BLOCK: usize = 256;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 192;

/// Bytes of a row of `cols` columns.
pub fn row_bytes(cols: usize) -> usize {
    cols.div_ceil(BLOCK) * BLOCK_BYTES
}

/// Columns of a run, and its bytes.
pub const RUN: usize = 64;

/// u of the weight 0, which fills the columns past the end of a row.
pub const ZERO: u8 = 32;

/// Steps from 0 to the largest weight: -32 and 31 are the ends of what 6 bits hold, and half a step is the rounding.
const STEPS: f32 = 31.5;

/// Below this a row counts as zeros: its scale would not be a normal number.
const TINY: f32 = 1e-30;

/// Data kept of a row beside its codes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Row {
    /// ŵ = scale * (u - 32).
    pub scale: f32,
    /// At least |w - ŵ|.
    pub error: f32,
    /// At least |w|; NaN or infinite if a weight is.
    pub norm: f32,
}

/// Lanes of the sums, for the compiler to make vectors of.
const LANES: usize = 16;

/// 1.5 * 2^23, whose unit is 1, and the code of 0: added to a small number, it rounds it to a whole one, whose code are
/// the lowest bits of the sum.
const UNITS: f32 = 12_582_912.0 + ZERO as f32;

/// Encodes `weights` into `codes`, both whole blocks. Inlined into functions with target features, so that each gets the
/// vectors it may use; all get the same bits.
///
/// The sums are of squares, of t = w / scale and of t - q, in f32 over the [`BLOCK`] / [`LANES`] = 16 values of a lane
/// and block, and of f64 above that. With u = 2^-24: the inverse and the product round t by 2 u of itself, its square
/// by one more, and a sum of 16 by 15 more of itself: so |w| is off by no more than half of 20 u, 6e-7. The difference
/// t - q of a number and the whole one next to it is exact, its norm off by half of 16 u, 5e-7, and by the 2 u |w| that
/// t is. What underflows is nothing beside the largest t, which is 31.5.
#[inline(always)]
pub fn encode(weights: &[f32], codes: &mut [u8]) -> Row {
    let mut largest = [0.0_f32; LANES];
    for w in weights.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            largest[lane] = if w[lane].abs() > largest[lane] { w[lane].abs() } else { largest[lane] };
        }
    }
    let largest = largest.iter().fold(0.0_f32, |a, &b| a.max(b));
    if largest < TINY {
        let squares = weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>();
        for block in codes.as_chunks_mut::<BLOCK_BYTES>().0 {
            put(block, &[ZERO; BLOCK]);
        }
        let norm = up(squares.sqrt());
        return Row { scale: 0.0, error: norm, norm };
    }
    let scale = largest / STEPS;
    let inverse = 1.0 / scale;
    let (mut squares, mut missed) = ([0.0_f64; LANES], [0.0_f64; LANES]);
    for (weights, block) in weights.as_chunks::<BLOCK>().0.iter().zip(codes.as_chunks_mut::<BLOCK_BYTES>().0) {
        let mut u = [0; BLOCK];
        let (mut of_block, mut missed_of_block) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        for (w, u) in weights.as_chunks::<LANES>().0.iter().zip(u.as_chunks_mut::<LANES>().0) {
            for lane in 0..LANES {
                let t = w[lane] * inverse;
                // -31.5 and what rounding adds to it become -32, for which there is a code.
                let rounded = if t < 31.0 { t } else { 31.0 } + UNITS;
                let error = t - (rounded - UNITS);
                of_block[lane] += t * t;
                missed_of_block[lane] += error * error;
                u[lane] = rounded.to_bits() as u8;
            }
        }
        for lane in 0..LANES {
            squares[lane] += f64::from(of_block[lane]);
            missed[lane] += f64::from(missed_of_block[lane]);
        }
        put(block, &u);
    }
    let norm = f64::from(scale) * squares.iter().sum::<f64>().sqrt() * (1.0 + 6.5e-7);
    let missed = f64::from(scale) * missed.iter().sum::<f64>().sqrt() * (1.0 + 5.5e-7);
    Row { scale, error: up(missed + norm * 1.3e-7), norm: up(norm) }
}

/// An f32 that is not below `x`, which itself may be too low by 1e-9 of it from the rounding of sums of 2^16 squares.
pub fn up(x: f64) -> f32 {
    ((x * (1.0 + 1e-9)) as f32).next_up()
}

/// Packs a block.
#[inline(always)]
fn put(block: &mut [u8; BLOCK_BYTES], u: &[u8; BLOCK]) {
    let [first, second, third] = block.as_chunks_mut::<RUN>().0 else { unreachable!("three runs") };
    for j in 0..RUN {
        let last = u[3 * RUN + j];
        first[j] = u[j] << 2 | last >> 4;
        second[j] = u[RUN + j] << 2 | last >> 2 & 3;
        third[j] = u[2 * RUN + j] << 2 | last & 3;
    }
}

/// u of a column of a block.
pub fn code_at(block: &[u8], col: usize) -> u8 {
    let (run, j) = (col / RUN, col % RUN);
    match run {
        0..=2 => block[run * RUN + j] >> 2,
        _ => (block[j] & 3) << 4 | (block[RUN + j] & 3) << 2 | block[2 * RUN + j] & 3,
    }
}
