//! Arbitrary bytes as a conversation that `/save` wrote; what is accepted is written and read again.
#![no_main]

use std::sync::LazyLock;

use bitnet_gpu::chat::Conversation;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a folder for the file"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(conversation) = Conversation::from_json(data, "m") else { return };
    let file = FOLDER.path().join("chat.json");
    conversation.save(&file, "m").expect("written");
    assert_eq!(Conversation::load(&file, "m").expect("read").messages(), conversation.messages());
});
