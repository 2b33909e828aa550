//! A token that the copy is multiplied with, in 16 bits, and what its rounding adds to the bounds.

use super::encode::{Row, ZERO};
use crate::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Base;

/// The largest of the 16-bit numbers: 127 in the upper byte, 0 in the lower.
const LARGEST: f64 = 127.0 * 256.0;

/// Below this the step would not be a normal number.
const TINY: f32 = 1e-30;

/// Data kept of a token beside its bytes: x̂ = step * (256 * high + low), both i8.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Excess of the sums because u is a code: the code of 0 times the sum of 256 * high + low.
    zeros: f64,
    step: f64,
    /// Factors of |w - ŵ| and |w| in the bound.
    of_error: f64,
    of_norm: f64,
    /// The most that underflow may add.
    least: f64,
    /// At least |x|.
    norm: f64,
    /// At least |256 step high| + |step low|.
    reach: f64,
    cols: f64,
}

/// x in 16 bits.
pub struct Rounded {
    sum: i64,
    step: f64,
    squares: f64,
    missed: f64,
}

impl Query {
    /// Takes `x`, and puts its bytes into `high` and `low`; `None` if it has a value that is not finite, or only ones too
    /// small to be scaled.
    pub fn new(isa: Isa, x: &[f32], high: &mut [i8], low: &mut [i8]) -> Option<Self> {
        let rounded = match isa.base() {
            #[cfg(target_arch = "x86_64")]
            Base::Avx2(avx2) => super::avx2::round(avx2, x, high, low),
            _ => round(x, high, low),
        }?;
        let cols = x.len() as f64;
        let units = (cols + 8.0) * f64::from(f32::EPSILON) / 2.0;
        let gamma = units / (1.0 - units);
        // The sums are of f64 and off by less than 1e-9 of themselves.
        let norm = rounded.squares.sqrt() * (1.0 + 1e-9);
        let missed = rounded.missed.sqrt() * (1.0 + 1e-9) + norm * 1e-12;
        Some(Self {
            zeros: f64::from(ZERO) * rounded.sum as f64,
            step: rounded.step,
            of_error: norm + missed,
            of_norm: missed + gamma * norm,
            // A product or sum that underflows loses at most the smallest number.
            least: 2.0 * cols * f64::from(f32::from_bits(1)),
            norm,
            // Both together are x̂, and no lower byte is beyond 128.
            reach: norm + missed + 256.0 * rounded.step * cols.sqrt(),
            cols,
        })
    }

    /// At least |x|.
    pub fn norm(&self) -> f64 {
        self.norm
    }

    /// The step that x̂ is a multiple of, rounded.
    pub fn step(&self) -> f32 {
        self.step as f32
    }

    /// ŵ x̂ of some rows, from their sums of u * high and u * low, and what the product as `dense::matmul` computes it
    /// cannot exceed. Inlined into functions with target features.
    #[inline(always)]
    pub fn bound(&self, rows: &[Row], sums: &[[i32; 2]], approximate: &mut [f32], upper: &mut [f32]) {
        for (((row, sums), approximate), upper) in rows.iter().zip(sums).zip(approximate).zip(upper) {
            // Whole numbers below 2^53 are exact in f64, which has vector instructions where 64-bit integers have none.
            let sum = 256.0 * f64::from(sums[0]) + f64::from(sums[1]) - self.zeros;
            let product = f64::from(row.scale) * self.step * sum;
            let bound = f64::from(row.error) * self.of_error + f64::from(row.norm) * self.of_norm + self.least;
            (*approximate, *upper) = rounded(product, bound);
        }
    }

    /// As [`Self::bound`], for rows held without error, from their products with the upper and with the lower bytes,
    /// each the sum in f32 of `groups` products: a whole number, a scale and the step. Such a sum is off by no more
    /// than gamma of `groups` + 2 units times the sum of its terms without their signs, one of the units being that of
    /// the step.
    pub fn bound_products(
        &self,
        rows: &[Row],
        [high, low]: [&[f32]; 2],
        groups: usize,
        approximate: &mut [f32],
        upper: &mut [f32],
    ) {
        let units = (groups as f64 + 2.0) * f64::from(f32::EPSILON) / 2.0;
        let of_norm = self.of_norm + units / (1.0 - units) * self.reach;
        // A scale times the step may underflow, and then meets whole numbers of up to 128 a column.
        let least = self.least + 256.0 * self.cols * f64::from(f32::from_bits(1));
        let products = high.iter().zip(low).map(|(&high, &low)| f64::from(high) + f64::from(low));
        for (((row, product), approximate), upper) in rows.iter().zip(products).zip(approximate).zip(upper) {
            (*approximate, *upper) = rounded(product, f64::from(row.norm) * of_norm + least);
        }
    }
}

/// A product and its upper bound as f32, the second rounded up.
#[inline(always)]
fn rounded(product: f64, bound: f64) -> (f32, f32) {
    // The rounding of the few operations in f64 that led here.
    let most = product + bound * (1.0 + 1e-12) + product.abs() * 1e-12;
    // And that of the result to f32: half a unit in its last place, or half the smallest number.
    (product as f32, (most + most.abs() * f64::from(f32::EPSILON) + f64::from(f32::from_bits(1))) as f32)
}

/// Rounds x to 16 bits and splits them into bytes. Inlined into functions with target features.
#[inline(always)]
pub fn round(x: &[f32], high: &mut [i8], low: &mut [i8]) -> Option<Rounded> {
    /// 1.5 * 2^52, whose unit is 1: adding and taking it off rounds to a whole number.
    const UNITS: f64 = 6_755_399_441_055_744.0;
    const LANES: usize = 8;
    let mut largest = 0.0_f32;
    let mut finite = true;
    for &x in x {
        largest = if x.abs() > largest { x.abs() } else { largest };
        finite &= x.is_finite();
    }
    if !finite || largest < TINY {
        return None;
    }
    let step = f64::from(largest) / LARGEST;
    let inverse = 1.0 / step;
    let (mut sums, mut squares, mut missed) = ([0_i32; LANES], [0.0_f64; LANES], [0.0_f64; LANES]);
    let mut one = |lane: usize, x: f32, high: &mut i8, low: &mut i8| {
        let x = f64::from(x);
        let rounded = (x * inverse + UNITS) - UNITS;
        let v = rounded as i32;
        *low = v as i8;
        *high = ((v - i32::from(*low)) >> 8) as i8;
        sums[lane] += v;
        squares[lane] += x * x;
        missed[lane] += (x - rounded * step) * (x - rounded * step);
    };
    let (eights, rest) = x.as_chunks::<LANES>();
    for ((x, high), low) in eights.iter().zip(high.as_chunks_mut().0).zip(low.as_chunks_mut().0) {
        let (high, low): (&mut [i8; LANES], &mut [i8; LANES]) = (high, low);
        for lane in 0..LANES {
            one(lane, x[lane], &mut high[lane], &mut low[lane]);
        }
    }
    let done = eights.len() * LANES;
    for ((&x, high), low) in rest.iter().zip(&mut high[done..]).zip(&mut low[done..]) {
        one(0, x, high, low);
    }
    Some(Rounded {
        sum: sums.iter().map(|&sum| i64::from(sum)).sum(),
        step,
        squares: squares.iter().sum(),
        missed: missed.iter().sum(),
    })
}
