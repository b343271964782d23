//! Every test of the workspace, with one exit code.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::bail;

use crate::{setup, shell};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Do not look whether what the tests need is installed
    #[arg(long)]
    no_setup: bool,
}

/// Runs all tests even when some fail, and fails at the end when any did.
///
/// One profile (dev), one set of features and one choice of targets for every step: cargo unites the features of
/// dependencies over all of them, so another choice would compile most of the tree a second time.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    if !options.no_setup {
        setup::run(root)?;
    }
    let start = Instant::now();
    // Tests of other packages start the binary; cargo tells its place only to tests of its own package.
    shell::run(shell::cargo(root).args(BUILD))?;
    println!("test: built in {} s", start.elapsed().as_secs());
    let binary = shell::target_dir(root).join("debug/ostler");

    let server = nats_server(root)?;
    let start = Instant::now();
    let mut failed = Vec::new();
    let nextest = shell::succeeds("cargo", &["nextest", "--version"]);
    for (name, args) in steps(nextest) {
        let mut cargo = shell::cargo(root);
        cargo.args(*args).env("OSTLER_TEST_BIN", &binary);
        if let Some(server) = &server {
            demand(&mut cargo, server);
        }
        if !shell::run_for_success(&mut cargo)? {
            failed.push(*name);
        }
    }
    match server {
        _ if !nextest => println!("test: SKIPPED on a nats-server: that choice of tests needs cargo-nextest"),
        None => println!("test: SKIPPED on a nats-server: none is on the PATH; `cargo xtask setup` gets one"),
        Some(server) => {
            let mut cargo = shell::cargo(root);
            cargo.args(ON_NATS_SERVER).arg(tests_on_nats_server()).env("OSTLER_TEST_BIN", &binary);
            demand(cargo.env("OSTLER_TEST_BUS", "external"), &server);
            if !shell::run_for_success(&mut cargo)? {
                failed.push("tests on a nats-server");
            }
        }
    }
    let seconds = start.elapsed().as_secs();
    if failed.is_empty() {
        println!("test: all passed in {seconds} s");
        return Ok(());
    }
    bail!("failed after {seconds} s: {}", failed.join(", "))
}

const BUILD: &[&str] = &["build", "--workspace", "--all-features", "--bins", "--tests", "--examples"];

/// A name for the summary and the arguments of cargo.
type Step = (&'static str, &'static [&'static str]);

const WITH_NEXTEST: &[Step] = &[
    ("tests", &["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"]),
    ("documentation examples", &["test", "--workspace", "--all-features", "--no-fail-fast", "--doc"]),
];
const WITHOUT_NEXTEST: &[Step] = &[("tests", &["test", "--workspace", "--all-features", "--no-fail-fast"])];

const ON_NATS_SERVER: &[&str] = &["nextest", "run", "--workspace", "--all-features", "--no-fail-fast", "-E"];

/// Tests of the whole that make no sense on a bus that is not the daemon's own, each with its reason.
const NOT_ON_NATS_SERVER: &[(&str, &str)] = &[
    ("binary(external_bus)", "chooses its bus itself"),
    ("binary(external_permissions)", "chooses its bus itself"),
    ("binary(two_daemons)", "chooses its bus itself"),
    ("binary(waiting_for_bus)", "chooses its bus itself"),
    ("binary(claude_adapter)", "has no bus"),
    ("binary(identity)", "what the daemon's own bus permits whom"),
    ("test(hosts_find_a_daemon_that_comes_back_on_another_port)", "about the daemon's own port"),
    ("test(a_port_in_use_is_named_with_the_way_out)", "about the daemon's own port"),
    ("test(a_key_that_others_can_read_is_refused_with_the_remedy)", "about keys the daemon makes"),
    ("test(a_broken_key_is_refused_without_being_quoted)", "about keys the daemon makes"),
    ("test(a_payload_the_bus_does_not_carry_is_refused_and_nobody_else_notices)", "what our own bus refuses"),
    ("test(nonsense_on_the_wire_ends_that_connection_alone)", "what our own bus refuses"),
];

/// The tests of the whole that run a second time, on a real nats-server, as nextest names them.
fn tests_on_nats_server() -> String {
    let but: Vec<&str> = NOT_ON_NATS_SERVER.iter().map(|(tests, _)| *tests).collect();
    format!("package(e2e) and not ({})", but.join(" or "))
}

/// Has the tests use this server, and those that need one fail where they would skip without.
fn demand(cargo: &mut Command, server: &Path) {
    cargo.env("OSTLER_NATS_SERVER", server).env("OSTLER_REQUIRE_NATS_SERVER", "1");
}

/// The server to test with: named, on the PATH, or where setup puts it.
///
/// # Errors
/// The named one has no absolute path, as tests need it, which run in the directories of their packages.
fn nats_server(root: &Path) -> anyhow::Result<Option<PathBuf>> {
    if let Some(named) = std::env::var_os("OSTLER_NATS_SERVER") {
        return Ok(Some(std::path::absolute(named)?));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("nats-server"));
    Ok(on_path.chain([root.join(".rig/nats-server/nats-server")]).find(|program| program.is_file()))
}

fn steps(nextest: bool) -> &'static [Step] {
    if nextest { WITH_NEXTEST } else { WITHOUT_NEXTEST }
}
