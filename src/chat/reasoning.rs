//! Answers of models that think first: text as it comes → what the model thinks, and its answer.
//!
//! Such an answer is `<think>`, the reasoning, `</think>`, the answer (DeepSeek-R1, Qwen3 and kin). Some templates write the
//! first tag into the prompt, so that the model's text begins in the middle.

/// Begins the reasoning.
const OPEN: &str = "<think>";

/// Ends it.
const CLOSE: &str = "</think>";

/// Treatment of the reasoning in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReasoningFormat {
    /// Left in the answer, tags and all.
    None,
    /// Told from the answer by its tags.
    #[default]
    Auto,
}

/// Text of a model, told apart. In each, the reasoning comes before the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerParts {
    /// Reasoning, without tags and the white space inside of them.
    pub reasoning: String,
    /// Answer, without the white space between tag and answer.
    pub answer: String,
}

impl AnswerParts {
    /// Adds those that came next.
    pub fn append(&mut self, more: &Self) {
        self.reasoning += &more.reasoning;
        self.answer += &more.answer;
    }
}

/// Tells reasoning and answer apart in text that comes in pieces, wherever those are cut. Only reasoning at the very
/// beginning counts: tags further on are what the answer is about.
#[derive(Clone, Debug)]
pub struct ReasoningSplit {
    at: At,
    /// Text that may be part of a tag, or white space that may be around one.
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nothing but white space came. `opened`: the prompt has the tag that begins the reasoning.
    Start { opened: bool },
    /// In the reasoning; `begun` once there was text in it.
    Reasoning { begun: bool },
    /// Behind the tag that ends it, where only white space came.
    Closed,
    /// In the answer.
    Answer,
}

/// Whether a prompt ends in the tag that begins the reasoning.
pub fn opens_reasoning(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

impl ReasoningSplit {
    /// For what a model writes after `prompt`, whose end says whether the reasoning has begun.
    pub fn after(prompt: &str, format: ReasoningFormat) -> Self {
        Self::starting(opens_reasoning(prompt), format)
    }

    /// For what a model writes after a prompt; `opened`: its end is the tag that begins the reasoning.
    pub fn starting(opened: bool, format: ReasoningFormat) -> Self {
        let at = match format {
            ReasoningFormat::None => At::Answer,
            ReasoningFormat::Auto => At::Start { opened },
        };
        Self { at, held: String::new() }
    }

    /// Whether the text so far ends in the reasoning.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.at, At::Start { opened: true } | At::Reasoning { .. })
    }

    /// Takes the next text; gives what is certain now.
    pub fn push(&mut self, text: &str) -> AnswerParts {
        self.held.push_str(text);
        let mut parts = AnswerParts::default();
        while self.step(&mut parts) {}
        parts
    }

    /// The end of the text: what was held back.
    pub fn finish(&mut self) -> AnswerParts {
        let held = std::mem::take(&mut self.held);
        match self.at {
            At::Start { opened: true } | At::Reasoning { begun: false } => {
                AnswerParts { reasoning: held.trim().to_owned(), ..AnswerParts::default() }
            }
            At::Reasoning { begun: true } => {
                AnswerParts { reasoning: held.trim_end().to_owned(), ..AnswerParts::default() }
            }
            At::Start { opened: false } | At::Answer => AnswerParts { answer: held, ..AnswerParts::default() },
            At::Closed => AnswerParts::default(),
        }
    }

    /// The parts of a text that is there as a whole.
    pub fn whole(mut self, text: &str) -> AnswerParts {
        let mut parts = self.push(text);
        parts.append(&self.finish());
        parts
    }

    /// Goes on to the next place in the text; false where that takes more of it.
    fn step(&mut self, parts: &mut AnswerParts) -> bool {
        match self.at {
            At::Start { opened } => self.start(opened),
            At::Reasoning { begun } => self.reasoning(begun, &mut parts.reasoning),
            At::Closed => {
                self.drop_leading_space();
                if !self.held.is_empty() {
                    self.at = At::Answer;
                }
                !self.held.is_empty()
            }
            At::Answer => {
                parts.answer.push_str(&self.held);
                self.held.clear();
                false
            }
        }
    }

    fn start(&mut self, opened: bool) -> bool {
        let text = self.held.trim_start();
        if let Some(rest) = text.strip_prefix(OPEN) {
            // Where the prompt has the tag as well, it counts once.
            self.held = rest.to_owned();
            self.at = At::Reasoning { begun: false };
            return true;
        }
        if OPEN.starts_with(text) {
            return false;
        }
        // An answer without reasoning keeps its white space.
        self.at = if opened { At::Reasoning { begun: false } } else { At::Answer };
        true
    }

    fn reasoning(&mut self, begun: bool, out: &mut String) -> bool {
        if !begun {
            self.drop_leading_space();
        }
        if let Some(at) = self.held.find(CLOSE) {
            out.push_str(self.held[..at].trim_end());
            self.held.drain(..at + CLOSE.len());
            self.at = At::Closed;
            return true;
        }
        let tag = (1..CLOSE.len()).rev().find(|&len| self.held.ends_with(&CLOSE[..len])).unwrap_or(0);
        let certain = self.held[..self.held.len() - tag].trim_end().len();
        out.push_str(&self.held[..certain]);
        self.held.drain(..certain);
        self.at = At::Reasoning { begun: begun || certain > 0 };
        false
    }

    fn drop_leading_space(&mut self) {
        self.held.drain(..self.held.len() - self.held.trim_start().len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reasoning and answer after each piece, and at the end.
    fn feed(prompt: &str, pieces: &[&str]) -> Vec<(String, String)> {
        let mut split = ReasoningSplit::after(prompt, ReasoningFormat::Auto);
        let mut outs: Vec<_> = pieces.iter().map(|piece| split.push(piece)).collect();
        outs.push(split.finish());
        outs.into_iter().map(|out| (out.reasoning, out.answer)).collect()
    }

    /// (prompt, text, reasoning, answer)
    const WHOLE: [(&str, &str, &str, &str); 14] = [
        ("", "Two.", "", "Two."),
        ("", " \n Two. ", "", " \n Two. "),
        ("", "<think>\nhm, é\n\nso\n</think>\n\nTwo.\n", "hm, é\n\nso", "Two.\n"),
        ("", "\n<think>hm</think>Two.", "hm", "Two."),
        ("", "<think>\n\n</think>\n\nTwo.", "", "Two."),
        ("", "<think>a < b </thin> c</think>Two.", "a < b </thin> c", "Two."),
        // Tags in the answer are the answer's.
        ("", "The tag <think> and </think>.", "", "The tag <think> and </think>."),
        ("", "<think>a</think>b<think>c</think>d", "a", "b<think>c</think>d"),
        // Ended too early.
        ("", "<think>\nhm \n", "hm", ""),
        ("", "<think>hm</th", "hm</th", ""),
        ("", "<thi", "", "<thi"),
        // The prompt has the first tag.
        ("<|im_start|>assistant\n<think>\n", "hm\n</think>\n\nTwo.", "hm", "Two."),
        ("<think>", "<think>\nhm</think>Two.", "hm", "Two."),
        ("<think>\n\n</think>\n\n", "Two.", "", "Two."),
    ];

    #[test]
    fn reasoning_and_answer_are_told_apart_wherever_the_text_is_cut() {
        for (prompt, text, reasoning, answer) in WHOLE {
            let cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            for &first in &cuts {
                for &second in cuts.iter().filter(|&&cut| cut >= first) {
                    let pieces = [&text[..first], &text[first..second], &text[second..]];
                    let outs = feed(prompt, &pieces);
                    let whole: (String, String) = outs.into_iter().unzip();
                    assert_eq!(whole, (reasoning.into(), answer.into()), "{pieces:?}");
                }
            }
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            let whole: (String, String) = feed(prompt, &letters).into_iter().unzip();
            assert_eq!(whole, (reasoning.into(), answer.into()), "{letters:?}");
        }
    }

    #[test]
    fn no_more_is_held_back_than_may_be_a_tag() {
        let outs = feed("<think>\n", &["a b", " c <", "/thi", "s", "\n\n", "</think>", "\n", "d", " <", "/think>"]);
        let shown: Vec<_> = outs.iter().map(|(reasoning, answer)| [reasoning.as_str(), answer.as_str()]).collect();
        let expected = [
            ["a b", ""],
            [" c", ""],
            ["", ""],
            [" </this", ""],
            ["", ""],
            ["", ""],
            ["", ""],
            ["", "d"],
            ["", " <"],
            ["", "/think>"],
            ["", ""],
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_place_in_the_text_is_known() {
        let mut split = ReasoningSplit::after("<think>\n", ReasoningFormat::Auto);
        assert!(split.is_reasoning());
        split.push("hm</think");
        assert!(split.is_reasoning());
        split.push(">");
        assert!(!split.is_reasoning());
        let mut split = ReasoningSplit::after("", ReasoningFormat::Auto);
        assert!(!split.is_reasoning());
        split.push("<think>");
        assert!(split.is_reasoning());
    }

    #[test]
    fn left_in_the_answer_on_request() {
        let mut split = ReasoningSplit::after("<think>\n", ReasoningFormat::None);
        let text = "hm\n</think>\n\nTwo.";
        assert_eq!(split.push(text), AnswerParts { reasoning: String::new(), answer: text.into() });
        assert!(!split.is_reasoning());
    }
}
