//! Finding and opening a device: refusals with reasons, a machine without a driver, choices that follow the
//! adapter.

use std::process::Command;

use bitnet_gpu::{
    Error,
    backend::gpu::{
        DeviceChoice, Gpu, GpuBackend, OpenOptions, Tuning, adapters,
        pipelines::{Lanes, ParamSource, Product},
    },
};

use crate::common::gpu::{open_backend, open_gpu, options};

/// Set in the child process that runs one test of this file without drivers.
const CHILD: &str = "BITNET_TEST_WITHOUT_DRIVERS";

/// As on a machine without a GPU driver: the loader finds none. (A missing loader gives the same empty list.)
#[test]
fn without_a_driver_there_is_no_adapter_and_no_noise() {
    if std::env::var_os(CHILD).is_some() {
        assert!(adapters().is_empty());
        for software_allowed in [true, false] {
            let error = GpuBackend::open(&OpenOptions { software_allowed, ..OpenOptions::default() }).err();
            let Some(Error::NoAdapter { reason }) = error else { panic!("{error:?}") };
            assert!(
                reason.starts_with("no Vulkan, Metal or DirectX 12 driver was found; VK_DRIVER_FILES="),
                "{reason}"
            );
        }
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "device::without_a_driver_there_is_no_adapter_and_no_noise", "--nocapture"])
        .env(CHILD, "1")
        // Read by the Vulkan loader instead of its folders; the older name as well.
        .env("VK_DRIVER_FILES", "/nonexistent.json")
        .env("VK_ICD_FILENAMES", "/nonexistent.json")
        .env_remove("VK_ADD_DRIVER_FILES")
        // Drivers and layers complain when it is not set.
        .env("XDG_RUNTIME_DIR", std::env::temp_dir())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
    assert_eq!(stderr, "", "nothing is printed by the library");
}

#[test]
fn software_is_refused_unless_allowed_and_names_are_matched() {
    let Some(backend) = open_backend(Tuning::default()) else { return };
    let all = adapters();
    assert!(all.windows(2).all(|pair| pair[0].rank() <= pair[1].rank()), "sorted by preference: {all:?}");
    if all.iter().all(|caps| caps.software) {
        let error = Gpu::open(&OpenOptions::default()).err().expect("software adapters are refused").to_string();
        assert!(error.contains("only software adapters"), "{error}");
    }
    let name = backend.gpu().caps().name.to_uppercase();
    let named = OpenOptions { device: Some(DeviceChoice::Named(name.clone())), ..options(Tuning::default()) };
    assert_eq!(Gpu::open(&named).unwrap().caps().name.to_uppercase(), name);
    let unknown =
        OpenOptions { device: Some(DeviceChoice::Named("no such GPU".to_owned())), ..options(Tuning::default()) };
    let error = Gpu::open(&unknown).err().expect("there is no such adapter").to_string();
    assert!(error.contains("\"no such GPU\"; found: "), "{error}");
}

#[test]
fn choices_follow_the_adapter_and_the_tuning() {
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let caps = gpu.caps();
    let choices = gpu.choices();
    assert_eq!(choices.lanes == Lanes::Subgroup, caps.subgroups.is_some_and(|(least, _)| least >= 4));
    assert_eq!(choices.params == ParamSource::Immediate, caps.immediates);
    assert!(caps.memory.bytes > 0 && caps.max_binding_bytes > 0);
    assert_eq!(gpu.memory_bytes(), caps.memory.bytes);
    let all_off = Tuning {
        subgroups: Some(false),
        product: Some(Product::F32),
        immediates: Some(false),
        max_binding_bytes: Some(1000),
        memory_bytes: Some(77),
        ..Tuning::default()
    };
    let Some(gpu) = open_gpu(all_off) else { return };
    let choices = gpu.choices();
    assert_eq!((choices.lanes, choices.product), (Lanes::Workgroup, Product::F32));
    assert_eq!(choices.params, ParamSource::Uniform);
    assert_eq!((gpu.max_binding_bytes(), gpu.memory_bytes()), (992, 77));
}

/// A device that has nothing beside what the kernels need: wgpu refuses a kernel that takes more.
#[test]
fn the_least_device_has_no_more_than_every_device() {
    let Some(gpu) = open_gpu(Tuning { least: true, ..Tuning::default() }) else { return };
    let caps = gpu.caps();
    assert_eq!((caps.subgroups, caps.immediates, caps.mappable, caps.timestamps), (None, false, false, false));
    assert_eq!((gpu.max_binding_bytes(), gpu.max_workgroup_bytes()), (128 << 20, 16 << 10));
    let choices = gpu.choices();
    assert_eq!((choices.lanes, choices.params), (Lanes::Workgroup, ParamSource::Uniform));
}
