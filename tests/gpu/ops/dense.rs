//! The gate, the final norm, the embedding table and the head.

use bitnet_cpu_kernels::{
    dense,
    format::{DenseType, DenseView},
    gate, norm,
    testing::Rng,
};
use bitnet_gpu::backend::gpu::{
    Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Shader, Variant},
};

use super::{CLOSE, batch, lane_choices};
use crate::common::gpu::{activations, bytes, floats, model::dense_bytes, open_gpu, scalar, worst};

#[test]
fn gate_and_final_norm_equal_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(8);
    for cols in [1, 255, 256, 700] {
        let tokens = 2;
        let mut x = activations(&mut rng, tokens * 2 * cols);
        x[0] = -200.0; // e^200 is infinite
        for (kind, constant) in [(gate::Kind::Relu2, 1.0), (gate::Kind::Silu, 2.0)] {
            let mut expected = x.clone();
            for token in expected.chunks_mut(2 * cols) {
                let (g, up) = token.split_at_mut(cols);
                gate::apply(&scalar(), kind, g, up);
            }
            let params = params::GateUp {
                cols: cols as u32,
                stride: 2 * cols as u32,
                gate_offset: 0,
                up_offset: cols as u32,
                ..Default::default()
            };
            let run = Run {
                variant: Variant::new(Shader::GateUp, gpu.choices(), None),
                constants: &[("GATE", constant)],
                params: params.into(),
                dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
                buffers: &[bytes(&x)],
                grid: [cols.div_ceil(256), tokens, 1],
            };
            let found = floats(&debug::run(&gpu, &run).unwrap()[0]);
            assert!(worst(&found, &expected) < CLOSE, "{kind:?}, {cols} columns: {}", worst(&found, &expected));
        }

        let (stride, first, wanted) = (cols + 3, 2, 2);
        let x = activations(&mut rng, 4 * stride);
        let weight = rng.floats(cols);
        let wanted_x: Vec<f32> = (first..first + wanted).flat_map(|t| x[t * stride..][..cols].to_vec()).collect();
        let mut expected = vec![0.0; wanted * cols];
        norm::rms_norm(&scalar(), &wanted_x, cols, &weight, 1e-5, &mut expected);
        for choices in lane_choices(&gpu) {
            let params = params::RmsNorm { cols: cols as u32, stride: stride as u32, eps: 1e-5, ..Default::default() };
            let run = Run {
                variant: Variant::new(Shader::RmsNorm, choices, None),
                constants: &[],
                params: params.into(),
                // Behind a row of another step.
                dynamic: Dynamic { tokens: wanted as u32, first: first as u32, normed: 1, ..Dynamic::default() },
                buffers: &[bytes(&x), bytes(&weight), &vec![0; 4 * (1 + wanted) * cols], &[0; 4]],
                grid: [1, wanted, 1],
            };
            let found = floats(&debug::run(&gpu, &run).unwrap()[2]);
            let (other, found) = found.split_at(cols);
            assert!(other.iter().all(|&x| x == 0.0), "{cols} columns");
            assert!(worst(found, &expected) < CLOSE, "norm, {cols} columns: {}", worst(found, &expected));
        }
    }
}

#[test]
fn embed_and_head_equal_the_reference() {
    // A power of two, so that products are exact.
    const SCALE: f32 = 2.0;
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(9);
    for ty in DenseType::ALL {
        for (rows, cols) in [(1usize, 256usize), (37, 256), (70, 768), (9, 6), (5, 34)] {
            let cols = cols.next_multiple_of(ty.block_len()).next_multiple_of(2);
            let row_bytes = ty.row_bytes(cols);
            let data = dense_bytes(&mut rng, ty, rows * cols);
            let view = DenseView::new(rows, cols, &data, ty).unwrap();
            let what = format!("{ty:?}, {rows} x {cols}");

            // A window of the rows from 1 (or 0) on, 64 bytes into the binding.
            let row0 = usize::from(rows > 1);
            let mut table = vec![0xffu8; 64];
            table.extend_from_slice(&data[row0 * row_bytes..]);

            let ids: Vec<u32> = (0..rows as u32).rev().collect();
            let before = vec![7.0; rows * cols];
            let mut expected = before.clone();
            for (t, &id) in ids.iter().enumerate().filter(|&(_, &id)| id as usize >= row0) {
                let row = &mut expected[t * cols..][..cols];
                dense::gather(view, id as usize, row);
                row.iter_mut().for_each(|x| *x *= SCALE);
            }
            let params = params::Embed {
                rows: (rows - row0) as u32,
                row0: row0 as u32,
                cols: cols as u32,
                row_bytes: row_bytes as u32,
                table0: 64,
                stride: cols as u32,
                scale: SCALE,
                ..Default::default()
            };
            let run = Run {
                variant: Variant::new(Shader::Embed, gpu.choices(), Some(ty)),
                constants: &[],
                params: params.into(),
                dynamic: Dynamic { tokens: rows as u32, ..Dynamic::default() },
                buffers: &[&batch(&ids, 0, 0), &table, bytes(&before)],
                grid: [cols.div_ceil(128), rows, 1],
            };
            let contents = debug::run(&gpu, &run).unwrap();
            assert_eq!(floats(&contents[2]), expected, "embed, {what}");
            assert_eq!(contents[0][..4], [0; 4], "embed, {what}: damage");

            for (tokens, tile) in [(1, 1u32), (6, 4)] {
                let x = rng.floats(tokens * cols);
                let mut products = vec![0.0; tokens * rows];
                dense::matmul(&scalar(), view, &x, &mut products);
                let mut expected = products.clone();
                if row0 == 1 {
                    expected.iter_mut().step_by(rows).for_each(|logit| *logit = 7.0);
                }
                let params = params::Head {
                    rows: (rows - row0) as u32,
                    row0: row0 as u32,
                    cols: cols as u32,
                    row_bytes: row_bytes as u32,
                    table0: 64,
                    vocab: rows as u32,
                    ..Default::default()
                };
                let untouched = vec![7.0; tokens * rows];
                let behind = [vec![f32::NAN; 2 * cols], x].concat();
                for choices in lane_choices(&gpu) {
                    let run = Run {
                        variant: Variant::new(Shader::Head, choices, Some(ty)),
                        constants: &[("TILE", f64::from(tile))],
                        params: params.into(),
                        // Behind two rows of other steps.
                        dynamic: Dynamic { tokens: tokens as u32, normed: 2, ..Dynamic::default() },
                        buffers: &[bytes(&behind), &table, bytes(&untouched), &[0; 4]],
                        grid: [rows.div_ceil(4), tokens.div_ceil(tile as usize), 1],
                    };
                    let found = floats(&debug::run(&gpu, &run).unwrap()[2]);
                    assert!(worst(&found, &expected) < CLOSE, "head, {what}, {tokens}: {}", worst(&found, &expected));
                }
            }
        }
    }
}
