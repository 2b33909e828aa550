//! Many sequences on the GPU: what each gets is, bit for bit, what it gets alone.

use std::{process::Command, sync::Arc, task::Poll};

use bitnet_cpu_kernels::{format::DenseType, isa::Isa};
use bitnet_gpu::{
    Error,
    backend::{
        Activations, Backend, Batch, Candidates, Checkpoint, LayerState, Row, SegmentId, SlotId, Want,
        cpu::CpuBackend,
        gpu::{GpuBackend, Tuning, pipelines::Product},
    },
    model::Model,
    plan::{BackendKind, KvType, Segment, Sizes},
};

use crate::common::{
    gpu::{
        Devices,
        model::{BITNET, LLAMA, QWEN3, Spec, grouped, random_ids, random_model},
        open_gpu,
    },
    hybrid,
};

const SEQUENCES: usize = 8;
const CONTEXT: usize = 160;

fn sizes(kv: KvType, sequences: usize) -> Sizes {
    Sizes { sequences, ..Sizes::new(CONTEXT, 80).with_kv(kv, kv) }
}

/// A model loaded as one segment.
struct Loaded<B> {
    backend: B,
    segment: SegmentId,
    out: Activations,
    vocab: usize,
}

/// Results of a row of a step.
#[derive(Clone, Debug, PartialEq)]
struct Given {
    logits: Vec<f32>,
    candidates: Candidates,
}

/// Bits instead of numbers, which compare equal too easily and print too long.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

impl<B: Backend> Loaded<B> {
    fn new(mut backend: B, model: &Arc<Model>, sizes: &Sizes) -> Self {
        let layers = 0..model.config.layers;
        let segment = Segment { layers, backend: BackendKind::Gpu, embed: true, head: true, reason: "test".into() };
        let segment = backend.load(model, &segment, sizes, &mut |_| {}).unwrap();
        Self { backend, segment, out: Activations::default(), vocab: model.config.vocab }
    }

    /// A step of (slot, position, ids, want).
    fn step(&mut self, rows: &[(usize, usize, &[u32], Want)]) -> Vec<Given> {
        let (batch, input) = step_of(rows);
        let ticket = self.backend.submit(self.segment, &batch, &input).unwrap();
        self.backend.wait(ticket, &mut self.out).unwrap();
        self.given()
    }

    fn given(&self) -> Vec<Given> {
        let of = |row: &bitnet_gpu::backend::RowOutput| Given {
            logits: self.out.logits[row.logits.start * self.vocab..row.logits.end * self.vocab].to_vec(),
            // Of no candidates, what the rest is has no meaning.
            candidates: Some(row.candidates.clone()).filter(|found| !found.top.is_empty()).unwrap_or_default(),
        };
        self.out.rows.iter().map(of).collect()
    }

    fn full_logits(&mut self, slot: usize) -> Vec<f32> {
        let mut logits = Vec::new();
        self.backend.full_logits(self.segment, SlotId(slot as u32), &mut logits).unwrap();
        logits
    }
}

fn step_of(rows: &[(usize, usize, &[u32], Want)]) -> (Batch, Activations) {
    let row = |&(slot, start, ids, want): &(usize, usize, &[u32], Want)| Row {
        slot: SlotId(slot as u32),
        positions: start..start + ids.len(),
        want,
        is_prompt: false,
        checkpoint: None,
    };
    let ids = rows.iter().flat_map(|(_, _, ids, _)| ids.iter().copied()).collect();
    (Batch { rows: rows.iter().map(row).collect() }, Activations { ids, ..Activations::default() })
}

fn open(devices: &mut Devices, model: &Arc<Model>, sizes: &Sizes, tuning: Tuning) -> Option<Loaded<GpuBackend>> {
    Some(Loaded::new(devices.backend(tuning)?, model, sizes))
}

/// A sequence of a test: it is started with its prompt at some step, and runs a token in each that follows.
struct Script {
    ids: Vec<u32>,
    prompt: usize,
    first_step: usize,
}

/// Prompts of every kind of length, one after the other; the last ones end first.
fn scripts(vocab: usize) -> Vec<Script> {
    let of = |(n, (prompt, tokens)): (usize, (usize, usize))| Script {
        ids: random_ids(&Spec { vocab, ..BITNET }, 70 + n as u64, prompt + tokens),
        prompt,
        first_step: n,
    };
    let lengths = [(1, 20), (3, 18), (9, 15), (70, 12), (17, 10), (2, 8), (33, 6), (8, 5)];
    lengths.into_iter().enumerate().map(of).collect()
}

/// Steps of all sequences together, against each alone. `slot_of` says which slot a sequence takes.
fn assert_together_as_alone(devices: &mut Devices, what: &str, model: &Arc<Model>, sizes: &Sizes, tuning: Tuning) {
    let vocab = model.config.vocab;
    let Some(mut together) = open(devices, model, sizes, tuning.clone()) else { return };
    let alone = Sizes { sequences: 1, ..*sizes };
    let mut alone = open(devices, model, &alone, tuning).unwrap();
    let scripts = scripts(vocab);
    // What each gives alone, after its prompt and after each token behind it.
    let expected: Vec<Vec<Vec<u32>>> = scripts
        .iter()
        .map(|script| {
            let mut given = vec![bits(&alone.step(&[(0, 0, &script.ids[..script.prompt], Want::Last)])[0].logits)];
            for at in script.prompt..script.ids.len() {
                given.push(bits(&alone.step(&[(0, at, &script.ids[at..at + 1], Want::Last)])[0].logits));
            }
            given
        })
        .collect();

    // Slots are not taken in the order of the sequences.
    let slot = |n: usize| (3 * n + 1) % SEQUENCES;
    let mut done = vec![0; scripts.len()];
    for step in 0.. {
        if let Some(n) = scripts.iter().position(|script| script.first_step == step) {
            let script = &scripts[n];
            let given = together.step(&[(slot(n), 0, &script.ids[..script.prompt], Want::Last)]);
            assert!(bits(&given[0].logits) == expected[n][0], "{what}: prompt of sequence {n}");
            done[n] = script.prompt;
        }
        // Every third step one of them runs two tokens, as checked drafts are.
        let mut room = SEQUENCES;
        let mut rows = Vec::new();
        for (n, script) in scripts.iter().enumerate().filter(|&(n, script)| done[n] > 0 && done[n] < script.ids.len()) {
            let count = if step % 3 == n % 3 && done[n] + 2 <= script.ids.len() { 2 } else { 1 };
            if count <= room {
                room -= count;
                rows.push((n, count));
            }
        }
        if rows.is_empty() {
            break;
        }
        let of_step: Vec<_> = rows
            .iter()
            .map(|&(n, count)| (slot(n), done[n], &scripts[n].ids[done[n]..done[n] + count], Want::All))
            .collect();
        let given = together.step(&of_step);
        for (&(n, count), given) in rows.iter().zip(&given) {
            for i in 0..count {
                let logits = &given.logits[i * vocab..(i + 1) * vocab];
                let at = done[n] + i;
                let expected = &expected[n][at - scripts[n].prompt + 1];
                assert!(
                    bits(logits) == *expected,
                    "{what}: sequence {n} at {at}, in step {step} of {} rows",
                    rows.len()
                );
            }
            done[n] += count;
        }
    }
    assert!(scripts.iter().zip(&done).all(|(script, &done)| done == script.ids.len()), "{what}: {done:?}");
}

#[test]
fn each_gets_what_it_gets_alone() {
    let devices = &mut Devices::default();
    let plain = || Tuning { subgroups: Some(false), ..Tuning::default() };
    for (name, spec, kv, tuning) in [
        ("f16", BITNET, KvType::F16, Tuning::default()),
        ("q8_0", BITNET, KvType::Q8_0, Tuning::default()),
        ("f32, head norms", QWEN3, KvType::F32, Tuning::default()),
        ("q8_0, head norms, no subgroups", QWEN3, KvType::Q8_0, plain()),
        ("f16, no subgroups, f32 products", LLAMA, KvType::F16, Tuning { product: Some(Product::F32), ..plain() }),
        ("f16, uniform parameters", BITNET, KvType::F16, Tuning { immediates: Some(false), ..Tuning::default() }),
        ("f16, groups of 64", grouped(64), KvType::F16, Tuning::default()),
        // Caches of 160 positions have 20 KB in f16: two a window.
        ("windows", BITNET, KvType::F16, Tuning { max_binding_bytes: Some(50_000), ..Tuning::default() }),
    ] {
        let model = Arc::new(random_model(&spec, 61));
        assert_together_as_alone(devices, name, &model, &sizes(kv, SEQUENCES), tuning);
    }
    for (name, spec) in [("hybrid", hybrid::SMALL), ("hybrid, rotated", hybrid::ROTATED)] {
        let model = Arc::new(hybrid::random_model(&spec, 61));
        assert_together_as_alone(devices, name, &model, &sizes(KvType::F16, SEQUENCES), Tuning::default());
    }
}

/// Mesa's software driver has subgroups as wide as its vectors, 8 by default: all of this with 4, in a process of its own
/// because the driver reads the width once.
#[test]
fn subgroups_of_four() {
    let devices = &mut Devices::default();
    const WIDTH: &str = "LP_NATIVE_VECTOR_WIDTH";
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    if std::env::var_os(WIDTH).is_some() {
        assert_eq!(gpu.caps().subgroups, Some((4, 4)), "{}", gpu.caps());
        for kv in [KvType::F16, KvType::Q8_0] {
            let model = Arc::new(random_model(&BITNET, 61));
            assert_together_as_alone(devices, "subgroups of four", &model, &sizes(kv, SEQUENCES), Tuning::default());
        }
        return;
    }
    if !gpu.caps().name.contains("llvmpipe") {
        eprintln!("skipped: {} does not let its subgroups be chosen", gpu.caps().name);
        return;
    }
    let own = std::env::current_exe().unwrap();
    let out = Command::new(own).args(["--exact", "sequences::subgroups_of_four"]).env(WIDTH, "128").output().unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && stdout.contains("1 passed"), "{stdout}");
}

/// Rows that want different things of the head: each gets what it gets alone, and all its logits when it asks for them
/// later, whatever others ran in between.
#[test]
fn each_row_gets_what_it_wants() {
    let devices = &mut Devices::default();
    let wants = [Want::Top(1), Want::Top(2), Want::Nothing, Want::Top(40), Want::Last];
    for (head, screen) in [(DenseType::F16, false), (DenseType::F16, true), (DenseType::Q8_0, true)] {
        let spec = Spec { vocab: 1100, layers: 2, table: head, head: None, ..BITNET };
        let model = Arc::new(random_model(&spec, 62));
        let sizes = Sizes { head_screen: screen, ..sizes(KvType::F16, 5) };
        let Some(mut together) = open(devices, &model, &sizes, Tuning::default()) else { return };
        let mut alone = open(devices, &model, &Sizes { sequences: 1, ..sizes }, Tuning::default()).unwrap();
        let ids: Vec<Vec<u32>> = (0..5).map(|n| random_ids(&spec, 80 + n, 12)).collect();
        let mut expected = Vec::new();
        for (ids, want) in ids.iter().zip(wants) {
            alone.step(&[(0, 0, &ids[..11], Want::Nothing)]);
            let given = alone.step(&[(0, 11, &ids[11..], want)]).remove(0);
            let full = alone.step(&[(0, 11, &ids[11..], Want::Last)]).remove(0).logits;
            expected.push((given, full));
        }
        for (slot, ids) in ids.iter().enumerate() {
            together.step(&[(slot, 0, &ids[..11], Want::Nothing)]);
        }
        // With and without a row that takes all logits, and a draft's tokens before one that does not.
        for members in [vec![0, 1], vec![1, 0], vec![0, 1, 2, 3, 4], vec![3, 0], vec![2, 1]] {
            let rows: Vec<_> = members.iter().map(|&n| (n, 11, &ids[n][11..], wants[n])).collect();
            let given = together.step(&rows);
            for (&n, given) in members.iter().zip(&given) {
                assert_eq!(given.candidates, expected[n].0.candidates, "{head:?}, {members:?}: {:?}", wants[n]);
                assert!(bits(&given.logits) == bits(&expected[n].0.logits), "{head:?}, {members:?}: {:?}", wants[n]);
            }
            for &n in members.iter().filter(|&&n| matches!(wants[n], Want::Top(_))) {
                assert!(bits(&together.full_logits(n)) == bits(&expected[n].1), "{head:?}, {members:?}: all of {n}");
            }
        }
        // Later: others have run, together, alone, and begun a step of their own ahead.
        together.step(&[(0, 11, &ids[0][11..], Want::Top(1)), (1, 11, &ids[1][11..], Want::Top(2))]);
        together.step(&[(3, 11, &ids[3][11..], Want::Top(40)), (4, 10, &ids[4][10..], Want::All)]);
        together.step(&[(2, 0, &ids[2], Want::Last)]);
        let greedy = |given: &[Given]| given[0].candidates.top[0].id;
        let mut id = greedy(&together.step(&[(4, 12, &[5], Want::Top(1))]));
        for at in 13..16 {
            id = greedy(&together.step(&[(4, at, &[id], Want::Top(1))]));
        }
        for n in [3, 0, 1] {
            assert!(bits(&together.full_logits(n)) == bits(&expected[n].1), "{head:?}: all logits of {n}, later");
        }
        let last = together.full_logits(4);
        let again = together.step(&[(4, 16, &[id], Want::Top(1))]);
        let highest = last.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(last[id as usize], highest, "the step that was begun ahead has not changed what it came from");
        assert!(!again[0].candidates.top.is_empty());
        let error = together.backend.full_logits(together.segment, SlotId(2), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("a last step with candidates"), "{error}");
    }
}

/// The ids that sequences choose greedily, alternating and together, are those they choose alone.
#[test]
fn greedy_sequences_do_not_meet() {
    let devices = &mut Devices::default();
    let model = Arc::new(random_model(&BITNET, 63));
    let Some(mut gpu) = open(devices, &model, &sizes(KvType::F16, 3), Tuning::default()) else { return };
    let mut alone = open(devices, &model, &sizes(KvType::F16, 1), Tuning::default()).unwrap();
    let first = |given: &Given| given.candidates.top[0].id;
    let prompts: Vec<Vec<u32>> = (0..3).map(|n| random_ids(&BITNET, 90 + n, 5 + 3 * n as usize)).collect();
    let expected: Vec<Vec<u32>> = prompts
        .iter()
        .map(|prompt| {
            let mut ids = vec![first(&alone.step(&[(0, 0, prompt, Want::Top(1))])[0])];
            for at in prompt.len()..prompt.len() + 20 {
                ids.push(first(&alone.step(&[(0, at, &[ids[ids.len() - 1]], Want::Top(1))])[0]));
            }
            ids
        })
        .collect();
    let mut ids: Vec<Vec<u32>> = prompts
        .iter()
        .enumerate()
        .map(|(n, prompt)| vec![first(&gpu.step(&[(n, 0, prompt, Want::Top(1))])[0])])
        .collect();
    // Runs of one, in turn, and all together.
    for members in
        [&[0][..], &[0], &[0], &[0], &[1], &[2], &[0, 1, 2], &[1], &[1], &[1], &[2, 0], &[0], &[2], &[2], &[2]]
    {
        let last: Vec<[u32; 1]> = members.iter().map(|&n: &usize| [ids[n][ids[n].len() - 1]]).collect();
        let rows: Vec<_> = members
            .iter()
            .zip(&last)
            .map(|(&n, last)| (n, prompts[n].len() + ids[n].len() - 1, &last[..], Want::Top(1)))
            .collect();
        let given = gpu.step(&rows);
        members.iter().zip(&given).for_each(|(&n, given)| ids[n].push(first(given)));
    }
    for (found, expected) in ids.iter().zip(&expected) {
        assert_eq!(*found, expected[..found.len()]);
    }
}

/// A fork holds what it was forked from, and they part.
#[test]
fn a_fork_goes_on_by_itself() {
    let devices = &mut Devices::default();
    for (kv, max_binding_bytes) in [(KvType::F16, None), (KvType::Q8_0, None), (KvType::F16, Some(50_000))] {
        let model = Arc::new(random_model(&BITNET, 64));
        let tuning = Tuning { max_binding_bytes, ..Tuning::default() };
        let Some(mut gpu) = open(devices, &model, &sizes(kv, 4), tuning.clone()) else { return };
        let mut alone = open(devices, &model, &sizes(kv, 1), tuning).unwrap();
        let (ids, other) = (random_ids(&BITNET, 65, 40), random_ids(&BITNET, 66, 12));
        gpu.step(&[(1, 0, &ids, Want::Nothing)]);
        // In the same window and in another, and over what is there already.
        gpu.step(&[(0, 0, &other, Want::Nothing)]);
        for to in [0, 3] {
            let (from, to) = (SlotId(1), SlotId(to));
            gpu.backend.states(gpu.segment).unwrap().fork(from, to, 25).unwrap();
        }
        let error = gpu.backend.states(gpu.segment).unwrap().fork(SlotId(1), SlotId(2), 41).unwrap_err();
        assert!(error.to_string().contains("up to 40, found up to 41"), "{error}");
        let given =
            gpu.step(&[(0, 25, &other[..2], Want::All), (3, 25, &other[..1], Want::Last), (1, 40, &[7], Want::Last)]);

        alone.step(&[(0, 0, &ids, Want::Nothing)]);
        let parent = alone.step(&[(0, 40, &[7], Want::Last)]).remove(0);
        let first = alone.step(&[(0, 25, &other[..1], Want::Last)]).remove(0);
        let second = alone.step(&[(0, 26, &other[1..2], Want::Last)]).remove(0);
        assert!(bits(&given[0].logits) == bits(&[first.logits.clone(), second.logits].concat()), "{kv:?}: first fork");
        assert!(bits(&given[1].logits) == bits(&first.logits), "{kv:?}: second fork");
        assert!(bits(&given[2].logits) == bits(&parent.logits), "{kv:?}: the parent");
    }
}

/// States of a slot move to another one and through the CPU without a change.
#[test]
fn states_move_between_slots_and_backends() {
    let devices = &mut Devices::default();
    for kv in [KvType::F16, KvType::Q8_0, KvType::F32] {
        let model = Arc::new(random_model(&QWEN3, 67));
        let Some(mut gpu) = open(devices, &model, &sizes(kv, 3), Tuning::default()) else { return };
        let mut cpu = Loaded::new(CpuBackend::new(Isa::Scalar, 1), &model, &sizes(kv, 2));
        let ids = random_ids(&QWEN3, 68, 31);
        gpu.step(&[(0, 0, &random_ids(&QWEN3, 69, 9), Want::Nothing)]);
        gpu.step(&[(2, 0, &ids[..30], Want::Nothing)]);
        let (mut there, mut back) = (LayerState::default(), LayerState::default());
        for layer in 0..QWEN3.layers {
            for part in [0..7, 7..30] {
                let (from, on_cpu, to) = (SlotId(2), SlotId(1), SlotId(1));
                gpu.backend.states(gpu.segment).unwrap().export(layer, from, part.clone(), &mut there).unwrap();
                cpu.backend.states(cpu.segment).unwrap().import(layer, on_cpu, part.clone(), &there).unwrap();
                cpu.backend.states(cpu.segment).unwrap().export(layer, on_cpu, part.clone(), &mut back).unwrap();
                assert_eq!(there, back, "{kv:?}: layer {layer}, {part:?}, on the CPU");
                gpu.backend.states(gpu.segment).unwrap().import(layer, to, part, &back).unwrap();
            }
        }
        let mut next = |slot| gpu.step(&[(slot, 30, &ids[30..], Want::Last)]).remove(0).logits;
        let expected = next(2);
        assert!(bits(&next(1)) == bits(&expected), "{kv:?}");
        // A state with more positions than it is said to have would reach into the next slot.
        let states = gpu.backend.states(gpu.segment).unwrap();
        assert!(states.import(0, SlotId(0), 0..2, &there).is_err());
    }
}

#[test]
fn what_a_slot_holds_is_known() {
    let devices = &mut Devices::default();
    let model = Arc::new(random_model(&BITNET, 71));
    let Some(mut gpu) = open(devices, &model, &sizes(KvType::F16, 2), Tuning::default()) else { return };
    let ids = random_ids(&BITNET, 72, 20);
    let refused = |gpu: &mut Loaded<GpuBackend>, rows: &[(usize, usize, &[u32], Want)], needle: &str| {
        let (batch, input) = step_of(rows);
        let error = gpu.backend.submit(gpu.segment, &batch, &input).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    };
    gpu.step(&[(1, 0, &ids, Want::Nothing)]);
    refused(&mut gpu, &[(0, 1, &[3], Want::Last)], "at most position 0");
    refused(&mut gpu, &[(2, 0, &[3], Want::Last)], "below 2, found 2");
    refused(&mut gpu, &[(1, 20, &[3], Want::Last), (1, 20, &[4], Want::Last)], "two of 1");
    refused(&mut gpu, &[(0, 0, &ids[..8], Want::Last), (1, 20, &[4], Want::Last)], "1 to 8 tokens");
    refused(&mut gpu, &[(0, 0, &[], Want::Last), (1, 20, &[4], Want::Last)], "some of each row");
    let states = gpu.backend.states(gpu.segment).unwrap();
    states.checkpoint(SlotId(1), Checkpoint(2)).unwrap();
    assert!(states.rewind(SlotId(1), 5));
    refused(&mut gpu, &[(1, 6, &[3], Want::Last)], "at most position 5");
    gpu.backend.states(gpu.segment).unwrap().restore(SlotId(1), Checkpoint(2)).unwrap();
    gpu.step(&[(1, 20, &[3], Want::Last)]);
    gpu.backend.states(gpu.segment).unwrap().clear(SlotId(1)).unwrap();
    refused(&mut gpu, &[(1, 1, &[3], Want::Last)], "at most position 0");
}

/// A step in which eight sequences take a token is one submit of as many dispatches as one of a single sequence with
/// several tokens; nothing is created, and a few hundred bytes come back.
#[test]
fn a_step_of_eight_is_one_submit() {
    let devices = &mut Devices::default();
    let spec = Spec { vocab: 1100, ..BITNET };
    let model = Arc::new(random_model(&spec, 73));
    for screen in [false, true] {
        let sizes = Sizes { head_screen: screen, ..sizes(KvType::F16, SEQUENCES) };
        let Some(mut gpu) = open(devices, &model, &sizes, Tuning::default()) else { return };
        for at in 0..5 {
            let id = [[at as u32]; SEQUENCES];
            let rows: Vec<_> = (0..SEQUENCES).map(|slot| (slot, at, &id[slot][..], Want::Top(1))).collect();
            let before = gpu.backend.counters();
            gpu.step(&rows);
            let step = gpu.backend.counters().since(&before);
            assert_eq!((step.objects_created, step.submits), (0, 1));
            // The embedding; nine kernels a layer, as few tokens do not norm within products; of the head the norm and the
            // product, or query, screen, probe and rescore; and the choice.
            let head = if screen { 5 } else { 3 };
            assert_eq!(step.dispatches, 1 + 9 * spec.layers as u64 + head);
            assert_eq!(step.readback_bytes, 8 + SEQUENCES as u64 * if screen { 20 } else { 16 });
        }
    }
}

/// A step is looked after without waiting for it: chunk by chunk, for one that has several.
#[test]
fn steps_are_polled() {
    let devices = &mut Devices::default();
    let model = Arc::new(random_model(&BITNET, 74));
    let tuning = Tuning { chunk_tokens: Some(16), ..Tuning::default() };
    let Some(mut gpu) = open(devices, &model, &sizes(KvType::F16, 2), tuning) else { return };
    let ids = random_ids(&BITNET, 75, 70);
    let expected = gpu.step(&[(0, 0, &ids, Want::All)]).remove(0).logits;
    for (want, expected) in [(Want::All, &expected[..]), (Want::Last, &expected[69 * BITNET.vocab..])] {
        let (batch, input) = step_of(&[(1, 0, &ids, want)]);
        let ticket = gpu.backend.submit(gpu.segment, &batch, &input).unwrap();
        let mut looks = 0;
        loop {
            looks += 1;
            match gpu.backend.poll(&ticket, &mut gpu.out) {
                Poll::Ready(done) => break done.unwrap(),
                Poll::Pending => std::thread::yield_now(),
            }
        }
        assert!(looks > 1, "the first look cannot find five chunks done");
        // Each chunk's logits are of as many tokens, so that the bits are the same.
        assert!(bits(&gpu.given()[0].logits) == bits(expected), "{want:?}");
        assert!(matches!(gpu.backend.poll(&ticket, &mut gpu.out), Poll::Ready(Err(Error::Missing { .. }))));
    }
    // A step that nobody waits for does not stand in the way of the next.
    let (batch, input) = step_of(&[(1, 0, &ids, Want::Last)]);
    let stale = gpu.backend.submit(gpu.segment, &batch, &input).unwrap();
    let given = gpu.step(&[(0, 69, &ids[69..], Want::Top(1))]);
    assert_eq!(given[0].candidates.top.len(), 1);
    assert!(gpu.backend.wait(stale, &mut gpu.out).is_err());
}
