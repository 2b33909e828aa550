// One head at a time in workgroup memory: normed where the model norms heads, then rotated by its position.

override Q_NORM: bool = false;
override K_NORM: bool = false;
override Q_STEP: u32 = 1u; // from query to query in x, in heads: 2 where each has its gate behind it
override INTERLEAVED: bool = false; // pairs (2i, 2i + 1) instead of (i, i + half)

var<workgroup> part: array<f32, 256>;

// The head that begins at x[base], normed as a query or as a key or not at all. In uniform control flow.
fn load_head(base: u32, is_q: bool, is_k: bool, lane: Lane) {
  workgroupBarrier(); // the head before is not read any more
  var squares = 0.0;
  for (var e = lane.index; e < HEAD_DIM; e += WG) {
    let v = x[base + e];
    part[e] = v;
    squares += v * v;
  }
  workgroupBarrier();
  if (Q_NORM || K_NORM) {
    let norm = 1.0 / sqrt(reduce_add(squares, lane) / f32(HEAD_DIM) + p.eps);
    for (var e = lane.index; e < HEAD_DIM; e += WG) {
      if (Q_NORM && is_q) { part[e] = part[e] * norm * q_norm[e]; }
      if (K_NORM && is_k) { part[e] = part[e] * norm * k_norm[e]; }
    }
    workgroupBarrier();
  }
}

// Element e of that head at a position.
fn rotated(e: u32, position: u32) -> f32 {
  if (e >= 2u * p.half) { return part[e]; }
  var pair = e % p.half;
  var second = e >= p.half;
  var other = select(e + p.half, pair, second);
  if (INTERLEAVED) {
    pair = e / 2u;
    second = (e & 1u) == 1u;
    other = e ^ 1u;
  }
  let c = rope[position * p.half + pair];
  let s = rope[p.sines + position * p.half + pair];
  if (second) { return part[e] * c + part[other] * s; }
  return part[e] * c - part[other] * s;
}
