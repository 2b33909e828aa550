//! Answers each line of standard input as a turn of one conversation: `cargo run --example chat -- model.gguf`.

use bitnet_gpu::{
    AnswerOptions, Engine, EngineOptions, Purpose, Result,
    chat::{Conversation, Template, Variables},
};

fn main() -> Result<()> {
    let model = std::env::args().nth(1).unwrap_or("assets/llama-stories-ternary-4m.gguf".into());
    run(&model, std::io::stdin().lines().map_while(|line| line.ok()), 200, |text| print!("{text}"))?;
    Ok(())
}

/// Gives the conversation; hands each piece of an answer to `show`.
pub fn run(
    model: &str,
    questions: impl Iterator<Item = String>,
    max_tokens: usize,
    mut show: impl FnMut(&str),
) -> Result<Conversation> {
    let model = bitnet_gpu::open(model)?;
    let template = Template::of(model.tokenizer()?)?;
    let mut sample = model.recommended().options();
    sample.seed = Some(1);
    let mut session = Engine::new(&model, EngineOptions::default()).session(&Purpose::Sample(&sample))?;
    let mut options = AnswerOptions::default();
    (options.max_tokens, options.stop) = (Some(max_tokens), template.stops());
    let mut conversation = Conversation::new(Some("Be brief."));
    for question in questions {
        conversation.ask(question);
        let prompt = conversation.prompt(&template, &Variables::default(), session.tokenizer())?;
        let (mut ids, mut text) = (Vec::new(), String::new());
        for event in session.answer_ids(&prompt, &options)? {
            let event = event?;
            show(&event.text);
            ids.extend(event.id);
            text += &event.text;
        }
        show("\n");
        conversation.answer(&template, &Variables::default(), prompt, &ids, &text)?;
    }
    Ok(conversation)
}
