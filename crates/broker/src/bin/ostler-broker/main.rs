//! `ostler-broker`: the broker as a program, with nats-server's flags, configuration files, signals and log, so that it
//! can stand where a `nats-server` is expected. It decides nothing about messages: that is the library's.
#![forbid(unsafe_code)]

mod args;
mod check;
mod help;
mod jetstream;
mod log;
mod options;
mod ports;
mod reload;
mod run;
mod signal;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let name = std::path::Path::new(&program)
        .file_name()
        .map_or("ostler-broker".into(), |name| name.to_string_lossy());
    let mut arguments = arguments.peekable();
    if arguments.next_if(|argument| argument == "check").is_some() {
        return check::main(arguments, &name);
    }
    match args::texts(arguments).and_then(|arguments| run::main(arguments, &name)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // The reason may have many lines, one for each problem of a configuration.
            if !failure.is_empty() {
                run::complain(format_args!("{name}: {failure}"));
            }
            ExitCode::FAILURE
        }
    }
}
