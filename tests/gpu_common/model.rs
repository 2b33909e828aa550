//! Small random models.

use bitnet_cpu_kernels::{format::DenseType, testing::Rng};

/// Random values of a dense type: finite, of size about 1 / 8.
pub fn dense_bytes(rng: &mut Rng, ty: DenseType, values: usize) -> Vec<u8> {
    let f16 = |value: f32| half::f16::from_f32(value).to_le_bytes();
    let blocks = values / ty.block_len();
    match ty {
        DenseType::F32 => (0..values).flat_map(|_| (rng.f32() / 4.0).to_le_bytes()).collect(),
        DenseType::F16 => (0..values).flat_map(|_| f16(rng.f32() / 4.0)).collect(),
        DenseType::BF16 => (0..values).flat_map(|_| half::bf16::from_f32(rng.f32() / 4.0).to_le_bytes()).collect(),
        DenseType::Q8_0 => (0..blocks)
            .flat_map(|_| {
                let mut block = f16(rng.f32() / 256.0).to_vec();
                block.extend((0..32).map(|_| rng.next_u64() as u8));
                block
            })
            .collect(),
        DenseType::Q6K => (0..blocks)
            .flat_map(|_| {
                let mut block: Vec<u8> = (0..208).map(|_| rng.next_u64() as u8).collect();
                block.extend(f16(rng.f32() / 8192.0));
                block
            })
            .collect(),
    }
}
