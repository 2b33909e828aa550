// TQ1_0: see dense_base3.wgsl.

const VALUES: u32 = 256u; // of a block, in 54 bytes
