//! Chat formats of the model families this program knows, as their Hugging Face templates write them.

use super::{Message, Role, Variables};

/// A chat format that is part of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// BitNet b1.58 2B-4T: `User: ...<|eot_id|>Assistant: ` (template of microsoft/bitnet-b1.58-2B-4T).
    BitNet,
    /// Llama 3: a header with the role, then the text (template of Meta-Llama-3-8B-Instruct).
    Llama3,
    /// Falcon3: `<|user|>` and a line break, then the text (template of Falcon3-7B-Instruct).
    Falcon3,
    /// `<|im_start|>user` and a line break, then the text and `<|im_end|>`.
    ChatMl,
    /// ChatML; what the model thought in earlier turns is left out (template of Qwen3-0.6B, without tools).
    Qwen3,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::BitNet, Self::Llama3, Self::Falcon3, Self::ChatMl, Self::Qwen3];

    /// Its name; llama.cpp's where it has one.
    pub fn name(self) -> &'static str {
        match self {
            Self::BitNet => "bitnet",
            Self::Llama3 => "llama3",
            Self::Falcon3 => "falcon3",
            Self::ChatMl => "chatml",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The format called `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Markup that ends an answer, for vocabularies in which it is ordinary text and not one token.
    pub fn stops(self) -> &'static [&'static str] {
        match self {
            Self::BitNet | Self::Llama3 => &["<|eot_id|>"],
            Self::Falcon3 => &["<|user|>"],
            Self::ChatMl | Self::Qwen3 => &["<|im_end|>"],
        }
    }

    /// Whether it can ask for an answer without reasoning.
    pub(super) fn knows_reasoning(self) -> bool {
        self == Self::Qwen3
    }

    /// The prompt for the next answer, whose beginning is left out where it is not wanted.
    pub(super) fn render(
        self,
        messages: &[Message],
        variables: &Variables,
        bos: &str,
        eos: &str,
        with_answer: bool,
    ) -> String {
        let mut text = match self {
            Self::BitNet | Self::Llama3 => bos.to_owned(),
            Self::Falcon3 | Self::ChatMl | Self::Qwen3 => String::new(),
        };
        for Message { role, content, .. } in messages {
            let name = role.name();
            text += &match self {
                Self::BitNet => format!("{}: {}<|eot_id|>", capitalised(*role), content.trim()),
                Self::Llama3 => format!("<|start_header_id|>{name}<|end_header_id|>\n\n{}<|eot_id|>", content.trim()),
                Self::Falcon3 if *role == Role::Assistant => format!("<|assistant|>\n{content}{eos}\n"),
                Self::Falcon3 => format!("<|{name}|>\n{content}\n"),
                Self::Qwen3 if *role == Role::Assistant => {
                    format!("<|im_start|>{name}\n{}<|im_end|>\n", without_thoughts(content))
                }
                Self::ChatMl | Self::Qwen3 => format!("<|im_start|>{name}\n{content}<|im_end|>\n"),
            };
        }
        if !with_answer {
            return text;
        }
        text + match self {
            Self::BitNet => "Assistant: ",
            Self::Llama3 => "<|start_header_id|>assistant<|end_header_id|>\n\n",
            Self::Falcon3 => "<|assistant|>\n",
            Self::Qwen3 if variables.reasoning() == Some(false) => "<|im_start|>assistant\n<think>\n\n</think>\n\n",
            Self::ChatMl | Self::Qwen3 => "<|im_start|>assistant\n",
        }
    }
}

fn capitalised(role: Role) -> &'static str {
    match role {
        Role::System => "System",
        Role::User => "User",
        Role::Assistant => "Assistant",
        Role::Tool => "Tool",
    }
}

/// The text after the last `</think>`; all of it, where there is none.
fn without_thoughts(content: &str) -> &str {
    content.rsplit_once("</think>").map_or(content, |(_, answer)| answer.trim_start_matches('\n'))
}
