//! A loaded model that takes and gives text.

use std::sync::{Arc, atomic::AtomicBool};

use super::{Engine, Purpose};
use crate::{
    error::{Error, Result},
    generate::{Answer, AnswerOptions, Chooser, Drafter, Sampler},
    session::Session,
    tokenizer::{EncodeOptions, TokenStream, Tokenizer},
};

/// A [`Session`] with a tokenizer, and with what chooses the tokens.
pub struct TextSession {
    session: Session,
    tokenizer: Arc<Tokenizer>,
    chooser: Chooser,
    cancel: Arc<AtomicBool>,
}

impl TextSession {
    pub(super) fn new(engine: &Engine, purpose: &Purpose<'_>) -> Result<Self> {
        let sampler = match purpose {
            Purpose::Sample(options) => Sampler::new((*options).clone(), engine.context_tokens()?)?,
            Purpose::Logits => Sampler::default(),
            Purpose::Hidden => return Err(Error::Usage("a session without logits writes no text".into())),
        };
        let tokenizer = Arc::clone(engine.tokenizer()?);
        let chooser = Chooser { sampler, drafter: Some(Drafter::new(None)), constraint: None };
        Ok(Self { session: engine.load(purpose)?, tokenizer, chooser, cancel: Arc::default() })
    }

    /// An answer to `prompt`, token by token. Markup such as `<|eot_id|>` in it is text. What the session holds of the
    /// prompt already is not computed again.
    ///
    /// # Errors
    /// If the prompt does not fit the context.
    pub fn answer(&mut self, prompt: &str, options: &AnswerOptions) -> Result<Answer<'_>> {
        let ids = self.tokenizer.encode(prompt, &EncodeOptions { add_special: true, parse_special: false })?;
        self.answer_ids(&ids, options)
    }

    /// As [`answer`](Self::answer), for a prompt in token ids: those of a conversation, with its markup. Where `options`
    /// name no tokens that end the answer, the model's do.
    ///
    /// # Errors
    /// If the prompt does not fit the context, or has no token.
    pub fn answer_ids(&mut self, prompt: &[u32], options: &AnswerOptions) -> Result<Answer<'_>> {
        let mut options = options.clone();
        if options.end_ids.is_empty() {
            options.end_ids = self.tokenizer.end_ids().to_vec();
        }
        let decoder = Box::new(TokenStream::after(Arc::clone(&self.tokenizer), prompt));
        Answer::new(&mut self.session, &mut self.chooser, decoder, prompt, options, Arc::clone(&self.cancel))
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The chooser of the tokens: another sampler or a grammar holds from the next answer on.
    pub fn chooser_mut(&mut self) -> &mut Chooser {
        &mut self.chooser
    }

    /// The session, for token ids and logits.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// A flag that ends the answer at its next token while it is set.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }
}
