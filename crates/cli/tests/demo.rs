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

#[test]
fn an_interrupted_demo_leaves_nothing_either() {
    let tmp = tempfile::tempdir().unwrap();
    let mut demo = std::process::Command::new(assert_cmd::cargo::cargo_bin!("ostler"))
        .args(["demo", "--json"])
        .env("TMPDIR", tmp.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The first step is over: a daemon runs, and agents are just being spawned.
    let mut steps = std::io::BufRead::lines(std::io::BufReader::new(demo.stdout.take().unwrap()));
    assert!(steps.next().unwrap().unwrap().contains("\"ok\":true"));
    let kill = std::process::Command::new("kill").args(["-TERM", &demo.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(demo.wait().unwrap().code(), Some(1));
    assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0, "the demo left its directory");
    let dir = tmp.path().to_str().unwrap();
    let left = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(dir)
    });
    let left = left.count();
    assert_eq!(left, 0, "processes with the demo's directory on their command line");
}
