//! Ceilings of the processor, measured beside the tests: neighbours of a virtual machine, heat and power limits move
//! them within minutes.

use std::{hint::black_box, time::Instant};

use bitnet_cpu_kernels::{Cpu, Isa, ceiling};

use crate::numbers::median;

/// Measured limits of the CPU with the threads of a run.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Bytes streamed from memory a second.
    pub read_bytes_per_s: f64,
    /// int8 multiply-adds of the ternary kernels' instructions a second.
    pub multiply_adds_per_s: f64,
    /// As `multiply_adds_per_s`, with the instructions that every processor of the architecture has: maddubs and a
    /// 16-bit addition on x86. `None` where there are no others.
    pub basic_multiply_adds_per_s: Option<f64>,
}

/// Measures them again and again.
pub struct Probe<'a> {
    cpu: Cpu,
    /// With the slowest instructions but the reference; `None` where those are the ones in use.
    basic: Option<Cpu>,
    /// Bytes to stream, a stretch at a time: weights, which are in memory anyway and lie there as those of a step do.
    weights: &'a [u8],
    /// Where the next stretch begins.
    at: usize,
    found: Vec<Ceilings>,
}

impl<'a> Probe<'a> {
    pub fn new(threads: usize, weights: &'a [u8]) -> Self {
        let cpu = Cpu::new(Isa::detect(), threads);
        let basic = Isa::available().get(1).copied().filter(|&isa| isa != cpu.isa());
        Self { cpu, basic: basic.map(|isa| Cpu::new(isa, threads)), weights, at: 0, found: Vec::new() }
    }

    /// Takes about 20 ms.
    pub fn measure(&mut self) {
        let found = Ceilings {
            read_bytes_per_s: self.read(),
            multiply_adds_per_s: multiply_adds(&self.cpu),
            basic_multiply_adds_per_s: self.basic.as_ref().map(multiply_adds),
        };
        self.found.push(found);
    }

    /// Medians of the measurements; `None` if there were none.
    pub fn medians(self) -> Option<Ceilings> {
        let of = |value: fn(&Ceilings) -> f64| median(self.found.iter().map(value).collect());
        let first = self.found.first()?;
        Some(Ceilings {
            read_bytes_per_s: of(|found| found.read_bytes_per_s),
            multiply_adds_per_s: of(|found| found.multiply_adds_per_s),
            basic_multiply_adds_per_s: first
                .basic_multiply_adds_per_s
                .map(|_| of(|found| found.basic_multiply_adds_per_s.unwrap_or_default())),
        })
    }

    /// The next stretch of the weights, and no other until all were read: more than caches hold.
    fn read(&mut self) -> f64 {
        const BYTES: usize = 128 << 20;
        let start = Instant::now();
        let mut left = BYTES;
        while left > 0 && !self.weights.is_empty() {
            let stretch = &self.weights[self.at..];
            let stretch = &stretch[..left.min(stretch.len())];
            black_box(ceiling::read(&self.cpu, stretch));
            left -= stretch.len();
            self.at = (self.at + stretch.len()) % self.weights.len();
        }
        (BYTES - left) as f64 / start.elapsed().as_secs_f64()
    }
}

fn multiply_adds(cpu: &Cpu) -> f64 {
    const ROUNDS: usize = 200_000;
    // The threads wake up, and the processor's clock settles on these instructions.
    black_box(ceiling::multiply_add(cpu, ROUNDS / 4));
    let start = Instant::now();
    let products = ceiling::multiply_add(cpu, ROUNDS);
    products as f64 / start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_begins_where_the_one_before_ended() {
        // 128 MiB are 25 times these and a part of them.
        let weights = vec![1; (5 << 20) - 1024];
        let mut probe = Probe::new(1, &weights);
        assert!(probe.read() > 0.0);
        assert_eq!(probe.at, (128 << 20) % weights.len());
        assert!(probe.medians().is_none());
    }

    #[test]
    fn medians_are_of_each_ceiling_by_itself() {
        let mut probe = Probe::new(1, &[]);
        for (read, add) in [(1.0, 30.0), (3.0, 10.0), (2.0, 20.0)] {
            let basic = probe.basic.as_ref().map(|_| add / 10.0);
            probe.found.push(Ceilings {
                read_bytes_per_s: read,
                multiply_adds_per_s: add,
                basic_multiply_adds_per_s: basic,
            });
        }
        let has_basic = probe.basic.is_some();
        let found = probe.medians().unwrap();
        assert_eq!((found.read_bytes_per_s, found.multiply_adds_per_s), (2.0, 20.0));
        assert_eq!(found.basic_multiply_adds_per_s, has_basic.then_some(2.0));
    }
}
