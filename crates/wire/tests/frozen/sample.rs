//! Reading the frozen samples, for the tests beside this file.

use std::fs;
use std::path::{Path, PathBuf};

use ostler_wire::protocol::{MESSAGES, MessageType};
use serde_json::Value;

/// One frozen sample: `<Message>.json` or `<Message>.<case>.json`.
pub(crate) struct Fixture {
    pub(crate) file: String,
    pub(crate) message: &'static MessageType,
    pub(crate) text: String,
}

impl Fixture {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{}: {error}", self.file))
    }

    /// What is left of `json` after it was read as the fixture's message and written again.
    pub(crate) fn read_back(&self, json: &Value) -> Value {
        let payload = serde_json::to_vec(json).unwrap();
        (self.message.read_back)(&payload)
            .unwrap_or_else(|refusal| panic!("{}: {}", self.file, refusal.error.message))
    }
}

pub(crate) fn fixtures() -> Vec<Fixture> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut files: Vec<PathBuf> = Vec::new();
    for version in fs::read_dir(root).unwrap() {
        files.extend(fs::read_dir(version.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

fn read(path: &Path) -> Fixture {
    let file = path.file_name().unwrap().to_string_lossy().into_owned();
    let name = file.split('.').next().unwrap();
    let message = MESSAGES.iter().find(|message| message.name == name);
    let message = message.unwrap_or_else(|| panic!("{file}: no message is called {name}"));
    Fixture { message, text: fs::read_to_string(path).unwrap(), file }
}
