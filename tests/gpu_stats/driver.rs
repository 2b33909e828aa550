//! A Vulkan driver as a compiler: SPIR-V to what it says of the machine code. No work is submitted, so its device may be
//! one that does not exist.

#![allow(unsafe_code, reason = "wgpu asks no driver for the statistics of a pipeline")]

use std::ffi::{CStr, c_char};

use ash::{khr, vk};

/// What a driver says of a pipeline.
pub struct Machine {
    /// Invocations of a subgroup.
    pub subgroup: u32,
    /// Named as the driver names them.
    pub statistics: Vec<(String, u64)>,
    /// Its forms of the program, assembly among them.
    pub texts: Vec<String>,
}

/// An open device of the first driver that the Vulkan loader finds.
pub struct Driver {
    /// Keeps the library loaded.
    _entry: ash::Entry,
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    /// Name of the GPU.
    pub name: String,
    /// Name and version of the driver.
    pub version: String,
    /// Instructions that SPIR-V may have beyond the core ones.
    pub has_dot: bool,
    pub has_int8: bool,
}

fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Driver {
    /// Opens the device with the features that wgpu asks for; an error says what is missing.
    pub fn open() -> Result<Self, String> {
        // SAFETY: the loader of the system; nothing else of this process uses Vulkan while it is loaded.
        let entry = unsafe { ash::Entry::load() }.map_err(|e| format!("no Vulkan loader: {e}"))?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: `info` and what it refers to live until the call returns.
        let instance = unsafe { entry.create_instance(&info, None) }.map_err(|e| format!("no instance: {e}"))?;
        // SAFETY: the instance was created above and is not destroyed.
        let devices = unsafe { instance.enumerate_physical_devices() }.map_err(|e| format!("no devices: {e}"))?;
        let physical = *devices.first().ok_or("no device")?;

        let mut properties12 = vk::PhysicalDeviceVulkan12Properties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut properties12);
        // SAFETY: `physical` is of this instance; the chain has structures of Vulkan 1.2, of which the version is checked next.
        unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
        let core = properties.properties;
        if core.api_version < vk::API_VERSION_1_3 {
            return Err("the device has less than Vulkan 1.3".to_owned());
        }
        // SAFETY: `physical` is of this instance.
        let have = unsafe { instance.enumerate_device_extension_properties(physical) }.map_err(|e| e.to_string())?;
        let supports = |name: &CStr| have.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
        if !supports(khr::pipeline_executable_properties::NAME) {
            return Err("the driver gives no statistics of pipelines".to_owned());
        }

        let (mut has12, mut has13) =
            (vk::PhysicalDeviceVulkan12Features::default(), vk::PhysicalDeviceVulkan13Features::default());
        let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut has12).push_next(&mut has13);
        // SAFETY: `physical` is of this instance, and has Vulkan 1.3, whose structures the chain has.
        unsafe { instance.get_physical_device_features2(physical, &mut features) };

        let mut extensions = vec![khr::pipeline_executable_properties::NAME.as_ptr()];
        let is_robust = supports(ash::ext::robustness2::NAME);
        extensions.extend(is_robust.then_some(ash::ext::robustness2::NAME.as_ptr()));
        let wanted = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
        let mut wanted12 = vk::PhysicalDeviceVulkan12Features::default()
            .shader_int8(has12.shader_int8 != 0)
            .vulkan_memory_model(has12.vulkan_memory_model != 0)
            .timeline_semaphore(has12.timeline_semaphore != 0);
        let mut wanted13 = vk::PhysicalDeviceVulkan13Features::default()
            .shader_integer_dot_product(has13.shader_integer_dot_product != 0)
            .subgroup_size_control(has13.subgroup_size_control != 0);
        let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
        let mut statistics =
            vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
        let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
        let mut info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .enabled_features(&wanted)
            .push_next(&mut wanted12)
            .push_next(&mut wanted13)
            .push_next(&mut statistics);
        if is_robust {
            info = info.push_next(&mut robust);
        }
        // SAFETY: `physical` is of this instance; extensions and features of `info` are among those it has.
        let device = unsafe { instance.create_device(physical, &info, None) }.map_err(|e| format!("no device: {e}"))?;
        Ok(Self {
            executables: khr::pipeline_executable_properties::Device::new(&instance, &device),
            name: text(&core.device_name),
            version: format!("{} {}", text(&properties12.driver_name), text(&properties12.driver_info)),
            has_dot: has13.shader_integer_dot_product != 0,
            has_int8: has12.shader_int8 != 0,
            device,
            _entry: entry,
        })
    }

    /// Compiles a kernel with so many storage buffers in group 0 and push constants of so many bytes. An error is the
    /// driver's refusal.
    pub fn compile(&self, spirv: &[u32], bindings: usize, immediate_bytes: u32) -> Result<Machine, String> {
        let refused = |e: vk::Result| format!("refused: {e}");
        let module = vk::ShaderModuleCreateInfo::default().code(spirv);
        // SAFETY: naga has validated what these words were written from.
        let module = unsafe { self.device.create_shader_module(&module, None) }.map_err(refused)?;
        let layout = self.layout(bindings, immediate_bytes).map_err(refused)?;
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main")
            .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE);
        let flags = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
            | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
        let info = [vk::ComputePipelineCreateInfo::default().flags(flags).stage(stage).layout(layout)];
        // SAFETY: module and layout are of this device; the layout has what the kernel binds, by the table of kernels.
        let made = unsafe { self.device.create_compute_pipelines(vk::PipelineCache::null(), &info, None) };
        let pipeline = made.map_err(|(_, e)| refused(e))?[0];
        let machine = self.machine(pipeline).map_err(refused);
        // SAFETY: both are of this device and not used any more.
        unsafe {
            self.device.destroy_pipeline(pipeline, None);
            self.device.destroy_shader_module(module, None);
        }
        machine
    }

    /// Layouts live as long as the process: they are few and small.
    fn layout(&self, bindings: usize, immediate_bytes: u32) -> Result<vk::PipelineLayout, vk::Result> {
        let storage = |binding: u32| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding)
                .descriptor_count(1)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let storage: Vec<_> = (0..).take(bindings).map(storage).collect();
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&storage);
        // SAFETY: `info` and what it refers to live until the call returns.
        let sets = [unsafe { self.device.create_descriptor_set_layout(&info, None) }?];
        let push = [vk::PushConstantRange::default().stage_flags(vk::ShaderStageFlags::COMPUTE).size(immediate_bytes)];
        let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets).push_constant_ranges(&push);
        // SAFETY: as above.
        unsafe { self.device.create_pipeline_layout(&info, None) }
    }

    /// What the driver says of the one program that a compute pipeline is.
    fn machine(&self, pipeline: vk::Pipeline) -> Result<Machine, vk::Result> {
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline is of this device, which has the extension.
        let executables = unsafe { self.executables.get_pipeline_executable_properties(&info) }?;
        let which = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: as above, and it was created to be asked for statistics.
        let statistics = unsafe { self.executables.get_pipeline_executable_statistics(&which) }?;
        let value = |s: &vk::PipelineExecutableStatisticKHR<'_>| {
            // SAFETY: the format says which member of the union was written.
            unsafe {
                match s.format {
                    vk::PipelineExecutableStatisticFormatKHR::BOOL32 => u64::from(s.value.b32),
                    vk::PipelineExecutableStatisticFormatKHR::FLOAT64 => s.value.f64 as u64,
                    _ => s.value.u64,
                }
            }
        };
        Ok(Machine {
            subgroup: executables.first().map_or(0, |own| own.subgroup_size),
            statistics: statistics.iter().map(|s| (text(&s.name), value(s))).collect(),
            texts: self.texts(&which)?,
        })
    }

    /// The driver's forms of the program. ash has no wrapper that asks for sizes first.
    fn texts(&self, which: &vk::PipelineExecutableInfoKHR<'_>) -> Result<Vec<String>, vk::Result> {
        let get = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        let mut count = 0;
        // SAFETY: the pipeline is of this device and was created to be asked; without an array only the count is written.
        unsafe { get(self.device.handle(), which, &mut count, std::ptr::null_mut()) }.result()?;
        let mut forms = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
        // SAFETY: as above, with an array of `count`, whose data pointers are null: sizes are written.
        unsafe { get(self.device.handle(), which, &mut count, forms.as_mut_ptr()) }.result()?;
        let mut bytes: Vec<Vec<u8>> = forms.iter().map(|form| vec![0; form.data_size]).collect();
        for (form, bytes) in forms.iter_mut().zip(&mut bytes) {
            form.p_data = bytes.as_mut_ptr().cast();
        }
        // SAFETY: as above, and each data pointer has the bytes that the call before asked for.
        unsafe { get(self.device.handle(), which, &mut count, forms.as_mut_ptr()) }.result()?;
        Ok(bytes.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect())
    }
}
