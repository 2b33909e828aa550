//! The GPUs of this machine: what each can do, and which one is taken.

use std::{env, fmt};

use super::{
    guard,
    memory::{self, Memory},
    options::{DeviceChoice, OpenOptions},
};
use crate::{
    backend::gpu::kernels::params::PARAM_BYTES,
    error::{Error, Result, shown},
};

/// Name, kind and capabilities of an adapter.
#[derive(Clone, Debug)]
pub struct AdapterCaps {
    /// As the driver calls it.
    pub name: String,
    /// "Vulkan", "Metal" or "DX12".
    pub backend: String,
    /// Name and version of the driver.
    pub driver: String,
    /// "discrete GPU", "integrated GPU", ...
    pub kind: &'static str,
    /// Runs on the processor.
    pub software: bool,
    /// Shares its memory with the processor.
    pub unified_memory: bool,
    /// Smallest and largest subgroup, where subgroup operations exist.
    pub subgroups: Option<(u32, u32)>,
    /// f16 arithmetic in shaders.
    pub f16: bool,
    /// Parameters without a buffer.
    pub immediates: bool,
    /// GPU time stamps.
    pub timestamps: bool,
    /// Any buffer can be mapped.
    pub mappable: bool,
    /// Most bytes of one binding.
    pub max_binding_bytes: u64,
    /// Most bytes of one buffer.
    pub max_buffer_bytes: u64,
    /// Device memory.
    pub memory: Memory,
    /// Why the kernels cannot run here, if they cannot.
    pub unusable: Option<String>,
}

impl fmt::Display for AdapterCaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} ({}), {}", self.name, self.backend, self.kind, self.driver)
    }
}

/// A request for a device.
pub(super) struct Asked {
    /// Limits and features of the device that answers it.
    pub caps: AdapterCaps,
    pub limits: wgpu::Limits,
    pub features: wgpu::Features,
}

impl AdapterCaps {
    /// Order of preference: discrete, integrated, virtual, unknown, software. Of one kind Vulkan is before DirectX 12,
    /// which without dxcompiler.dll has neither subgroups nor integer dot products; but on Qualcomm's GPUs behind it, as
    /// their Vulkan driver for Windows refuses the layouts that naga gives variables in workgroup memory
    /// (<https://github.com/gfx-rs/wgpu/issues/7696>).
    pub fn rank(&self) -> (u8, bool) {
        let kind = match self.kind {
            "discrete GPU" => 0,
            "integrated GPU" => 1,
            "virtual GPU" => 2,
            "software" => 4,
            _ => 3,
        };
        let is_qualcomm = self.name.contains("Adreno");
        (kind, (self.backend == "DX12") != is_qualcomm)
    }

    /// The request for a device, with everything that the adapter has, or the least that the kernels need.
    pub(super) fn asked(self, adapter: &wgpu::Adapter, wanted: wgpu::Features, is_least: bool) -> Asked {
        if !is_least {
            return Asked { caps: self, limits: adapter.limits(), features: wanted & adapter.features() };
        }
        let limits = least();
        let caps = Self {
            subgroups: None,
            f16: false,
            immediates: false,
            timestamps: false,
            mappable: false,
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            ..self
        };
        Asked { caps, limits, features: wgpu::Features::empty() }
    }

    fn new(adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let limits = adapter.limits();
        let features = adapter.features();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "unknown kind",
        };
        let backend = match info.backend {
            wgpu::Backend::Vulkan => "Vulkan",
            wgpu::Backend::Metal => "Metal",
            wgpu::Backend::Dx12 => "DX12",
            other => other.to_str(),
        };
        let software = info.device_type == wgpu::DeviceType::Cpu;
        let unified_memory = software
            || info.device_type == wgpu::DeviceType::IntegratedGpu
            || (info.backend == wgpu::Backend::Metal && info.name.starts_with("Apple"));
        Self {
            memory: memory::available(adapter, unified_memory),
            name: info.name,
            backend: backend.to_owned(),
            driver: [info.driver, info.driver_info].join(" ").trim().to_owned(),
            kind,
            software,
            unified_memory,
            subgroups: features
                .contains(wgpu::Features::SUBGROUP)
                .then_some((info.subgroup_min_size, info.subgroup_max_size)),
            f16: features.contains(wgpu::Features::SHADER_F16),
            immediates: features.contains(wgpu::Features::IMMEDIATES)
                && limits.max_immediate_size as usize >= PARAM_BYTES,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            mappable: features.contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS),
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            unusable: unusable(&limits),
        }
    }
}

/// Limits that the kernels need: no more than every device of WebGPU has.
fn least() -> wgpu::Limits {
    wgpu::Limits {
        max_storage_buffers_per_shader_stage: 8,
        max_compute_invocations_per_workgroup: 256,
        max_compute_workgroup_storage_size: 16 << 10,
        max_compute_workgroups_per_dimension: 65535,
        max_storage_buffer_binding_size: 128 << 20,
        max_immediate_size: 0,
        ..wgpu::Limits::default()
    }
}

/// For exotic drivers only.
fn unusable(limits: &wgpu::Limits) -> Option<String> {
    type Limit = fn(&wgpu::Limits) -> u32;
    let needs: [(&str, Limit); 4] = [
        ("storage buffers of a kernel", |of| of.max_storage_buffers_per_shader_stage),
        ("invocations of a workgroup", |of| of.max_compute_invocations_per_workgroup),
        ("bytes of workgroup memory", |of| of.max_compute_workgroup_storage_size),
        ("workgroups of a dispatch", |of| of.max_compute_workgroups_per_dimension),
    ];
    let least = least();
    needs
        .iter()
        .map(|(what, limit)| (what, limit(&least), limit(limits)))
        .find(|&(_, needed, offered)| offered < needed)
        .map(|(what, needed, offered)| format!("{what}: {needed} needed, {offered} offered"))
}

const BACKEND: &str = "WGPU_BACKEND";
const ADAPTER_NAME: &str = "WGPU_ADAPTER_NAME";
const NONCONFORMANT: &str = "WGPU_ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER";

const HIDES_NOTHING: &str = "hides nothing here";
const COUNTS_AS_NOT_SET: &str = "is empty, which counts as not set";

/// Variables by which other programs hide GPUs from themselves.
const OF_OTHERS: [&str; 4] =
    ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES"];

/// A variable that is set; an empty one counts as not set.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn instance(flags: wgpu::InstanceFlags) -> wgpu::Instance {
    let wanted = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let asked = variable(BACKEND).map(|names| wgpu::Backends::from_comma_list(&names));
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = asked.unwrap_or(wanted) & wanted;
    descriptor.flags = flags;
    // An out-of-memory error instead of swapping, where the driver tells its budget (Vulkan, DX12).
    descriptor.memory_budget_thresholds.for_resource_creation = Some(95);
    wgpu::Instance::new(descriptor)
}

/// No validation layers unless asked for with WGPU_VALIDATION=1: where they are absent the request is noise.
fn flags() -> wgpu::InstanceFlags {
    wgpu::InstanceFlags::empty().with_env()
}

fn enumerate_with(flags: wgpu::InstanceFlags) -> Vec<(wgpu::Adapter, AdapterCaps)> {
    let adapters = pollster::block_on(instance(flags).enumerate_adapters(wgpu::Backends::all()));
    let mut all: Vec<_> = adapters
        .into_iter()
        .map(|adapter| {
            let caps = AdapterCaps::new(&adapter);
            (adapter, caps)
        })
        .collect();
    all.sort_by_key(|(_, caps)| caps.rank());
    all
}

/// All adapters, and in a sentence each what keeps others out of sight.
fn enumerate() -> (Vec<(wgpu::Adapter, AdapterCaps)>, Vec<String>) {
    if let Err(what) = guard::verdict() {
        return (Vec::new(), vec![what]);
    }
    let all = enumerate_with(flags());
    let hidden = hidden(
        all.iter().map(|(_, caps)| caps),
        |name| env::var(name).ok(),
        || {
            let others = enumerate_with(flags() | wgpu::InstanceFlags::ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER);
            others.into_iter().map(|(_, caps)| caps.name).collect()
        },
    );
    (all, hidden)
}

/// Causes of hidden adapters, as far as the variables and those that conform to no standard tell.
fn hidden<'a>(
    found: impl Iterator<Item = &'a AdapterCaps> + Clone,
    var: impl Fn(&str) -> Option<String>,
    nonconformant: impl FnOnce() -> Vec<String>,
) -> Vec<String> {
    let mut hidden = Vec::new();
    match var(BACKEND) {
        Some(value) if value.trim().is_empty() => hidden.push(format!("{BACKEND} {COUNTS_AS_NOT_SET}")),
        Some(value) if found.clone().next().is_none() => hidden.push(format!(
            "{BACKEND}={} leaves no adapter: of the interfaces, vulkan, metal and dx12 are used, where the system has them",
            shown(&value)
        )),
        Some(value) => hidden.push(format!("{BACKEND}={} hides the adapters of other interfaces", shown(&value))),
        None => {}
    }
    if found.clone().next().is_none() {
        for name in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            let value = var(name).filter(|value| !value.is_empty());
            hidden.extend(value.map(|value| format!("{name}={} leaves no other Vulkan driver", shown(&value))));
        }
    }
    // Looked for where it may matter: it takes as long as the first look.
    if found.clone().all(|caps| caps.software) && hidden.is_empty() {
        let others = nonconformant().into_iter().filter(|name| found.clone().all(|caps| caps.name != *name));
        hidden.extend(others.map(|name| {
            format!("{name} is left out, as its driver does not conform to its standard ({NONCONFORMANT}=1 admits it)")
        }));
    }
    hidden
}

/// The adapters of this machine, the preferred one first, and what keeps others out of sight.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Empty on a machine without a driver.
    pub adapters: Vec<AdapterCaps>,
    /// A sentence for each thing that hides adapters or seems to.
    pub hidden: Vec<String>,
}

impl Found {
    /// The first thing that does hide adapters.
    pub fn obstacle(&self) -> Option<&str> {
        let is_real = |what: &&String| !what.ends_with(COUNTS_AS_NOT_SET) && !what.contains(HIDES_NOTHING);
        self.hidden.iter().find(is_real).map(String::as_str)
    }
}

/// Looks for the adapters.
pub fn look_up() -> Found {
    let (all, mut hidden) = enumerate();
    let of_others = OF_OTHERS.iter().filter_map(|name| Some((name, variable(name)?)));
    hidden.extend(of_others.map(|(name, value)| {
        format!("{name}={} is of other programs and {HIDES_NOTHING}; --device chooses a GPU", shown(&value))
    }));
    let adapters: Vec<_> = all.into_iter().map(|(_, caps)| caps).collect();
    let named = |wanted: &String| adapters.iter().all(|caps| !is_named(caps, wanted));
    if let Some(name) = variable(ADAPTER_NAME).filter(|name| !adapters.is_empty() && named(name)) {
        hidden.push(format!("{ADAPTER_NAME}={} names none of these", shown(&name)));
    }
    Found { adapters, hidden }
}

/// All adapters, the preferred one first. Empty on a machine without a driver.
pub fn adapters() -> Vec<AdapterCaps> {
    look_up().adapters
}

/// An adapter that may be opened.
pub type Candidate = (wgpu::Adapter, AdapterCaps);

/// The adapters that `options` ask for, the preferred one first and at least one, and what is odd about the choice.
pub fn candidates(options: &OpenOptions) -> Result<(Vec<Candidate>, Vec<String>)> {
    let (all, hidden) = enumerate();
    let caps: Vec<&AdapterCaps> = all.iter().map(|(_, caps)| caps).collect();
    let of_environment = options.device.is_none().then(|| variable(ADAPTER_NAME).map(DeviceChoice::Named)).flatten();
    let by = if of_environment.is_some() { format!(" ({ADAPTER_NAME})") } else { String::new() };
    let choice = options.device.clone().or(of_environment);
    // Who chooses a device knows what it is.
    let software_allowed = options.software_allowed || options.device.is_some();
    let chosen = choose(&caps, choice.as_ref(), software_allowed).map_err(|reason| Error::NoAdapter {
        reason: if hidden.is_empty() { reason + &by } else { format!("{reason}{by}; {}", hidden.join("; ")) },
    })?;
    let chosen = (0..).zip(all).filter(|(at, _)| chosen.contains(at)).map(|(_, candidate)| candidate).collect();
    let is_empty = |note: &String| note.ends_with(COUNTS_AS_NOT_SET);
    Ok((chosen, hidden.into_iter().filter(is_empty).collect()))
}

fn is_named(caps: &AdapterCaps, name: &str) -> bool {
    caps.name.to_lowercase().contains(&name.to_lowercase())
}

/// The indices of the adapters to try, in this order; else why there is none. No software adapter stands in for a GPU: the
/// CPU backend is faster.
fn choose(
    all: &[&AdapterCaps],
    choice: Option<&DeviceChoice>,
    software_allowed: bool,
) -> std::result::Result<Vec<usize>, String> {
    let names = || {
        let names = all.iter().enumerate().map(|(at, caps)| format!("{at}: {}", caps.name));
        names.collect::<Vec<_>>().join(", ")
    };
    if all.is_empty() {
        return Err("no Vulkan, Metal or DirectX 12 driver was found".to_owned());
    }
    let is_chosen = |at: usize| match choice {
        None => true,
        Some(DeviceChoice::Number(number)) => at == *number,
        Some(DeviceChoice::Named(name)) => is_named(all[at], name),
    };
    let chosen: Vec<usize> = (0..all.len()).filter(|&at| is_chosen(at)).collect();
    if chosen.is_empty() {
        return Err(match choice {
            Some(DeviceChoice::Number(number)) => format!("there is no number {number}; found: {}", names()),
            Some(DeviceChoice::Named(name)) => format!("none is named like \"{}\"; found: {}", shown(name), names()),
            None => unreachable!("without a choice all are taken into account"),
        });
    }
    let usable: Vec<usize> = chosen.into_iter().filter(|&at| software_allowed || !all[at].software).collect();
    if usable.is_empty() {
        return Err(format!("only software adapters were found ({}), which are slower than the CPU backend", names()));
    }
    let Some(first) = usable.iter().copied().find(|&at| all[at].unusable.is_none()) else {
        let reason = |&at: &usize| format!("{}: {}", all[at].name, all[at].unusable.as_deref().unwrap_or_default());
        return Err(usable.iter().map(reason).collect::<Vec<_>>().join("; "));
    };
    let is_like = |&at: &usize| all[at].unusable.is_none() && all[at].software == all[first].software;
    Ok(usable.into_iter().filter(is_like).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(name: &str, kind: &'static str, unusable: Option<&str>) -> AdapterCaps {
        AdapterCaps {
            name: name.to_owned(),
            backend: "Vulkan".to_owned(),
            driver: String::new(),
            kind,
            software: kind == "software",
            unified_memory: false,
            subgroups: None,
            f16: false,
            immediates: true,
            timestamps: false,
            mappable: false,
            max_binding_bytes: 1 << 30,
            max_buffer_bytes: 1 << 30,
            memory: Memory { bytes: 1 << 30, source: "test" },
            unusable: unusable.map(str::to_owned),
        }
    }

    fn reason(result: std::result::Result<Vec<usize>, String>) -> String {
        result.unwrap_err()
    }

    fn named(name: &str) -> DeviceChoice {
        DeviceChoice::Named(name.into())
    }

    #[test]
    fn software_is_taken_only_when_allowed() {
        let (gpu, soft) = (caps("Radeon 780M", "integrated GPU", None), caps("llvmpipe", "software", None));
        assert_eq!(choose(&[&gpu, &soft], None, true).unwrap(), [0], "nor instead of a GPU");
        assert_eq!(choose(&[&soft], None, true).unwrap(), [0]);
        assert!(reason(choose(&[&soft], None, false)).contains("only software adapters were found (0: llvmpipe)"));
        assert_eq!(choose(&[&gpu, &soft], Some(&named("LLVM")), true).unwrap(), [1]);
    }

    #[test]
    fn a_refusal_says_what_was_found() {
        let weak = caps("Old GPU", "discrete GPU", Some("storage buffers of a kernel: 7 needed, 4 offered"));
        let good = caps("Arc", "integrated GPU", None);
        assert!(reason(choose(&[], None, true)).contains("no Vulkan, Metal or DirectX 12 driver was found"));
        assert!(reason(choose(&[&good], Some(&named("nvidia")), true)).contains("\"nvidia\"; found: 0: Arc"));
        assert!(reason(choose(&[&weak], None, true)).contains("Old GPU: storage buffers of a kernel: 7 needed"));
        assert_eq!(choose(&[&weak, &good], None, false).unwrap(), [1]);
    }

    #[test]
    fn two_of_one_name_have_numbers() {
        let card = caps("Radeon", "discrete GPU", None);
        let number = |at| choose(&[&card, &card], Some(&DeviceChoice::Number(at)), false);
        assert_eq!((number(0), number(1)), (Ok(vec![0]), Ok(vec![1])));
        assert_eq!(
            choose(&[&card, &card], Some(&named("radeon")), false),
            Ok(vec![0, 1]),
            "the next if the first fails"
        );
        assert_eq!(number(2).unwrap_err(), "there is no number 2; found: 0: Radeon, 1: Radeon");
    }

    #[test]
    fn what_hides_adapters_is_named() {
        let (soft, card) = (caps("llvmpipe", "software", None), caps("Arc", "integrated GPU", None));
        let hidden_by = |found: &[AdapterCaps], variables: &[(&str, &str)], others: &[&str]| {
            let var = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, v)| (*v).to_owned());
            hidden(found.iter(), var, || others.iter().map(|&name| name.to_owned()).collect()).join("; ")
        };
        assert_eq!(hidden_by(std::slice::from_ref(&card), &[], &["dzn"]), "", "not looked for where there is a GPU");
        assert_eq!(hidden_by(&[], &[], &[]), "");
        assert!(hidden_by(&[], &[("WGPU_BACKEND", "gl")], &[]).starts_with("WGPU_BACKEND=gl leaves no adapter"));
        assert!(hidden_by(&[card], &[("WGPU_BACKEND", "")], &[]).contains("counts as not set"));
        assert!(hidden_by(&[], &[("VK_ICD_FILENAMES", "/x.json")], &[]).contains("VK_ICD_FILENAMES=/x.json"));
        let left_out = hidden_by(&[soft], &[], &["llvmpipe", "Microsoft Direct3D12 (RTX)"]);
        assert!(left_out.starts_with("Microsoft Direct3D12 (RTX) is left out") && !left_out.contains("llvmpipe"));
    }

    #[test]
    fn preference_is_by_kind_then_interface() {
        let mut all = [
            caps("soft", "software", None),
            caps("integrated", "integrated GPU", None),
            AdapterCaps { backend: "DX12".to_owned(), ..caps("discrete-dx", "discrete GPU", None) },
            caps("discrete", "discrete GPU", None),
        ];
        all.sort_by_key(AdapterCaps::rank);
        assert_eq!(all.map(|c| c.name), ["discrete", "discrete-dx", "integrated", "soft"]);

        let vulkan = caps("Qualcomm(R) Adreno(TM) X1-85 GPU", "integrated GPU", None);
        let dx12 = AdapterCaps { backend: "DX12".to_owned(), ..vulkan.clone() };
        assert!(dx12.rank() < vulkan.rank());
    }
}
