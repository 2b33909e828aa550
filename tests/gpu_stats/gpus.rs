//! The GPUs that kernels are compiled for, and how Mesa's drivers are made to see them.

/// A GPU that need not be there.
pub struct Gpu {
    /// As the table calls it.
    pub name: &'static str,
    /// The driver's file of the Vulkan loader, without what follows `_icd`.
    pub driver: &'static str,
    /// The variable that names the GPU to the driver, and the value.
    pub chosen_by: (&'static str, &'static str),
    /// What the driver's name for it has, in lower case.
    pub known_by: &'static str,
    /// It multiplies four int8 in one instruction, as signed numbers.
    pub has_dot: bool,
}

impl Gpu {
    /// False for a pipeline that the measurement at start-up leaves on no such GPU: a product in f32 takes two to four times
    /// as many instructions as one in int8 where these are native, and one in uint8 is not tried there.
    pub fn may_choose(&self, pipeline: &str) -> bool {
        !(self.has_dot && (pipeline.contains("-f32") || pipeline.contains("-uint8")))
    }
}

const fn amd(name: &'static str, family: &'static str, has_dot: bool) -> Gpu {
    Gpu { name, driver: "radeon", chosen_by: ("RADV_FORCE_FAMILY", family), known_by: family, has_dot }
}

/// AMD's GPUs of the Mesa in Debian 12, whose RADV needs no device at all. It has them no longer from Mesa 26 on.
pub const DEBIAN: [Gpu; 3] = [
    amd("680M", "rembrandt", true),
    // As Radeon 760M and 780M, which this version does not know.
    amd("RX 7600", "gfx1102", true),
    amd("Vega 8", "renoir", false),
];
