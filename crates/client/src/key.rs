//! The credentials the daemon makes: files of one nkey seed each, readable by their owner alone.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nkeys::KeyPair;

use crate::credential::read_private;

/// Why a credential file cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("the credential {} cannot be {verb}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Other users could read the secret: `chmod 600` it, or replace it when they may have.
    #[error("the credential {} is open to other users (mode {mode:o}); run: chmod 600 {}", .path.display(), .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not an nkey seed. The content is never quoted.
    #[error(
        "the credential {} does not hold an nkey user seed; restore it, or remove it and the next start makes a new one",
        .0.display()
    )]
    NotASeed(PathBuf),
    /// The content is no credential of any form. The content is never quoted.
    #[error(
        "the credential {} is neither an nkey user seed, nor a creds file, nor the two lines user = \"NAME\" and \
         password = \"SECRET\", nor the line token = \"SECRET\"; restore it, or name the right file",
        .0.display()
    )]
    NotACredential(PathBuf),
}

/// Makes a new credential at `path`, mode 0600, replacing none, and returns its public key (`U…`, 56 characters).
///
/// # Errors
///
/// [`KeyError::File`] when the file exists already or cannot be written.
pub fn create_key(path: &Path) -> Result<String, KeyError> {
    let fault = |source| KeyError::File { path: path.to_owned(), verb: "created", source };
    let pair = KeyPair::new_user();
    let seed = pair.seed().expect("a pair that was just made holds its seed");
    // Whole or not at all: a crash in between, or a full disk, must not leave half a credential under its name.
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let _ = std::fs::remove_file(&draft);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| writeln!(file, "{seed}").and_then(|()| file.sync_all()))
        // A link, unlike a rename, refuses to replace.
        .and_then(|()| std::fs::hard_link(&draft, path));
    let _ = std::fs::remove_file(&draft);
    written.map_err(fault)?;
    Ok(pair.public_key())
}

/// Reads the public key of the credential at `path`.
///
/// # Errors
///
/// Any [`KeyError`]; each names the file and the remedy.
pub fn read_public_key(path: &Path) -> Result<String, KeyError> {
    let seed = read_seed(path)?;
    let pair = KeyPair::from_seed(&seed).map_err(|_| KeyError::NotASeed(path.to_owned()))?;
    Ok(pair.public_key())
}

fn read_seed(path: &Path) -> Result<String, KeyError> {
    let text = read_private(path)?;
    let seed = text.trim();
    KeyPair::from_seed(seed).map_err(|_| KeyError::NotASeed(path.to_owned()))?;
    Ok(seed.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_credential_is_private_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.nk");
        let public = create_key(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_public_key(&path).unwrap(), public);
        assert!(public.starts_with('U') && public.len() == 56, "{public}");
        assert!(matches!(create_key(&path), Err(KeyError::File { .. })), "an existing key is never replaced");
    }

    #[test]
    fn an_exposed_or_broken_credential_is_refused_without_quoting_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.nk");
        create_key(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_public_key(&path).unwrap_err().to_string().contains("chmod 600"));
        std::fs::write(&path, "SUsecretish").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = read_public_key(&path).unwrap_err().to_string();
        assert!(text.contains("nkey") && !text.contains("secretish"), "{text}");
    }
}
