//! `doctor`: what this machine has, whether its parts compute rightly, and what to do about it. Made to be pasted
//! into a report: it names no user, no host and no path.

use std::env::consts;

use bitnet_cpu_kernels::isa::Isa;
use serde_json::{Value as Json, json};

use super::{args::DoctorArgs, devices, format, machine, output};
use crate::{
    backend::{
        cpu,
        gpu::{AdapterCaps, DeviceChoice, Found, GpuBackend, Measure, OpenOptions, TestedChoices, look_up},
    },
    error::{Error, Result},
};

/// The self-test of one way to compute.
struct Verdict {
    what: String,
    /// Why it may not be used.
    fault: Option<String>,
    /// The ways to compute that were compared.
    compared: Vec<String>,
}

impl Verdict {
    fn new(what: String, tested: Result<Vec<String>>) -> Self {
        match tested {
            Ok(compared) => Self { what, fault: None, compared },
            Err(error) => Self { what, fault: Some(error.to_string()), compared: Vec::new() },
        }
    }
}

pub fn run(args: &DoctorArgs) -> Result<()> {
    let found = look_up();
    let kernels: Vec<Verdict> = Isa::available()
        .into_iter()
        .map(|isa| Verdict::new(format!("CPU kernels {isa}"), cpu::self_test(isa).map(|()| Vec::new())))
        .collect();
    let gpus: Vec<Verdict> = (found.adapters.iter().enumerate())
        .map(|(at, gpu)| Verdict::new(format!("GPU {at}, {} ({})", gpu.name, gpu.backend), test(at, gpu)))
        .collect();
    let advice = advice(&found, &gpus);
    if args.json {
        output::print_json(&to_json(&found, &kernels, &gpus, &advice))?;
    } else {
        output::print(&to_text(&found, &kernels, &gpus, &advice))?;
    }
    match kernels.into_iter().find_map(|verdict| verdict.fault) {
        // Nothing this program computes can be trusted then.
        Some(fault) => Err(Error::unsupported("this processor", fault)),
        None => Ok(()),
    }
}

/// Opens the adapter, which runs the self-test. Returns the kernels that it compared, in words.
fn test(at: usize, gpu: &AdapterCaps) -> Result<Vec<String>> {
    if let Some(reason) = &gpu.unusable {
        return Err(Error::NoAdapter { reason: reason.clone() });
    }
    // Without the cache: what is asked for is a test now.
    let device = Some(DeviceChoice::Number(at));
    let options = OpenOptions { software_allowed: true, device, measure: Measure::Always, ..OpenOptions::default() };
    let opened = GpuBackend::open(&options)?;
    opened.gpu().notes().iter().for_each(|note| log::warn!("{note}"));
    let chosen = opened.gpu().choices();
    let cut = opened.gpu().geometry();
    let of = |c: &TestedChoices| if c.choices == chosen { format!("chosen: {c}; {cut}") } else { c.to_string() };
    Ok(opened.compared().iter().map(of).collect())
}

fn advice(found: &Found, verdicts: &[Verdict]) -> String {
    let adapters = &found.adapters;
    let sound = |software: bool| {
        adapters.iter().zip(verdicts).find(|(gpu, verdict)| gpu.software == software && verdict.fault.is_none())
    };
    let cpu =
        if Isa::detect() == Isa::Scalar { "; the processor lacks the instructions that make the CPU fast" } else { "" };
    if let Some((gpu, _)) = sound(false) {
        format!("{} computes rightly: --backend auto measures whether it is faster{cpu}", gpu.name.escape_debug())
    } else if let Some((gpu, _)) = adapters.iter().zip(verdicts).find(|(gpu, _)| !gpu.software) {
        format!("{} cannot be used: update its driver; until then all runs on the CPU{cpu}", gpu.name.escape_debug())
    } else if let Some(what) = found.obstacle() {
        format!("{}: until that is changed all runs on the CPU{cpu}", what.escape_debug())
    } else if sound(true).is_some() {
        format!("there is only a software GPU, which is slower than the CPU: all runs on the CPU{cpu}")
    } else {
        format!("no GPU driver was found (Debian: mesa-vulkan-drivers): all runs on the CPU{cpu}")
    }
}

fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

fn to_text(found: &Found, kernels: &[Verdict], gpus: &[Verdict], advice: &str) -> String {
    let mut text = format!(
        "bitnet-gpu {} ({}), {} {}\n",
        env!("CARGO_PKG_VERSION"),
        build(),
        consts::OS,
        machine::system_version().unwrap_or_default()
    );
    let known = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".into(), format::bytes);
    text += &format!(
        "memory: {}, free: {}, page: {}\n",
        known(machine::memory_bytes()),
        known(machine::free_memory_bytes()),
        known(machine::page_bytes())
    );
    text += &devices::to_text(found);
    for verdict in kernels.iter().chain(gpus) {
        let result = verdict.fault.as_ref().map_or_else(|| "passed".into(), |fault| format!("NOT USABLE: {fault}"));
        text += &format!("self-test of {}: {}\n", verdict.what.escape_debug(), result.escape_debug());
        for line in &verdict.compared {
            text += &format!("  {line}\n");
        }
    }
    text + &format!("advice: {advice}\n")
}

fn to_json(found: &Found, kernels: &[Verdict], gpus: &[Verdict], advice: &str) -> Json {
    let tests: Vec<Json> = kernels
        .iter()
        .chain(gpus)
        .map(|verdict| {
            json!({
                "of": verdict.what,
                "passed": verdict.fault.is_none(),
                "fault": verdict.fault,
                "compared": verdict.compared,
            })
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "build": build(),
        "os": consts::OS,
        "system_version": machine::system_version(),
        "memory_bytes": machine::memory_bytes(),
        "free_memory_bytes": machine::free_memory_bytes(),
        "page_bytes": machine::page_bytes(),
        "devices": devices::to_json(found),
        "self_tests": tests,
        "advice": advice,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::Memory;

    fn adapter(name: &str, software: bool) -> AdapterCaps {
        AdapterCaps {
            name: name.into(),
            backend: "Vulkan".into(),
            driver: "driver 1".into(),
            kind: if software { "software" } else { "integrated GPU" },
            software,
            unified_memory: true,
            subgroups: None,
            f16: false,
            immediates: false,
            timestamps: false,
            mappable: true,
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 1 << 30,
            memory: Memory { bytes: 1 << 30, source: "test" },
            unusable: None,
        }
    }

    #[test]
    fn the_advice_follows_the_verdicts() {
        let [software, card] = [adapter("soft", true), adapter("card", false)];
        let cases = [
            (vec![], "no GPU driver was found"),
            (vec![(software.clone(), None)], "only a software GPU"),
            (vec![(software.clone(), None), (card.clone(), None)], "card computes rightly"),
            (vec![(software, None), (card, Some("wrong"))], "card cannot be used: update its driver"),
        ];
        for (machine, expected) in cases {
            let (adapters, verdicts): (Vec<_>, Vec<_>) = machine
                .into_iter()
                .map(|(gpu, fault)| {
                    let fault = fault.map(str::to_owned);
                    (gpu, Verdict { what: "x".into(), fault, compared: Vec::new() })
                })
                .unzip();
            let said = advice(&Found { adapters, hidden: Vec::new() }, &verdicts);
            assert!(said.contains(expected) && !said.contains('\n'), "{said}");
        }
    }
}
