// Sums of products of the codes that one invocation reads together: 16 bytes of half a block of I2_S, four parts of
// 16 columns.

// Two of the parts: words of the codes at `shift` and at `shift` - 2 with those of x.
fn two_parts(q: vec4<u32>, shift: u32, x0: vec4<u32>, x1: vec4<u32>) -> Acc {
  let m = vec4(0x03030303u);
  let c0 = (q >> vec4(shift)) & m;
  let c1 = (q >> vec4(shift - 2u)) & m;
  return dot4(c0.x, x0.x) + dot4(c0.y, x0.y) + dot4(c0.z, x0.z) + dot4(c0.w, x0.w)
       + dot4(c1.x, x1.x) + dot4(c1.y, x1.y) + dot4(c1.z, x1.z) + dot4(c1.w, x1.w);
}

fn four_parts(q: vec4<u32>, x0: vec4<u32>, x1: vec4<u32>, x2: vec4<u32>, x3: vec4<u32>) -> Acc {
  return two_parts(q, 6u, x0, x1) + two_parts(q, 2u, x2, x3);
}

// One of the four.
fn one_part(q: vec4<u32>, part: u32, x: vec4<u32>) -> Acc {
  let c = (q >> vec4(6u - 2u * part)) & vec4(0x03030303u);
  return dot4(c.x, x.x) + dot4(c.y, x.y) + dot4(c.z, x.z) + dot4(c.w, x.w);
}
