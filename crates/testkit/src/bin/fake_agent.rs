//! An agent that obeys a script: each argument is one step; with the step `stdin`, each line of input is one.

use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::process::{Command, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::Duration;

const HELP: &str = "\
fake-agent STEP...
  lines:N[:MS]      print `line 1` to `line N`, MS apart; the count goes on over steps
  forever[:MS]      print numbered lines without end, 20 ms apart
  say:TEXT          print a line
  stderr:TEXT       print a line to standard error
  partial:TEXT      print without a line feed
  flood:BYTES       print that many bytes in lines of 100
  long:BYTES        print one line of that many bytes
  echo              print `echo: ` and each line of input, until its end
  read:BYTES        read that many bytes and print how many came
  stdin             obey each line of input as a step
  env:NAME          print a variable
  pid:FILE          write the process id into FILE
  child             start a child that waits
  grandchild:FILE   start a process in a session of its own, orphaned, that writes its id into FILE and waits
  ignore-term       ignore SIGTERM from here on
  allocate:BYTES    take that much memory and keep it
  once:FILE         go on with the next step if FILE exists, else make it and skip that step
  sleep:MS          wait
  wait              wait for ever
  exit:CODE         end
  crash             abort";

/// What lasts over steps.
#[derive(Default)]
struct Agent {
    counter: u64,
    kept: Vec<Vec<u8>>,
}

fn main() -> io::Result<()> {
    let steps: Vec<String> = std::env::args().skip(1).collect();
    let mut agent = Agent::default();
    let mut steps = steps.iter();
    while let Some(step) = steps.next() {
        if let Some(file) = step.strip_prefix("once:") {
            if !fs::exists(file)? {
                fs::write(file, "")?;
                steps.next();
            }
            continue;
        }
        agent.obey(step)?;
    }
    Ok(())
}

impl Agent {
    fn obey(&mut self, step: &str) -> io::Result<()> {
        let (verb, argument) = step.split_once(':').unwrap_or((step, ""));
        match verb {
            "--help" => println!("{HELP}"),
            "lines" => {
                let (count, pace) = argument.split_once(':').unwrap_or((argument, "0"));
                self.count(number(count), number(pace))?;
            }
            "forever" => self.count(u64::MAX, if argument.is_empty() { 20 } else { number(argument) })?,
            "say" => print(format_args!("{argument}\n"))?,
            "stderr" => eprintln!("{argument}"),
            "partial" => print(format_args!("{argument}"))?,
            "flood" => flood(number(argument))?,
            "long" => print(format_args!("{}\n", "x".repeat(number(argument) as usize)))?,
            "echo" => {
                for line in io::stdin().lines() {
                    print(format_args!("echo: {}\n", line?))?;
                }
            }
            "read" => {
                let mut bytes = vec![0; number(argument) as usize];
                io::stdin().read_exact(&mut bytes)?;
                print(format_args!("read {}\n", bytes.len()))?;
            }
            "stdin" => {
                let mut line = String::new();
                while io::stdin().lock().read_line(&mut line)? > 0 {
                    self.obey(line.trim_end())?;
                    line.clear();
                }
            }
            "env" => print(format_args!("{argument}={}\n", std::env::var(argument).unwrap_or_default()))?,
            "pid" => fs::write(argument, std::process::id().to_string())?,
            "child" => drop(another(["wait"])?),
            // The middle process ends at once, so nobody below us knows the last one.
            "grandchild" => drop(another(["detach", &format!("pid:{argument}"), "wait"])?.wait()?),
            "detach" => {
                rustix::process::setsid()?;
                let steps: Vec<String> = std::env::args().skip(2).collect();
                another(steps)?;
                exit(0);
            }
            "ignore-term" => {
                signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::new(AtomicBool::new(false)))?;
            }
            "allocate" => self.kept.push(vec![1; number(argument) as usize]),
            "sleep" => sleep(Duration::from_millis(number(argument))),
            "wait" => loop {
                sleep(Duration::from_secs(3600));
            },
            "exit" => exit(number(argument) as i32),
            "crash" => std::process::abort(),
            _ => {
                eprintln!("fake-agent: no step {step:?}\n{HELP}");
                exit(64);
            }
        }
        Ok(())
    }

    fn count(&mut self, count: u64, pace_ms: u64) -> io::Result<()> {
        for _ in 0..count {
            self.counter += 1;
            print(format_args!("line {}\n", self.counter))?;
            if pace_ms > 0 {
                sleep(Duration::from_millis(pace_ms));
            }
        }
        Ok(())
    }
}

/// Starts another of us; its input and output are its own business.
fn another(steps: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> io::Result<std::process::Child> {
    Command::new(std::env::current_exe()?)
        .args(steps)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// Prints and flushes, so that what was said is out even when the next step is the last.
fn print(text: std::fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_fmt(text)?;
    out.flush()
}

fn flood(bytes: u64) -> io::Result<()> {
    let line = format!("{}\n", "x".repeat(99));
    let mut out = io::stdout().lock();
    for _ in 0..bytes.div_ceil(100) {
        out.write_all(line.as_bytes())?;
    }
    out.flush()
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| {
        eprintln!("fake-agent: no number {text:?}");
        exit(64);
    })
}
