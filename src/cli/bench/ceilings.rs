//! Ceilings of the processor, measured beside the tests: neighbours of a virtual machine, heat and power limits move
//! them within minutes.

use std::{hint::black_box, time::Instant};

use bitnet_cpu_kernels::{Cpu, Isa, ceiling};

use crate::{bytes::Bytes, numbers::median};

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
pub struct Probe {
    cpu: Cpu,
    /// With the slowest instructions but the reference; `None` where those are the ones in use.
    basic: Option<Cpu>,
    /// Matrices to stream, some at a time: those that a step reads, where they lie.
    weights: Vec<Bytes>,
    /// The next one.
    at: usize,
    found: Vec<Ceilings>,
}

impl Probe {
    pub fn new(threads: usize, mut weights: Vec<Bytes>) -> Self {
        weights.retain(|matrix| !matrix.is_empty());
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

    /// Reads the next matrices, and none again until all were read: more than caches hold.
    fn read(&mut self) -> f64 {
        const BYTES: usize = 128 << 20;
        let start = Instant::now();
        let mut done = 0;
        while done < BYTES && !self.weights.is_empty() {
            let matrix = &self.weights[self.at];
            black_box(ceiling::read(&self.cpu, matrix));
            done += matrix.len();
            self.at = (self.at + 1) % self.weights.len();
        }
        done as f64 / start.elapsed().as_secs_f64()
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
    fn reading_goes_on_where_it_ended() {
        let matrix = Bytes::from(vec![1; (5 << 20) - 1024]);
        // The 26th makes 128 MiB full.
        let mut probe = Probe::new(1, vec![matrix; 10]);
        assert!(probe.read() > 0.0);
        assert_eq!(probe.at, 6);
        assert!(probe.medians().is_none());
        assert_eq!(Probe::new(1, vec![Vec::new().into()]).read(), 0.0);
    }

    #[test]
    fn medians_are_of_each_ceiling_by_itself() {
        let mut probe = Probe::new(1, Vec::new());
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
