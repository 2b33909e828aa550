//! The messages of a conversation, and their token ids.

use super::{AnswerParts, Message, ReasoningFormat, ReasoningSplit, Role, Template, Variables};
use crate::{
    error::Result,
    tokenizer::{EncodeOptions, Tokenizer},
};

/// Messages so far, and what the model has read and written of them.
#[derive(Debug, Default)]
pub struct Conversation {
    messages: Vec<Message>,
    /// Messages behind the system message that are not shown to the model any more, for lack of room.
    forgotten: usize,
    read: Read,
}

/// The ids that went through the model, and the text they stand for.
#[derive(Debug, Default)]
struct Read {
    text: String,
    ids: Vec<u32>,
}

impl Conversation {
    /// Begins with `system`, if there is one.
    pub fn new(system: Option<&str>) -> Self {
        let messages = system.map(|text| Message::new(Role::System, text)).into_iter().collect();
        Self::from_messages(messages)
    }

    /// Goes on with a conversation of another day.
    pub fn from_messages(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }

    /// All messages, the oldest first; those that were forgotten too.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The system message.
    pub fn system(&self) -> Option<&str> {
        self.messages.first().filter(|first| first.role == Role::System).map(|first| first.content.as_str())
    }

    /// Replaces the system message; `None` takes it away.
    pub fn set_system(&mut self, system: Option<&str>) {
        if self.system().is_some() {
            self.messages.remove(0);
        }
        if let Some(text) = system {
            self.messages.insert(0, Message::new(Role::System, text));
        }
    }

    /// Adds what the person says.
    pub fn ask(&mut self, content: impl Into<String>) {
        self.messages.push(Message::new(Role::User, content));
    }

    /// Takes back the last message if it has no answer yet.
    pub fn take_back(&mut self) {
        if self.messages.last().is_some_and(|last| last.role == Role::User) {
            self.messages.pop();
        }
    }

    /// Takes back the last question with all that follows it, and returns these messages; none where there is no question.
    /// Turns that were forgotten may have room again.
    pub fn take_back_turn(&mut self) -> Vec<Message> {
        let Some(at) = self.messages.iter().rposition(is_question) else { return Vec::new() };
        self.forgotten = 0;
        self.messages.split_off(at)
    }

    /// Adds a turn that was taken back.
    pub fn put_back_turn(&mut self, turn: Vec<Message>) {
        self.messages.extend(turn);
    }

    /// The messages that the model is shown.
    pub fn remembered(&self) -> Vec<Message> {
        let (system, turns) = self.messages.split_at(usize::from(self.system().is_some()));
        [system, &turns[self.forgotten..]].concat()
    }

    /// The token ids for the next answer. Where the text goes on from what the model has read and written, so do
    /// the ids: an answer need not come out of the tokenizer as the model wrote it, and the caches would then hold
    /// something else from there on.
    pub fn prompt(&self, template: &Template, variables: &Variables, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let text = template.render(&self.remembered(), variables)?;
        let encode = |text: &str| tokenizer.encode(text, &EncodeOptions { add_special: false, parse_special: true });
        let mut ids = encode(&text)?;
        if let Some(bos) = tokenizer.bos()
            && tokenizer.adds_bos()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        if let Some(rest) = text.strip_prefix(&self.read.text)
            && !self.read.ids.is_empty()
        {
            let continued = [self.read.ids.as_slice(), &encode(rest)?].concat();
            // Not where the tokenizer adds something at the start of each text, or where ids and text were at odds.
            if tokenizer.decode(&continued, true) == tokenizer.decode(&ids, true) {
                ids = continued;
            }
        }
        Ok(ids)
    }

    /// Adds the model's answer: the ids and the text it wrote after `prompt`. Reasoning in it is kept apart; whether
    /// it is read again is for the template to say.
    pub fn answer(
        &mut self,
        template: &Template,
        variables: &Variables,
        prompt: Vec<u32>,
        ids: &[u32],
        text: &str,
    ) -> Result<()> {
        let mut read = Read { text: template.render(&self.remembered(), variables)?, ids: prompt };
        let AnswerParts { reasoning, answer } = ReasoningSplit::after(&read.text, ReasoningFormat::Auto).whole(text);
        read.text += text;
        read.ids.extend_from_slice(ids);
        self.read = read;
        let reasoning = (!reasoning.is_empty()).then_some(reasoning);
        self.messages.push(Message { reasoning, ..Message::new(Role::Assistant, answer) });
        Ok(())
    }

    /// Shows the model no longer the oldest question that it is shown, and what follows it up to the next; the system
    /// message stays. False when there is only the last question left.
    pub fn forget_oldest_turn(&mut self) -> bool {
        let turns = &self.messages[usize::from(self.system().is_some()) + self.forgotten..];
        let Some(first) = turns.iter().position(is_question) else { return false };
        let Some(second) = turns[first + 1..].iter().position(is_question) else { return false };
        self.forgotten += first + 1 + second;
        true
    }
}

fn is_question(message: &Message) -> bool {
    message.role == Role::User
}
