// One scale for the whole row.

fn quantize_row(token: u32, lane: Lane) {
  let norm = norm_of_row(token, lane);
  var most = 0.0;
  var all = 0.0; // NaN and infinity of any value end up here
  for (var base = 0u; base < words(); base += WG) {
    let n = normed(token, base + lane.index, norm);
    most = max(most, largest(n));
    all += dot(abs(n), vec4(1.0));
  }
  note(all);
  let top = max(reduce_max(most, lane), 1e-5);

  var sum = 0i;
  for (var base = 0u; base < words(); base += WG) {
    let w = base + lane.index;
    let q = quantised(normed(token, w, norm), top);
    sum += q.x + q.y + q.z + q.w;
    if (w < words()) { put_word(token, w, pack4xI8(q)); }
  }
  let total = reduce_add_i32(sum, lane);
  if (lane.index == 0u) { put_act(token, 0u, Act(top / 127.0, total)); }
}
