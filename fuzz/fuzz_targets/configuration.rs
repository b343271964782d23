//! Configuration files: whatever stands in one, it is read or refused with reasons that say where; two readings agree.
#![no_main]

use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ostler_broker::conf::{Outside, Settings};

/// The input is the file, and every file it includes.
struct Only<'a>(&'a [u8]);

impl Outside for Only<'_> {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.to_vec())
    }

    fn variable(&self, name: &str) -> Option<String> {
        (name.len() % 2 == 0).then(|| name.to_owned())
    }
}

fuzz_target!(|text: &[u8]| {
    let outside = Only(text);
    let read = || Settings::load(Path::new("server.conf"), &outside).map_err(|invalid| invalid.to_string());
    let first = read();
    if let Err(reasons) = &first {
        assert!(!reasons.trim().is_empty(), "refused without a reason");
    }
    assert_eq!(first.map(|settings| format!("{settings:?}")), read().map(|settings| format!("{settings:?}")));
});
