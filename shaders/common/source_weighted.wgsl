// What rotate.wgsl rotates: the words of weighted.wgsl as they are.

fn source(token: u32, w: u32, norm: f32, lane: Lane) -> vec4<f32> { return weighted(token, w, norm); }
