//! The demo is a test of everything at once; here it plays as a newcomer plays it.

use assert_cmd::cargo::cargo_bin_cmd;

#[test]
fn the_demo_observes_every_step_and_leaves_nothing() {
    // A directory of its own for everything temporary: what is left in it afterwards was left by the demo.
    let tmp = tempfile::tempdir().unwrap();
    let output = cargo_bin_cmd!("ostler")
        .args(["demo", "--json"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TMPDIR", tmp.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    let steps: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps.len(), 7, "{out}");
    assert!(steps.iter().all(|step| step["ok"] == true), "{out}");
    assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0, "the demo left its directory");
}
