// The sum over sixteen adjacent invocations (those with the same index / 16), in each of them, to be called in uniform
// control flow. As four sums of four: the reductions only promise groups of four.

fn sum16(value: f32, lane: Lane) -> f32 {
  let four = sum4_f32(value, lane);
  lane_f32[lane.index] = four;
  workgroupBarrier();
  let first = lane.index & ~15u;
  let sum = (lane_f32[first] + lane_f32[first + 4u]) + (lane_f32[first + 8u] + lane_f32[first + 12u]);
  workgroupBarrier();
  return sum;
}
