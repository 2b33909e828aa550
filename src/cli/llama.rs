//! Flags of llama.cpp's programs (llama-cli, llama-server, llama-bench) that a command here does not have: those without an
//! effect on what comes out are taken with a note, the others are answered by what to use instead.

/// Values that may follow a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Nothing,
    Value,
    /// `on`, `off`, `auto`, `0` or `1`, or nothing.
    Switch,
}

/// The reply to a flag that a command does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is left out; why that changes nothing.
    LeftOut(&'static str),
    /// It is refused, by what to do instead.
    Refused(&'static str),
}

use Reply::{LeftOut, Refused};
use Takes::{Nothing, Switch, Value};

/// The flags of one answer.
type Group = (Reply, Takes, &'static [&'static str]);

/// The reply to a flag that a command does not have; `None` where llama.cpp has none of the name either.
pub fn reply(command: &str, flag: &str) -> Option<(Reply, Takes)> {
    let own = OWN.iter().filter(|(name, _)| *name == command).map(|(_, group)| group);
    let groups = [&SPEED[..], &OUTPUT, &MODEL, &SPECULATION, &CHAT, &SERVER];
    let found = own.chain(groups.into_iter().flatten()).find(|(_, _, names)| names.contains(&flag));
    found.map(|&(reply, takes, _)| (reply, takes))
}

/// Replies of single commands to flags that others refuse or leave out.
#[rustfmt::skip]
const OWN: [(&str, Group); 7] = [
    ("run", (Refused("`run -cnv` and `bitnet-gpu chat` are conversations"), Nothing, &[
        "-i", "--interactive", "-if", "--interactive-first",
    ])),
    ("run", (
        Refused("`echo QUESTION | bitnet-gpu chat` answers once, by the chat template"),
        Nothing,
        &["-st", "--single-turn"],
    )),
    ("chat", (LeftOut("`chat` is a conversation"), Nothing, &[
        "-cnv", "--conversation", "-i", "--interactive", "-if", "--interactive-first",
    ])),
    ("chat", (Refused("`bitnet-gpu run` goes on with a text, without a chat template"), Nothing, &["-no-cnv", "--no-conversation"])),
    ("chat", (Refused("a question that is piped in is answered once: `echo QUESTION | bitnet-gpu chat`"), Nothing, &["-st", "--single-turn"])),
    ("serve", (LeftOut("/v1/embeddings answers where the model makes vectors"), Nothing, &["--embedding", "--embeddings"])),
    ("serve", (Refused("nothing ranks texts here; /v1/embeddings gives vectors to compare"), Nothing, &["--rerank", "--reranking"])),
];

/// Threads, devices and memory.
#[rustfmt::skip]
const SPEED: [Group; 17] = [
    (LeftOut("-t counts for prompts as well"), Value, &["-tb", "--threads-batch", "--threads-http"]),
    (LeftOut("threads are placed by the system; taskset binds them"), Value, &[
        "-C", "--cpu-mask", "-Cr", "--cpu-range", "-Cb", "--cpu-mask-batch", "-Crb", "--cpu-range-batch", "--cpu-strict",
        "--cpu-strict-batch",
    ]),
    (LeftOut("priorities are the system's; nice sets them"), Value, &["--prio", "--prio-batch", "--poll", "--poll-batch"]),
    (LeftOut("numactl places memory"), Value, &["--numa"]),
    (LeftOut("batches are cut by measured times; -b bounds them"), Value, &["-ub", "--ubatch-size"]),
    (LeftOut("attention is one pass always"), Switch, &["-fa", "--flash-attn"]),
    (LeftOut("layouts are chosen for the device"), Switch, &[
        "--repack", "-nr", "--no-repack", "--no-host", "--op-offload", "--no-op-offload", "-nopo",
    ]),
    (LeftOut("the cache of a layer is where the layer is"), Switch, &["-kvo", "--kv-offload", "-nkvo", "--no-kv-offload"]),
    (LeftOut("a plan fits the memory always; `plan` shows it"), Switch, &["-fit", "--fit"]),
    (LeftOut("a plan fits the memory always; --gpu-memory bounds it"), Value, &["-fitt", "--fit-target", "-fitc", "--fit-ctx"]),
    (LeftOut("caches are not fragmented"), Value, &["-dt", "--defrag-thold"]),
    (LeftOut("the model has no such layers"), Nothing, &["--swa-full", "-cmoe", "--cpu-moe"]),
    (LeftOut("the model has no such layers"), Value, &["-ncmoe", "--n-cpu-moe", "--moe-cache-mib"]),
    (LeftOut("checkpoints are made where a prompt may come again"), Value, &[
        "-ctxcp", "--ctx-checkpoints", "--swa-checkpoints", "-cms", "--checkpoint-min-step",
    ]),
    (LeftOut("weights are read in place where that serves (--no-mmap copies them)"), Value, &[
        "-lm", "--load-mode", "-lzm", "--lazy-mode", "-mmp",
    ]),
    (LeftOut("pages that are read stay in memory while there is room"), Nothing, &["--mlock"]),
    (Refused("a model runs on one GPU and the CPU: --device N chooses the GPU, -ngl N the layers on it"), Value, &[
        "-sm", "--split-mode", "-ts", "--tensor-split", "-mg", "--main-gpu", "-ot", "--override-tensor", "-ncffn",
        "--n-cpu-ffn", "--rpc", "-rpc",
    ]),
];

/// Output and measurement.
#[rustfmt::skip]
const OUTPUT: [Group; 15] = [
    (LeftOut("nothing is coloured"), Switch, &["-co", "--color", "--log-colors"]),
    (LeftOut("messages go to standard error; -v says more"), Nothing, &[
        "--log-disable", "--log-prefix", "--no-log-prefix", "--log-timestamps", "--no-log-timestamps", "--no-log-jsonl",
        "--log-verbose", "--progress",
    ]),
    (LeftOut("messages go to standard error; -v says more"), Value, &["-lv", "--verbosity", "--log-verbosity", "-oe", "--output-err"]),
    (LeftOut("rates stand in the summary"), Nothing, &["--perf", "--no-perf", "--show-timings", "--no-show-timings"]),
    (LeftOut("the first step is as fast as the others"), Nothing, &["--warmup", "--no-warmup"]),
    (LeftOut("the terminal decides"), Nothing, &["--simple-io", "--display-prompt", "-mli", "--multiline-input"]),
    (LeftOut("--top-k and --top-p run on the device where they can"), Nothing, &["-bs", "--backend-sampling"]),
    (Refused("`bitnet-gpu tokenize -p TEXT` shows the tokens of a prompt"), Nothing, &["--verbose-prompt"]),
    (Refused("messages go to standard error: 2> FILE keeps them, and --json prints the result"), Nothing, &["--log-jsonl"]),
    (Refused("messages go to standard error: 2> FILE keeps them"), Value, &["--log-file"]),
    (Refused("prompts are not kept: a proxy in front of the server can do it"), Value, &["--log-prompts-dir"]),
    (LeftOut("the summary has the number of tokens"), Value, &["-ptc", "--print-token-count"]),
    (Refused("output goes to standard output: > FILE keeps it"), Value, &["-o", "--output", "--output-file"]),
    (Refused("-p and -n take lists: each prompt and each answer is a row, and -np has both together"), Value, &["-pg", "--delay"]),
    (Refused("`bitnet-gpu embed` makes vectors"), Switch, &["-embd", "--embedding", "--embeddings", "--rerank", "--reranking"]),
];

/// The model and its text.
#[rustfmt::skip]
const MODEL: [Group; 18] = [
    (Refused("-m FILE, or -m org/name:FILE of the Hugging Face Hub"), Value, &[
        "-mu", "--model-url", "-dr", "--docker-repo", "-hff", "--hf-file",
    ]),
    (Refused("HF_TOKEN=.. gives it, or `hf auth login`"), Value, &["-hft", "--hf-token"]),
    (Refused("HF_HUB_OFFLINE=1 keeps the program off the network"), Nothing, &["--offline"]),
    (Refused("`bitnet-gpu list` shows what is here"), Nothing, &["-cl", "--cache-list"]),
    (Refused("a tool of your shell completes file names; --help lists the flags"), Nothing, &["--completion-bash"]),
    (LeftOut("codes and scales are checked always; `inspect --check` looks for zeros as well"), Nothing, &["--check-tensors"]),
    (Refused("the file's own keys hold; `bitnet-gpu convert` makes another one"), Value, &["--override-kv"]),
    (Refused("positions are scaled as the file says, and -c goes beyond at a loss"), Value, &[
        "--rope-scaling", "--rope-scale", "--rope-freq-base", "--rope-freq-scale", "--yarn-orig-ctx", "--yarn-ext-factor",
        "--yarn-attn-factor", "--yarn-beta-slow", "--yarn-beta-fast", "-gan", "--grp-attn-n", "-gaw", "--grp-attn-w",
    ]),
    (Refused("adapters are not applied: merge them into the model and convert it"), Value, &[
        "--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled", "--control-vector-layer-range",
    ]),
    (Refused("adapters are not applied: merge them into the model and convert it"), Nothing, &["--lora-init-without-apply"]),
    (Refused("models here read text only"), Value, &[
        "-mm", "--mmproj", "-mmu", "--mmproj-url", "--image", "--audio", "--video", "--image-min-tokens",
        "--image-max-tokens", "--mtmd-batch-max-tokens", "-mmdev", "--mmproj-device", "--video-fps", "--video-timestamp-interval",
        "--video-ffmpeg-dir", "--media-path",
    ]),
    (LeftOut("models here read text only"), Nothing, &[
        "--mmproj-auto", "--no-mmproj", "--no-mmproj-auto", "--mmproj-offload", "--no-mmproj-offload",
    ]),
    (Refused("the model's own are in the file; -m org/name fetches one"), Nothing, &[
        "--embd-gemma-default", "--fim-qwen-1.5b-default", "--fim-qwen-3b-default", "--fim-qwen-7b-default",
        "--fim-qwen-7b-spec", "--fim-qwen-14b-spec", "--fim-qwen-30b-default", "--gpt-oss-20b-default",
        "--gpt-oss-120b-default", "--vision-gemma-4b-default", "--vision-gemma-12b-default",
    ]),
    (Refused("the order of the samplers is fixed, and each is off at its neutral value"), Value, &[
        "--samplers", "--sampler-seq", "--sampling-seq",
    ]),
    (Refused("--mirostat 2 adapts to the text; --temp is fixed"), Value, &[
        "--adaptive-target", "--adaptive-decay", "--dynatemp-range", "--dynatemp-exp",
    ]),
    (Refused("-f reads text in UTF-8"), Value, &["-bf", "--binary-file"]),
    (Refused("the context ends where it is full: -c N makes it larger"), Nothing, &["--context-shift"]),
    (LeftOut("the context ends where it is full"), Nothing, &["--no-context-shift"]),
];

/// Guesses that are checked together.
#[rustfmt::skip]
const SPECULATION: [Group; 4] = [
    (Refused("guesses come from the text or the model itself: --spec-type ngram-simple or draft-mtp"), Value, &[
        "-md", "--model-draft", "--spec-draft-model", "-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf", "-ngld",
        "--gpu-layers-draft", "--n-gpu-layers-draft", "--spec-draft-ngl", "-devd", "--device-draft",
        "--spec-draft-device", "-ctkd", "--cache-type-k-draft", "--spec-draft-type-k", "-ctvd", "--cache-type-v-draft",
        "--spec-draft-type-v", "-otd", "--override-tensor-draft", "--spec-draft-override-tensor", "-td",
        "--threads-draft", "--spec-draft-threads", "-tbd", "--threads-batch-draft", "--spec-draft-threads-batch", "-Cd",
        "--cpu-mask-draft", "--spec-draft-cpu-mask", "-Crd", "--cpu-range-draft", "--spec-draft-cpu-range",
        "--cpu-strict-draft", "--spec-draft-cpu-strict", "--prio-draft", "--spec-draft-prio", "--poll-draft",
        "--spec-draft-poll", "-Cbd", "--cpu-mask-batch-draft", "--spec-draft-cpu-mask-batch",
        "--cpu-strict-batch-draft", "--spec-draft-cpu-strict-batch", "--prio-batch-draft", "--spec-draft-prio-batch",
        "--poll-batch-draft", "--spec-draft-poll-batch", "-ncmoed", "--n-cpu-moe-draft", "--spec-draft-n-cpu-moe",
        "--spec-draft-ncmoe", "-Crbd", "--cpu-range-batch-draft", "--spec-draft-cpu-range-batch", "--spec-synth-len",
        "--spec-draft-n-ubatch", "--spec-draft-sampling",
        "--spec-synth-rates", "-lcs", "--lookup-cache-static", "-lcd", "--lookup-cache-dynamic",
    ]),
    (Refused("guesses come from the text or the model itself: --spec-type ngram-simple or draft-mtp"), Nothing, &[
        "-cmoed", "--cpu-moe-draft", "--spec-draft-cpu-moe", "--spec-draft-backend-sampling",
        "--no-spec-draft-backend-sampling",
    ]),
    (LeftOut("as many guesses are made as pay; --draft-max bounds them"), Value, &[
        "--draft-min", "--draft-n-min", "--spec-draft-n-min", "--spec-draft-n-max", "--draft-p-min",
        "--spec-draft-p-min", "--draft-p-split", "--spec-draft-p-split", "--spec-ngram-mod-n-min",
        "--spec-ngram-mod-n-max", "--spec-ngram-mod-n-match", "--spec-ngram-simple-size-n",
        "--spec-ngram-simple-size-m", "--spec-ngram-simple-min-hits", "--spec-ngram-map-k-size-n",
        "--spec-ngram-map-k-size-m", "--spec-ngram-map-k-min-hits", "--spec-ngram-map-k4v-size-n",
        "--spec-ngram-map-k4v-size-m", "--spec-ngram-map-k4v-min-hits", "--spec-ngram-size-n", "--spec-ngram-size-m",
        "--spec-ngram-min-hits", "--draft", "--draft-n", "--draft-max", "--spec-type",
    ]),
    (LeftOut("guesses are made where they pay"), Nothing, &["--spec-default"]),
];

/// Conversations.
#[rustfmt::skip]
const CHAT: [Group; 13] = [
    (LeftOut("templates are Jinja always"), Nothing, &["--jinja"]),
    (Refused("special tokens are not printed; `bitnet-gpu tokenize --special` reads them"), Nothing, &["-sp", "--special"]),
    (Refused("templates are Jinja always; --chat-template chatml takes a built-in one"), Nothing, &["--no-jinja"]),
    (Refused("`bitnet-gpu run` answers once; `bitnet-gpu chat` goes on"), Nothing, &[
        "-st", "--single-turn", "-i", "--interactive", "-if", "--interactive-first", "--in-prefix-bos", "-cnv",
        "--conversation", "-no-cnv", "--no-conversation",
    ]),
    (Refused("the chat template says what stands around a message: --chat-template"), Value, &["--in-prefix", "--in-suffix"]),
    (Refused("-sys \"$(cat FILE)\" gives a text from a file"), Value, &["-sysf", "--system-prompt-file"]),
    (Refused("/save and /load keep a conversation in `bitnet-gpu chat`; `serve` keeps prompts by itself"), Value, &[
        "--prompt-cache",
    ]),
    (Refused("/save and /load keep a conversation in `bitnet-gpu chat`; `serve` keeps prompts by itself"), Nothing, &[
        "--prompt-cache-all", "--prompt-cache-ro",
    ]),
    (LeftOut("all of a prompt is kept"), Value, &["--keep"]),
    (Refused("--chat-template-kwargs '{\"reasoning_effort\": \"low\"}' tells a template that knows it; --reasoning-budget N bounds thoughts"), Value, &[
        "--reasoning-effort",
    ]),
    (Refused("--reasoning-budget N bounds thoughts, which end without a message"), Value, &["--reasoning-budget-message"]),
    (LeftOut("thoughts stay out of later turns, as templates have it"), Nothing, &["--reasoning-preserve", "--no-reasoning-preserve"]),
    (LeftOut("answers are parsed by the template"), Nothing, &["--skip-chat-parsing", "--no-skip-chat-parsing"]),
];

/// The server.
#[rustfmt::skip]
const SERVER: [Group; 24] = [
    (LeftOut("requests are answered side by side always"), Nothing, &[
        "-cb", "--cont-batching", "-nocb", "--no-cont-batching", "-kvu", "--kv-unified", "-no-kvu", "--no-kv-unified",
    ]),
    (LeftOut("prompts are found again by what they have in common"), Nothing, &[
        "--cache-prompt", "--no-cache-prompt", "--cache-idle-slots", "--no-cache-idle-slots",
    ]),
    (LeftOut("prompts are found again by what they have in common"), Value, &[
        "--cache-reuse", "-sps", "--slot-prompt-similarity", "--kv-unified-per-slot",
    ]),
    (LeftOut("the page is there without it"), Nothing, &[
        "--ui", "--webui", "--no-ui-mcp-proxy", "--no-webui-mcp-proxy", "--no-agent", "-no-ag",
    ]),
    (LeftOut("models are loaded when they are asked for"), Nothing, &["--models-autoload"]),
    (LeftOut("pages send keys as headers, not as cookies"), Nothing, &["--no-cors-credentials"]),
    (LeftOut("GET /props answers always, and a request states its own options"), Nothing, &["--props"]),
    (LeftOut("one server has the port"), Nothing, &["--reuse-port"]),
    (LeftOut("there is no /infill"), Nothing, &["--spm-infill"]),
    (Refused("the page does not act by itself; --no-ui leaves it out"), Nothing, &[
        "--ui-mcp-proxy", "--webui-mcp-proxy", "--agent", "-ag",
    ]),
    (Refused("the page is what it is, or left out with --no-ui: a proxy in front may put another one there"), Value, &[
        "--path", "--ui-config", "--webui-config", "--ui-config-file", "--webui-config-file",
    ]),
    (Refused("a proxy in front decides what is reached, and under which prefix (docs/serving.md)"), Value, &["--api-prefix"]),
    (Refused("models are loaded when they are asked for; --models-max N bounds how many"), Nothing, &["--no-models-autoload"]),
    (Refused("--models-max N bounds how many models are loaded, --keep-alive how long"), Value, &["--models-memory-margin"]),
    (Refused("--cors-origins says whose pages may use the server"), Nothing, &["--cors-credentials"]),
    (Refused("--cors-origins says whose pages may use the server"), Value, &["--cors-headers", "--cors-methods"]),
    (Refused("there are no tunnels: --host 0.0.0.0 --api-key KEY, or ssh -R, lets others in"), Nothing, &["--connect"]),
    (Refused("there are no tunnels: --host 0.0.0.0 --api-key KEY, or ssh -R, lets others in"), Value, &["--connect-code"]),
    (Refused("there is no TLS: put a proxy in front (docs/serving.md)"), Value, &["--ssl-key-file", "--ssl-cert-file"]),
    (Refused("tools are run by the client that asks"), Value, &[
        "--tools", "--tools-runtime", "--mcp-servers-config", "--mcp-servers-json",
    ]),
    (Refused("--keep-alive unloads an idle model; --models-dir offers several"), Value, &[
        "--sleep-idle-seconds", "--models-preset", "--server-base",
    ]),
    (LeftOut("a request has as long as it needs; a pause of the client is bounded"), Value, &["-to", "--timeout"]),
    (Refused("the file says how vectors are made; `bitnet-gpu embed --pooling` takes another way"), Value, &["--pooling", "--embd-normalize"]),
    (LeftOut("an answer that was begun by the client is continued as the template has it"), Nothing, &[
        "--prefill-assistant", "--no-prefill-assistant",
    ]),
];
