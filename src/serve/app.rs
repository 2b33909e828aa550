//! State that all requests share, and the form in which the engine takes one.

use std::{sync::Arc, time::Instant};

use super::{
    Log, ServeOptions,
    answer::{self, Answers},
    beside::Turns,
    body::Room,
    error::{ApiError, ApiResult},
    grammars, ids,
    job::Job,
    metrics::Metrics,
    model::Served,
    models::Models,
    offer::Offer,
    request::Wishes,
    respond::{Answered, Dialect},
    slots,
};
use crate::{
    generate::{Chooser, Generation, Grammar, Sampler},
    tokenizer::TokenStream,
};

/// State that all requests share.
pub struct App {
    pub options: ServeOptions,
    pub models: Arc<Models>,
    pub metrics: Arc<Metrics>,
    pub log: Arc<dyn Log>,
    /// For bodies of requests.
    pub room: Room,
    pub grammar_turns: Turns,
    pub slot_turns: Turns,
    /// When the server began, in seconds since 1970.
    pub started: u64,
}

/// A request that is ready for the engine, and all that its answer needs.
pub struct Prepared {
    pub jobs: Vec<Job>,
    pub answers: Answers,
    pub answered: Answered,
    pub dialect: Box<dyn Dialect>,
    pub is_stream: bool,
}

impl App {
    /// A server that has loaded nothing yet.
    pub fn new(options: ServeOptions, offer: Offer, log: Arc<dyn Log>) -> Self {
        if let Some(folder) = &options.slot_folder {
            slots::remove_leftovers(folder);
        }
        let metrics = Arc::new(Metrics::default());
        let models = Arc::new(Models::new(offer, &options, &metrics, &log));
        let (grammar_turns, slot_turns) = (grammars::turns(), slots::turns());
        let room = Room::new(options.body_bytes);
        Self { options, room, models, metrics, log, grammar_turns, slot_turns, started: ids::now() }
    }

    /// Generations for `wishes.n` answers to each of `prompts`, which `param` of the request has.
    ///
    /// # Errors
    /// If a prompt does not fit the context, or a wish makes no sense.
    #[allow(clippy::too_many_arguments, reason = "each is another part of one thing that is made here")]
    pub fn prepared(
        &self,
        model: &Arc<Served>,
        id: String,
        prompts: &[Vec<u32>],
        param: &str,
        wishes: Wishes,
        answered: Answered,
        dialect: Box<dyn Dialect>,
    ) -> ApiResult<Prepared> {
        if model.pooling.is_some() {
            return Err(ApiError::not_supported("this model was made for embeddings: it writes no text"));
        }
        let (reply, answers) = answer::channel();
        // Compiled once for all answers.
        let compiled =
            |(field, grammar): &(&str, Grammar)| model.constraint(grammar).map_err(|error| error.of_field(field));
        let constraint = wishes.grammar.as_ref().map(compiled).transpose()?;
        let mut jobs = Vec::with_capacity(prompts.len());
        for (number, prompt) in prompts.iter().enumerate() {
            if prompt.len() >= model.context_tokens {
                return Err(ApiError::context_exceeded(param, prompt.len(), model.context_tokens));
            }
            let mut choices = Vec::with_capacity(wishes.n);
            for choice in 0..wishes.n {
                let mut sample = wishes.sample.clone();
                // Answers to one prompt differ.
                sample.seed = sample.seed.map(|seed| seed.wrapping_add(choice as u32));
                let chooser = Chooser {
                    sampler: Sampler::new(sample, model.context_tokens)?,
                    drafter: None,
                    constraint: constraint.clone(),
                };
                let decoder = Box::new(TokenStream::after(Arc::clone(&model.tokenizer), prompt));
                let options = wishes.answer.clone();
                let flag = reply.cancel_flag();
                let made = Generation::new(chooser, decoder, prompt.clone(), options, model.context_tokens, flag);
                choices.push(made.map_err(|refused| refused.0)?);
            }
            let first_choice = number * wishes.n;
            jobs.push(Job {
                id: id.clone(),
                choices,
                first_choice,
                place: wishes.place,
                tells_progress: wishes.stream && wishes.return_progress,
                tells_times: wishes.stream && wishes.timings_per_token,
                reply: reply.clone(),
                arrived: Instant::now(),
            });
        }
        Ok(Prepared { jobs, answers, answered, dialect, is_stream: wishes.stream })
    }
}
