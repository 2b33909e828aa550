//! The prompt of a chat: messages, tools and variables through the template of the model.

use std::borrow::Cow;

use jiff::Zoned;
use serde_json::{Map, Value, json};

use super::{
    super::{
        ServeOptions,
        error::{ApiError, ApiResult},
        fields::{Fields, wrong_type},
        model::Served,
        request::schema,
        text::{CallForm, Splitter, ToolCalls},
    },
    messages,
};
use crate::{
    chat::{ReasoningFormat, ReasoningSplit, Role, Variables, opens_reasoning},
    generate::{Grammar, ReasoningLimit},
};

/// Tools of a request at most. Agents send some dozens.
const MOST_TOOLS: usize = 512;

/// A conversation, ready to be read by the model.
pub struct ChatPrompt {
    /// As text.
    pub text: String,
    /// As token ids.
    pub ids: Vec<u32>,
    /// How calls are written; `None` where there are none.
    calls: Option<CallForm>,
    /// Whether a thought has begun in it.
    opened: bool,
    /// Most tokens of it.
    thought_tokens: Option<usize>,
    /// Tells thoughts from the answer.
    reasoning: Option<ReasoningSplit>,
}

impl ChatPrompt {
    /// Renders a request. `options` have what it does not say: the variables of the template, what becomes of thoughts.
    pub fn read(fields: Fields<'_>, model: &Served, options: &ServeOptions) -> ApiResult<Self> {
        let mut messages = messages::read(fields)?;
        let tools = allowed_tools(fields)?;
        let tools = tools.as_deref();
        let choice = ToolChoice::read(fields, tools)?;
        let continues = fields.bool("continue_final_message")?.unwrap_or(false);
        let with_answer = fields.bool("add_generation_prompt")?;
        if continues && with_answer == Some(true) {
            let message = "add_generation_prompt and continue_final_message cannot both be true";
            return Err(ApiError::bad_field("continue_final_message", message));
        }
        let last_is_answer =
            messages.last().is_some_and(|last| last.role == Role::Assistant && last.tool_calls.is_empty());
        if continues && !last_is_answer {
            let message = "there is no message of the assistant at the end to be continued";
            return Err(ApiError::bad_field("continue_final_message", message));
        }
        // A conversation that ends with an answer goes on with it, unless the request says otherwise.
        let begun = if last_is_answer && (continues || with_answer.is_none()) { messages.pop() } else { None };
        // Where the template knows no tools, they are no part of the prompt, and the answer is text.
        let shown = tools.filter(|_| choice != ToolChoice::None && model.template.knows_tools());
        let mut variables = variables(fields, &options.template_variables)?;
        if let Some(tools) = shown {
            variables.set_tools(tools.to_vec());
        }
        let with_answer = begun.is_some() || with_answer.unwrap_or(!continues);
        let rendered = model.template.render_with(&messages, &variables, with_answer);
        let mut text = rendered.map_err(|error| ApiError::bad_field("messages", error.to_string()))?;
        let opened = opens_reasoning(&text);
        let reasoning = ReasoningSplit::after(&text, ReasoningFormat::Auto);
        if let Some(begun) = &begun {
            text += &begun.content;
        }
        let ids = model.encode_chat(&text)?;
        let calls = choice.form(tools, shown.is_some());
        let is_forced = matches!(calls, Some(CallForm::Object | CallForm::ArgumentsOf(_)));
        let tells = tells_thoughts_of(fields)?.unwrap_or(options.reasoning) && begun.is_none() && !is_forced;
        let thinks = begun.is_none() && !is_forced;
        let most = fields.integer("reasoning_budget_tokens")?;
        // A limit of none is that of a server without thoughts; a request that wants one has it.
        let of_server = options.thought_tokens.filter(|&most| most > 0 || variables.reasoning() != Some(true));
        let thought_tokens = most.map_or(of_server, |most| usize::try_from(most).ok()).filter(|_| thinks);
        let opened = opened && thinks;
        Ok(Self { text, ids, calls, opened, thought_tokens, reasoning: tells.then_some(reasoning) })
    }

    /// The grammar of calls that must be made.
    pub fn grammar(&self, fields: Fields<'_>) -> ApiResult<Option<Grammar>> {
        let tools = allowed_tools(fields)?.unwrap_or_default();
        match &self.calls {
            Some(CallForm::ArgumentsOf(name)) => Ok(tools
                .iter()
                .find(|tool| tool["function"]["name"] == name.as_str())
                .map(|tool| schema(&parameters(tool)))),
            Some(CallForm::Object) => {
                let mut definitions = Map::new();
                let mut call = |(number, tool): (usize, &Value)| {
                    json!({
                        "type": "object",
                        "properties": {
                            "name": { "const": tool["function"]["name"] },
                            "arguments": as_part(parameters(tool), number, &mut definitions),
                        },
                        "required": ["name", "arguments"],
                        "additionalProperties": false,
                    })
                };
                let calls: Vec<Value> = tools.iter().enumerate().map(&mut call).collect();
                Ok(Some(schema(&json!({ "anyOf": calls, "$defs": definitions }))))
            }
            Some(CallForm::Free(_)) | None => Ok(None),
        }
    }

    /// Where a thought is bounded, or has begun before an answer with a grammar, which holds behind it only.
    pub fn reasoning_limit(&self, model: &Served, has_grammar: bool) -> ApiResult<Option<ReasoningLimit>> {
        let counts = self.thought_tokens.is_some() || (has_grammar && self.opened);
        let limit = counts.then(|| ReasoningLimit::after(&self.ids, self.thought_tokens, &model.tokenizer));
        Ok(limit.transpose()?)
    }

    /// Takes an answer apart.
    pub fn splitter(&self) -> Splitter {
        Splitter::new(self.reasoning.clone(), self.calls.clone().map(ToolCalls::new))
    }
}

/// The schema of a function's arguments.
fn parameters(tool: &Value) -> Value {
    match &tool["function"]["parameters"] {
        Value::Object(schema) if !schema.is_empty() => Value::Object(schema.clone()),
        _ => json!({ "type": "object", "properties": {}, "additionalProperties": false }),
    }
}

/// A schema as a part of a larger one. If it refers to parts of itself, it goes to the definitions there, where they are found.
fn as_part(parameters: Value, number: usize, definitions: &mut Map<String, Value>) -> Value {
    let place = format!("#/$defs/{number}");
    let moved = moved(&parameters, &place, false);
    if moved == parameters {
        return parameters;
    }
    definitions.insert(number.to_string(), moved);
    json!({ "$ref": place })
}

/// A schema, or schemas by their names, whose references are to be found at `place`.
fn moved(schema: &Value, place: &str, by_name: bool) -> Value {
    const NAMED: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
    const VALUES: [&str; 4] = ["const", "enum", "default", "examples"];
    match schema {
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| {
                let value = match value {
                    _ if by_name => moved(value, place, false),
                    Value::String(to) if key == "$ref" && to.starts_with('#') => json!(format!("{place}{}", &to[1..])),
                    _ if VALUES.contains(&key.as_str()) => value.clone(),
                    _ => moved(value, place, NAMED.contains(&key.as_str())),
                };
                (key.clone(), value)
            };
            Value::Object(fields.iter().map(field).collect())
        }
        Value::Array(parts) => parts.iter().map(|part| moved(part, place, false)).collect(),
        other => other.clone(),
    }
}

/// The tools of a request, checked.
fn tools(fields: Fields<'_>) -> ApiResult<Option<&[Value]>> {
    const NAME: &str = "tools";
    let Some(tools) = fields.array(NAME)?.filter(|tools| !tools.is_empty()) else { return Ok(None) };
    if tools.len() > MOST_TOOLS {
        let message = format!("Field 'tools': at most {MOST_TOOLS}, but got {}", tools.len());
        return Err(ApiError::bad_field(NAME, message));
    }
    for (at, tool) in tools.iter().enumerate() {
        if tool["function"]["name"].as_str().is_none_or(str::is_empty) {
            return Err(ApiError::bad_field(NAME, format!("tools[{at}]: 'function.name' is missing")));
        }
    }
    Ok(Some(tools))
}

/// The tools of a request, or those of them that its `tool_choice` of type [`ALLOWED`] names.
fn allowed_tools(fields: Fields<'_>) -> ApiResult<Option<Cow<'_, [Value]>>> {
    let Some(tools) = tools(fields)? else { return Ok(None) };
    let choice = fields.get(ToolChoice::NAME).filter(|choice| choice["type"] == ALLOWED);
    let Some(choice) = choice else { return Ok(Some(tools.into())) };
    let bad = |message: String| ApiError::bad_field(ToolChoice::NAME, message);
    let Value::Array(named) = &stated(choice)["tools"] else {
        return Err(bad(format!("a tool_choice of type {ALLOWED} has an array 'tools'")));
    };
    let mut allowed = Vec::new();
    for (at, named) in named.iter().enumerate() {
        // Nested in chats, flat in responses.
        let name = named["function"]["name"].as_str().or_else(|| named["name"].as_str());
        let name = name.ok_or_else(|| bad(format!("tool_choice: 'name' of allowed tool {at} is missing")))?;
        let tool = tools.iter().find(|tool| tool["function"]["name"] == name);
        allowed.push(tool.ok_or_else(|| bad(not_among(name)))?.clone());
    }
    Ok(Some(allowed.into()).filter(|allowed: &Cow<[Value]>| !allowed.is_empty()))
}

/// The type of a `tool_choice` that names some of the tools, and says whether one has to be called.
const ALLOWED: &str = "allowed_tools";

/// Mode and tools of such a choice: in an object of its own in chats, beside the type in responses.
fn stated(choice: &Value) -> &Value {
    choice.get(ALLOWED).unwrap_or(choice)
}

fn not_among(name: &str) -> String {
    format!("tool_choice names {name:?}, which is not among the tools")
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ToolChoice {
    None,
    Auto,
    Required,
    Named(String),
}

impl ToolChoice {
    const NAME: &str = "tool_choice";

    fn read(fields: Fields<'_>, tools: Option<&[Value]>) -> ApiResult<Self> {
        let choice = match fields.get(Self::NAME) {
            None => Self::Auto,
            Some(Value::String(word)) => Self::of_word(word)
                .ok_or_else(|| ApiError::bad_field(Self::NAME, format!("there is no tool_choice {word:?}")))?,
            Some(choice) if choice["type"] == ALLOWED => match stated(choice)["mode"].as_str() {
                Some("auto") | None => Self::Auto,
                Some("required") => Self::Required,
                Some(other) => {
                    let message = format!("tool_choice: mode is \"auto\" or \"required\", but got {other:?}");
                    return Err(ApiError::bad_field(Self::NAME, message));
                }
            },
            Some(Value::Object(named)) => {
                // Anthropic's form, which some clients send to every API.
                if let Some(choice) = named.get("type").and_then(Value::as_str).and_then(Self::of_word) {
                    return Self::of_tools(choice, tools);
                }
                let name = named.get("function").unwrap_or(&Value::Null)["name"].as_str();
                let name = name.or_else(|| named.get("name")?.as_str());
                Self::Named(
                    name.ok_or_else(|| ApiError::bad_field(Self::NAME, "tool_choice.function.name is missing"))?
                        .to_owned(),
                )
            }
            Some(other) => return Err(wrong_type(Self::NAME, "a string or an object", other)),
        };
        Self::of_tools(choice, tools)
    }

    fn of_word(word: &str) -> Option<Self> {
        match word {
            "none" => Some(Self::None),
            "auto" => Some(Self::Auto),
            "required" | "any" => Some(Self::Required),
            _ => None,
        }
    }

    /// A choice that these tools allow.
    fn of_tools(choice: Self, tools: Option<&[Value]>) -> ApiResult<Self> {
        let has = |name: &str| tools.unwrap_or_default().iter().any(|tool| tool["function"]["name"] == name);
        match &choice {
            Self::Named(name) if !has(name) => Err(ApiError::bad_field(Self::NAME, not_among(name))),
            Self::Required if tools.is_none() => {
                Err(ApiError::bad_field(Self::NAME, "tool_choice requires a call, and there are no tools"))
            }
            _ if tools.is_none() => Ok(Self::None),
            _ => Ok(choice),
        }
    }

    /// How calls are written in the answer.
    fn form(&self, tools: Option<&[Value]>, shown: bool) -> Option<CallForm> {
        match self {
            Self::Named(name) => Some(CallForm::ArgumentsOf(name.clone())),
            Self::Required => Some(CallForm::Object),
            Self::Auto if shown => {
                let names = tools.unwrap_or_default().iter().filter_map(|tool| tool["function"]["name"].as_str());
                Some(CallForm::Free(names.map(str::to_owned).collect()))
            }
            Self::Auto | Self::None => None,
        }
    }
}

/// Variables for the template: the day, those of the server, and those of the request.
fn variables(fields: Fields<'_>, of_server: &Variables) -> ApiResult<Variables> {
    let mut variables = Variables::default();
    variables.set_day(&Zoned::now());
    variables.extend(of_server);
    if let Some(effort) = fields.text("reasoning_effort")? {
        variables.set("reasoning_effort", effort.into());
        if effort == "none" {
            variables.set_reasoning(Some(false));
        }
    }
    for (name, value) in fields.object("chat_template_kwargs")?.into_iter().flat_map(|given| given.0) {
        variables.set(name.as_str(), value.clone());
    }
    Ok(variables)
}

fn tells_thoughts_of(fields: Fields<'_>) -> ApiResult<Option<bool>> {
    match fields.text("reasoning_format")? {
        None => Ok(None),
        Some("none") => Ok(Some(false)),
        Some("auto" | "deepseek" | "deepseek-legacy") => Ok(Some(true)),
        Some(other) => Err(ApiError::bad_field("reasoning_format", format!("there is no reasoning_format {other:?}"))),
    }
}
