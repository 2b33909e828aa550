//! Prompts of chat templates against strings written by hand from the Hugging Face templates, and templates that
//! mean harm.

use std::time::{SystemTime, UNIX_EPOCH};

use bitnet_gpu::{
    Remedy,
    chat::{Conversation, Format, Message, Origin, Role, Template, ToolCall, Variables, opens_reasoning},
    gguf::{Array, Metadata, Value},
    tokenizer::Tokenizer,
};

use crate::common::{
    hostile::allocated,
    tiny_vocab::{BOS, EOT, HELLO, byte_level, sentence_piece},
    watchdog::must_end,
};

/// BOS is `<|begin_of_text|>` and EOS is `<|eot_id|>`.
fn metadata() -> Metadata {
    let mut metadata = byte_level("llama-bpe");
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(EOT));
    metadata
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_gguf(&metadata()).unwrap()
}

fn with_template(source: &str) -> Tokenizer {
    let mut metadata = metadata();
    metadata.set("tokenizer.chat_template", Value::String(source.into()));
    Tokenizer::from_gguf(&metadata).unwrap()
}

fn single() -> Vec<Message> {
    vec![Message::new(Role::User, "  Hi \n")]
}

fn several() -> Vec<Message> {
    vec![
        Message::new(Role::System, "Be kind."),
        Message::new(Role::User, "One?"),
        Message::new(Role::Assistant, "<think>\nhm\n</think>\n\nTwo. "),
        Message::new(Role::User, "Three?"),
    ]
}

fn built_in(format: Format, messages: &[Message]) -> String {
    Template::built_in(format, &tokenizer()).render(messages, &Variables::default()).unwrap()
}

#[test]
fn bitnet() {
    assert_eq!(built_in(Format::BitNet, &single()), "<|begin_of_text|>User: Hi<|eot_id|>Assistant: ");
    assert_eq!(
        built_in(Format::BitNet, &several()),
        "<|begin_of_text|>System: Be kind.<|eot_id|>User: One?<|eot_id|>\
         Assistant: <think>\nhm\n</think>\n\nTwo.<|eot_id|>User: Three?<|eot_id|>Assistant: "
    );
}

#[test]
fn llama3() {
    assert_eq!(
        built_in(Format::Llama3, &single()),
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    assert_eq!(
        built_in(Format::Llama3, &several()),
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nOne?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n<think>\nhm\n</think>\n\nTwo.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nThree?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

#[test]
fn falcon3() {
    assert_eq!(built_in(Format::Falcon3, &single()), "<|user|>\n  Hi \n\n<|assistant|>\n");
    // The assistant's turn alone ends with EOS.
    assert_eq!(
        built_in(Format::Falcon3, &several()),
        "<|system|>\nBe kind.\n<|user|>\nOne?\n<|assistant|>\n<think>\nhm\n</think>\n\nTwo. <|eot_id|>\n\
         <|user|>\nThree?\n<|assistant|>\n"
    );
}

#[test]
fn chatml() {
    assert_eq!(built_in(Format::ChatMl, &single()), "<|im_start|>user\n  Hi \n<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(
        built_in(Format::ChatMl, &several()),
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n\
         <|im_start|>assistant\n<think>\nhm\n</think>\n\nTwo. <|im_end|>\n<|im_start|>user\nThree?<|im_end|>\n\
         <|im_start|>assistant\n"
    );
}

#[test]
fn qwen3() {
    assert_eq!(built_in(Format::Qwen3, &single()), built_in(Format::ChatMl, &single()));
    assert_eq!(
        built_in(Format::Qwen3, &several()),
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n\
         <|im_start|>assistant\nTwo. <|im_end|>\n<|im_start|>user\nThree?<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn names_are_found_again() {
    for format in Format::ALL {
        assert_eq!(Format::by_name(format.name()), Some(format));
    }
    assert_eq!(Format::by_name("vicuna"), None);
}

#[test]
fn a_file_without_template_is_guessed_and_the_mark_of_bitnet_is_not_run() {
    let template = Template::of(&tokenizer()).unwrap();
    assert_eq!((template.origin(), template.format()), (Origin::Guess, Some(Format::ChatMl)));
    // Beside the mark, this one would not even compile.
    let template = Template::of(&with_template("BITNETAssistant: {% for")).unwrap();
    assert_eq!((template.origin(), template.format()), (Origin::Mark, Some(Format::BitNet)));
}

/// Parts of the template language that Hugging Face's templates use, in templates of our own.
#[test]
fn jinja_as_hugging_face_runs_it() {
    let cases = [
        // Blocks take the line break after them and the blanks before them; the last line break goes.
        ("  {% if true %}\n a\n  {% endif %}\nb\n", " a\nb"),
        ("{{ bos_token }}|{{ eos_token }}|{{ add_generation_prompt }}", "<|begin_of_text|>|<|eot_id|>|True"),
        (
            "{% for m in messages %}{{ m['role'] | capitalize + ': ' + m.content | trim }};{% endfor %}",
            "System: Be kind.;User: One?;Assistant: <think>\nhm\n</think>\n\nTwo.;User: Three?;",
        ),
        ("{{ messages[2].content.split('</think>')[-1].lstrip('\\n').rstrip() }}", "Two."),
        ("{{ messages[0].content.startswith('Be') and not messages[0].content.endswith('Be') }}", "True"),
        (
            "{%- set ns = namespace(last=-1) %}{%- for m in messages[::-1] %}{% if m.role == 'user' and ns.last < 0 %}\
          {%- set ns.last = loop.index0 %}{% endif %}{% endfor %}{{ ns.last }}",
            "0",
        ),
        (
            "{% if tools %}x{% endif %}{% if messages[0]['content'] is string %}s{% endif %}{{ tools is none }}{{ documents is none }}",
            "sTrueTrue",
        ),
        ("{% for m in messages %}{% if loop.last %}{{ loop.index }}{% endif %}{% endfor %}", "4"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(messages | length) }}", "<4>"),
        ("{{ 'a' ~ 1 }}{{ none }}{{ '<&>' }}{{ strftime_now is defined }}", "a1None<&>True"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% break %}{% endfor %}", "One?"),
    ];
    for (source, expected) in cases {
        let template = Template::of(&with_template(source)).unwrap();
        assert_eq!((template.origin(), template.format()), (Origin::File, None));
        assert_eq!(template.render(&several(), &Variables::default()).unwrap(), expected, "{source}");
    }
}

#[test]
fn a_template_can_refuse() {
    let template = Template::of(&with_template("{{ raise_exception('roles must alternate') }}")).unwrap();
    let error = template.render(&single(), &Variables::default()).unwrap_err();
    assert!(error.to_string().contains("roles must alternate"), "{error}");
    assert_eq!(error.remedy(), Some(&Remedy::ChatTemplate));
}

/// Each ends with a reason, after a bounded number of steps and in bounded memory.
#[test]
fn templates_that_mean_harm() {
    let deep_macro = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    let doubling = "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    let writing = "{% for i in range(90000) %}{{ 'abcdefghijklmnopqrstuvwxyz0123456789' }}{% endfor %}";
    let nested = format!("{}1{}", "{{ ".to_owned() + &"(".repeat(1000), ")".repeat(1000) + " }}");
    let blocks = "{% if true %}".repeat(15_000);
    let huge = "x".repeat(100 << 20);
    let chain = |first: &str, link: &str, last: &str| format!("{{{{ {first}{}{last} }}}}", link.repeat(20_000));
    let [dots, signs, nots, filters, texts] =
        [chain("a", ".a", ""), chain("", "-", "1"), chain("", "not ", "1"), chain("a", "|e", ""), chain("1", "~1", "")];
    let grown = |list: &str, item: &str| {
        format!(
            "{{% set ns = namespace(a={list}) %}}{{% for i in range(60) %}}{{% set ns.a = ns.a + {item} %}}{{% endfor %}}"
        )
    };
    let [doubled, repeated] = [grown("[1]", "ns.a"), grown("[1] * 1000000000", "[1]")];
    let cases: [(&str, &str); 25] = [
        (endless, "steps"),
        ("{% for i in range(1000000000) %}{% endfor %}", "range"),
        (doubling, "steps"),
        (writing, "bytes of text"),
        ("{{ 'ab' * 1000000000 }}", ""),
        ("{{ [1] * 1000000000 | length }}", ""),
        ("{{ '%1000000000d' | format(1) }}", ""),
        (deep_macro, "recursion"),
        ("{{ '{:1000000000}'.format(1)|length }}", "steps"),
        ("{{ '%1000000000d' % 1 }}", "steps"),
        ("{{ '{:.999999999f}'.format(1.5) }}", "steps"),
        ("{{ ('a' * 100000).replace('a', 'b' * 100000)|length }}", "steps"),
        (&dots, "in a tag"),
        (&signs, "in a tag"),
        (&nots, "in a tag"),
        (&filters, "in a tag"),
        (&texts, "in a tag"),
        (&doubled, "steps"),
        (&repeated, "too large"),
        (&nested, "recursion"),
        (&blocks, ""),
        ("{{ ''.__class__.__mro__ }}", ""),
        ("a\n{% for %}", "line 2"),
        ("{% include '/etc/passwd' %}", ""),
        (&huge, "bytes"),
    ];
    for (source, reason) in cases {
        let tokenizer = with_template(source);
        let shown = &source[..source.len().min(60)];
        let work = || Template::of(&tokenizer).and_then(|template| template.render(&single(), &Variables::default()));
        let (error, memory) = must_end(shown, || allocated(work));
        let error = error.expect_err(shown).to_string();
        assert!(error.starts_with("chat template") && error.contains(reason), "{shown}: {error}");
        assert!(!error.contains('\n') && error.len() < 300, "{shown}: {error}");
        // What the steps a template may take can allocate; the longest of these sources has 100 MiB itself.
        assert!(memory.peak < 64 << 20, "{shown}: {} bytes held", memory.peak);
        assert!(memory.total < 256 << 20, "{shown}: {} bytes allocated", memory.total);
    }
}

/// Values within values, as deep as the steps allow, are compared, printed and freed.
#[test]
fn deep_values_do_not_exhaust_the_stack() {
    let nested = "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(40000) %}{% set ns.a = [ns.a] %}{% set ns.b = [ns.b] %}{% endfor %}";
    let branches = format!("{{% if false %}}{}{{% endif %}}", "{% elif false %}".repeat(15_000));
    let chain = format!("{{{{ {}1 }}}}", "- ".repeat(4000));
    let cases = [
        (format!("{nested}{{{{ ns.a == ns.b }}}}"), "True"),
        (format!("{nested}{{{{ (ns.a|string)[:3] }}}}"), "[[["),
        (format!("{nested}{{{{ (ns.a|tojson)[:3] }}}}"), "[[["),
        (branches, ""),
        (chain, "1"),
    ];
    // The main thread of Windows has 1 MiB.
    let small = std::thread::Builder::new().stack_size(1 << 20);
    let work = move || {
        for (source, expected) in cases {
            let template = Template::of(&with_template(&source)).unwrap();
            assert_eq!(template.render(&single(), &Variables::default()).unwrap(), expected);
        }
    };
    small.spawn(work).unwrap().join().unwrap();
}

#[test]
fn lists_texts_and_numbers_are_added_as_in_python() {
    let cases = [
        (
            "{% set a = [1] %}{% set b = [2, 3] %}{% set c = a + b %}{{ c }} {{ c[2] }} {{ c[-1] }} {{ c|length }} {{ c[1:] }}",
            "[1, 2, 3] 3 3 3 [2, 3]",
        ),
        (
            "{% set a = [1] %}{% set c = a + a + a %}{{ c is sequence }} {{ c|tojson }} {{ c == [1, 1, 1] }} {{ 1 in c }}",
            "True [1, 1, 1] True True",
        ),
        ("{% set a = (1, 2) %}{{ a + a }}", "(1, 2, 1, 2)"),
        ("{% set a = 'x' %}{% set b = 'y' %}{{ a + b }}", "xy"),
        ("{% set a = 2 %}{% set b = 3.5 %}{{ a + a }} {{ a + b }} {{ a - b + a }} {{ true + a }}", "4 5.5 0.5 3"),
    ];
    for (source, expected) in cases {
        let template = Template::of(&with_template(source)).unwrap();
        assert_eq!(template.render(&single(), &Variables::default()).unwrap(), expected, "{source}");
    }
    let mixed = Template::of(&with_template("{% set a = [1] %}{% set b = 'x' %}{{ a + b }}")).unwrap();
    let error = mixed.render(&single(), &Variables::default()).unwrap_err().to_string();
    assert!(error.contains("+ is not for sequence and string"), "{error}");
}

/// A long conversation is not mistaken for an attack.
#[test]
fn long_conversations_fit_the_limits() {
    let source = "{% for m in messages %}{{ m.role + ': ' + m.content | trim }}{% endfor %}";
    let template = Template::of(&with_template(source)).unwrap();
    let long: Vec<_> = (0..2000).map(|_| Message::new(Role::User, "word ".repeat(1000))).collect();
    assert_eq!(template.render(&long, &Variables::default()).unwrap().len(), 2000 * ("user: ".len() + 4999));
}

/// The ids of the next prompt begin with what the model has read and written, even where the tokenizer would cut
/// the same text in another way.
#[test]
fn ids_go_on_from_what_the_model_wrote() {
    let tokenizer = tokenizer();
    let template = Template::built_in(Format::BitNet, &tokenizer);
    let mut conversation = Conversation::new(None);
    conversation.ask("a");
    let prompt = conversation.prompt(&template, &Variables::default(), &tokenizer).unwrap();
    assert_eq!(prompt.iter().filter(|&&id| id == BOS).count(), 1);
    // The model spells what the tokenizer has one token for.
    let spelled: Vec<u32> = b"hello".iter().map(|&byte| u32::from(byte)).collect();
    conversation.answer(&template, &Variables::default(), prompt.clone(), &spelled, "hello").unwrap();
    conversation.ask("b");
    let next = conversation.prompt(&template, &Variables::default(), &tokenizer).unwrap();
    let read = [prompt.as_slice(), &spelled].concat();
    assert!(next.starts_with(&read) && next[read.len()] == EOT, "{next:?}");

    // The template trims the answer: the ids are those of the new text, and the common part is shorter.
    let mut conversation = Conversation::new(None);
    conversation.ask("a");
    conversation.answer(&template, &Variables::default(), prompt.clone(), &[HELLO, u32::from(b' ')], "hello ").unwrap();
    conversation.ask("b");
    let next = conversation.prompt(&template, &Variables::default(), &tokenizer).unwrap();
    assert_eq!(tokenizer.decode(&next, true), template.render(conversation.messages(), &Variables::default()).unwrap());
    assert!(next.starts_with(&prompt[..prompt.len() - 1]), "{next:?}");
}

/// A stop text ends the answer in the middle of what was written: those ids do not stand for the text.
#[test]
fn ids_at_odds_with_the_text_are_not_kept() {
    let tokenizer = tokenizer();
    let template = Template::built_in(Format::BitNet, &tokenizer);
    let mut conversation = Conversation::new(Some("s"));
    conversation.ask("a");
    let prompt = conversation.prompt(&template, &Variables::default(), &tokenizer).unwrap();
    conversation.answer(&template, &Variables::default(), prompt, &[HELLO], "hell").unwrap();
    conversation.ask("b");
    let next = conversation.prompt(&template, &Variables::default(), &tokenizer).unwrap();
    assert_eq!(tokenizer.decode(&next, true), template.render(conversation.messages(), &Variables::default()).unwrap());
}

#[test]
fn a_beginning_of_text_is_added_where_the_file_asks_for_it() {
    let tokenizer = Tokenizer::from_gguf(&sentence_piece()).unwrap();
    let template = Template::of(&tokenizer).unwrap();
    let mut conversation = Conversation::default();
    conversation.ask("a");
    let ids = conversation.prompt(&template, &Variables::default(), &tokenizer).unwrap();
    assert_eq!(ids[0], 1);
    assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 1);
}

#[test]
fn the_oldest_turn_is_forgotten_and_the_system_message_stays() {
    let mut conversation = Conversation::from_messages(several());
    assert!(conversation.forget_oldest_turn());
    let left: Vec<_> = conversation.remembered().into_iter().map(|m| m.content).collect();
    assert_eq!(left, ["Be kind.", "Three?"]);
    // What is written to a file is all of it.
    assert_eq!(conversation.messages(), several());
    assert!(!conversation.forget_oldest_turn());
    assert_eq!(conversation.system(), Some("Be kind."));
    conversation.set_system(Some("New."));
    conversation.take_back();
    conversation.take_back();
    assert_eq!(conversation.remembered(), [Message::new(Role::System, "New.")]);
    conversation.set_system(None);
    assert_eq!(conversation.remembered(), []);
}

#[test]
fn a_turn_that_is_taken_back_makes_room_for_older_ones() {
    let mut conversation = Conversation::from_messages(several());
    assert!(conversation.forget_oldest_turn());
    let turn = conversation.take_back_turn();
    assert_eq!(turn, [Message::new(Role::User, "Three?")]);
    let remembered = conversation.remembered();
    assert_eq!(remembered, conversation.messages());
    assert_eq!(remembered, several()[..several().len() - 1]);
    conversation.put_back_turn(turn);
    assert_eq!(conversation.messages(), several());
    while !conversation.take_back_turn().is_empty() {}
    assert_eq!(conversation.messages(), [Message::new(Role::System, "Be kind.")]);
}

/// A template of our own that behaves as the published ones of models that think: tools as XML, reasoning only behind the
/// last question, and a prompt that begins it or has it behind.
const THINKING: &str = include_str!("thinking.jinja");

fn thinking(messages: &[Message], variables: &str) -> Result<String, bitnet_gpu::Error> {
    let template = Template::of(&with_template(THINKING))?;
    assert!(template.knows_reasoning());
    template.render(messages, &Variables::from_json(variables)?)
}

fn thought(reasoning: &str, content: &str) -> Message {
    Message { reasoning: Some(reasoning.into()), ..Message::new(Role::Assistant, content) }
}

#[test]
fn the_prompt_begins_the_reasoning_or_has_it_behind() {
    let question = [Message::new(Role::User, "Hi")];
    let begun = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n";
    for variables in ["{}", "{\"enable_thinking\": true}"] {
        let prompt = thinking(&question, variables).unwrap();
        assert_eq!(prompt, begun, "{variables}");
        assert!(opens_reasoning(&prompt));
    }
    let prompt = thinking(&question, "{\"enable_thinking\": false}").unwrap();
    assert_eq!(prompt, format!("{begun}\n</think>\n\n"));
    assert!(!opens_reasoning(&prompt));
    // The switch by its method, and a built-in format that has it.
    let mut variables = Variables::default();
    variables.set_reasoning(Some(false));
    let template = Template::built_in(Format::Qwen3, &tokenizer());
    assert!(template.knows_reasoning());
    assert!(template.render(&question, &variables).unwrap().ends_with("assistant\n<think>\n\n</think>\n\n"));
    variables.set_reasoning(None);
    assert!(template.render(&question, &variables).unwrap().ends_with("<|im_start|>assistant\n"));
    for template in [Template::built_in(Format::ChatMl, &tokenizer()), Template::of(&with_template("{{ x }}")).unwrap()]
    {
        assert!(!template.knows_reasoning());
    }
}

#[test]
fn reasoning_is_read_again_behind_the_last_question_only() {
    let messages = [
        Message::new(Role::System, "Be kind."),
        Message::new(Role::User, "One?"),
        thought("hm", "1"),
        Message::new(Role::User, "Two?"),
        Message { tool_calls: vec![call("add", r#"{"b": 2, "a": [1, "x"]}"#)], ..thought("so", "") },
        Message::new(Role::Tool, "3"),
    ];
    let expected = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n\
        <|im_start|>assistant\n1<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n\
        <|im_start|>assistant\n<think>\nso\n</think>\n\n\
        <tool_call>\n<function=add>\n<parameter=b>\n2\n</parameter>\n<parameter=a>\n[1, \"x\"]\n</parameter>\n\
        </function>\n</tool_call><|im_end|>\n\
        <|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n";
    assert_eq!(thinking(&messages, "{}").unwrap(), expected);
    let error = thinking(&[messages[1].clone(), messages[0].clone()], "{}").unwrap_err();
    assert!(error.to_string().contains("system message comes first"), "{error}");
}

fn call(name: &str, arguments: &str) -> ToolCall {
    ToolCall { id: None, name: name.into(), arguments: serde_json::from_str(arguments).unwrap() }
}

/// Keys as they were given, and the spaces of Python's json.dumps, which the models were trained on.
#[test]
fn tools_are_written_as_they_were_given() {
    let tool =
        r#"{"type":"function","function":{"name":"add","description":"<b> & 'é'","parameters":{"z":{},"a":[]}}}"#;
    let mut variables = Variables::default();
    variables.set_tools(vec![serde_json::from_str(tool).unwrap()]);
    let prompt = Template::of(&with_template(THINKING)).unwrap().render(&single(), &variables).unwrap();
    let written = "<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"add\", \"description\": \"<b> & 'é'\", \
        \"parameters\": {\"z\": {}, \"a\": []}}}\n</tools>";
    assert!(prompt.starts_with("<|im_start|>system\n") && prompt.contains(written), "{prompt}");

    let cases = [
        (r#"{{ {"b": 1, "a": [true, none, 1.5]} | tojson }}"#, r#"{"b": 1, "a": [true, null, 1.5]}"#),
        (r#"{{ {"b": 1, "a": 2} | tojson(sort_keys=true, ensure_ascii=false) }}"#, r#"{"a": 2, "b": 1}"#),
        (r#"{{ {"b": [1]} | tojson(indent=2) }}"#, "{\n  \"b\": [\n    1\n  ]\n}"),
    ];
    for (source, expected) in cases {
        let template = Template::of(&with_template(source)).unwrap();
        assert_eq!(template.render(&single(), &Variables::default()).unwrap(), expected, "{source}");
    }
}

#[test]
fn variables_are_an_object_and_replace_all_but_the_messages() {
    let source = "{{ messages[0].content | trim }} {{ bos_token }} {{ mood }} {{ add_generation_prompt }}";
    let template = Template::of(&with_template(source)).unwrap();
    let given = r#"{"messages": [], "bos_token": "B", "mood": "calm", "add_generation_prompt": false}"#;
    let variables = Variables::from_json(given).unwrap();
    assert_eq!(template.render(&single(), &variables).unwrap(), "Hi B calm False");
    for bad in ["", "[1]", "null", "{", "{\"a\": }"] {
        let error = Variables::from_json(bad).unwrap_err().to_string();
        assert!(error.contains("expected a JSON object"), "{bad}: {error}");
    }
    // Large ones cost no more than their size.
    let mut variables = Variables::default();
    variables.set("mood", "m".repeat(200_000).into());
    assert!(template.render(&single(), &variables).unwrap().len() > 200_000);
}

/// The ids go on from what was read, unless the template takes the reasoning out of it.
#[test]
fn a_conversation_keeps_reasoning_apart() {
    let tokenizer = with_template(THINKING);
    let template = Template::of(&tokenizer).unwrap();
    let variables = Variables::default();
    let mut conversation = Conversation::new(None);
    conversation.ask("a");
    let prompt = conversation.prompt(&template, &variables, &tokenizer).unwrap();
    let text = "hm\n</think>\n\nhello";
    let ids = tokenizer.encode(text, &Default::default()).unwrap();
    conversation.answer(&template, &variables, prompt.clone(), &ids, text).unwrap();
    assert_eq!(conversation.messages()[1], thought("hm", "hello"));
    conversation.ask("b");
    let next = conversation.prompt(&template, &variables, &tokenizer).unwrap();
    let expected = "<|begin_of_text|><|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n\
        <|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n<think>\n";
    assert_eq!(tokenizer.decode(&next, true), expected);
    // The part before the reasoning is the same.
    let kept = prompt.len() - "<think>\n".len();
    assert_eq!(next[..kept], prompt[..kept]);
}

/// Templates of a list by their names, as transformers chooses among them.
#[test]
fn a_template_for_tools_is_taken_where_there_are_tools() {
    let mut metadata = metadata();
    let names = ["tool_use", "rag"].map(str::to_owned).to_vec();
    metadata.set("tokenizer.chat_templates", Value::Array(Array::String(names)));
    metadata.set("tokenizer.chat_template.tool_use", Value::String("with {{ tools | length }}".into()));
    metadata.set("tokenizer.chat_template.rag", Value::String("rag".into()));
    let mut tools = Variables::default();
    tools.set_tools(vec![serde_json::json!({"type": "function"})]);

    let template = Template::of(&Tokenizer::from_gguf(&metadata).unwrap()).unwrap();
    assert!(template.knows_tools());
    assert_eq!(template.render(&single(), &tools).unwrap(), "with 1");
    let error = template.render(&single(), &Variables::default()).unwrap_err();
    assert_eq!(error.to_string(), "chat template: expected one called default, found only tool_use, rag");
    assert_eq!(error.remedy(), Some(&Remedy::ChatTemplate));

    metadata.set("tokenizer.chat_template", Value::String("plain {{ tools is none }}".into()));
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    let template = Template::of(&tokenizer).unwrap();
    assert_eq!(template.render(&single(), &Variables::default()).unwrap(), "plain True");
    assert_eq!(template.render(&single(), &tools).unwrap(), "with 1");
    assert_eq!(tokenizer.named_chat_templates()[1], ("rag".to_owned(), "rag".to_owned()));
}

/// The clock's day lies within one of UTC's, whatever the time zone.
#[test]
fn the_date_is_that_of_the_clock() {
    let template = Template::of(&with_template("{{ strftime_now('%s|%Y-%m-%d') }}")).unwrap();
    let text = template.render(&single(), &Variables::default()).unwrap();
    let (seconds, date) = text.split_once('|').unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(seconds.parse().unwrap()) < 60, "{text}");
    let parts: Vec<u32> = date.split('-').map(|part| part.parse().unwrap()).collect();
    assert!(parts[0] >= 2026 && (1..=12).contains(&parts[1]) && (1..=31).contains(&parts[2]), "{text}");
}
