// What kernels that quantise share: a scale and a sum of each row or group of columns. Four adjacent columns at a time, "word" w
// has the columns 4 w to 4 w + 3; columns past the last are 0.

struct Act { step: f32, sum: i32 }

fn largest(n: vec4<f32>) -> f32 {
  let a = abs(n);
  return max(max(a.x, a.y), max(a.z, a.w));
}

fn quantised(n: vec4<f32>, top: f32) -> vec4<i32> {
  return vec4<i32>(clamp(round(n * (127.0 / top)), vec4(-128.0), vec4(127.0)));
}
