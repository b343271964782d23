//! The binary `ostler`: reads the command line, runs one verb, turns its failure into words and an exit code. It holds
//! no rules; those live in the daemon and the hosts, which every verb but a few asks over the bus.

mod chain;
mod checkup;
mod cli;
mod commands;
mod connect;
mod demo;
mod exit;
mod follow;
mod lasting;
mod launch;
mod render;
mod screen;
mod signals;
mod trail;
mod wait;
mod when;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Global, Verb};
use crate::commands::control::Control;
use crate::commands::{
    attach, audit, completions, config, control, demo as demo_verb, doctor, down, events, logs, ps, replay,
    restart, rm, run, send, spawn, status, stop, up,
};
use crate::connect::Places;
use crate::exit::{Exit, Failure, Outcome};
use crate::screen::{Screen, is_reader_gone};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if cli.global.no_color {
        anstream::ColorChoice::Never.write_global();
    }
    let screen = cli.global.screen();
    match dispatch(cli.verb, &cli.global, screen) {
        Ok(code) => code,
        Err(failure) if is_reader_gone(&failure) => ExitCode::SUCCESS,
        Err(failure) => {
            screen.failure(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Help and version go to standard output; a wrong command line to standard error, as JSON where JSON was wanted.
fn usage(error: &clap::Error) -> ExitCode {
    let is_json = std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if error.use_stderr() && is_json {
        let text = error.to_string();
        let message = text.trim().trim_start_matches("error: ").to_owned();
        eprintln!("{}", Failure::new(Exit::Usage, message).to_json());
        return ExitCode::from(Exit::Usage as u8);
    }
    // Nothing can be done about a closed terminal here.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { 0 })
}

fn dispatch(verb: Verb, global: &Global, screen: Screen) -> Outcome<ExitCode> {
    let places = || {
        Places::resolve(global.state_dir.clone(), global.config.clone(), |name| {
            std::env::var_os(name).map(PathBuf::from)
        })
    };
    match verb {
        // Before anything that could start a thread: it forks.
        Verb::Host(args) => return Ok(ostler_host::main(&args.run_dir)),
        Verb::DemoAgent(args) => return Ok(ExitCode::from(demo::agents::play(args.role))),
        Verb::Completions(args) => completions::run(&args, screen)?,
        Verb::Config(args) => config::run(&args, &places()?, screen)?,
        Verb::Up(args) if args.detach => block_on(up::background(&args, &places()?, screen))?,
        Verb::Up(args) => up::foreground(&args, &places()?, screen)?,
        Verb::Demo(args) => block_on(demo_verb::run(&args, screen))?,
        Verb::Run(args) => return block_on(run::run(args, &places()?, screen)),
        Verb::Doctor(args) => return block_on(doctor::run(&args, &places()?, screen)),
        Verb::Down(args) => block_on(down::run(&args, &places()?, screen))?,
        Verb::Spawn(args) => block_on(spawn::run(args, &places()?, screen))?,
        Verb::Ps(args) => block_on(ps::run(&args, &places()?, screen))?,
        Verb::Status(args) => block_on(status::run(&args, &places()?, screen))?,
        Verb::Send(args) => block_on(send::run(args, &places()?, screen))?,
        Verb::Logs(args) => block_on(logs::run(&args, &places()?, screen))?,
        Verb::Attach(args) => block_on(attach::run(&args, &places()?, screen))?,
        Verb::Pause(args) => block_on(control::run(Control::Pause, &args, &places()?, screen))?,
        Verb::Resume(args) => block_on(control::run(Control::Resume, &args, &places()?, screen))?,
        Verb::Restart(args) => block_on(restart::run(&args, &places()?, screen))?,
        Verb::Stop(args) => block_on(stop::run(&args, &places()?, screen))?,
        Verb::Kill(args) => block_on(stop::kill(&args, &places()?, screen))?,
        Verb::Rm(args) => block_on(rm::run(&args, &places()?, screen))?,
        Verb::Events(args) => block_on(events::run(&args, &places()?, screen))?,
        Verb::Audit(args) => block_on(audit::run(&args, &places()?, screen))?,
        Verb::Replay(args) => block_on(replay::run(&args, &places()?, screen))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a verb that speaks to the bus; one thread is plenty for one person.
fn block_on<T>(verb: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("the asynchronous runtime cannot be started", &error))?;
    runtime.block_on(verb)
}
