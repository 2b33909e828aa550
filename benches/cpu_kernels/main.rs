//! Times every kernel variant beside the machine's ceilings, on shapes of BitNet b1.58 2B-4T.
//!
//! `cargo bench --bench cpu_kernels` runs Criterion's statistics; `-- --table` prints one table instead, made of
//! short runs in which the variants take turns, so that another process on the machine disturbs all alike: best and
//! median, and their shares of the ceilings measured in the same rounds. `-- --table 2 head` uses two threads and
//! times only the cases with "head" in their names.
//!
//! Each ternary case checks its answer against the scalar reference once before it is timed. The others are checked by the
//! tests of the kernels alone.

mod cases;

use std::time::Instant;

use bitnet_cpu_kernels::Cpu;
use cases::{Work, cases};
use criterion::{Criterion, Throughput};

/// Rounds in which each case takes its turn; every single run is timed.
fn table(threads: usize, filter: &str) {
    const ROUNDS: usize = 15;
    const TURN_S: f64 = 0.02;
    let mut cases = cases(filter);
    let cpus: Vec<Cpu> = cases.iter().map(|case| Cpu::new(case.isa, threads)).collect();
    let mut seconds = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for ((case, cpu), seconds) in cases.iter_mut().zip(&cpus).zip(&mut seconds) {
            // Wakes the workers, and brings what fits into the caches.
            (case.run)(cpu);
            let turn = Instant::now();
            while turn.elapsed().as_secs_f64() < TURN_S {
                let start = Instant::now();
                (case.run)(cpu);
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    seconds.iter_mut().for_each(|seconds| seconds.sort_by(f64::total_cmp));
    let rates = |i: usize| {
        let (Work::Bytes(n) | Work::TernaryMacs(n) | Work::Values(n)) = cases[i].work;
        [seconds[i][0], seconds[i][seconds[i].len() / 2]].map(|seconds| n as f64 / seconds / 1e9)
    };
    println!("{threads} threads; best and median run, and their shares of the best and median ceiling");
    println!("{:36} {:11} {:>10} {:>9} {:>9} {:6} {:>5} {:>5}", "case", "variant", "us", "G/s", "G/s", "", "%", "%");
    for (i, case) in cases.iter().enumerate() {
        let ceiling = cases.iter().position(|other| {
            other.isa == case.isa
                && match case.work {
                    Work::Bytes(_) => other.name == "ceiling: read",
                    Work::TernaryMacs(_) => other.name == "ceiling: multiply-add",
                    Work::Values(_) => false,
                }
        });
        let [best, median] = rates(i);
        let shares = ceiling.map_or(String::new(), |ceiling| {
            let of = rates(ceiling);
            format!("{:5.0} {:5.0}", 100.0 * best / of[0], 100.0 * median / of[1])
        });
        let unit = match case.work {
            Work::Bytes(_) => "B",
            Work::TernaryMacs(_) => "MAC",
            Work::Values(_) => "values",
        };
        let us = seconds[i][0] * 1e6;
        println!("{:36} {:11} {us:10.2} {best:9.2} {median:9.2} {unit:6} {shares}", case.name, case.isa.name());
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--table") {
        let threads = args.get(at + 1).and_then(|n| n.parse().ok()).unwrap_or(1);
        return table(threads, args.get(at + 2).map_or("", String::as_str));
    }
    let mut criterion = Criterion::default().configure_from_args();
    for case in &mut cases("") {
        let mut group = criterion.benchmark_group(&case.name);
        group.throughput(match case.work {
            Work::Bytes(n) => Throughput::Bytes(n),
            Work::TernaryMacs(n) | Work::Values(n) => Throughput::Elements(n),
        });
        let cpu = Cpu::new(case.isa, 1);
        group.bench_function(case.isa.name(), |bencher| bencher.iter(|| (case.run)(&cpu)));
        group.finish();
    }
    criterion.final_summary();
}
