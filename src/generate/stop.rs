//! Finds stop strings in a stream of text pieces, across their borders.

use crate::error::{Error, Result};

/// Holds back text that may be the beginning of a stop string, and nothing more.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String, // begins at most one byte short of the longest stop string before the end
}

/// A stop string was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Which one, as given.
    pub stop: String,
}

impl StopStrings {
    /// An empty string would stop everything and is refused.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Result<Self> {
        let stops: Vec<String> = stops.into_iter().collect();
        if stops.iter().any(String::is_empty) {
            return Err(Error::Usage("a stop string must not be empty".into()));
        }
        Ok(Self { stops, held: String::new() })
    }

    /// Takes the next piece and appends to `out` what is certainly not part of a stop string. When one is
    /// complete, the text before it goes to `out` and the rest is dropped; where several are, the one that
    /// begins first counts.
    pub fn push(&mut self, piece: &str, out: &mut String) -> Option<Stopped> {
        if self.stops.is_empty() {
            out.push_str(piece);
            return None;
        }
        self.held.push_str(piece);
        let found = self.stops.iter().filter_map(|s| Some((self.held.find(s.as_str())?, s))).min_by_key(|&(at, _)| at);
        if let Some((at, stop)) = found {
            let stop = stop.clone();
            out.push_str(&self.held[..at]);
            self.held.clear();
            return Some(Stopped { stop });
        }
        let keep_from = self.held.char_indices().map(|(at, _)| at).find(|&at| self.may_begin_a_stop(at));
        let certain = keep_from.unwrap_or(self.held.len());
        out.push_str(&self.held[..certain]);
        self.held.drain(..certain);
        None
    }

    /// The end of the text: what was held back is ordinary text after all.
    pub fn flush(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    fn may_begin_a_stop(&self, at: usize) -> bool {
        let tail = &self.held[at..];
        self.stops.iter().any(|stop| stop.starts_with(tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes the pieces; returns what came out after each, and what stopped it.
    fn feed(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let mut finder = StopStrings::new(stops.iter().map(|s| s.to_string())).unwrap();
        let mut outs = Vec::new();
        for piece in pieces {
            let mut out = String::new();
            let stopped = finder.push(piece, &mut out);
            outs.push(out);
            if let Some(stopped) = stopped {
                return (outs, Some(stopped.stop));
            }
        }
        let mut rest = String::new();
        finder.flush(&mut rest);
        outs.push(rest);
        (outs, None)
    }

    #[test]
    fn hand_worked_streams() {
        struct Case {
            stops: &'static [&'static str],
            pieces: &'static [&'static str],
            outs: &'static [&'static str],
            stopped: Option<&'static str>,
        }
        let cases = [
            Case { stops: &[], pieces: &["a", "b"], outs: &["a", "b", ""], stopped: None },
            Case { stops: &["END"], pieces: &["xEND"], outs: &["x"], stopped: Some("END") },
            // Split over three pieces, with text after it that is dropped.
            Case { stops: &["END"], pieces: &["x E", "N", "Dy"], outs: &["x ", "", ""], stopped: Some("END") },
            // Held back, then released when it turns out to be something else.
            Case { stops: &["END"], pieces: &["aE", "N", "o"], outs: &["a", "", "ENo", ""], stopped: None },
            // Held back to the end of the text.
            Case { stops: &["END"], pieces: &["aEN"], outs: &["a", "EN"], stopped: None },
            // The held text shrinks to the part that can still match: "aab" against "ab".
            Case { stops: &["aab"], pieces: &["a", "a", "a", "b"], outs: &["", "", "a", ""], stopped: Some("aab") },
            // The earlier begin wins, not the earlier entry.
            Case { stops: &["c", "b"], pieces: &["abc"], outs: &["a"], stopped: Some("b") },
            // A longer stop string is still possible: nothing is released before that is settled.
            Case { stops: &["\n\n\n"], pieces: &["a\n", "\n", "b"], outs: &["a", "", "\n\nb", ""], stopped: None },
            Case { stops: &["é!"], pieces: &["caf", "é", "!"], outs: &["caf", "", ""], stopped: Some("é!") },
            Case { stops: &["é!"], pieces: &["café?"], outs: &["café?", ""], stopped: None },
        ];
        for case in cases {
            let (outs, stopped) = feed(case.stops, case.pieces);
            assert_eq!(outs, case.outs, "{:?} in {:?}", case.stops, case.pieces);
            assert_eq!(stopped.as_deref(), case.stopped, "{:?} in {:?}", case.stops, case.pieces);
        }
    }

    /// However a text is cut, what comes out in total is the text up to the first stop string.
    #[test]
    fn cuts_do_not_matter() {
        let text = "ab aab xaabab aaéaéb!";
        let cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).skip(1).collect();
        for stop in ["aab", "aé", "éb!", "b!", "zz", "ab x"] {
            let expected = text.split(stop).next().unwrap();
            for &first in &cuts {
                for &second in cuts.iter().filter(|&&c| c > first) {
                    let pieces = [&text[..first], &text[first..second], &text[second..]];
                    let (outs, stopped) = feed(&[stop], &pieces);
                    assert_eq!(outs.concat(), expected, "{stop:?} in {pieces:?}");
                    assert_eq!(stopped.is_some(), text.contains(stop));
                }
            }
        }
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        assert!(matches!(StopStrings::new([String::new()]), Err(Error::Usage(_))));
    }
}
