use bitnet_cpu_kernels::{Cpu, Isa, format::*, quantize::QuantizedActs, ternary, testing::Rng};
use half::f16;
use std::time::Instant;
fn main() {
    let cols: usize = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(2560);
    for isa in Isa::available().into_iter().skip(1) {
        let cpu = Cpu::new(isa, 1);
        let rows_warm = (256 << 10) / (cols / 4);
        let total = (256usize << 20) / (cols / 4);
        let codes: Vec<u8> = (0..total * cols / 4).map(|i| ((i * 7) as u8) & 0x55).collect();
        let v = Rng::new(1).i8s(cols);
        for (what, rows) in [("warm", rows_warm), ("cold", 13107)] {
            let n = total / rows;
            let mut best = [f64::MAX; 4];
            let scales: Vec<Vec<f16>> =
                [64, 128, 256].iter().map(|s| vec![f16::from_f32(0.3); total * (cols / s)]).collect();
            let mut out = vec![0f32; rows];
            for round in 0..40 {
                for k in 0..4 {
                    let reps = if what == "warm" { 32 } else { 1 };
                    let mut b = f64::MAX;
                    let at = if what == "warm" { 0 } else { (round * 3 + k * 5) % n };
                    let c = &codes[at * rows * cols / 4..][..rows * cols / 4];
                    let size = [0, 64, 128, 256][k];
                    let mut acts = QuantizedActs::with_group(1, cols, (k > 0).then_some(size));
                    acts.set_raw(cols, &v, &vec![0.01; if k == 0 { 1 } else { cols / size }]);
                    for _ in 0..reps {
                        let s = if k == 0 {
                            Scales::PerTensor(0.3)
                        } else {
                            Scales::PerGroup {
                                size,
                                values: &scales[k - 1][at * rows * (cols / size)..][..rows * (cols / size)],
                            }
                        };
                        let w = TernaryView::new(rows, cols, c, Layout::I2sP128, s).unwrap();
                        let t = Instant::now();
                        ternary::matmul(&cpu, &acts, &mut [ternary::Part { weights: w, out: &mut out, add: false }]);
                        b = b.min(t.elapsed().as_secs_f64());
                    }
                    best[k] = best[k].min(b);
                }
            }
            let bytes = (rows * cols / 4) as f64;
            println!(
                "{} {what} {cols}: ns/block {:?}",
                isa.name(),
                best.map(|b| (b / bytes * 32e9 * 100.0).round() / 100.0)
            );
        }
    }
}
