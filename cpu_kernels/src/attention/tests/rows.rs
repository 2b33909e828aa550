//! Keys and values that go from cache to cache.

use super::*;

#[test]
fn what_was_written_can_be_read() {
    // Two heads of 3: in each position head 0, then head 1. All values are exact in f16.
    let values = |offset: f32| (0..5 * 6).map(|i| i as f32 * 0.25 + offset).collect::<Vec<_>>();
    for types in [(KvType::F16, KvType::F16), (KvType::F32, KvType::F32), (KvType::F16, KvType::F32)] {
        let mut cache = KvCache::new(2, 3, 8, types.0, types.1);
        fill(&Cpu::new(Isa::Scalar, 2), &mut cache, 1, &values(0.0), &values(100.0));
        let rows = |ty, offset| {
            let values = values(offset)[6..24].to_vec();
            match ty {
                KvType::F16 => KvRows::F16 { bits: values.iter().map(|&x| f16::from_f32(x).to_bits()).collect() },
                _ => KvRows::Floats(values),
            }
        };
        assert_eq!(cache.read(2..5), [rows(types.0, 0.0), rows(types.1, 100.0)]);
    }
}

/// A cache of 9 positions with small and large values at positions 1 .. 8: among them some whose d is too coarse to be
/// found again from what they are rounded to.
fn filled(rng: &mut Rng, types: (KvType, KvType), kv_heads: usize, head_dim: usize) -> KvCache {
    let width = kv_heads * head_dim;
    let values: Vec<f32> = (0..14 * width).map(|i| rng.f32() * 10.0_f32.powi(-((i / 7 % 9) as i32))).collect();
    let (k, v) = values.split_at(7 * width);
    let mut cache = KvCache::new(kv_heads, head_dim, 9, types.0, types.1);
    fill(&Cpu::new(Isa::Scalar, 1), &mut cache, 1, k, v);
    cache
}

/// # Panics
/// If `len` positions of the caches, from their starts on, differ in a bit.
fn assert_same_bits(caches: [&KvCache; 2], starts: [usize; 2], len: usize) {
    let KvCache { kv_heads, head_dim, .. } = *caches[0];
    for at in 0..len {
        for (head, i) in (0..kv_heads).flat_map(|head| (0..head_dim).map(move |i| (head, i))) {
            let elements = [0, 1].map(|which| {
                let (cache, position) = (caches[which], starts[which] + at);
                [&cache.k, &cache.v]
                    .map(|store| store.element(head * cache.capacity + position, cache.stride, i).to_bits())
            });
            assert_eq!(elements[0], elements[1], "element {i} of head {head}, position {at}");
        }
    }
}

#[test]
fn what_was_read_gives_the_same_bits_elsewhere() {
    let mut rng = Rng::new(23);
    for types in TYPES {
        for (kv_heads, head_dim) in [(1, 1), (2, 17), (3, 33), (2, 128)] {
            let from = filled(&mut rng, types, kv_heads, head_dim);
            let rows = from.read(1..8);
            // Of another capacity, at other positions.
            let mut to = KvCache::new(kv_heads, head_dim, 12, types.0, types.1);
            to.write(4, &rows[0], &rows[1]);
            assert_eq!(to.read(4..11), rows, "{types:?}, {kv_heads} heads of {head_dim}");
            assert_eq!(to.read(0..4), KvCache::new(kv_heads, head_dim, 4, types.0, types.1).read(0..4));
            assert_same_bits([&from, &to], [1, 4], 7);
        }
    }
}

#[test]
fn a_fork_has_the_same_bits_and_its_own_future() {
    let mut rng = Rng::new(24);
    for types in TYPES {
        for (kv_heads, head_dim) in [(1, 1), (2, 17), (3, 33), (2, 128)] {
            let from = filled(&mut rng, types, kv_heads, head_dim);
            for (capacity, len) in [(12, 6), (9, 9), (6, 5), (6, 0), (0, 0)] {
                let mut to = KvCache::new(kv_heads, head_dim, capacity, types.0, types.1);
                to.copy_from(&from, len);
                assert_eq!(to.read(0..len), from.read(0..len), "{types:?}, {kv_heads} heads of {head_dim}");
                assert_same_bits([&from, &to], [0, 0], len);
                let rest = len..capacity;
                let untouched = KvCache::new(kv_heads, head_dim, capacity, types.0, types.1);
                assert_eq!(to.read(rest.clone()), untouched.read(rest), "positions after the fork");
            }
        }
    }
}

#[test]
#[should_panic(expected = "10 positions of [9, 12]")]
fn a_fork_past_the_capacity_panics() {
    let cache = |capacity| KvCache::new(1, 4, capacity, KvType::F16, KvType::F16);
    cache(12).copy_from(&cache(9), 10);
}

#[test]
#[should_panic(expected = "a fork of another type")]
fn a_fork_of_another_type_is_refused() {
    let cache = |ty| KvCache::new(1, 4, 2, KvType::F16, ty);
    cache(KvType::F16).copy_from(&cache(KvType::F32), 1);
}

#[test]
fn rows_of_another_type_are_refused() {
    let types = [KvType::F16, KvType::F32, KvType::Q8_0];
    for (from, to) in types.iter().flat_map(|from| types.map(|to| (*from, to))) {
        let write = move || {
            let rows = KvCache::new(1, 4, 2, KvType::F16, from).read(0..1);
            KvCache::new(1, 4, 2, KvType::F16, to).write(0, &rows[0], &rows[1]);
        };
        assert_eq!(std::panic::catch_unwind(write).is_ok(), from == to, "{from:?} to {to:?}");
    }
}
