// PTQ1_0: see dense_base3.wgsl.

const VALUES: u32 = 128u; // of a block, in 28 bytes
