//! The agents' programs: on the PATH, and which version.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_supervise::platform::{pidfd_exited, process_identity, spawn_detached};

use super::Check;
use crate::render::{cut, single_line};

/// A program that takes longer to tell its version is not usable anyway.
const VERSION_PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn claude() -> Check {
    const NAME: &str = "claude";
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(program) = find("claude", &path) else {
        return Check::warn(
            NAME,
            "Claude Code is not on the PATH; agents of kind claude cannot run",
            "install it: npm install -g @anthropic-ai/claude-code; or give its path: spawn --kind claude -- PATH",
        );
    };
    match version(&program).await {
        Ok(version) => Check::ok(NAME, format!("{version} at {}", program.display())),
        Err(reason) => Check::warn(
            NAME,
            format!("{} does not tell its version: {reason}", program.display()),
            format!("try it: {} --version", program.display()),
        ),
    }
}

/// The first executable of that name in the directories of `path`.
fn find(name: &str, path: &OsString) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}

/// The first line of `program --version`.
async fn version(program: &Path) -> Result<String, String> {
    let log = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    let env: Vec<_> = std::env::vars_os().collect();
    let pid = spawn_detached(program, &["--version".into()], &env, Some(log.path()))
        .map_err(|error| error.to_string())?;
    // No identity any more means that it has ended already.
    if let Some(start_time) = process_identity(pid) {
        match tokio::time::timeout(VERSION_PATIENCE, pidfd_exited(pid, start_time)).await {
            Ok(ended) => ended.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("no answer within {} s", VERSION_PATIENCE.as_secs())),
        }
    }
    let said = std::fs::read(log.path()).map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&said);
    let first = said.lines().map(single_line).find(|line| !line.is_empty());
    first.map(|line| cut(&line, 60)).ok_or_else(|| "it printed nothing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_executable_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("claude"), "").unwrap();
        let path = std::env::join_paths([Path::new("/nowhere"), dir.path(), Path::new("/bin")]).unwrap();
        assert_eq!(find("claude", &path), None);
        assert_eq!(find("sh", &path), Some(PathBuf::from("/bin/sh")));
    }

    #[tokio::test]
    async fn a_program_tells_its_version_in_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str, script: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let tells = program("tells", "[ \"$1\" = --version ] && printf '\\n2.1.9 (Claude Code)\\nmore\\n'");
        assert_eq!(version(&tells).await.as_deref(), Ok("2.1.9 (Claude Code)"));
        let silent = program("silent", "exit 1");
        assert_eq!(version(&silent).await, Err("it printed nothing".to_owned()));
    }
}
