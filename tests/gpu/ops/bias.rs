//! Biases.

use bitnet_cpu_kernels::{bias, testing::Rng};
use bitnet_gpu::backend::gpu::{
    Tuning,
    debug::{self, Run},
    params::{self, Dynamic},
    pipelines::{Shader, Variant},
};

use crate::common::gpu::{bytes, floats, open_gpu, scalar};

#[test]
fn sums_equal_the_reference() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let mut rng = Rng::new(92);
    // Beside what is added to, a token may have more.
    for (tokens, cols, stride) in [(1, 1, 1), (3, 255, 260), (2, 256, 256), (5, 700, 700)] {
        let (x, bias) = (rng.floats(tokens * stride), rng.floats(cols));
        let mut expected = x.clone();
        for token in expected.chunks_mut(stride) {
            bias::add(&scalar(), &mut token[..cols], &bias);
        }
        let params = params::AddBias { cols: cols as u32, stride: stride as u32, ..Default::default() };
        let run = Run {
            variant: Variant::new(Shader::AddBias, gpu.choices(), None),
            constants: &[],
            params: params.into(),
            dynamic: Dynamic { tokens: tokens as u32, ..Dynamic::default() },
            buffers: &[bytes(&x), bytes(&bias)],
            grid: [cols.div_ceil(256), tokens, 1],
        };
        let found = debug::run(&gpu, &run).unwrap();
        assert_eq!(floats(&found[0])[..expected.len()], expected, "{tokens} tokens of {cols} in {stride}");
    }
}
