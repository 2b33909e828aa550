//! Whether two backends choose the same tokens.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// So many tokens, and then both ended.
    Equal(usize),
    /// The first difference; `None` where one ended.
    Differs { at: usize, first: Option<u32>, second: Option<u32> },
}

impl Agreement {
    pub fn of(first: &[u32], second: &[u32]) -> Self {
        let at = first.iter().zip(second).take_while(|(a, b)| a == b).count();
        match (first.get(at).copied(), second.get(at).copied()) {
            (None, None) => Self::Equal(at),
            (first, second) => Self::Differs { at, first, second },
        }
    }

    /// Where they part.
    pub fn first_difference(self) -> Option<usize> {
        match self {
            Self::Equal(_) => None,
            Self::Differs { at, .. } => Some(at),
        }
    }

    /// "tokens: equal on A and B (8 of 8)".
    pub fn to_text(self, first_name: &str, second_name: &str) -> String {
        match self {
            Self::Equal(count) => format!("tokens: equal on {first_name} and {second_name} ({count} of {count})\n"),
            Self::Differs { at, first, second } => {
                let token = |id: Option<u32>| id.map_or_else(|| "the end".into(), |id| format!("id {id}"));
                let (first, second) = (token(first), token(second));
                format!("tokens: equal up to token {at}, then {first} on {first_name} and {second} on {second_name}\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found() {
        assert_eq!(Agreement::of(&[1, 2, 3], &[1, 2, 3]), Agreement::Equal(3));
        assert_eq!(Agreement::of(&[], &[]), Agreement::Equal(0));
        let differs = |at, first, second| Agreement::Differs { at, first, second };
        assert_eq!(Agreement::of(&[1, 2, 3], &[1, 9, 3]), differs(1, Some(2), Some(9)));
        let shorter = Agreement::of(&[1, 2], &[1, 2, 3]);
        assert_eq!(shorter, differs(2, None, Some(3)));
        assert_eq!(shorter.first_difference(), Some(2));
        assert_eq!(
            shorter.to_text("the CPU", "GPU"),
            "tokens: equal up to token 2, then the end on the CPU and id 3 on GPU\n"
        );
    }
}
