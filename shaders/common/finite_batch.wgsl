// Twin of finite.wgsl for kernels that read the tokens of the step, which lie behind `damage` in one buffer.

fn note(value: f32) {
  if ((bitcast<u32>(value) & 0x7f800000u) == 0x7f800000u) { atomicMax(&batch.damage, p.place); }
}
