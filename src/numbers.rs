//! Numbers as people read them, and their median.

/// "521.0 MiB"; whole bytes below 1 KiB.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} bytes");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// "1 token", "2 tokens".
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// The middle one of times, the upper of two.
///
/// # Panics
/// If there is none.
pub fn median<T: PartialOrd + Copy>(mut times: Vec<T>) -> T {
    times.sort_unstable_by(|a, b| a.partial_cmp(b).expect("a time is a number"));
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts() {
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(5 << 40), "5.0 TiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!((count(1, "token"), count(0, "token")), ("1 token".into(), "0 tokens".into()));
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.5]), 3.5);
        assert_eq!(median(vec![2.0, 1.0]), 2.0);
        assert_eq!(median(vec![5, 9, 1, 7, 3]), 5);
    }
}
