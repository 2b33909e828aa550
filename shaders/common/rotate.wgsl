// The rotation of a row: H (s o x), with H the Walsh-Hadamard matrix of every BLOCK columns (Sylvester's order) over the
// root of BLOCK. Four adjacent columns an invocation, "word" w has the columns 4 w to 4 w + 3; 4 * WG columns are a tile,
// which is transformed in workgroup memory. The factors s / sqrt(BLOCK) are part of what `source` gives:
// `source(token, w, norm, lane)` is word w of the row before the transform, 0 past the last; it is called in uniform control
// flow.

override BLOCK: u32 = 1u; // a power of two; 1 rotates nothing

var<workgroup> exchange: array<vec4<f32>, WG>;

// The unscaled transform of a tile in blocks of BLOCK columns, or as a whole where they are wider. Two stages for each
// exchange, with the sums of single ones.
fn transformed(value: vec4<f32>, lane: Lane) -> vec4<f32> {
  let i = lane.index;
  var v = value;
  if (BLOCK >= 2u) { v = vec4(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w); }
  if (BLOCK >= 4u) { v = vec4(v.x + v.z, v.y + v.w, v.x - v.z, v.y - v.w); }
  for (var apart = 1u; apart < WG && 4u * apart < BLOCK; apart = apart << 2u) {
    exchange[i] = v;
    workgroupBarrier();
    let is_second = (i & apart) != 0u;
    let near = exchange[i ^ apart];
    v = select(v + near, near - v, is_second);
    if (2u * apart < WG && 8u * apart < BLOCK) {
      let far = i ^ (2u * apart);
      let other = select(exchange[far] + exchange[far ^ apart], exchange[far ^ apart] - exchange[far], is_second);
      v = select(v + other, other - v, (i & (2u * apart)) != 0u);
    }
    workgroupBarrier(); // before the words are exchanged again
  }
  return v;
}

// Word w of the rotated row, for the invocation of that place in a tile.
fn rotated_word(token: u32, w: u32, norm: f32, lane: Lane) -> vec4<f32> {
  if (BLOCK <= 4u * WG) { return transformed(source(token, w, norm, lane), lane); }
  // The stages between tiles of a block are sums of its tiles, with the signs of H.
  let tiles = max(BLOCK / (4u * WG), 1u);
  let own = w / WG % tiles;
  let first = w - own * WG;
  var sum = source(token, first, norm, lane);
  for (var tile = 1u; tile < tiles; tile++) {
    let v = source(token, first + tile * WG, norm, lane);
    sum = select(sum + v, sum - v, (countOneBits(own & tile) & 1u) == 1u);
  }
  return transformed(sum, lane);
}
