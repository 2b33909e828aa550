//! Blocks of multi-token prediction: of random weights, and one that agrees with its model.

use bitnet_cpu_kernels::{format::DenseType, testing::Rng};
use bitnet_gpu::model::{Block, DenseMatrix, Linear, MatrixScales, Model, MtpBlock, Norm, TernaryMatrix};
use half::f16;

use super::{Spec, norm, random_model};
use crate::common::gpu::model::dense_bytes;

/// The model with a block whose matrices are of type `ty`; its tables are its own, or those of the model.
pub fn with_random_block(mut model: Model, ty: DenseType, own_tables: bool, seed: u64) -> Model {
    let config = &model.config;
    let mut rng = Rng::new(seed);
    let norms = Norm::BLOCK
        .map(|role| config.family.block_norms().contains(&role).then(|| norm(&mut rng, config.norm_len(role))));
    let mut dense =
        |rows, cols, ty| DenseMatrix { rows, cols, data: dense_bytes(&mut rng, ty, rows * cols).into(), ty };
    let mut linears = [const { None }; Linear::ALL.len()];
    for role in Linear::ATTENTION {
        let (rows, cols) = config.linear_shape(role);
        linears[role as usize] = Some(dense(rows, cols, ty));
    }
    let join = dense(config.dim, 2 * config.dim, ty);
    let tables = own_tables.then(|| [DenseType::BF16, DenseType::Q8_0].map(|ty| dense(config.vocab, config.dim, ty)));
    let [token_embd, output] = tables.map_or([None, None], |tables| tables.map(Some));
    let mtp = MtpBlock {
        embedding_norm: norm(&mut rng, config.dim),
        hidden_norm: norm(&mut rng, config.dim),
        join,
        norms: Block::new([], norms),
        linears,
        head_norm: own_tables.then(|| norm(&mut rng, config.dim)),
        token_embd,
        output,
    };
    model.weights.mtp = Some(mtp);
    model
}

/// The token that the model of [`agreeing`] mostly writes behind `id`.
pub fn next(spec: &Spec, id: u32) -> u32 {
    (id * 5 + 3) % spec.vocab as u32
}

/// A model whose layers write nothing to the residual stream, so that each token chooses the next, with a block that
/// says the same from the token alone. The higher `sharpness`, the surer. `spec` is neither rotated nor tied, and 5 does
/// not divide its vocabulary.
pub fn agreeing(spec: &Spec, sharpness: f32, seed: u64) -> Model {
    assert!(spec.rotation.is_none() && !spec.tied && !spec.vocab.is_multiple_of(5));
    let mut model = with_random_block(random_model(spec, seed), DenseType::F32, false, seed);
    let dim = spec.dim;
    let ends = [Linear::O, Linear::Down, Linear::DeltaOut];
    for block in &mut model.weights.blocks {
        let silent = |(role, matrix): (Linear, &TernaryMatrix)| {
            let mut matrix = matrix.clone();
            if ends.contains(&role) {
                let values = vec![f16::ZERO; matrix.rows * matrix.cols / spec.group].into();
                matrix.scales = MatrixScales::PerGroup { size: spec.group, values }.into();
            }
            (role, matrix)
        };
        let norms = Norm::BLOCK.map(|role| block.norm(role).map(<[f32]>::to_vec));
        let delta = block.delta().cloned();
        let quiet = Block::new(block.linears().map(silent), norms);
        *block = match delta {
            Some(delta) => quiet.with_delta(delta),
            None => quiet,
        };
    }
    let table = model.weights.token_embd.data.to_vec();
    let row = |id: u32| &table[id as usize * 2 * dim..][..2 * dim];
    let mut head = vec![0; table.len()];
    for id in 0..spec.vocab as u32 {
        let to = &mut head[next(spec, id) as usize * 2 * dim..][..2 * dim];
        for (to, from) in to.chunks_exact_mut(2).zip(row(id).chunks_exact(2)) {
            let value = sharpness * f16::from_le_bytes([from[0], from[1]]).to_f32();
            to.copy_from_slice(&f16::from_f32(value).to_le_bytes());
        }
    }
    let f32s = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    let f32_matrix =
        |rows, cols, values: Vec<f32>| DenseMatrix { rows, cols, data: f32s(values).into(), ty: DenseType::F32 };
    model.weights.output = Some(DenseMatrix { rows: spec.vocab, cols: dim, data: head.into(), ty: DenseType::F16 });
    model.weights.output_norm = vec![1.0; dim];
    let mtp = model.weights.mtp.as_mut().unwrap();
    mtp.embedding_norm = vec![1.0; dim];
    mtp.join = f32_matrix(
        dim,
        2 * dim,
        (0..dim * 2 * dim).map(|i| f32::from(u8::from(i % (2 * dim) == i / (2 * dim)))).collect(),
    );
    for role in [Linear::O, Linear::Down] {
        let matrix = mtp.linear(role);
        let (rows, cols) = (matrix.rows, matrix.cols);
        mtp.linears[role as usize] = Some(f32_matrix(rows, cols, vec![0.0; rows * cols]));
    }
    model
}
