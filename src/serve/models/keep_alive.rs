//! How long a model stays loaded without a request, in ollama's words.

use std::time::Duration;

use serde_json::Value;

use super::super::error::{ApiError, ApiResult};

/// Time without a request after which a model is unloaded; `None`: it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive(pub Option<Duration>);

/// Longer times stand for ever.
const MOST_SECONDS: f64 = 1e9;

impl KeepAlive {
    pub const FOREVER: Self = Self(None);

    /// Reads seconds, or a duration such as `5m` or `1h30m`; negative: for ever.
    pub fn read(value: &Value) -> ApiResult<Self> {
        let seconds = match value {
            Value::Number(seconds) => seconds.as_f64(),
            Value::String(text) => seconds(text.trim()),
            _ => None,
        };
        let seconds = seconds.filter(|seconds| seconds.is_finite()).ok_or_else(|| {
            ApiError::bad_field("keep_alive", "Field 'keep_alive': seconds, or a duration such as \"5m\" or \"-1\"")
        })?;
        let is_time = (0.0..=MOST_SECONDS).contains(&seconds);
        Ok(Self(is_time.then(|| Duration::from_secs_f64(seconds))))
    }

    /// The time that is left after so long without a request; `None`: for ever.
    pub fn left(self, idle: Duration) -> Option<Duration> {
        self.0.map(|whole| whole.saturating_sub(idle))
    }
}

/// Seconds of `-1`, `90`, `1.5h`, `1h30m`, as Go writes durations.
pub fn seconds(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 6] = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    let (sign, mut rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    if let Ok(seconds) = rest.parse::<f64>() {
        return rest.starts_with(|c: char| c.is_ascii_digit() || c == '.').then_some(sign * seconds);
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest[end..].starts_with(unit))?;
        sum += number * factor;
        rest = &rest[end + unit.len()..];
    }
    (!text.is_empty()).then_some(sign * sum)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_those_of_ollama() {
        for (value, expected) in [
            (json!(0), Some(0.0)),
            (json!(90), Some(90.0)),
            (json!("90"), Some(90.0)),
            (json!("5m"), Some(300.0)),
            (json!("1h30m"), Some(5400.0)),
            (json!("1.5s"), Some(1.5)),
            (json!("250ms"), Some(0.25)),
            (json!(-1), None),
            (json!("-1m"), None),
            (json!(1e12), None),
        ] {
            let read = KeepAlive::read(&value).unwrap();
            assert_eq!(read.0, expected.map(Duration::from_secs_f64), "{value}");
        }
        for bad in [json!(""), json!("x"), json!("m5"), json!("5q"), json!(true), json!("inf")] {
            assert!(KeepAlive::read(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_left_ends_at_nothing() {
        let five = KeepAlive(Some(Duration::from_secs(5)));
        assert_eq!(five.left(Duration::from_secs(2)), Some(Duration::from_secs(3)));
        assert_eq!(five.left(Duration::from_secs(9)), Some(Duration::ZERO));
        assert_eq!(KeepAlive::FOREVER.left(Duration::from_secs(9)), None);
    }
}
