//! Biases: x\[t\]\[i\] += b\[i\]. One addition an element gives the same bits in any variant, so there is but one.

use crate::{Cpu, threads::Disjoint, tokens_of};

/// Values of a chunk: about 2 us of work.
const CHUNK: usize = 8192;

/// Adds `bias` (width) to each token of `x` (T, width).
///
/// # Panics
/// If `x` is not whole tokens.
pub fn add(cpu: &Cpu, x: &mut [f32], bias: &[f32]) {
    let tokens = tokens_of("bias::add", x, bias.len());
    let per_chunk = CHUNK.div_ceil(bias.len());
    let x = Disjoint::new(x);
    cpu.pool().run(tokens.div_ceil(per_chunk), |chunk| {
        let range = chunk * per_chunk * bias.len()..tokens.min((chunk + 1) * per_chunk) * bias.len();
        // SAFETY: chunks are disjoint ranges of tokens.
        let part = unsafe { x.part(range) };
        for token in part.chunks_exact_mut(bias.len()) {
            token.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, testing::Rng};

    #[test]
    fn every_token_gets_the_bias() {
        let mut rng = Rng::new(91);
        for (tokens, width) in [(0, 3), (1, 1), (2, 33), (9, 2048), (300, 100), (3, 20_000)] {
            let (x, bias) = (rng.floats(tokens * width), rng.floats(width));
            let expected: Vec<f32> = (0..tokens * width).map(|at| x[at] + bias[at % width]).collect();
            for threads in [1, 3] {
                let mut found = x.clone();
                add(&Cpu::new(Isa::detect(), threads), &mut found, &bias);
                assert_eq!(found, expected, "{tokens} tokens of {width}");
            }
        }
    }
}
