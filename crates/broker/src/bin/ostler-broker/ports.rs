//! The pid file and the ports file, by which others find a server that took whatever port was free.

use std::io;
use std::path::{Path, PathBuf};

/// Writes the process id, without a newline: readers of nats-server's pid files do not trim.
///
/// # Errors
/// Names the file and what to do.
pub(crate) fn write_pid(path: &Path) -> Result<(), String> {
    std::fs::write(path, std::process::id().to_string()).map_err(|error| {
        format!("cannot write the pid file {}: {error}; choose another with -P", path.display())
    })
}

/// The ports file, removed again when the server ends.
#[derive(Debug)]
pub(crate) struct PortsFile(PathBuf);

/// Where clients, browsers and monitors connect.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) nats: Vec<String>,
    pub(crate) monitoring: Vec<String>,
    pub(crate) websocket: Vec<String>,
}

impl Addresses {
    /// The document: kinds without an address are absent.
    fn json(&self) -> String {
        let kinds = [("nats", &self.nats), ("monitoring", &self.monitoring), ("websocket", &self.websocket)];
        // A list of pairs and not a map, because the order is nats-server's.
        let fields: Vec<String> = kinds
            .iter()
            .filter(|(_, urls)| !urls.is_empty())
            .map(|(kind, urls)| format!("\"{kind}\":{}", serde_json::Value::from(urls.as_slice())))
            .collect();
        format!("{{{}}}", fields.join(","))
    }
}

impl PortsFile {
    /// Writes `<executable>_<pid>.ports` into `directory`, whole or not at all.
    ///
    /// # Errors
    /// Names the file and what to do.
    pub(crate) fn write(directory: &Path, program: &str, addresses: &Addresses) -> Result<Self, String> {
        let path = directory.join(format!("{program}_{}.ports", std::process::id()));
        let unfinished = path.with_extension("ports.tmp");
        let write = || -> io::Result<()> {
            std::fs::write(&unfinished, addresses.json())?;
            std::fs::rename(&unfinished, &path)
        };
        match write() {
            Ok(()) => Ok(Self(path)),
            Err(error) => Err(format!(
                "cannot write the ports file {}: {error}; choose another --ports_file_dir",
                path.display()
            )),
        }
    }
}

impl Drop for PortsFile {
    fn drop(&mut self) {
        // Somebody may have removed it before.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_without_an_address_are_absent() {
        let mut addresses = Addresses { nats: vec!["nats://127.0.0.1:1".into()], ..Addresses::default() };
        assert_eq!(addresses.json(), r#"{"nats":["nats://127.0.0.1:1"]}"#);
        addresses.websocket.push("ws://127.0.0.1:2".into());
        assert_eq!(addresses.json(), r#"{"nats":["nats://127.0.0.1:1"],"websocket":["ws://127.0.0.1:2"]}"#);
    }
}
