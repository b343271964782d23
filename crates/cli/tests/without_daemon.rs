//! The real binary where no daemon runs: it says so, says how to start one, and ends with the documented code.

#![expect(clippy::unwrap_used, reason = "a test that cannot start the binary has failed")]

use assert_cmd::cargo::cargo_bin_cmd;
use tempfile::TempDir;

/// Runs the binary with an empty state directory and returns its exit code, standard output and standard error.
fn ostler(dir: &TempDir, args: &[&str]) -> (i32, String, String) {
    let output = cargo_bin_cmd!("ostler")
        .args(args)
        .env_remove("OSTLER_CONFIG")
        .env("OSTLER_STATE_DIR", dir.path().join("state"))
        .env("XDG_CONFIG_HOME", dir.path())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_verb_that_needs_a_daemon_says_how_to_start_one() {
    let dir = TempDir::new().unwrap();
    for args in [
        &["down"][..],
        &["spawn", "a", "--", "true"],
        &["spawn", "a"],
        &["run", "--", "true"],
        &["ps"],
        &["status"],
        &["status", "a"],
        &["send", "a", "hello"],
        &["logs", "a"],
        &["attach", "a"],
        &["pause", "a"],
        &["resume", "a"],
        &["stop", "a"],
        &["kill", "a"],
        &["restart", "a"],
        &["rm", "a"],
        &["events"],
    ] {
        let (code, out, err) = ostler(&dir, args);
        assert_eq!((code, out.as_str()), (3, ""), "{args:?}: {err}");
        assert!(err.starts_with("error: no daemon runs for the state directory "), "{args:?}: {err}");
        assert!(err.ends_with("hint: start one with: ostler up -d\n"), "{args:?}: {err}");
    }
}

#[test]
fn with_json_the_error_is_one_json_line() {
    let dir = TempDir::new().unwrap();
    let (code, out, err) = ostler(&dir, &["ps", "--json"]);
    assert_eq!((code, out.as_str()), (3, ""));
    let error: serde_json::Value = serde_json::from_str(&err).unwrap();
    assert_eq!(error["error"]["code"], "no_daemon");
    assert_eq!(error["error"]["hint"], "start one with: ostler up -d");
}

#[test]
fn a_wrong_command_line_ends_with_two() {
    let dir = TempDir::new().unwrap();
    let (code, _, err) = ostler(&dir, &["pause"]);
    assert_eq!(code, 2);
    assert!(err.contains("<NAME>"), "{err}");
    let (code, _, err) = ostler(&dir, &["--json", "frobnicate"]);
    assert_eq!(code, 2);
    let error: serde_json::Value = serde_json::from_str(&err).unwrap();
    assert_eq!(error["error"]["code"], "usage");
    assert_eq!(ostler(&dir, &["spawn", "a", "--grace", "1s"]).0, 2, "a plain agent needs a command");
}

#[test]
fn bad_input_is_found_before_a_daemon_is_needed() {
    let dir = TempDir::new().unwrap();
    let (code, _, err) = ostler(&dir, &["spawn", "a", "--dir", "/no/such/dir", "--", "true"]);
    assert_eq!(code, 8);
    assert!(err.contains("/no/such/dir") && err.contains("--dir"), "{err}");
}

#[test]
fn a_stale_address_is_no_daemon() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    ostler_client::create_key(&state.join("operator.nk")).unwrap();
    // The port was free a moment ago and nobody listens on it.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = serde_json::json!({
        "bus_url": format!("nats://127.0.0.1:{port}"), "node": "box", "pid": 1, "version": "0",
        "started_at": "2026-11-20T22:00:00Z",
    });
    std::fs::write(state.join("daemon.json"), endpoint.to_string()).unwrap();
    let (code, _, err) = ostler(&dir, &["ps"]);
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("hint: start one with: ostler up -d"), "{err}");
}

#[test]
fn doctor_works_without_a_daemon_and_reads_as_json() {
    let dir = TempDir::new().unwrap();
    let (code, out, _) = ostler(&dir, &["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["ok"].as_bool().unwrap(), code == 0);
    let names: Vec<_> =
        report["checks"].as_array().unwrap().iter().map(|check| check["name"].clone()).collect();
    for name in ["state", "disk space", "daemon", "cgroup", "limits", "claude"] {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }
}

#[test]
fn a_wrong_configuration_is_shown_at_its_place_and_ends_with_seven() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("ostler.toml");
    std::fs::write(&file, "[bus]\nlisen = \"127.0.0.1:1\"\n").unwrap();
    let file = file.to_str().unwrap();
    for args in [&["config", "check"][..], &["config", "show"], &["up"], &["up", "--detach"]] {
        let (code, _, err) = ostler(&dir, &[&["--config", file], args].concat());
        assert_eq!(code, 7, "{args:?}: {err}");
        assert!(
            err.contains("2 | lisen = ") && err.contains("hint: did you mean `listen`?"),
            "{args:?}: {err}"
        );
    }
    let (code, _, err) = ostler(&dir, &["--config", "/no/such/file.toml", "config", "check"]);
    assert_eq!(code, 7, "{err}");
    assert!(err.contains("/no/such/file.toml"), "{err}");
}

#[test]
fn without_a_file_the_defaults_are_shown() {
    let dir = TempDir::new().unwrap();
    let (code, out, _) = ostler(&dir, &["config", "show"]);
    assert_eq!(code, 0);
    assert!(out.contains("listen = \"127.0.0.1:4222\""), "{out}");
    let (_, out, _) = ostler(&dir, &["config", "path", "--json"]);
    let place: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(place["exists"], false);
}

#[test]
fn completions_name_the_verbs() {
    let dir = TempDir::new().unwrap();
    let (code, out, _) = ostler(&dir, &["completions", "bash"]);
    assert_eq!(code, 0);
    assert!(out.contains("spawn") && out.contains("doctor"));
}

#[test]
fn a_reader_that_stops_reading_is_no_fault() {
    let dir = TempDir::new().unwrap();
    let binary = assert_cmd::cargo::cargo_bin!("ostler");
    let script = format!("{} completions bash | head -n 1", binary.display());
    let output =
        assert_cmd::Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
