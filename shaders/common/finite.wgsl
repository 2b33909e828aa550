// Marks the place of a computation where a value is NaN or infinite, in `damage` (a binding of the kernel).
// p.place is larger for earlier places, so the maximum names the first one. The test is on the bits because
// WGSL lets a compiler assume that floats are finite.

fn note(value: f32) {
  if ((bitcast<u32>(value) & 0x7f800000u) == 0x7f800000u) { atomicMax(&damage, p.place); }
}
