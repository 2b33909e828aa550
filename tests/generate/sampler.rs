//! The sampler against distributions worked out by hand, and against a plain sort.

use bitnet_gpu::{
    Error, ErrorKind,
    backend::{Candidates, Limits, Rest, Scored, Want},
    generate::{Mirostat, SampleOptions, Sampler, Xtc, uniform},
};

/// All stages off, temperature 1.
fn plain() -> SampleOptions {
    with!(SampleOptions::default(), temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: Some(11))
}

fn sampler(options: SampleOptions) -> Sampler {
    Sampler::new(options, 4096).unwrap()
}

/// Probabilities 1/8, 1/2, 1/8, 1/4 as logits; the shift must not matter.
fn eighths() -> Vec<f32> {
    [0.125f32, 0.5, 0.125, 0.25].map(|p| p.ln() + 3.0).to_vec()
}

fn mirostat(entropy: f32, learning_rate: f32) -> SampleOptions {
    with!(plain(), mirostat: Some(Mirostat { entropy, learning_rate }))
}

/// Draws often and compares the frequencies with `expected`, within 5 standard deviations; an id of
/// probability 0 must never come.
fn assert_distribution(options: SampleOptions, logits: &[f32], expected: &[f64]) {
    let draws = 40_000;
    let mut counts = vec![0usize; logits.len()];
    let mut sampler = sampler(options.clone());
    for position in 0..draws {
        counts[sampler.sample(&mut logits.to_vec(), position).unwrap() as usize] += 1;
    }
    for (id, (&count, &p)) in counts.iter().zip(expected).enumerate() {
        let sigma = (draws as f64 * p * (1.0 - p)).sqrt();
        let off = (count as f64 - draws as f64 * p).abs();
        assert!(off <= 5.0 * sigma, "id {id}: {count} of {draws} draws, expected a share of {p}: {options:?}");
    }
}

#[test]
fn each_stage_gives_the_hand_worked_distribution() {
    let third = 1.0 / 3.0;
    let p2 = 0.25 + 0.0625 + 2.0 * 0.015625; // sum of the squared probabilities
    let cases = [
        (plain(), [0.125, 0.5, 0.125, 0.25]),
        // p^(1/t), normalised.
        (with!(plain(), temperature: 0.5), [0.015625 / p2, 0.25 / p2, 0.015625 / p2, 0.0625 / p2]),
        (with!(plain(), top_k: 2), [0.0, 2.0 * third, 0.0, third]),
        // Of the two ids of probability 1/8 the lower one is the third.
        (with!(plain(), top_k: 3), [1.0 / 7.0, 4.0 / 7.0, 0.0, 2.0 / 7.0]),
        (with!(plain(), top_k: 1000), [0.125, 0.5, 0.125, 0.25]),
        (with!(plain(), top_p: 0.0), [0.0, 1.0, 0.0, 0.0]),
        (with!(plain(), top_p: 0.45), [0.0, 1.0, 0.0, 0.0]),
        (with!(plain(), top_p: 0.7), [0.0, 2.0 * third, 0.0, third]),
        (with!(plain(), top_p: 0.8), [1.0 / 7.0, 4.0 / 7.0, 0.0, 2.0 / 7.0]),
        (with!(plain(), min_p: 0.4), [0.0, 2.0 * third, 0.0, third]),
        (with!(plain(), min_p: 0.2), [0.125, 0.5, 0.125, 0.25]),
        (with!(plain(), min_p: 1.0), [0.0, 1.0, 0.0, 0.0]),
        // The entropy is 1.75 bits, the surprises 3, 1, 3 and 2: nearest are id 3, id 1, id 0, id 2.
        (with!(plain(), typical_p: 0.2), [0.0, 0.0, 0.0, 1.0]),
        (with!(plain(), typical_p: 0.3), [0.0, 2.0 * third, 0.0, third]),
        (with!(plain(), typical_p: 0.8), [1.0 / 7.0, 4.0 / 7.0, 0.0, 2.0 / 7.0]),
        // In units of ln 2 the logits are -3, -1, -3, -2 (and a shift): their deviation is 0.83.
        (with!(plain(), top_n_sigma: 1.0), [0.0, 1.0, 0.0, 0.0]),
        (with!(plain(), top_n_sigma: 1.5), [0.0, 2.0 * third, 0.0, third]),
        (with!(plain(), top_n_sigma: 2.5), [0.125, 0.5, 0.125, 0.25]),
        (with!(plain(), top_n_sigma: 1.5, logit_bias: vec![(1, f32::NEG_INFINITY)]), [0.0, 0.0, 0.0, 1.0]),
        // Of the ids of at least the threshold the least probable one stays; at half of the draws, half of each.
        (with!(plain(), xtc: Xtc { probability: 1.0, threshold: 0.2 }), [0.25, 0.0, 0.25, 0.5]),
        (with!(plain(), xtc: Xtc { probability: 1.0, threshold: 0.3 }), [0.125, 0.5, 0.125, 0.25]),
        (with!(plain(), xtc: Xtc { probability: 1.0, threshold: 0.1 }), [0.0, 0.0, 1.0, 0.0]),
        (with!(plain(), xtc: Xtc { probability: 0.5, threshold: 0.2 }), [0.1875, 0.25, 0.1875, 0.375]),
        (with!(plain(), xtc: Xtc { probability: 0.0, threshold: 0.2 }), [0.125, 0.5, 0.125, 0.25]),
        // A bound of twice the target: 2.5 bits, then 0.5; with p^2 at temperature 1/2, 3 bits.
        (mirostat(1.25, 0.0), [0.0, 2.0 * third, 0.0, third]),
        (mirostat(0.25, 0.0), [0.0, 1.0, 0.0, 0.0]),
        (with!(mirostat(1.5, 0.0), temperature: 0.5), [0.0, 0.8, 0.0, 0.2]),
        // Nothing else cuts beside it.
        (with!(mirostat(1.25, 0.0), top_k: 1, top_p: 0.1, min_p: 1.0, typical_p: 0.1), [0.0, 2.0 * third, 0.0, third]),
        // 1/2 and e^ln(2)/4 are equal; a banned id is gone.
        (with!(plain(), logit_bias: vec![(3, 2f32.ln())]), [0.1, 0.4, 0.1, 0.4]),
        (with!(plain(), logit_bias: vec![(1, f32::NEG_INFINITY)]), [0.25, 0.0, 0.25, 0.5]),
    ];
    for (options, expected) in cases {
        assert_distribution(options, &eighths(), &expected);
    }
}

#[test]
fn the_stages_run_in_the_order_of_llama_cpp() {
    // top-k before top-p: of 2/3 and 1/3 the first is enough for 0.6; of 1/2 and 1/4 it is not.
    assert_distribution(with!(plain(), top_k: 2, top_p: 0.6), &eighths(), &[0.0, 1.0, 0.0, 0.0]);
    // top-k before typical-p: of 2/3 and 1/3 the first is nearer to the entropy.
    assert_distribution(with!(plain(), top_k: 2, typical_p: 0.5), &eighths(), &[0.0, 1.0, 0.0, 0.0]);
    // typical-p before top-p, which alone would keep id 1.
    assert_distribution(with!(plain(), typical_p: 0.2, top_p: 0.45), &eighths(), &[0.0, 0.0, 0.0, 1.0]);
    // min-p before temperature: at temperature 1/2 the second id would be at 1/4 of the first.
    let options = with!(plain(), min_p: 0.4, temperature: 0.5);
    assert_distribution(options, &eighths(), &[0.0, 0.8, 0.0, 0.2]);
    // XTC before temperature, and behind min-p, which leaves one id for it.
    let xtc = Xtc { probability: 1.0, threshold: 0.2 };
    let sixth = 1.0 / 6.0;
    let options = with!(plain(), xtc: xtc, temperature: 0.5);
    assert_distribution(options, &eighths(), &[sixth, 0.0, sixth, 4.0 * sixth]);
    assert_distribution(with!(plain(), xtc: xtc, min_p: 0.6), &eighths(), &[0.0, 1.0, 0.0, 0.0]);
    // Penalties before top-k: the highest logit falls behind the second.
    let options = with!(plain(), presence_penalty: 5.0, top_k: 1);
    let mut sampler = sampler(options);
    sampler.accept(1);
    assert_eq!(sampler.sample(&mut eighths(), 0).unwrap(), 3);
}

#[test]
fn penalties_change_the_logits_as_computed_by_hand() {
    let after = |options: SampleOptions, history: &[u32]| {
        let mut sampler = sampler(with!(options, temperature: 0.0));
        sampler.reset(history);
        let mut logits = vec![2.0, -2.0, 1.0, 0.5];
        sampler.sample(&mut logits, history.len()).unwrap();
        logits
    };
    let off = SampleOptions::default();
    let repeat = with!(off.clone(), repeat_penalty: 2.0);
    assert_eq!(after(off.clone(), &[0, 0, 1]), [2.0, -2.0, 1.0, 0.5]);
    assert_eq!(after(repeat.clone(), &[0, 0, 1]), [1.0, -4.0, 1.0, 0.5]);
    let frequency = with!(off.clone(), frequency_penalty: 0.5);
    assert_eq!(after(frequency, &[0, 0, 1]), [1.0, -2.5, 1.0, 0.5]);
    let presence = with!(off.clone(), presence_penalty: 0.25);
    assert_eq!(after(presence, &[0, 0, 1]), [1.75, -2.25, 1.0, 0.5]);
    let all = with!(off, repeat_penalty: 2.0, frequency_penalty: 0.5, presence_penalty: 0.25);
    assert_eq!(after(all.clone(), &[0, 0, 1]), [-0.25, -4.75, 1.0, 0.5]);

    // The bias comes before the penalties, and counts for ids outside the window as well.
    let bias = with!(all.clone(), logit_bias: vec![(3, 1.5), (0, -3.0), (0, 0.5), (99, 1.0)]);
    assert_eq!(after(bias, &[0, 0, 1]), [-2.25, -4.75, 1.0, 2.0]);

    // The window: the last two, none, everything. An id outside the vocabulary is ignored.
    let last_two = with!(repeat.clone(), repeat_last_n: Some(2));
    assert_eq!(after(last_two, &[0, 1, 2]), [2.0, -4.0, 0.5, 0.5]);
    assert_eq!(after(with!(repeat.clone(), repeat_last_n: Some(0)), &[0, 1]), [2.0, -2.0, 1.0, 0.5]);
    let long: Vec<u32> = std::iter::once(0).chain(std::iter::repeat_n(99, 4000)).collect();
    assert_eq!(after(repeat.clone(), &long), [2.0, -2.0, 1.0, 0.5]);
    assert_eq!(after(with!(repeat, repeat_last_n: None), &long), [1.0, -2.0, 1.0, 0.5]);
}

#[test]
fn accepted_ids_push_old_ones_out_of_the_window() {
    let options = with!(plain(), temperature: 0.0, presence_penalty: 10.0, repeat_last_n: Some(2));
    let mut sampler = sampler(options);
    let picks: Vec<u32> = (0..6)
        .map(|position| {
            let id = sampler.sample(&mut [3.0, 2.0, 1.0], position).unwrap();
            sampler.accept(id);
            id
        })
        .collect();
    assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn greedy_takes_the_lowest_of_the_highest() {
    let mut sampler = sampler(with!(plain(), temperature: 0.0));
    assert_eq!(sampler.sample(&mut [1.0, 5.0, 5.0, -3.0], 0).unwrap(), 1);
    assert_eq!(sampler.sample(&mut [-2.0], 0).unwrap(), 0);
}

/// Against a plain loop, with many equal values and lengths around the blocks of the fast one.
#[test]
fn greedy_and_the_check_find_the_first_in_any_length() {
    let mut sampler = sampler(SampleOptions::greedy());
    for len in [1, 2, 15, 16, 17, 1023, 1024, 1025, 2048, 5000] {
        for levels in [1.0, 3.0, 1000.0] {
            let mut logits: Vec<f32> = (0..len).map(|i| (uniform(len, i) * levels).floor() - 5.0).collect();
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = logits.iter().position(|&l| l == highest).unwrap();
            assert_eq!(sampler.sample(&mut logits, 0).unwrap(), first as u32, "{len} logits, {levels} levels");
            for bad in [len - 1, len / 2] {
                logits[bad as usize] = f32::NAN;
                let error = sampler.sample(&mut logits, 0).unwrap_err().to_string();
                assert!(error.contains(&format!("token {bad} ")), "{error}");
            }
        }
    }
    assert_eq!(sampler.sample(&mut [f32::MIN; 40], 0).unwrap(), 0);
}

#[test]
fn banned_ids_never_come_while_there_are_others() {
    for temperature in [0.0, 1.0] {
        let mut sampler = sampler(with!(plain(), temperature: temperature));
        sampler.ban(&[1, 3, 99]);
        for position in 0..200 {
            assert!([0, 2].contains(&sampler.sample(&mut eighths(), position).unwrap()));
        }
        sampler.ban(&[]);
        assert_eq!(sampler.sample(&mut [0.0, 50.0], 0).unwrap(), 1);
    }
}

#[test]
fn a_logit_that_is_not_finite_is_an_error_that_names_it() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for temperature in [0.0, 0.8] {
            let mut sampler = sampler(with!(plain(), temperature: temperature));
            let error = sampler.sample(&mut [0.0, 1.0, bad, 2.0], 0).unwrap_err();
            assert!(matches!(error, Error::NotFinite { .. }));
            assert!(error.to_string().contains("token 2"), "{error}");
        }
    }
    assert!(sampler(plain()).sample(&mut [], 0).is_err());
}

#[test]
fn extreme_but_finite_numbers_are_no_error() {
    let wide = [f32::MAX, f32::MIN, 0.0, f32::MIN_POSITIVE];
    for temperature in [1e-40, 1e-3, 1.0, f32::MAX] {
        for penalty in [1e-30, 1.0, f32::MAX] {
            let options = with!(plain(), temperature: temperature, repeat_penalty: penalty, frequency_penalty: if penalty > 1.0 { -f32::MAX } else { 0.0 });
            let mut sampler = sampler(options);
            sampler.reset(&[0, 0, 1, 1, 2, 3]);
            assert!(sampler.sample(&mut wide.to_vec(), 0).unwrap() < 4);
        }
    }
}

#[test]
fn bad_options_are_usage_errors() {
    let bad = [
        with!(plain(), temperature: f32::NAN),
        with!(plain(), top_p: 1.5),
        with!(plain(), top_p: f32::NAN),
        with!(plain(), min_p: -0.1),
        with!(plain(), repeat_penalty: 0.0),
        with!(plain(), repeat_penalty: f32::INFINITY),
        with!(plain(), frequency_penalty: f32::NAN),
        with!(plain(), presence_penalty: f32::INFINITY),
        with!(plain(), typical_p: -1.0),
        with!(plain(), logit_bias: vec![(1, f32::INFINITY)]),
        with!(plain(), logit_bias: vec![(1, f32::NAN)]),
        mirostat(-1.0, 0.1),
        mirostat(f32::NAN, 0.1),
        mirostat(5.0, 1.5),
    ];
    let names = "temp top-p top-p min-p repeat-penalty repeat-penalty frequency-penalty presence-penalty typical \
                 logit-bias logit-bias mirostat-ent mirostat-ent mirostat-lr";
    assert_eq!(bad.len(), names.split_whitespace().count());
    for (options, name) in bad.into_iter().zip(names.split_whitespace()) {
        let error = Sampler::new(options, 16).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().starts_with(&format!("{name} ")), "{error}");
    }
}

#[test]
fn a_draw_depends_on_seed_and_position_alone() {
    let stream = |seed, order: &[usize]| -> Vec<u32> {
        let mut sampler = sampler(with!(plain(), seed: Some(seed)));
        let logits: Vec<f32> = (0..100).map(|i| (i % 7) as f32 * 0.1).collect();
        order.iter().map(|&position| sampler.sample(&mut logits.clone(), position).unwrap()).collect()
    };
    let forwards: Vec<usize> = (0..50).collect();
    let backwards: Vec<usize> = (0..50).rev().collect();
    let ids = stream(5, &forwards);
    let mut reversed = stream(5, &backwards);
    reversed.reverse();
    assert_eq!(ids, reversed);
    assert_ne!(ids, stream(6, &forwards));

    let random = sampler(with!(plain(), seed: None));
    let drawn = (0..4).map(|_| sampler(with!(plain(), seed: None)).seed());
    assert!(drawn.into_iter().any(|seed| seed != random.seed()), "a drawn seed never changes");
    assert_eq!(sampler(with!(plain(), seed: Some(9))).seed(), 9);
}

/// The values of the formula in the documentation of `uniform`, computed by a separate program: what a
/// shader must give as well.
#[test]
fn the_counter_hash_is_the_documented_one() {
    let known = [(0, 0, 11157083), (1, 0, 10043853), (0, 1, 7277352), (42, 7, 8117868), (u32::MAX, 4095, 2687558)];
    for (seed, position, upper_24_bits) in known {
        assert_eq!(uniform(seed, position), upper_24_bits as f32 / 16_777_216.0, "seed {seed}, position {position}");
    }
    let n = 1u32 << 16;
    for seed in [0, 1, 2, 0xDEAD_BEEF] {
        let mut buckets = [0usize; 64];
        for position in 0..n {
            let u = uniform(seed, position);
            assert!((0.0..1.0).contains(&u));
            buckets[(u * 64.0) as usize] += 1;
        }
        let expected = f64::from(n) / 64.0;
        let chi2: f64 = buckets.iter().map(|&b| (b as f64 - expected).powi(2) / expected).sum();
        // 63 degrees of freedom: mean 63, standard deviation 11.2.
        assert!(chi2 < 63.0 + 6.0 * 11.2, "seed {seed}: chi-squared {chi2}");
    }
}

/// Top-k by threshold and selection against a full sort, with many equal logits and sizes around the
/// internal buffer's.
#[test]
fn top_k_keeps_what_a_full_sort_keeps() {
    for (len, k, levels) in [
        (1, 1, 3),
        (2, 1, 1),
        (255, 40, 5),
        (256, 40, 300),
        (257, 64, 4),
        (1000, 1, 10),
        (1000, 999, 10),
        (5000, 40, 7),
        (5000, 40, 100_000),
        (5000, 300, 50),
        (5000, 5000, 50),
    ] {
        let logits: Vec<f32> = (0..len).map(|i| (uniform(len * 31 + k, i) * levels as f32).floor() * 0.01).collect();
        let mut sorted: Vec<u32> = (0..len).collect();
        sorted.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let kept = &sorted[..k as usize];
        let mut seen = vec![false; len as usize];
        // A high temperature makes all kept ids equally probable: each comes within 40 k draws but for
        // a chance of k * e^-40.
        let options = with!(plain(), top_k: k as usize, temperature: 1e6);
        let mut sampler = sampler(options);
        let draws = if k <= 300 { 40 * k as usize } else { 200 };
        for position in 0..draws {
            let id = sampler.sample(&mut logits.clone(), position).unwrap();
            assert!(kept.contains(&id), "{id} is not in the top {k} of {len}");
            seen[id as usize] = true;
        }
        if k <= 300 {
            assert!(kept.iter().all(|&id| seen[id as usize]), "top {k} of {len} lost an id");
        }
    }
}

#[test]
fn top_k_of_everything_is_top_k_off() {
    let logits: Vec<f32> = (0..3000).map(|i| uniform(3, i) * 8.0).collect();
    for position in 0..100 {
        let draw = |top_k| sampler(with!(plain(), top_k: top_k, top_p: 0.9)).sample(&mut logits.clone(), position);
        assert_eq!(draw(0).unwrap(), draw(3000).unwrap());
    }
}

/// Against the formulas of the paper written out: every probability, a full sort, in f64.
#[test]
fn mirostat_moves_its_bound_by_the_surprise_of_each_id() {
    for (entropy, rate, temperature) in [(3.0, 0.1, 1.0), (1.0, 0.9, 0.7), (6.0, 0.3, 1.5)] {
        let mut sampler = sampler(with!(mirostat(entropy, rate), temperature: temperature));
        let mut bound = f64::from(2.0 * entropy);
        for position in 0..200 {
            let logits: Vec<f32> = (0..300).map(|i| uniform(position, i) * 12.0).collect();
            let weights = logits.iter().map(|&l| (f64::from(l) / f64::from(temperature)).exp());
            let mut ranked: Vec<(f64, u32)> = weights.zip(0..).collect();
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
            let sum: f64 = ranked.iter().map(|c| c.0).sum();
            let kept = ranked.iter().take_while(|c| -(c.0 / sum).log2() <= bound).count().max(1);
            let sum: f64 = ranked[..kept].iter().map(|c| c.0).sum();
            let target = f64::from(uniform(11, position)) * sum;
            let mut reached = 0.0;
            let expected = ranked[..kept].iter().find(|c| {
                reached += c.0;
                reached > target
            });
            let &(weight, id) = expected.unwrap();
            assert_eq!(sampler.sample(&mut logits.clone(), position as usize).unwrap(), id, "position {position}");
            bound -= f64::from(rate) * (-(weight / sum).log2() - f64::from(entropy));
        }
        // A new answer begins with the first bound.
        let first = |sampler: &mut Sampler| -> Vec<u32> {
            sampler.reset(&[]);
            (0..50)
                .map(|p| sampler.sample(&mut (0..300).map(|i| uniform(p, i)).collect::<Vec<_>>(), 0).unwrap())
                .collect()
        };
        assert_eq!(first(&mut sampler), first(&mut sampler));
    }
}

/// The highest `n`, as a backend would hand them over.
fn highest(logits: &[f32], n: usize, summed: bool) -> Candidates {
    let mut top: Vec<Scored> = logits.iter().zip(0..).map(|(&logit, id)| Scored { id, logit }).collect();
    top.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
    let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    let rest = match (n >= top.len(), summed) {
        (true, _) => Rest::None,
        (false, false) => Rest::Lower,
        (false, true) => Rest::Summed { log_sum_exp: sum.ln() as f32 },
    };
    top.truncate(n);
    Candidates { top, rest }
}

/// A backend that finds many of the highest logits, and fewer with their sum.
const LIMITS: Limits = Limits {
    max_tokens: 512,
    exact_tokens: 8,
    least_prompt: 1,
    mixes_rows: true,
    keeps_on_the_way: false,
    most_top: 2000,
    most_each: 0,
    most_summed: 254,
    most_drafted: 0,
};

/// From the highest logits the same id as from all of them, wherever the sampler asks for no more.
#[test]
fn candidates_give_the_same_draw_as_all_logits() {
    let penalties = with!(plain(), repeat_penalty: 1.5, frequency_penalty: 0.5, repeat_last_n: Some(8));
    let cases = [
        plain(),
        SampleOptions::greedy(),
        with!(penalties.clone(), temperature: 0.0),
        with!(plain(), temperature: 0.0, logit_bias: vec![(3, -4.0), (5, f32::NEG_INFINITY)]),
        with!(SampleOptions::default(), top_k: 40, seed: Some(4)),
        with!(penalties.clone(), top_k: 40, top_p: 0.8, typical_p: 0.9),
        with!(penalties, top_k: 20, logit_bias: vec![(0, -1.0), (1, -2.0), (2, -1.0)]),
        with!(plain(), top_p: 0.5),
        with!(plain(), top_k: 1000),
        with!(plain(), logit_bias: vec![(3, 4.0)], top_k: 4),
        with!(plain(), presence_penalty: -2.0, top_k: 4),
        mirostat(2.0, 0.1),
    ];
    for options in cases {
        for levels in [8.0, 1e6] {
            let (mut whole, mut part) = (sampler(options.clone()), sampler(options.clone()));
            if options.top_k > 0 {
                whole.ban(&[7, 9]);
                part.ban(&[7, 9]);
            }
            let mut answered = [0; 3];
            for position in 0..200 {
                let logits: Vec<f32> =
                    (0..700).map(|i| (uniform(position, i) * levels).floor() / levels * 12.0).collect();
                let expected = whole.sample(&mut logits.clone(), position as usize).unwrap();
                let asked = match part.want(&LIMITS) {
                    Want::Top(n) => n,
                    _ => 64,
                };
                for (at, (n, summed)) in [(asked, true), (3, false), (1000, false)].into_iter().enumerate() {
                    // A draw of Mirostat changes the sampler.
                    let mut copy = part.clone();
                    if let Some(id) = copy.sample_top(&highest(&logits, n, summed), position as usize).unwrap() {
                        assert_eq!(id, expected, "top {n} at {position}: {options:?}");
                        answered[at] += 1;
                    }
                }
                whole.accept(expected);
                part.accept(expected);
            }
            // What it asked for was enough, but for cuts of top-p at the very border.
            let asks = matches!(part.want(&LIMITS), Want::Top(_));
            if asks {
                assert!(
                    answered[0] >= if options.top_k == 0 && options.temperature > 0.0 { 190 } else { 200 },
                    "{options:?}"
                );
            }
            assert_eq!(answered[2], if options.mirostat.is_some() { 0 } else { 200 }, "{options:?}");
        }
    }
}

#[test]
fn candidates_that_are_not_enough_are_no_answer() {
    let three =
        |rest| Candidates { top: [(4, 3.0), (2, 2.0), (9, 1.0)].map(|(id, logit)| Scored { id, logit }).into(), rest };
    let draw = |options: SampleOptions, rest| sampler(options).sample_top(&three(rest), 0).unwrap();
    // Of all ids, and of four.
    assert_eq!(draw(plain(), Rest::Lower), None);
    assert_eq!(draw(with!(plain(), top_k: 4), Rest::Lower), None);
    assert!(draw(with!(plain(), top_k: 3), Rest::Lower).is_some());
    assert!(draw(with!(plain(), top_k: 4), Rest::None).is_some());
    // The best one, lowered to where another may lie; to a place before the last; and to the last one's.
    let lowered = |by: f32| with!(plain(), temperature: 0.0, logit_bias: vec![(4, -by), (2, -by), (9, -by)]);
    assert_eq!(draw(lowered(5.0), Rest::Lower), None);
    assert_eq!(draw(lowered(1.5), Rest::Lower), Some(4));
    assert_eq!(draw(lowered(2.0), Rest::Lower), None);
    // An id that is not here may have been raised.
    let raised = with!(plain(), temperature: 0.0, logit_bias: vec![(77, 5.0)]);
    assert_eq!(draw(raised.clone(), Rest::Lower), None);
    assert_eq!(sampler(raised).want(&LIMITS), Want::Last);
    assert_eq!(sampler(SampleOptions::greedy()).want(&LIMITS), Want::Top(1));
    let top_40 = sampler(with!(plain(), top_k: 40));
    assert_eq!(top_40.want(&LIMITS), Want::Top(40));
    assert_eq!(sampler(plain()).want(&LIMITS), Want::Last);
    // No more is asked for than the backend can answer, and top-p alone only where it knows the sum.
    assert_eq!(top_40.want(&Limits { most_top: 39, ..LIMITS }), Want::Last);
    let top_p = sampler(with!(plain(), top_p: 0.9));
    assert_eq!(top_p.want(&LIMITS), Want::Top(254));
    assert_eq!(top_p.want(&Limits { most_summed: 0, ..LIMITS }), Want::Last);

    assert!(sampler(plain()).sample_top(&Candidates::default(), 0).is_err());
    let nan = Candidates { top: vec![Scored { id: 5, logit: f32::NAN }], rest: Rest::Lower };
    let error = sampler(SampleOptions::greedy()).sample_top(&nan, 0).unwrap_err().to_string();
    assert!(error.contains("token 5 "), "{error}");
}
