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

/// Columns of a run, and its bytes.
pub const RUN: usize = 64;

/// u of the weight 0, which fills the columns past the end of a row.
pub const ZERO: u8 = 32;

/// Steps from 0 to the largest weight: -32 and 31 are the ends of what 6 bits hold, and half a step is the rounding.
const STEPS: f32 = 31.5;

/// Below this a row counts as zeros: its scale would not be a normal number.
const TINY: f32 = 1e-30;

/// What is kept of a row beside its codes.
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

/// Encodes `weights` into `codes`, whole blocks. Inlined into functions with target features, so that each gets the
/// vectors it may use; all get the same bits.
#[inline(always)]
pub fn encode(weights: &[f32], codes: &mut [u8]) -> Row {
    let mut largest = [0.0_f32; LANES];
    let mut squares = [0.0_f64; LANES];
    let (sixteens, rest) = weights.as_chunks::<LANES>();
    for w in sixteens {
        for lane in 0..LANES {
            largest[lane] = if w[lane].abs() > largest[lane] { w[lane].abs() } else { largest[lane] };
            squares[lane] += f64::from(w[lane]) * f64::from(w[lane]);
        }
    }
    let largest = largest.iter().chain(rest).fold(0.0_f32, |a, &b| a.max(b.abs()));
    let squares = squares.iter().sum::<f64>() + rest.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>();
    let norm = up(squares.sqrt());
    if largest < TINY {
        codes.fill(0);
        for block in codes.chunks_exact_mut(BLOCK_BYTES) {
            put(block, &[ZERO; BLOCK]);
        }
        return Row { scale: 0.0, error: norm, norm };
    }
    let scale = largest / STEPS;
    let inverse = 1.0 / scale;
    let mut missed = [0.0_f64; LANES];
    for (weights, block) in weights.chunks(BLOCK).zip(codes.chunks_exact_mut(BLOCK_BYTES)) {
        let mut u = [ZERO; BLOCK];
        let (sixteens, rest) = weights.as_chunks::<LANES>();
        for (w, u) in sixteens.iter().zip(u.as_chunks_mut::<LANES>().0) {
            for lane in 0..LANES {
                let q = round(w[lane] * inverse);
                let error = w[lane] - scale * q;
                missed[lane] += f64::from(error) * f64::from(error);
                u[lane] = (q as i32 + i32::from(ZERO)) as u8;
            }
        }
        for (&w, u) in rest.iter().zip(&mut u[sixteens.len() * LANES..]) {
            let q = round(w * inverse);
            let error = w - scale * q;
            missed[0] += f64::from(error) * f64::from(error);
            *u = (q as i32 + i32::from(ZERO)) as u8;
        }
        put(block, &u);
    }
    // scale * q and the difference are rounded: by at most 2^-24 of |ŵ| <= |w| + |w - ŵ| and of the difference.
    let missed = missed.iter().sum::<f64>().sqrt();
    Row { scale, error: up(missed * (1.0 + 1e-6) + f64::from(norm) * f64::from(f32::EPSILON)), norm }
}

/// To the nearest whole number from -32 to 31; by adding and taking off 1.5 * 2^23, whose unit is 1. NaN becomes -32.
#[inline(always)]
fn round(x: f32) -> f32 {
    const UNITS: f32 = 12_582_912.0;
    let x = if x > -32.0 { x } else { -32.0 };
    let x = if x < 31.0 { x } else { 31.0 };
    (x + UNITS) - UNITS
}

/// An f32 that is not below `x`, which itself may be too low by 1e-9 of it from the rounding of sums of 2^16 squares.
fn up(x: f64) -> f32 {
    ((x * (1.0 + 1e-9)) as f32).next_up()
}

/// Packs a block.
#[inline(always)]
fn put(block: &mut [u8], u: &[u8; BLOCK]) {
    let (first, rest) = block.split_at_mut(RUN);
    let (second, third) = rest.split_at_mut(RUN);
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
