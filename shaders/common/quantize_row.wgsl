// One scale for the whole row. An invocation takes four adjacent columns at a time.

fn quantize_row(token: u32, lane: Lane) {
  var squares = 0.0;
  for (var w = lane.index; w < words(); w += WG) {
    for (var c = 4u * w; c < min(4u * w + 4u, cols()); c++) {
      let v = value(token, c);
      note(v);
      squares += v * v;
    }
  }
  var norm = 1.0;
  if (NORM) { norm = 1.0 / sqrt(reduce_add(squares, lane) / f32(cols()) + eps()); }

  var most = 0.0;
  for (var w = lane.index; w < words(); w += WG) {
    for (var c = 4u * w; c < min(4u * w + 4u, cols()); c++) {
      let n = normed(token, c, norm);
      note(n);
      most = max(most, abs(n));
    }
  }
  let top = max(reduce_max(most, lane), 1e-5);

  var sum = 0i;
  for (var w = lane.index; w < words(); w += WG) {
    var q = vec4<i32>();
    for (var j = 0u; j < 4u; j++) {
      let c = 4u * w + j;
      if (c < cols()) { q[j] = i32(clamp(round(normed(token, c, norm) * (127.0 / top)), -128.0, 127.0)); }
    }
    sum += q.x + q.y + q.z + q.w;
    put_word(token, w, pack4xI8(q));
  }
  let total = reduce_add_i32(sum, lane);
  if (lane.index == 0u) { put_act(token, 0u, Act(top / 127.0, total)); }
}
