//! A host as a process, for the tests of this crate: the run's directory is the only argument. It is no product.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let run_dir = std::env::args_os().nth(1).expect("the run's directory is given");
    ostler_host::main(Path::new(&run_dir))
}
