//! SIGHUP: the configuration is read again, checked whole, and applied to the running server. Limits, users, TLS and
//! the log's verbosity change; what cannot change without a restart refuses the whole of it, so that a server never
//! runs half of a file.

use ostler_broker::conf::Settings;
use ostler_broker::{Server, Users};

use crate::args::Args;
use crate::log::Log;
use crate::options;

/// Reads and applies.
///
/// # Errors
/// Why nothing was changed.
pub(crate) fn reload(
    args: &Args,
    running: &Settings,
    server: &Server,
    users: &Users,
    log: &Log,
) -> Result<Settings, String> {
    let settings = options::load(args)?;
    check_fixed(running, &settings)?;
    // Whatever may fail comes before the first change.
    let tls = options::tls_of(&settings)?;
    let websocket_tls = options::websocket_tls_of(&settings)?;
    server.set_limits(settings.limits.clone()).map_err(|error| error.to_string())?;
    if let Err(problem) = users.replace_all(settings.identities.clone()) {
        let _ = server.set_limits(running.limits.clone());
        return Err(problem.to_string());
    }
    if let Some(tls) = tls {
        server.set_tls(tls).map_err(|error| error.to_string())?;
    }
    if let Some(tls) = websocket_tls {
        server.set_websocket_tls(tls).map_err(|error| error.to_string())?;
    }
    log.set_verbosity(&settings.log);
    Ok(settings)
}

/// Names the settings that differ although they may not.
fn check_fixed(old: &Settings, new: &Settings) -> Result<(), String> {
    let fixed: [(&str, bool); 15] = [
        ("host", old.host != new.host),
        ("port", old.port != new.port),
        ("server_name", old.server_name != new.server_name),
        ("websocket", old.websocket != new.websocket),
        ("http_port", old.monitor != new.monitor),
        ("system_account", old.system_account != new.system_account),
        ("no_auth_user", old.no_auth_user != new.no_auth_user),
        ("allow_non_tls", old.allow_non_tls != new.allow_non_tls),
        ("tls (switching it on or off)", old.tls.is_some() != new.tls.is_some()),
        ("authorization (switching it on or off)", options::is_open(old) != options::is_open(new)),
        ("jetstream", old.jetstream != new.jetstream),
        ("pid_file", old.pid_file != new.pid_file),
        ("ports_file_dir", old.ports_file_dir != new.ports_file_dir),
        ("log_file", old.log.file != new.log.file),
        ("logtime", (old.log.time, old.log.utc) != (new.log.time, new.log.utc)),
    ];
    let differing: Vec<&str> = fixed.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
    if differing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "a reload cannot change {}; nothing was changed, restart the server for it",
        differing.join(", ")
    ))
}
