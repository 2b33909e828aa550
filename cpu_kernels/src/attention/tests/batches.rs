//! Steps of several tokens, of one sequence and of several: bit for bit what each token gives alone.

use super::*;

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Also where the keys are split in parts, in other numbers for the first token than for the last.
#[test]
fn few_tokens_give_the_bits_of_single_ones() {
    let mut rng = Rng::new(14);
    for cpu in cpus() {
        for (heads, kv_heads, head_dim) in [(4, 1, 64), (20, 5, 128), (9, 1, 30)] {
            for (start_pos, tokens) in [(0, 8), (1020, 8), (1533, 5), (31, 2)] {
                let case = Case { tokens, heads, kv_heads, head_dim, start_pos };
                let positions = start_pos + tokens;
                let q = rng.floats(tokens * heads * head_dim);
                let width = kv_heads * head_dim;
                let (k, v) = (rng.floats(positions * width), rng.floats(positions * width));
                let together = attend_all(&cpu, &case, TYPES[0], &q, &k, &v, 0.3);
                for t in 0..tokens {
                    let of_token = t * heads * head_dim..(t + 1) * heads * head_dim;
                    let one = Case { tokens: 1, start_pos: start_pos + t, ..case };
                    let alone = attend_all(&cpu, &one, TYPES[0], &q[of_token.clone()], &k, &v, 0.3);
                    let same = same_bits(&together[of_token], &alone);
                    assert!(same, "{cpu:?}: token {t} of {tokens} at {start_pos}, {heads}/{kv_heads} of {head_dim}");
                }
            }
        }
    }
}

/// Rows of a step over `caches`, whose positions before the rows are filled.
struct Batch {
    heads: usize,
    caches: Vec<KvCache>,
    rows: Vec<Placed>,
    /// (T, heads, head_dim)
    q: Vec<f32>,
    /// (T, kv_heads, head_dim)
    k: Vec<f32>,
    /// (T, kv_heads, head_dim)
    v: Vec<f32>,
}

impl Batch {
    fn new(
        rng: &mut Rng,
        (heads, kv_heads, head_dim): (usize, usize, usize),
        types: (KvType, KvType),
        rows: &[(usize, usize)],
    ) -> Self {
        let width = kv_heads * head_dim;
        let cpu = Cpu::new(Isa::Scalar, 1);
        let mut caches = Vec::new();
        for (number, &(start, tokens)) in rows.iter().enumerate() {
            // Of different capacities; one that no row uses stands before the last.
            let mut cache = KvCache::new(kv_heads, head_dim, start + tokens + number, types.0, types.1);
            fill(&cpu, &mut cache, 0, &rng.floats(start * width), &rng.floats(start * width));
            caches.push(cache);
        }
        caches.insert(rows.len() - 1, KvCache::new(kv_heads, head_dim, 3, types.0, types.1));
        // The last cache first: rows in another order than caches.
        let place = |(number, &(start, tokens)): (usize, &(usize, usize))| Placed {
            cache: if number == rows.len() - 1 { number + 1 } else { number },
            start,
            tokens,
            is_prompt: false,
        };
        let rows: Vec<Placed> = rows.iter().enumerate().map(place).rev().collect();
        let tokens: usize = rows.iter().map(|row| row.tokens).sum();
        let (q, k, v) = (rng.floats(tokens * heads * head_dim), rng.floats(tokens * width), rng.floats(tokens * width));
        Self { heads, caches, rows, q, k, v }
    }

    /// Caches afterwards, and the output, all rows in one step.
    fn together(&self, cpu: &Cpu) -> (Vec<KvCache>, Vec<f32>) {
        let (mut caches, mut out) = (self.caches.clone(), vec![f32::NAN; self.q.len()]);
        append(cpu, &mut caches, &self.rows, &self.k, &self.v);
        attend(cpu, &self.q, self.heads, &caches, &self.rows, 0.3, &mut out);
        (caches, out)
    }

    /// As `together`, in steps of one token.
    fn alone(&self, cpu: &Cpu) -> (Vec<KvCache>, Vec<f32>) {
        let (mut caches, mut out) = (self.caches.clone(), Vec::new());
        let tokens = self.rows.iter().flat_map(|row| (row.start..row.end()).map(|position| (row.cache, position)));
        let q_width = self.heads * self.caches[0].head_dim;
        let width = self.caches[0].kv_heads * self.caches[0].head_dim;
        for (t, (cache, position)) in tokens.enumerate() {
            let cache = &mut caches[cache];
            let own = t * width..(t + 1) * width;
            fill(cpu, cache, position, &self.k[own.clone()], &self.v[own]);
            out.extend(attend_one(cpu, &self.q[t * q_width..][..q_width], self.heads, cache, position, 0.3));
        }
        (caches, out)
    }
}

/// Rows (start, tokens) of different lengths, from nothing to several parts of keys, one to eight tokens in all.
const ROWS: [&[(usize, usize)]; 7] = [
    &[(0, 1), (0, 1)],
    &[(40, 1)],
    &[(3, 1), (0, 3), (1100, 1), (31, 2)],
    &[(0, 4), (64, 4)],
    &[(1023, 1), (1024, 1), (511, 1), (0, 1), (7, 1), (32, 1), (1600, 1), (100, 1)],
    &[(5, 7), (2, 1)],
    &[(12, 0), (9, 2)],
];

#[test]
fn sequences_together_give_the_bits_of_single_ones() {
    let mut rng = Rng::new(18);
    let cpus = cpus();
    for (heads, kv_heads, head_dim) in [(2, 1, 100), (8, 2, 64), (20, 5, 128), (4, 1, 256), (3, 1, 17)] {
        for (number, rows) in ROWS.iter().enumerate() {
            let types = TYPES[(number + head_dim) % TYPES.len()];
            let batch = Batch::new(&mut rng, (heads, kv_heads, head_dim), types, rows);
            for cpu in &cpus {
                let what = format!("{cpu:?}, {heads}/{kv_heads} heads of {head_dim}, {types:?}, {rows:?}");
                let ((caches, out), (other_caches, alone)) = (batch.together(cpu), batch.alone(cpu));
                assert!(same_bits(&out, &alone), "{what}");
                for (cache, other) in caches.iter().zip(&other_caches) {
                    assert_eq!(cache.read(0..cache.capacity), other.read(0..other.capacity), "{what}");
                }
            }
        }
    }
}

/// Rows of which some are prompts: more tokens than rows that share a reading of keys.
const MIXED_ROWS: [&[(usize, usize)]; 4] = [
    &[(40, 1), (0, 9)],
    &[(0, 100), (1024, 1), (0, 30), (7, 3)],
    &[(3, 1), (5, 1), (64, 1), (0, 1), (7, 1), (32, 1), (100, 1), (31, 1), (9, 1), (200, 20)],
    &[(0, 8), (0, 8), (12, 1)],
];

#[test]
fn prompts_beside_other_rows_give_the_bits_of_prompts_alone() {
    let mut rng = Rng::new(27);
    let cpus = cpus();
    for (number, rows) in MIXED_ROWS.iter().enumerate() {
        for shape @ (heads, kv_heads, head_dim) in [(8, 2, 64), (20, 5, 128), (4, 1, 256)] {
            let batch = Batch::new(&mut rng, shape, TYPES[(number + heads) % TYPES.len()], rows);
            for cpu in &cpus {
                let (mut caches, mut alone) = (batch.caches.clone(), Vec::new());
                let mut token = 0;
                for row in &batch.rows {
                    let of = |width: usize| token * width..(token + row.tokens) * width;
                    let (q, kv) = (of(heads * head_dim), of(kv_heads * head_dim));
                    token += row.tokens;
                    let mut out = vec![f32::NAN; q.len()];
                    append(cpu, &mut caches, &[*row], &batch.k[kv.clone()], &batch.v[kv]);
                    attend(cpu, &batch.q[q], heads, &caches, &[*row], 0.3, &mut out);
                    alone.extend(out);
                }
                let (found, together) = batch.together(cpu);
                assert!(same_bits(&together, &alone), "{cpu:?}, {shape:?}, {rows:?}");
                for (cache, other) in found.iter().zip(&caches) {
                    assert_eq!(cache.read(0..cache.capacity), other.read(0..other.capacity), "{cpu:?}, {rows:?}");
                }
            }
        }
    }
}

#[test]
fn sequences_together_agree_with_the_reference() {
    let mut rng = Rng::new(19);
    let cpus = cpus();
    for (types, rows) in TYPES.iter().flat_map(|types| ROWS.map(|rows| (*types, rows))) {
        let (heads, kv_heads, head_dim) = (6, 2, 100);
        let batch = Batch::new(&mut rng, (heads, kv_heads, head_dim), types, rows);
        let (_, expected) = batch.together(&cpus[0]);
        assert_eq!(cpus[0].isa(), Isa::Scalar);
        // As in `check`: values below 1, scores below 0.3 * head_dim.
        let tolerance = 8.0 * f32::EPSILON * (4.0 + 0.3 * head_dim as f32);
        for cpu in &cpus {
            let (_, actual) = batch.together(cpu);
            assert_close(&format!("{cpu:?}, {types:?}, {rows:?}"), &actual, &expected, tolerance);
        }
    }
}

#[test]
fn a_step_of_nothing_is_nothing() {
    let mut caches = [KvCache::new(1, 4, 2, KvType::F16, KvType::F16)];
    let cpu = &cpus()[0];
    for rows in [&[][..], &[Placed { cache: 0, start: 2, tokens: 0, is_prompt: false }]] {
        append(cpu, &mut caches, rows, &[], &[]);
        attend(cpu, &[], 2, &caches, rows, 1.0, &mut []);
    }
}

/// The panic message of a step of these rows.
fn refusal(rows: &[Placed], tokens: usize) -> String {
    let run = || {
        let caches =
            [KvCache::new(1, 2, 10, KvType::F32, KvType::F32), KvCache::new(1, 4, 10, KvType::F32, KvType::F32)];
        let mut caches = [caches[0].clone(), caches[0].clone(), caches[1].clone()];
        append(&Cpu::new(Isa::Scalar, 1), &mut caches, rows, &vec![0.0; 2 * tokens], &vec![0.0; 2 * tokens]);
    };
    let panic = std::panic::catch_unwind(run).expect_err("these rows are refused");
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn rows_that_are_no_batch_are_refused() {
    let row = |cache, start, tokens| Placed { cache, start, tokens, is_prompt: false };
    for (rows, tokens, expected) in [
        (&[row(0, 9, 2)][..], 2, "2 positions from 9 on, of 10"),
        (&[row(0, usize::MAX, 2)], 2, "positions from"),
        (&[row(0, 0, 1), row(0, 1, 1)], 2, "two rows of one cache"),
        (&[row(0, 0, 1), row(2, 1, 1)], 2, "heads of the caches"),
        (&[row(0, 0, 2)], 3, "tokens of the keys, and of the rows"),
        (&[], 1, "2 values of no token"),
    ] {
        let message = refusal(rows, tokens);
        assert!(message.contains(expected), "{rows:?}: {message}");
    }
}

/// Down to single tokens, also beside an answer, and for heads that go other ways than most.
#[test]
fn prompts_cut_anywhere_give_the_same_bits() {
    let mut rng = Rng::new(31);
    let cpus = cpus();
    for (heads, kv_heads, head_dim) in [(4, 4, 64), (20, 5, 128), (12, 1, 32), (4, 2, 48), (2, 1, 288), (3, 1, 17)] {
        for (start, cuts) in [(0, &[1, 8, 1, 20][..]), (0, &[2, 7, 1]), (70, &[7, 2, 9]), (513, &[1; 10])] {
            let tokens = cuts.iter().sum();
            let types = TYPES[(tokens + head_dim) % TYPES.len()];
            let mut batch = Batch::new(&mut rng, (heads, kv_heads, head_dim), types, &[(start, tokens)]);
            batch.rows[0].is_prompt = true;
            for cpu in &cpus {
                let (_, whole) = batch.together(cpu);
                let (mut caches, mut parts) = (batch.caches.clone(), Vec::new());
                let mut done = 0;
                for &tokens in cuts {
                    let row = Placed { start: start + done, tokens, ..batch.rows[0] };
                    let of = |width: usize| done * width..(done + tokens) * width;
                    let (q, kv) = (of(heads * head_dim), of(kv_heads * head_dim));
                    done += tokens;
                    let mut out = vec![f32::NAN; q.len()];
                    append(cpu, &mut caches, &[row], &batch.k[kv.clone()], &batch.v[kv]);
                    attend(cpu, &batch.q[q], heads, &caches, &[row], 0.3, &mut out);
                    parts.extend(out);
                }
                let what =
                    format!("{cpu:?}, {heads}/{kv_heads} heads of {head_dim}, {types:?}, {cuts:?} from {start} on");
                assert!(same_bits(&whole, &parts), "{what}");
            }
        }
    }
}

#[test]
fn an_answer_beside_a_short_prompt_is_not_part_of_it() {
    let mut rng = Rng::new(32);
    for cpu in cpus() {
        let mut batch = Batch::new(&mut rng, (8, 2, 64), TYPES[0], &[(90, 1), (20, 3), (33, 1)]);
        batch.rows[1].is_prompt = true;
        let (_, together) = batch.together(&cpu);
        let (mut alone, mut token) = (Vec::new(), 0);
        for row in &batch.rows {
            let of = |width: usize| token * width..(token + row.tokens) * width;
            let (q, kv) = (of(8 * 64), of(2 * 64));
            token += row.tokens;
            let (mut caches, mut out) = (batch.caches.clone(), vec![f32::NAN; q.len()]);
            append(&cpu, &mut caches, &[*row], &batch.k[kv.clone()], &batch.v[kv]);
            attend(&cpu, &batch.q[q], 8, &caches, &[*row], 0.3, &mut out);
            alone.extend(out);
        }
        assert!(same_bits(&together, &alone), "{cpu:?}");
    }
}
