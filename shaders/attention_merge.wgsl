// o = sum_s e^(m_s - M) o_s / sum_s e^(m_s - M) l_s, M = max(m_s), over the splits of attention_decode
// In: parts (tokens, splits, heads, head_dim + 2) f32: o, m and l of each split.
// Out: o in the place of the first split.
// Grid: (heads, tokens). One workgroup a head, one element an invocation.
// Reference: bitnet_cpu_kernels::attention::attend. Test: tests/gpu/ops/.

struct Params {
  tokens: u32,
  normed: u32,
  splits: u32,
  first: u32,
  heads: u32,
  head_dim: u32,
}

@group(0) @binding(0) var<storage, read_write> parts: array<f32>;

fn kernel(group: vec3<u32>, lane: Lane) {
  let width = p.head_dim + 2u;
  let step = p.heads * width; // from split to split
  let head = (group.y * p.splits * p.heads + group.x) * width;
  var most = parts[head + p.head_dim];
  for (var s = 1u; s < p.splits; s++) { most = max(most, parts[head + s * step + p.head_dim]); }
  // An invocation writes only what it alone reads.
  for (var d = lane.index; d < p.head_dim; d += WG) {
    var above = 0.0;
    var below = 0.0;
    for (var s = 0u; s < p.splits; s++) {
      let at = head + s * step;
      let share = exp(parts[at + p.head_dim] - most);
      above += share * parts[at + d];
      below += share * parts[at + p.head_dim + 1u];
    }
    parts[head + d] = above / below;
  }
}
