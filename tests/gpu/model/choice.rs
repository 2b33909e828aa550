//! Ids chosen on the device instead of logits that come back.

use std::sync::Arc;

use bitnet_cpu_kernels::format::DenseType;
use bitnet_gpu::{
    Error,
    backend::{Backend, Batch, Rest, Want, gpu::Tuning},
    plan::{KvType, Sizes},
};

use super::{Loaded, best, open, sizes};
use crate::common::gpu::{
    model::{BITNET, LLAMA_INPUT_NORMS, Spec, random_ids, random_model},
    open_backend,
};

/// All ways to ask for the next token give the same: all logits, the best one with the next step under way, the best
/// few with the next step recorded; whether the caller runs what was chosen or not.
#[test]
fn chosen_ids_are_those_of_the_logits() {
    for immediates in [true, false] {
        let tuning = Tuning { immediates: Some(immediates), ..Tuning::default() };
        let model = Arc::new(random_model(&BITNET, 28));
        let Some(mut plain) = open(&model, KvType::F16, tuning.clone()) else { return };
        let Some(mut chosen) = open(&model, KvType::F16, tuning) else { return };
        let prompt = random_ids(&BITNET, 29, 9);
        let mut logits = plain.run(&prompt, 0, Want::Last).unwrap();
        chosen.run(&prompt, 0, Want::Top(1)).unwrap();
        assert_eq!(chosen.activations.rows[0].candidates.top[0].id, best(&logits));
        let mut id = best(&logits);
        for at in 9..120 {
            // Another token than the chosen one, going back, and every few tokens more than one candidate.
            if at % 7 == 0 {
                id = (id + 1) % BITNET.vocab as u32;
            }
            if at == 50 {
                let again = random_ids(&BITNET, 31, 12);
                plain.run(&again, 20, Want::Nothing).unwrap();
                chosen.run(&again, 20, Want::Nothing).unwrap();
                plain.run(&again[..4], 32, Want::Nothing).unwrap();
                chosen.run(&again[..4], 32, Want::Nothing).unwrap();
            }
            let at = if at < 50 { at } else { at - 50 + 36 };
            logits = plain.run(&[id], at, Want::Last).unwrap();
            let count = [1, 1, 1, 40, 40][at / 10 % 5];
            let found = chosen.top(id, at, count);
            let mut expected: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            expected.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
            assert_eq!(found.len(), if count == 1 { 1 } else { 254 });
            assert_eq!(found, expected[..found.len()], "{count} ids at {at}");
            match chosen.activations.rows[0].candidates.rest {
                Rest::Lower => assert_eq!(count, 1),
                Rest::Summed { log_sum_exp } => {
                    let exact = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
                    assert!((f64::from(log_sum_exp) - exact).abs() < 5e-5, "{log_sum_exp} for {exact}");
                }
                Rest::None => panic!("there are 301 ids"),
            }
            if at % 5 == 4 {
                // The candidates did not suffice: the head again, for all logits.
                assert_eq!(chosen.full_logits(), logits, "all logits at {at}");
            }
            id = best(&logits);
        }
    }
}

/// A screened head leaves the ids and logits of the full one: the best one, the best few, and all where those are wanted;
/// whatever came before, in windows as well, and it counts the rows that it computed in full.
#[test]
fn a_screened_head_gives_what_the_full_one_gives() {
    for (base, head, max_binding_bytes) in [
        (BITNET, DenseType::F16, None),
        (BITNET, DenseType::Q8_0, Some(400_000)),
        // With a norm of the head's own.
        (LLAMA_INPUT_NORMS, DenseType::F32, None),
    ] {
        let spec = Spec { vocab: 1100, layers: 1, table: head, head: None, ..base };
        let model = Arc::new(random_model(&spec, 50));
        let tuning = Tuning { max_binding_bytes, ..Tuning::default() };
        let Some(backend) = open_backend(tuning.clone()) else { return };
        let Some(mut full) = open(&model, KvType::F16, tuning) else { return };
        let mut screened = Loaded::new(backend, &model, &Sizes { head_screen: true, ..sizes(KvType::F16) });
        let prompt = random_ids(&spec, 51, 30);
        let mut logits = full.run(&prompt, 0, Want::Last).unwrap();
        screened.run(&prompt, 0, Want::Top(1)).unwrap();
        let mut id = best(&logits);
        assert_eq!(screened.activations.rows[0].candidates.top[0].id, id, "after a prompt");
        let mut fewest = spec.vocab;
        for at in 30..110 {
            if at % 9 == 0 {
                id = (id + 1) % spec.vocab as u32;
            }
            logits = full.run(&[id], at, Want::Last).unwrap();
            let count = [1, 1, 2, 3][at / 10 % 4];
            let found = screened.top(id, at, count);
            let mut expected: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            expected.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
            assert_eq!(found, expected[..[0, 1, 2, 254][count]], "{head:?}: {count} ids at {at}");
            let rest = screened.activations.rows[0].candidates.rest;
            assert_eq!(matches!(rest, Rest::Lower), count < 3, "{rest:?} at {at}");
            let rows = screened.activations.rows[0].head_rows;
            // Three are more than a screen finds among so few rows.
            assert!(if count < 3 { (count..=spec.vocab).contains(&rows) } else { rows == spec.vocab }, "{rows} rows");
            fewest = fewest.min(rows);
            if at % 7 == 3 {
                // The candidates did not suffice: the head again, for all logits.
                assert_eq!(screened.full_logits(), logits, "all logits at {at}");
            }
            id = best(&logits);
        }
        assert!(fewest < spec.vocab / 4, "{head:?}: never fewer than {fewest} rows");
    }
}

/// Steps end where the context does, though the one after would be begun.
#[test]
fn nothing_is_begun_behind_the_end_of_the_context() {
    let model = Arc::new(random_model(&BITNET, 33));
    let Some(mut gpu) = open(&model, KvType::F16, Tuning::default()) else { return };
    gpu.run(&random_ids(&BITNET, 34, 80), 0, Want::Nothing).unwrap();
    gpu.run(&random_ids(&BITNET, 35, 76), 80, Want::Top(1)).unwrap();
    for at in 156..160 {
        let id = gpu.activations.rows[0].candidates.top[0].id;
        gpu.top(id, at, 1);
    }
    gpu.activations.ids = vec![1];
    let error = gpu.backend.run(gpu.segment, &Batch::one(160..161, Want::Top(1)), &mut gpu.activations).unwrap_err();
    assert!(matches!(error, Error::ContextFull { needed: 161, context: 160 }), "{error}");
}
