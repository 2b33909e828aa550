//! Random damage to small GGUF files: the fuzz target's check, run on a fixed set of seeds.

use crate::common::{
    gguf_builder::{Gguf, Tensor, sample, u32},
    touch::parse_and_touch,
};

/// xorshift64*: enough to scatter damage, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }
}

/// Numbers at which arithmetic on counts, lengths and offsets goes wrong if it can.
const EDGES: [u64; 14] = [
    0,
    1,
    31,
    32,
    255,
    1 << 16,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 61,
    (1 << 61) + 1,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(7) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => bytes.truncate(at.max(1)),
        3 => {
            let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
            let len = [4, 8][random.below(2)].min(bytes.len() - at);
            bytes[at..at + len].copy_from_slice(&edge[..len]);
        }
        4 => {
            let end = (at + random.below(40)).min(bytes.len());
            let copy = bytes[at..end].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, copy);
        }
        5 if bytes.len() > 64 => {
            let end = (at + random.below(16)).min(bytes.len() - 1);
            bytes.drain(at.min(end)..end);
        }
        _ => {
            // Small changes of a number: sizes and offsets that nearly fit.
            let change = [1, 8, 32, 64, 128][random.below(5)];
            bytes[at] =
                if random.below(2) == 0 { bytes[at].wrapping_add(change) } else { bytes[at].wrapping_sub(change) };
        }
    }
}

#[test]
fn damaged_files_never_panic() {
    const ROUNDS: u64 = 60_000;
    let shared_ids = Gguf::new()
        .with("general.alignment", u32(64))
        .tensor(Tensor::new("a", &[512, 64], 39, vec![0; 512 * 64 / 32 * 17]))
        .tensor(Tensor::new("b", &[1024, 4], 42, vec![0; 4096 / 64 * 18]))
        .tensor(Tensor::new("c", &[64, 4], 335, vec![0; 80]));
    let shared_ids = Gguf { alignment: 64, ..shared_ids };
    let seeds = [sample().build(), shared_ids.build(), Gguf::new().build()];
    for seed in &seeds {
        parse_and_touch(seed).unwrap();
    }
    let mut accepted = 0;
    for round in 0..ROUNDS {
        let mut random = Random(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            damage(&mut bytes, &mut random);
        }
        let outcome = std::panic::catch_unwind(|| parse_and_touch(&bytes).is_ok());
        accepted += u64::from(outcome.unwrap_or_else(|_| panic!("round {round} panics")));
    }
    // Both ways out have to be exercised for the test to mean something.
    assert!(accepted > ROUNDS / 20 && accepted < ROUNDS * 19 / 20, "{accepted} of {ROUNDS} accepted");
    eprintln!("{accepted} of {ROUNDS} damaged files were still readable");
}
